//! What each answer of the token endpoint does to the row.

use super::*;

fn pairs(pairs: &[(&str, Option<&str>)]) -> Vec<(String, Option<String>)> {
    pairs
        .iter()
        .map(|(outcome, word)| ((*outcome).to_owned(), word.map(str::to_owned)))
        .collect()
}

#[tokio::test]
async fn a_success_is_stored_in_full() {
    let fixture = Fixture::answering([granted()]).await;
    fixture.clock.advance(Duration::from_mins(1));

    let row = refreshed(fixture.refresh(Some(1)).await);

    assert_eq!(row, Arc::new(fixture.row().await));
    let vault = &fixture.vault;
    assert_eq!(vault.access_token(&row).unwrap().expose(), "access-2");
    assert_eq!(vault.refresh_token(&row).unwrap().expose(), "refresh-2");
    assert_eq!((row.generation, row.lease_owner.as_deref()), (2, None));
    assert_eq!(row.scope, "base deals:full");
    assert_eq!(row.expires_at, at(60 + 3600));
    assert_eq!(row.refreshed_at, Some(at(60)));
    let due = at(60 + 3150)..=at(60 + 3300);
    assert!(due.contains(&row.due_at), "{}", row.due_at);
    assert_eq!(row.idle_deadline, Some(at(60).saturating_add(DAY * 60)));
    fixture.tasks.idle().await;
    let log = fixture.store.refresh_log_for(&fixture.id, 9).await.unwrap();
    let [entry] = log.as_slice() else {
        panic!("{log:?}")
    };
    assert_eq!(
        (entry.generation_before, entry.generation_after),
        (1, Some(2))
    );
    assert_eq!(
        (entry.trigger.as_str(), entry.started_at),
        ("webhook", at(60))
    );
    assert_eq!(
        (entry.outcome.as_str(), entry.error.as_deref()),
        ("refreshed", None)
    );
    let [call] = &fixture.requests("/token").await[..] else {
        panic!("one call")
    };
    assert_eq!(
        call.body,
        b"grant_type=refresh_token&refresh_token=refresh-1"
    );
}

#[tokio::test]
async fn what_an_answer_leaves_out_stays_as_it_was() {
    let bare = json!({"access_token": "access-2"});
    let fixture = Fixture::answering([plain(ResponseTemplate::new(200).set_body_json(bare))]).await;

    let row = refreshed(fixture.refresh(Some(1)).await);

    assert_eq!(
        fixture.vault.refresh_token(&row).unwrap().expose(),
        "refresh-1"
    );
    assert_eq!((row.scope.as_str(), row.expires_at), ("base", at(3600)));
    assert_eq!(row.api_domain, "https://acme.pipedrive.com");
}

#[tokio::test]
async fn a_bad_api_domain_keeps_the_old_one_and_the_tokens() {
    for (sent, kept) in [
        ("https://new.pipedrive.com", "https://new.pipedrive.com"),
        ("https://new.pipedrive.com/", "https://new.pipedrive.com"),
        ("https://evil.example", "https://acme.pipedrive.com"),
        (
            "https://pipedrive.com.evil.example",
            "https://acme.pipedrive.com",
        ),
        (
            "https://u:p@new.pipedrive.com",
            "https://acme.pipedrive.com",
        ),
        ("new.pipedrive.com", "https://acme.pipedrive.com"),
        ("", "https://acme.pipedrive.com"),
    ] {
        let mut body = tokens();
        body["api_domain"] = json!(sent);
        let fixture =
            Fixture::answering([plain(ResponseTemplate::new(200).set_body_json(body))]).await;

        let row = refreshed(fixture.refresh(Some(1)).await);

        assert_eq!(row.api_domain, kept, "{sent}");
        assert_eq!(
            fixture.vault.access_token(&row).unwrap().expose(),
            "access-2"
        );
    }
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_once_more_at_once() {
    let fixture = Fixture::answering([status(500), granted()]).await;

    let row = refreshed(fixture.refresh(Some(1)).await);

    assert_eq!((row.generation, row.in_doubt, row.failures), (2, false, 0));
    assert_eq!(fixture.calls().await, 2);
    assert_eq!(
        fixture.log().await,
        pairs(&[("unknown", Some("http_500")), ("refreshed", None)])
    );
}

#[tokio::test]
async fn two_lost_answers_back_off_in_doubt() {
    let fixture = Fixture::answering([
        status(503),
        plain(ResponseTemplate::new(200).set_body_string("<html>")),
        refusal(400, "invalid_grant"),
    ])
    .await;

    let end = fixture.refresh(Some(1)).await;

    let Err(RefreshError::Provider {
        word,
        timed_out,
        retry_at,
        token_expires_at,
    }) = end
    else {
        panic!("{end:?}")
    };
    assert_eq!(
        (word.as_str(), timed_out, token_expires_at),
        ("garbled_answer", false, at(3600))
    );
    assert!((at(1)..=at(3)).contains(&retry_at), "{retry_at}");
    let row = fixture.row().await;
    assert_eq!((row.state, row.generation), (ConnectionState::Active, 1));
    assert_eq!(
        (row.failures, row.in_doubt, row.retry_at),
        (1, true, Some(retry_at))
    );
    assert_eq!(
        (row.last_error.as_deref(), row.lease_owner),
        (Some("garbled_answer"), None)
    );
    assert_eq!(
        fixture.log().await,
        pairs(&[
            ("unknown", Some("http_503")),
            ("unknown", Some("garbled_answer"))
        ])
    );

    // Until then no one calls; then the doubt is remembered.
    let later = fixture.refresh(Some(1)).await;
    assert!(matches!(later, Err(RefreshError::TryLater { retry_at: at, .. }) if at == retry_at));
    assert_eq!(fixture.calls().await, 2);
    fixture.clock.advance(retry_at.saturating_since(at(0)));
    let ended = fixture.refresh(Some(1)).await;
    let Err(RefreshError::Ended { reason, .. }) = ended else {
        panic!("{ended:?}")
    };
    assert_eq!(reason.as_deref(), Some("answer_lost"));
}

#[tokio::test]
async fn a_refused_grant_ends_the_connection_and_keeps_its_tokens() {
    let fixture = Fixture::answering([refusal(400, "invalid_grant")]).await;

    let end = fixture.refresh(Some(1)).await;

    let Err(RefreshError::Ended {
        state,
        reason,
        since,
    }) = end
    else {
        panic!("{end:?}")
    };
    assert_eq!(
        (state, reason.as_deref()),
        (ConnectionState::ReauthRequired, Some("rejected"))
    );
    assert_eq!(since, at(0));
    let row = fixture.row().await;
    assert_eq!(
        fixture.vault.refresh_token(&row).unwrap().expose(),
        "refresh-1"
    );
    assert_eq!(
        (row.generation, row.lease_owner, row.in_doubt),
        (1, None, false)
    );
    assert_eq!(
        fixture.log().await,
        pairs(&[("rejected", Some("invalid_grant"))])
    );
    assert_eq!(
        fixture.calls().await,
        1,
        "a refusal is an answer, and not asked for again"
    );
}

#[tokio::test]
async fn what_was_not_sent_is_not_in_doubt_and_no_attempt() {
    let fixture = Fixture::new().await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let refresher = fixture.refresher_to(&format!("http://{nobody}/token"));

    let end = refresh(&refresher, &fixture.id, Some(1)).await;

    assert!(matches!(&end, Err(RefreshError::NotSent { .. })), "{end:?}");
    let row = fixture.row().await;
    assert_eq!(
        (row.failures, row.in_doubt, row.lease_owner),
        (1, false, None)
    );
    assert!(row.retry_at.is_some());
    assert_eq!(fixture.log().await, []);
}

#[tokio::test]
async fn a_rate_limit_is_waited_out() {
    let limited = |wait: &str| plain(ResponseTemplate::new(429).insert_header("retry-after", wait));
    let fixture = Fixture::answering([limited("120"), limited("86400")]).await;

    fixture.refresh(Some(1)).await.unwrap_err();
    let row = fixture.row().await;
    assert_eq!(
        (row.retry_at, row.failures, row.in_doubt),
        (Some(at(120)), 1, false)
    );
    assert_eq!(
        fixture.log().await,
        pairs(&[("turned_away", Some("http_429"))])
    );

    fixture.clock.advance(Duration::from_mins(2));
    fixture.refresh(Some(1)).await.unwrap_err();
    let row = fixture.row().await;
    assert_eq!((row.retry_at, row.failures), (Some(at(120 + 3600)), 2));
    assert_eq!((fixture.calls().await, row.lease_owner), (2, None));
}

#[tokio::test]
async fn a_provider_that_refuses_us_is_left_alone_for_a_minute() {
    let fixture = Fixture::answering([refusal(401, "invalid_client"), granted()]).await;
    let other = fixture.connect("joe").await;
    let before = (fixture.row().await, fixture.row_of(&other).await);
    let refresher = fixture.refresher();

    for id in [&fixture.id, &other, &fixture.id] {
        let end = refresh(&refresher, id, Some(1)).await;
        let Err(RefreshError::ClientMisconfigured {
            word,
            retry_at,
            token_expires_at,
        }) = end
        else {
            panic!("{end:?}")
        };
        assert_eq!(
            (word, retry_at, token_expires_at),
            ("invalid_client", at(60), at(3600))
        );
    }

    assert_eq!((fixture.row().await, fixture.row_of(&other).await), before);
    assert_eq!(fixture.calls().await, 1);
    assert_eq!(
        fixture.log().await,
        pairs(&[("our_fault", Some("invalid_client"))])
    );

    fixture.clock.advance(Duration::from_millis(59_999));
    refresh(&refresher, &other, Some(1)).await.unwrap_err();
    assert_eq!(fixture.calls().await, 1);
    fixture.clock.advance(Duration::from_millis(1));
    refreshed(refresh(&refresher, &other, Some(1)).await);
}

#[tokio::test]
async fn a_doubt_outlives_a_refusal_of_our_client() {
    let fixture = Fixture::answering([status(500), refusal(401, "invalid_client")]).await;

    let end = fixture.refresh(Some(1)).await;

    assert!(
        matches!(end, Err(RefreshError::ClientMisconfigured { .. })),
        "{end:?}"
    );
    let row = fixture.row().await;
    assert!(row.in_doubt, "the first call may have spent the token");
    assert_eq!(
        (row.state, row.lease_owner),
        (ConnectionState::Active, None)
    );
}

#[tokio::test]
async fn every_answer_frees_the_lease() {
    let dead = ConnectionState::ReauthRequired;
    let active = ConnectionState::Active;
    let text = |body: &str| plain(ResponseTemplate::new(200).set_body_string(body));
    for (answer, state, in_doubt, failures) in [
        (granted(), active, false, 0),
        (text(""), active, true, 1),
        (text("[]"), active, true, 1),
        (text(&"x".repeat(300 * 1024)), active, true, 1),
        (refusal(400, "invalid_grant"), dead, false, 0),
        (refusal(401, "invalid_grant"), dead, false, 0),
        (refusal(500, "invalid_grant"), active, true, 1),
        (refusal(403, "invalid_grant"), active, false, 1),
        (refusal(401, "invalid_client"), active, false, 0),
        (refusal(400, "unauthorized_client"), active, false, 0),
        (refusal(400, "unsupported_grant_type"), active, false, 0),
        (refusal(400, "invalid_request"), active, false, 0),
        (refusal(400, "invalid_scope"), active, false, 0),
        (refusal(400, "who_knows"), active, false, 1),
        (status(204), active, true, 1),
        (status(302), active, false, 1),
        (status(400), active, false, 1),
        (status(404), active, false, 1),
        (status(429), active, false, 1),
        (status(503), active, true, 1),
        (status(599), active, true, 1),
    ] {
        let answer = Arc::new(answer);
        let again = Arc::clone(&answer);
        let both: [Answer; 2] = [Box::new(move || answer()), Box::new(move || again())];
        let fixture = Fixture::answering(both).await;

        let end = fixture.refresh(Some(1)).await;

        let row = fixture.row().await;
        assert_eq!(row.lease_owner, None, "{end:?}");
        assert_eq!(
            (row.state, row.in_doubt, row.failures),
            (state, in_doubt, failures),
            "{end:?}"
        );
        let attempts = fixture.calls().await;
        assert_eq!(attempts, if in_doubt { 2 } else { 1 }, "{end:?}");
        assert_eq!(fixture.log().await.len(), attempts, "{end:?}");
    }
}

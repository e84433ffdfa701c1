//! Responses that are odd, and no grant is lost for it; those that can't be read, and how they are kept.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};
use pipekeeper_core::content_coding::ContentCoding;
use pipekeeper_core::oauth::TokenBody;

use super::*;

/// As they come over the wire: content coding, body.
fn odd() -> Vec<(&'static str, Vec<u8>)> {
    let text = tokens().to_string().into_bytes();
    let with = |more: &[u8]| {
        let members = text.strip_suffix(b"}").unwrap();
        [members, b",", more, b"}"].concat()
    };
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&text).unwrap();
    let gzip = gzip.finish().unwrap();
    let mut deflate = DeflateEncoder::new(Vec::new(), Compression::default());
    deflate.write_all(&text).unwrap();
    vec![
        ("gzip", gzip.clone()),
        ("", gzip),
        ("deflate", deflate.finish().unwrap()),
        ("", [b"\xEF\xBB\xBF", &text[..]].concat()),
        ("", [&text[..], b"<!-- 3 ms -->"].concat()),
        ("", with(b"\"scope\":\"caf\xE9\"")),
        ("", with(br#""scope":"base \ud83d""#)),
        ("", with(br#""scope":"base\u0000","expires_in":NaN"#)),
        ("", with(br#""token_type":"a","token_type":"b","n":1e999"#)),
    ]
}

#[tokio::test]
async fn an_odd_response_is_stored_like_any_other() {
    let fixture = Fixture::new().await;
    let responses = odd().into_iter().map(|(coding, body)| {
        let response = ResponseTemplate::new(200).set_body_bytes(body);
        plain(response.insert_header("content-encoding", coding))
    });
    fixture.answer(responses).await;
    let refresher = fixture.refresher();
    for (place, (coding, body)) in odd().into_iter().enumerate() {
        let name = format!("user-{place}");
        let id = fixture.connect_with(&name, &name).await;

        let row = refreshed(refresh(&refresher, &id, Some(1)).await);

        let token = fixture.vault.refresh_token(&row).unwrap();
        let body = String::from_utf8_lossy(&body);
        assert_eq!(token.expose(), "refresh-2", "{coding} {body}");
        assert_eq!(*row, fixture.row_of(&id).await, "{coding} {body}");
    }
    assert_eq!(fixture.calls().await, odd().len());
    assert_eq!(refresher.journal.depth(), 0);
}

#[tokio::test]
async fn an_odd_response_is_replayed_like_any_other() {
    let fixture = Fixture::answering([]).await;
    let dead = fixture.journal(&fixture.journals);
    let mut ids = Vec::new();
    for (place, (coding, body)) in odd().into_iter().enumerate() {
        let name = format!("user-{place}");
        let id = fixture.connect_with(&name, &name).await;
        let body = TokenBody {
            coding: ContentCoding::named(coding),
            bytes: body.into(),
        };
        let spent = Secret::from(name.as_str());
        dead.record(&id, 1, &spent, at(0), &body).await.unwrap();
        ids.push(id);
    }
    drop(dead);

    assert_eq!(fixture.refresher().replay_once().await.unwrap(), ids.len());

    for id in ids {
        let row = fixture.row_of(&id).await;
        let token = fixture.vault.refresh_token(&row).unwrap();
        assert_eq!((row.generation, token.expose()), (2, "refresh-2"));
    }
    assert_eq!(fixture.calls().await, 0);
}

/// `PostgreSQL` stores no U+0000, `MySQL` no more than 65 535 bytes.
#[tokio::test]
async fn a_scope_is_made_to_fit_and_an_api_domain_beyond_all_measure_is_none() {
    let mut odd = tokens();
    odd["scope"] = json!(format!("a\u{0}b\tc {}", "🌞".repeat(20_000)));
    odd["api_domain"] = json!(format!("https://{}.pipedrive.com", "x".repeat(100_000)));
    let fixture = Fixture::answering([plain(ResponseTemplate::new(200).set_body_json(odd))]).await;

    let row = refreshed(fixture.refresh(Some(1)).await);

    assert!(row.scope.starts_with("ab c 🌞🌞"), "{}", row.scope);
    assert!(row.scope.len() <= 65_535, "{}", row.scope.len());
    assert_eq!(row.scope.chars().count(), 16_383);
    assert_eq!(row.api_domain, "https://acme.pipedrive.com");
    assert_eq!(*row, fixture.row().await);
}

#[tokio::test]
async fn a_response_that_can_not_be_read_is_kept_for_its_time_and_holds_up_nothing() {
    let page = || plain(ResponseTemplate::new(200).set_body_string("<html>"));
    let fixture = Fixture::answering([page(), page(), granted()]).await;
    let joe = fixture.connect_with("joe", "refresh-joe").await;
    let refresher = fixture.refresher();
    refresh(&refresher, &fixture.id, Some(1)).await.unwrap_err();
    assert_eq!(
        refresher.journal.depth(),
        0,
        "nothing waits to be committed"
    );

    refreshed(refresh(&refresher, &joe, Some(1)).await);
    fixture.tasks.idle().await;
    drop(refresher);
    let next = fixture.refresher();
    assert_eq!(next.journal.orphaned().await.unwrap().len(), 1, "unsettled");

    // It is looked at once by each process, which can't read it either.
    assert_eq!(next.replay_once().await.unwrap(), 0);
    assert_eq!(next.journal.orphaned().await.unwrap().len(), 0);
    fixture.clock.advance(DAY);
    next.journal.compact().await.unwrap();
    drop(next);
    let later = fixture.journal(&fixture.journals);
    assert_eq!(
        later.orphaned().await.unwrap().len(),
        1,
        "a day is its time"
    );
    drop(later);

    let last = fixture.refresher();
    assert_eq!(last.replay_once().await.unwrap(), 0);
    fixture.clock.advance(Duration::from_secs(1));
    last.journal.compact().await.unwrap();
    drop(last);
    let later = fixture.journal(&fixture.journals);
    assert_eq!(later.orphaned().await.unwrap().len(), 0, "settled");
}

#[tokio::test]
async fn a_response_that_can_not_be_read_is_not_taken_for_newer_tokens() {
    let fixture = Fixture::answering([]).await;
    let dead = fixture.journal(&fixture.journals);
    let text = tokens().to_string();
    for (generation, token, body) in [(1, "refresh-1", &*text), (2, "refresh-2", "<html>")] {
        let (spent, body) = (Secret::from(token), TokenBody::plain(body.as_bytes()));
        let recorded = dead.record(&fixture.id, generation, &spent, at(0), &body);
        recorded.await.unwrap();
    }
    drop(dead);

    let end = fixture.refresh(Some(1)).await;

    assert!(matches!(end, Ok(Outcome::Replayed(_))), "{end:?}");
    assert_eq!(
        (fixture.row().await.generation, fixture.calls().await),
        (2, 0)
    );
}

/// With rotation the unreadable response was the end of the grant. Anyone who learns to read it revives the connection.
#[tokio::test]
async fn a_response_that_could_not_be_read_outlives_the_end_of_its_connection() {
    let page = plain(ResponseTemplate::new(200).set_body_string("<html>"));
    let fixture = Fixture::answering([page, refusal(400, "invalid_grant")]).await;
    let refresher = fixture.refresher();

    let end = refresh(&refresher, &fixture.id, Some(1)).await;

    assert!(matches!(end, Err(RefreshError::Ended { .. })), "{end:?}");
    fixture.tasks.idle().await;
    drop(refresher);
    let next = fixture.journal(&fixture.journals);
    let [kept] = &next.orphaned().await.unwrap()[..] else {
        panic!("one is kept")
    };
    assert_eq!(kept.generation, fixture.row().await.generation);
}

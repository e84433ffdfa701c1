//! Pipedrive's word that a user uninstalled ends that user's connection, and only its own word does.

use pipedrive_sim::{DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET};
use pipekeeper_core::store::Backend;
use serde_json::{Value, json};
use stack_tests::{Client, Reply, Stack};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use up::client::{CALLBACK, REFRESH};
use up::tasks::in_background;

use crate::support::{
    EMAIL, NAME, clear_faults, connected, fault, hold_refresh_at, refreshes, row, until,
};

const APP: (&str, &str) = (DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET);

/// Long after any consent: no doubt which came first.
const LATER: &str = "2999-01-01 00:00:00";

/// The DELETE, as Pipedrive sends it.
async fn notify(client: &Client, credentials: Option<(&str, &str)>, body: &Value) -> Reply {
    let mut request = client
        .http
        .delete(format!("{}{CALLBACK}", client.auth_capture))
        .json(body);
    if let Some((user, password)) = credentials {
        request = request.basic_auth(user, Some(password));
    }
    Reply::of(request.send().await.unwrap()).await.unwrap()
}

fn notice(company: impl Into<Value>, user: impl Into<Value>, timestamp: &str) -> Value {
    json!({
        "client_id": DEFAULT_CLIENT_ID, "company_id": company.into(), "user_id": user.into(), "timestamp": timestamp,
    })
}

#[track_caller]
fn assert_outcome(answer: Reply, outcome: &str) {
    let said = answer.expect(200).json();
    assert_eq!(said, json!({"success": true, "outcome": outcome}));
}

pub(crate) async fn uninstall_ends_the_connection(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    let order = json!({
        "company": 1, "user": 1, "client_id": DEFAULT_CLIENT_ID, "notify_url": format!("{}{CALLBACK}", stack.auth_capture),
    });

    let told = stack.sim("uninstall", &order).await.unwrap();

    assert_eq!(told["notices"][0]["status"], 200);
    let row = row(&stack, &connection).await;
    assert_eq!((row.state.as_str(), row.generation), ("revoked", 2));
    assert_eq!(row.state_reason.as_deref(), Some("uninstalled"));
    // It came within minutes of the consent.
    assert_eq!(refreshes(&stack).await, 1);
    let person = stack.person(EMAIL).await.unwrap();
    assert_eq!(
        person.expect_problem(401, "TOKEN_INVALIDATED")["state"],
        "revoked"
    );
    let refresh = stack
        .refresh(&json!({"connectionId": connection["id"]}))
        .await
        .unwrap();
    let problem = refresh.expect_problem(409, "TOKEN_INVALIDATED");
    assert_eq!(
        (&problem["state"], &problem["reason"]),
        (&json!("revoked"), &json!("uninstalled"))
    );
    assert_eq!(refreshes(&stack).await, 1);
}

/// A notice alone: the provider's token would still work. Who has it cached lets go of it within ten seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disconnect_is_felt_everywhere_within_ten_seconds() {
    let (stack, connection) = connected(Backend::Sqlite).await;
    stack.person(EMAIL).await.unwrap().expect(200);
    assert_outcome(
        notify(&stack, Some(APP), &notice(1, 1, LATER)).await,
        "revoked",
    );

    let fresh = stack.person_of(&connection, EMAIL).await.unwrap();
    let notified = tokio::time::Instant::now();
    until("the cached token is let go of", || async {
        let asked = notified.elapsed();
        let answer = stack.person(EMAIL).await.unwrap();
        // Who asks later is refused, however long that takes.
        assert!(answer.status == 401 || asked.as_secs() < 10, "{asked:?}");
        answer.status == 401
    })
    .await;

    fresh.expect_problem(401, "TOKEN_INVALIDATED");
}

pub(crate) async fn uninstall_of_one_user_leaves_the_others_alone(backend: Backend) {
    let (stack, first) = connected(backend).await;
    let others = [
        stack.connect(1, 2).await.unwrap(),
        stack.connect(2, 1).await.unwrap(),
    ];

    assert_outcome(
        notify(&stack, Some(APP), &notice(1, 1, LATER)).await,
        "revoked",
    );

    assert_eq!(row(&stack, &first).await.state.as_str(), "revoked");
    for other in &others {
        assert_eq!(row(&stack, other).await.state.as_str(), "active");
        stack.person_of(other, EMAIL).await.unwrap().expect(200);
    }
}

pub(crate) async fn notice_without_the_apps_credentials_changes_nothing(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    let before = row(&stack, &connection).await;
    let body = notice(1, 1, "2999-01-01 00:00:00");
    for credentials in [
        None,
        Some((DEFAULT_CLIENT_ID, "wrong")),
        Some(("wrong", DEFAULT_CLIENT_SECRET)),
        Some((DEFAULT_CLIENT_ID, "")),
        Some(("n8n", "webhook-password")),
    ] {
        let answer = notify(&stack, credentials, &body).await;

        answer.expect_problem(401, "UNAUTHORIZED");
        assert_eq!(answer.header("www-authenticate"), "Basic realm=\"Webhook\"");
    }
    assert_eq!(row(&stack, &connection).await, before);
}

pub(crate) async fn notice_about_nobody_is_fine_and_changes_nothing(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    let before = row(&stack, &connection).await;
    let late = "2999-01-01T00:00:00.000Z";
    let mut of_another_app = notice(1, 1, late);
    of_another_app["client_id"] = json!("another-client-id");
    for body in [
        notice(99, 1, late),
        notice(1, 99, late),
        notice("1 ", "1", late),
        of_another_app,
        json!({}),
        json!({"company_id": 1}),
        json!({"client_id": DEFAULT_CLIENT_ID, "company_id": null, "user_id": 1}),
    ] {
        assert_outcome(notify(&stack, Some(APP), &body).await, "unknown");
    }
    assert_eq!(row(&stack, &connection).await, before);
}

pub(crate) async fn notice_that_cannot_be_read_is_refused(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    for body in [
        "",
        "no json",
        "[1]",
        "\"text\"",
        "{\"company_id\":[1],\"user_id\":1}",
    ] {
        let request = stack
            .http
            .delete(format!("{}{CALLBACK}", stack.auth_capture))
            .basic_auth(APP.0, Some(APP.1))
            .body(body);

        let answer = Reply::of(request.send().await.unwrap()).await.unwrap();

        answer.expect_problem(422, "BAD_REQUEST");
    }
    assert_eq!(row(&stack, &connection).await.state.as_str(), "active");
}

pub(crate) async fn ids_of_a_notice_are_numbers_or_text(backend: Backend) {
    let stack = Stack::start(backend).await;
    for (user, body) in [
        (1, notice(1, 1, "2999-01-01 00:00:00")),
        (2, notice("1", "2", "32503680000")),
        (3, notice(1, "3", "32503680000000")),
    ] {
        let connection = stack.connect(1, user).await.unwrap();

        assert_outcome(notify(&stack, Some(APP), &body).await, "revoked");

        assert_eq!(row(&stack, &connection).await.state.as_str(), "revoked");
        let again = notify(&stack, Some(APP), &body).await;
        assert_outcome(again, "revoked");
    }
    let marked = stack
        .http
        .delete(format!("{}{CALLBACK}", stack.auth_capture))
        .basic_auth(APP.0, Some(APP.1))
        .body(format!("\u{feff}{}", notice(99, 1, "32503680000")));
    let answer = Reply::of(marked.send().await.unwrap()).await.unwrap();
    assert_outcome(answer, "unknown");
}

pub(crate) async fn late_notice_does_not_end_a_reinstall(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    for timestamp in [
        "2020-01-01T00:00:00.000Z",
        "2020-01-01 00:00:00",
        "1577836800",
        "1577836800000",
    ] {
        assert_outcome(
            notify(&stack, Some(APP), &notice(1, 1, timestamp)).await,
            "stale",
        );
    }

    assert_eq!(row(&stack, &connection).await.state.as_str(), "active");
    assert_eq!(refreshes(&stack).await, 0);
    assert_eq!(stack.person(EMAIL).await.unwrap().expect(200).body, NAME);
}

pub(crate) async fn notice_without_a_readable_time_is_checked_by_one_refresh(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    let body = notice(1, 1, "yesterday");

    let alive = notify(&stack, Some(APP), &body).await;

    assert_outcome(alive, "stale");
    assert_eq!(refreshes(&stack).await, 1);
    let renewed = row(&stack, &connection).await;
    assert_eq!((renewed.state.as_str(), renewed.generation), ("active", 2));

    let other = stack.connect(2, 1).await.unwrap();
    stack.sim("revoke", &json!({"company": 2})).await.unwrap();

    let dead = notify(&stack, Some(APP), &notice(2, 1, "yesterday")).await;

    assert_outcome(dead, "revoked");
    assert_eq!(refreshes(&stack).await, 2);
    assert_eq!(row(&stack, &other).await.state.as_str(), "revoked");
}

/// The provider's clock may differ from ours.
pub(crate) async fn notice_from_about_the_time_of_the_consent_is_checked_by_one_refresh(
    backend: Backend,
) {
    let stack = Stack::start(backend).await;
    for (user, secs, outcome, checked) in [
        (1, 0, "stale", 1),
        (2, -299, "stale", 1),
        (3, 299, "stale", 1),
        (4, -301, "stale", 0),
        (5, 302, "revoked", 0),
    ] {
        let connection = stack.connect(1, user).await.unwrap();
        let consent = row(&stack, &connection).await.authorized_at;
        let at = (consent.unix_micros() / 1_000_000 + secs).to_string();
        let before = refreshes(&stack).await;

        // The grant is alive, whatever the notice says.
        let said = notify(&stack, Some(APP), &notice(1, user, &at)).await;

        assert_outcome(said, outcome);
        assert_eq!(refreshes(&stack).await - before, checked, "{secs}");
        let state = if outcome == "stale" {
            "active"
        } else {
            "revoked"
        };
        assert_eq!(row(&stack, &connection).await.state.as_str(), state);
    }
}

/// A refresh that began before the uninstall gives a token that is dead: it says nothing of what the provider thinks now.
pub(crate) async fn notice_is_not_answered_by_a_token_from_before_it(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    let mut held = hold_refresh_at(&stack, "after_commit").await;
    let (caller, body) = (
        stack.client.clone(),
        json!({"connectionId": connection["id"], "generation": 1}),
    );
    let refreshing = in_background(async move { caller.refresh(&body).await });
    held.reached().await;
    stack.sim("revoke", &json!({"company": 1})).await.unwrap();
    // The response is let go once the notice's own refresh is on its way.
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}{REFRESH}", relay.local_addr().unwrap());
    let refresher = stack.token_refresher.replace("http://", "");
    in_background(async move {
        loop {
            let (mut from, _) = relay.accept().await.unwrap();
            held.release();
            let mut to = TcpStream::connect(&refresher).await.unwrap();
            in_background(async move { copy_bidirectional(&mut from, &mut to).await });
        }
    });
    let set = [("auth-capture.refresher.url", url.as_str())];
    let relayed = stack.add_auth_capture(&set).await;

    let answer = notify(&relayed, Some(APP), &notice(1, 1, "yesterday")).await;

    refreshing.await.unwrap().unwrap().expect(200);
    assert_outcome(answer, "revoked");
    assert_eq!(refreshes(&stack).await, 2);
    assert_eq!(row(&stack, &connection).await.state.as_str(), "revoked");
}

pub(crate) async fn notice_that_cannot_be_checked_ends_nothing(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    fault(&stack, json!({"on": "token", "fault": "500", "times": 0})).await;
    let body = json!({"company_id": 1, "user_id": 1});

    let answer = notify(&stack, Some(APP), &body).await;

    answer.expect_problem(502, "REFRESH_FAILED");
    clear_faults(&stack).await;
    assert_eq!(row(&stack, &connection).await.state.as_str(), "active");
}

pub(crate) async fn reinstall_after_an_uninstall_works_again(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    let order = json!({
        "company": 1, "user": 1, "client_id": DEFAULT_CLIENT_ID, "notify_url": format!("{}{CALLBACK}", stack.auth_capture),
    });
    stack.sim("uninstall", &order).await.unwrap();
    stack
        .person(EMAIL)
        .await
        .unwrap()
        .expect_problem(401, "TOKEN_INVALIDATED");

    let again = stack.connect(1, 1).await.unwrap();

    assert_eq!(again["id"], connection["id"]);
    assert_eq!(
        (&again["state"], &again["generation"]),
        (&json!("active"), &json!(3))
    );
    assert_eq!(stack.person(EMAIL).await.unwrap().expect(200).body, NAME);
}

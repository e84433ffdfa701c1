//! A key that a service was not given is the operator's to bring back: no connection pays for it.

use pipekeeper_core::crypto::Keyring;
use pipekeeper_core::store::Backend;
use serde_json::{Value, json};
use stack_tests::{Client, Reply};

use crate::support::{EMAIL, NAME, connected, refreshes, row};

pub(crate) async fn token_under_an_unknown_key_is_said_and_kept(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    assert_eq!(degraded(&stack, &stack.data_api).await, json!([]));
    // Another key, and another key of the same id.
    for (id, told) in [
        (
            "other",
            "is sealed with key `test`, which this service was not given",
        ),
        (
            "test",
            "does not open: a key has the same id and another value",
        ),
    ] {
        let keys = Keyring::generate(id);
        let data_api = stack
            .add_data_api(&[("data-api.encryption.keys", keys.expose())])
            .await;
        let refresher = stack
            .add_refresher(&[("token-refresher.encryption.keys", keys.expose())])
            .await;
        let auth_capture = stack
            .add_auth_capture(&[("auth-capture.encryption.keys", keys.expose())])
            .await;

        // Known before a request meets it.
        for service in [
            &data_api.data_api,
            &refresher.token_refresher,
            &auth_capture.auth_capture,
        ] {
            let degraded = degraded(&stack, service).await;
            let first = degraded[0].as_str().unwrap();
            assert!(
                first.starts_with("encryption.keys: ") && first.contains(told),
                "{degraded}"
            );
            assert!(
                first.contains(connection["id"].as_str().unwrap()),
                "{degraded}"
            );
        }
        // An install that this service seals itself hides the others from no one.
        let stranger = auth_capture.connect(2, 1).await.unwrap();
        let degraded = degraded(&stack, &auth_capture.auth_capture).await;
        assert!(degraded.to_string().contains(told), "{degraded}");
        stack.sql(&format!(
            "DELETE FROM connections WHERE id = '{}'",
            stranger["id"].as_str().unwrap()
        ));
        let person = data_api.person(EMAIL).await.unwrap();
        let refresh = refresher
            .refresh(&json!({"connectionId": connection["id"], "generation": 1}))
            .await
            .unwrap();

        for answer in [person, refresh] {
            let problem = answer.expect_problem(503, "STORE_UNAVAILABLE");
            let names_it = problem["detail"].as_str().unwrap().contains("`test`");
            assert_eq!(names_it, id == "other", "{problem}");
        }
        let kept = row(&stack, &connection).await;
        assert_eq!(
            (kept.state.as_str(), kept.generation, kept.lease_owner),
            ("active", 1, None)
        );
    }
    assert_eq!(refreshes(&stack).await, 0);
    assert_eq!(stack.person(EMAIL).await.unwrap().expect(200).body, NAME);
}

/// What a service that is ready says of itself.
async fn degraded(client: &Client, service: &str) -> Value {
    let ready = client.http.get(format!("{service}/readyz")).send().await;
    let ready = Reply::of(ready.unwrap()).await.unwrap();
    ready.expect(200).json()["degraded"].clone()
}

/// Anyone who can read the database can't move one account's tokens to another's row.
pub(crate) async fn token_moved_to_another_row_does_not_open(backend: Backend) {
    let (stack, _) = connected(backend).await;
    let second = stack.connect(2, 1).await.unwrap();
    let swap = "UPDATE connections SET access_token = (SELECT access_token FROM (SELECT * FROM connections) AS c WHERE company_id = '1') WHERE company_id = '2'";
    stack.sql(swap);

    let answer = stack.person_of(&second, EMAIL).await.unwrap();

    answer.expect_problem(503, "STORE_UNAVAILABLE");
    assert_eq!(row(&stack, &second).await.state.as_str(), "active");
    assert_eq!(
        stack.stats().await.unwrap()["api"]["persons/search"],
        json!(null)
    );
}

/// A ring that has the old key beside the new one opens the old rows and seals with the new key.
pub(crate) async fn keys_are_rotated_without_an_outage(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    let old = stack.encryption_keys();
    let both = format!("{} {}", Keyring::generate("new").expose(), old.expose());
    let refresher = stack
        .add_refresher(&[("token-refresher.encryption.keys", &both)])
        .await;
    let data_api = stack
        .add_data_api(&[("data-api.encryption.keys", &both)])
        .await;
    let rotated = Client {
        token_refresher: refresher.token_refresher,
        ..data_api
    };
    assert_eq!(rotated.person(EMAIL).await.unwrap().expect(200).body, NAME);

    let answer = rotated
        .refresh(&json!({"connectionId": connection["id"], "generation": 1}))
        .await
        .unwrap();

    answer.expect(200);
    assert!(contains(
        row(&stack, &connection).await.access_token.as_bytes(),
        b"new"
    ));
    let fresh = stack
        .add_data_api(&[("data-api.encryption.keys", &both)])
        .await;
    assert_eq!(fresh.person(EMAIL).await.unwrap().expect(200).body, NAME);
    let behind = stack.add_data_api(&[]).await;
    behind
        .person(EMAIL)
        .await
        .unwrap()
        .expect_problem(503, "STORE_UNAVAILABLE");
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

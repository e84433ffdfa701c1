//! While a client secret is being changed, the services know the old one and the new one.

use pipedrive_sim::{DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET};
use pipekeeper_core::store::Backend;
use serde_json::json;
use stack_tests::{Reply, Setup, Stack};
use up::client::CALLBACK;

use crate::support::{row, settings};

/// What auth-capture is told while the provider knows the other secret.
const CHANGING: Setup<'static> = Setup {
    more_refreshers: 0,
    more_data_apis: 0,
    set: &[
        ("auth-capture.apps.pipedrive.client_secret", "other"),
        (
            "auth-capture.apps.pipedrive.second_client_secret",
            DEFAULT_CLIENT_SECRET,
        ),
    ],
    gated: false,
};

pub(crate) async fn consent_goes_through_by_the_second_secret(backend: Backend) {
    let stack = Stack::with(backend, CHANGING).await;
    for (user, status) in [(1, "400"), (2, "401")] {
        settings(&stack, json!({"invalid_client_status": status})).await;

        let connection = stack.connect(1, user).await.unwrap();

        assert_eq!(connection["state"], "active", "{status}");
    }
}

pub(crate) async fn notice_is_taken_from_who_knows_either_secret(backend: Backend) {
    let stack = Stack::with(backend, CHANGING).await;
    let answer = async |user: u64, secret: &str| {
        let notice = json!({
            "client_id": DEFAULT_CLIENT_ID, "company_id": 1, "user_id": user,
            "timestamp": "2999-01-01T00:00:00Z",
        });
        let request = stack
            .http
            .delete(format!("{}{CALLBACK}", stack.auth_capture))
            .basic_auth(DEFAULT_CLIENT_ID, Some(secret))
            .json(&notice);
        Reply::of(request.send().await.unwrap()).await.unwrap()
    };
    for (user, secret) in [(1, "other"), (2, DEFAULT_CLIENT_SECRET)] {
        let connection = stack
            .connect(1, u32::try_from(user).unwrap())
            .await
            .unwrap();

        for wrong in ["", "wrong"] {
            let refused = answer(user, wrong).await;
            assert!(matches!(refused.status, 401 | 403), "{}", refused.body);
        }
        assert_eq!(row(&stack, &connection).await.state.as_str(), "active");

        answer(user, secret).await.expect(200);
        assert_eq!(row(&stack, &connection).await.state.as_str(), "revoked");
    }
}

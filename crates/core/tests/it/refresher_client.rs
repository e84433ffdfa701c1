//! The client of token-refresher's webhook: what it sends, and what it makes of each answer.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pipekeeper_core::connection::{ConnectionId, ConnectionState};
use pipekeeper_core::http_client::{self, Limits};
use pipekeeper_core::refresher_client::{
    RefreshClientError, RefreshOutcome, Refreshed, RefresherClient, Trace,
};
use pipekeeper_core::secret::Secret;
use serde_json::{Value, json};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

const PASSWORD: &str = "hunter2:+/ü";

fn row() -> Value {
    json!({
        "success": true, "outcome": "already_newer", "id": "c-1", "connectionId": "c-1",
        "AppId": "57db0bab2932f657", "Platform": "Pipedrive", "generation": 42,
        "expires_at": "2027-01-15T08:00:00Z", "created_at": "2027-01-15T07:00:00Z",
        "updated_at": "2027-01-15T07:00:00Z", "added_in_a_later_version": 1,
    })
}

fn refresher(url: &str, total: Duration) -> RefresherClient {
    let limits = Limits {
        connect: Duration::from_mins(1),
        total,
    };
    RefresherClient {
        client: http_client::build(limits).unwrap(),
        url: url.parse().unwrap(),
        user: "pipekeeper".to_owned(),
        password: Secret::from(PASSWORD),
        deadline: Duration::from_millis(1500),
    }
}

async fn ask(refresher: &RefresherClient) -> Result<Refreshed, RefreshClientError> {
    let id: ConnectionId = "c-1".parse().unwrap();
    let trace = Trace {
        request_id: "req-1".to_owned(),
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
    };
    refresher.refresh(&id, 41, &trace).await
}

async fn answered(answer: ResponseTemplate) -> (Result<Refreshed, RefreshClientError>, MockServer) {
    let server = MockServer::start().await;
    Mock::given(any()).respond_with(answer).mount(&server).await;
    let refresher = refresher(
        &format!("{}/webhook/pipedrive/refresh", server.uri()),
        Duration::from_mins(2),
    );
    assert!(!format!("{refresher:?}").contains("hunter2"));
    (ask(&refresher).await, server)
}

#[tokio::test]
async fn a_refresh_is_asked_for_by_id_and_generation_under_the_callers_trace() {
    let (refreshed, server) = answered(ResponseTemplate::new(200).set_body_json(row())).await;

    let refreshed = refreshed.unwrap();
    assert_eq!(
        (refreshed.generation, refreshed.outcome),
        (42, RefreshOutcome::AlreadyNewer)
    );
    let requests = server.received_requests().await.unwrap();
    let [request] = requests.as_slice() else {
        panic!("{requests:?}")
    };
    assert_eq!(request.method.as_str(), "POST");
    assert_eq!(request.url.path(), "/webhook/pipedrive/refresh");
    let basic = format!(
        "Basic {}",
        STANDARD.encode(format!("pipekeeper:{PASSWORD}"))
    );
    for (name, value) in [
        ("authorization", basic.as_str()),
        ("x-request-id", "req-1"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        ("content-type", "application/json"),
    ] {
        assert_eq!(request.headers.get(name).unwrap(), value, "{name}");
    }
    let body: Value = request.body_json().unwrap();
    assert_eq!(
        body,
        json!({"connectionId": "c-1", "generation": 41, "deadline_ms": 1500})
    );
}

#[tokio::test]
async fn a_conflict_says_what_became_of_the_connection() {
    let body = json!({
        "status": 409, "code": "TOKEN_INVALIDATED", "state": "reauth_required", "reason": "rejected",
        "since": "2027-01-15T08:00:00Z",
    });
    let (refusal, _) = answered(ResponseTemplate::new(409).set_body_json(body)).await;
    let Err(RefreshClientError::Invalidated(said)) = refusal else {
        panic!("{refusal:?}")
    };
    assert_eq!(said.state, ConnectionState::ReauthRequired);
    assert_eq!(said.reason.as_deref(), Some("rejected"));
    assert_eq!(
        said.since.unwrap().to_string(),
        "2027-01-15T08:00:00.000000Z"
    );
}

#[tokio::test]
async fn no_other_conflict_ends_a_connection() {
    for body in [
        "<html>",
        r#"{"state":"revoked"}"#,
        r#"{"code":"CONNECTION_AMBIGUOUS"}"#,
    ] {
        let (refusal, _) = answered(ResponseTemplate::new(409).set_body_string(body)).await;
        assert!(
            matches!(refusal, Err(RefreshClientError::TurnedAway(409))),
            "{refusal:?}"
        );
    }
    for body in [
        r#"{"code":"TOKEN_INVALIDATED"}"#,
        r#"{"code":"TOKEN_INVALIDATED","state":"dead"}"#,
    ] {
        let (refusal, _) = answered(ResponseTemplate::new(409).set_body_string(body)).await;
        assert!(
            matches!(refusal, Err(RefreshClientError::Garbled(_))),
            "{refusal:?}"
        );
    }
}

#[tokio::test]
async fn only_the_refreshers_own_404_means_that_the_connection_is_unknown() {
    let ours = json!({"code": "CONNECTION_NOT_FOUND"});
    let (refusal, _) = answered(ResponseTemplate::new(404).set_body_json(ours)).await;
    assert!(matches!(refusal, Err(RefreshClientError::NotFound)));

    for answer in [
        ResponseTemplate::new(404),
        ResponseTemplate::new(404).set_body_json(json!({"code": "NOT_FOUND"})),
    ] {
        let (refusal, _) = answered(answer).await;
        assert!(matches!(refusal, Err(RefreshClientError::TurnedAway(404))));
    }
}

#[tokio::test]
async fn a_transient_failure_passes_its_word_and_its_time_on() {
    for status in [502, 503, 504] {
        let body = json!({
            "code": "REFRESH_FAILED", "reason": "not_reached",
            "access_token_expires_at": "2027-01-15T08:00:00Z",
        });
        let answer = ResponseTemplate::new(status)
            .set_body_json(body)
            .insert_header("retry-after", "9");
        let (refusal, _) = answered(answer).await;
        let Err(RefreshClientError::Failed {
            status: said,
            code,
            reason,
            retry_after,
            access_token_expires_at,
        }) = refusal
        else {
            panic!("{refusal:?}")
        };
        assert_eq!((said, code.as_str()), (status, "REFRESH_FAILED"));
        assert_eq!(reason.as_deref(), Some("not_reached"));
        assert_eq!(retry_after, Some(Duration::from_secs(9)));
        assert!(access_token_expires_at.is_some());

        let (refusal, _) = answered(ResponseTemplate::new(status).set_body_string("<html>")).await;
        let Err(RefreshClientError::Failed {
            code,
            retry_after: None,
            access_token_expires_at: None,
            ..
        }) = refusal
        else {
            panic!("{refusal:?}")
        };
        assert_eq!(code, "", "a proxy in between has no word of ours");
    }
}

#[tokio::test]
async fn anything_else_is_a_deployment_to_mend() {
    for status in [201, 302, 400, 401, 403, 405, 413, 422, 429, 500] {
        let (refusal, _) = answered(ResponseTemplate::new(status).set_body_json(row())).await;
        assert!(
            matches!(refusal, Err(RefreshClientError::TurnedAway(said)) if said == status),
            "{refusal:?}"
        );
    }
    for garbage in ["", "<html>", "[]", r#"{"success":true}"#] {
        let (refusal, _) = answered(ResponseTemplate::new(200).set_body_string(garbage)).await;
        assert!(
            matches!(refusal, Err(RefreshClientError::Garbled(_))),
            "{garbage}: {refusal:?}"
        );
    }
}

#[tokio::test]
async fn silence_and_absence_are_unreachable_and_keep_the_password() {
    let server = MockServer::start().await;
    let late = ResponseTemplate::new(200).set_delay(Duration::from_mins(2));
    Mock::given(any()).respond_with(late).mount(&server).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();

    for url in [server.uri(), format!("http://u:hunter2@{closed}/")] {
        let refusal = ask(&refresher(&url, Duration::from_secs(1)))
            .await
            .unwrap_err();
        assert!(matches!(
            refusal,
            RefreshClientError::Unreachable(_) | RefreshClientError::Unreadable(_)
        ));
        let told = format!("{refusal} {refusal:?}");
        assert!(!told.contains("hunter2"), "{told}");
    }
}

//! `POST /webhook/pipedrive/person`: what callers may ask, and what they are answered.

use pipekeeper_core::store::Backend;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use serde_json::{Value, json};
use stack_tests::{Client, Reply, Stack};
use up::client::PERSON;

use crate::support::{EMAIL, NAME, connected};

const READABLE: &str = "/webhook/pipedrive/person";

/// Right credentials, any body.
async fn post(client: &Client, path: &str, accept: &str, body: impl Into<String>) -> Reply {
    let request = client
        .http
        .post(format!("{}{path}", client.data_api))
        .basic_auth(&client.webhook.0, Some(client.webhook.1.expose()))
        .header(ACCEPT, accept)
        .body(body.into());
    Reply::of(request.send().await.unwrap()).await.unwrap()
}

fn asking_for(email: &str) -> String {
    json!({"person": {"email": email}}).to_string()
}

pub(crate) async fn strangers_get_no_person(backend: Backend) {
    let (stack, _) = connected(backend).await;
    let basic = |user: &str, password: &str| {
        let request = stack
            .http
            .post("http://x")
            .basic_auth(user, Some(password))
            .build()
            .unwrap();
        request.headers()[AUTHORIZATION]
            .to_str()
            .unwrap()
            .to_owned()
    };
    let cases = [
        (None, 401),
        (Some("Basic".to_owned()), 401),
        (Some("Basic =".to_owned()), 401),
        (Some("Bearer x".to_owned()), 401),
        (Some(basic("n8n", "wrong")), 403),
        (Some(basic("", "")), 403),
        (Some(basic("pipekeeper", stack.refresher.1.expose())), 403),
    ];
    for path in [PERSON, READABLE] {
        for (credentials, status) in &cases {
            for body in [asking_for(EMAIL), "{".repeat(70_000)] {
                let mut request = stack
                    .http
                    .post(format!("{}{path}", stack.data_api))
                    .body(body);
                if let Some(credentials) = credentials {
                    request = request.header(AUTHORIZATION, credentials);
                }

                let answer = Reply::of(request.send().await.unwrap()).await.unwrap();

                answer.expect_problem(*status, "UNAUTHORIZED");
                assert_eq!(answer.header("www-authenticate"), "Basic realm=\"Webhook\"");
            }
        }
    }
    assert_eq!(
        stack.stats().await.unwrap()["api"]["persons/search"],
        Value::Null
    );
}

pub(crate) async fn name_comes_as_the_caller_asks_for_it(backend: Backend) {
    let (stack, _) = connected(backend).await;
    for path in [PERSON, READABLE, "/webhook/pipedrive/person/"] {
        // n8n's HTTP node takes a JSON string for a text, and fails.
        let n8n = "application/json,text/html,application/xhtml+xml,application/xml,text/*;q=0.9, image/*;q=0.8, */*;q=0.7";
        for accept in [
            "*/*",
            "text/plain",
            "text/html",
            n8n,
            "application/json,text/*;q=0.99",
            "application/json, text/plain, */*",
            "text/plain, application/json, application/*+json, */*",
            "text/plain;q=1, application/json;q=0.1",
            "application/json;q=0, text/plain",
        ] {
            let text = post(&stack, path, accept, asking_for(EMAIL))
                .await
                .expect(200);

            assert_eq!(text.header("content-type"), "text/plain; charset=utf-8");
            assert_eq!(text.body, NAME);
        }
        let accept = "application/json, text/html, text/plain;q=0";
        let json = post(&stack, path, accept, asking_for(EMAIL))
            .await
            .expect(200);
        let full = post(
            &stack,
            &format!("{path}?full=true"),
            "*/*",
            asking_for(EMAIL),
        )
        .await
        .expect(200);

        for answer in [&json, &full] {
            assert_eq!(answer.header("content-type"), "application/json");
        }
        assert_eq!(json.json(), json!(NAME));
        assert_eq!(full.json()["data"]["items"][0]["item"]["name"], NAME);
    }
}

pub(crate) async fn connection_may_be_named(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    let email = json!({"email": EMAIL});
    for body in [
        json!({"person": email, "appId": stack.client_id}),
        json!({"person": email, "appId": stack.client_id, "platform": "Pipedrive"}),
        json!({"person": email, "accountId": connection["account_id"]}),
        json!({"person": email, "accountId": connection["account_id"], "owner": connection["owner"]}),
        json!({"person": email, "appId": null, "accountId": "", "owner": null, "more": [1]}),
    ] {
        let answer = post(&stack, PERSON, "*/*", body.to_string()).await;

        assert_eq!(answer.expect(200).body, NAME, "{body}");
    }
}

pub(crate) async fn every_email_is_found_exactly(backend: Backend) {
    let (stack, _) = connected(backend).await;
    for (email, name) in [
        ("JANE@Example.com", NAME),
        (" jane@example.com ", NAME),
        ("ann@example.com", "Ann Carter"),
        ("joann@example.com", "Joann Carter"),
        ("sam+solar@example.com", "Sam Plus"),
        ("lee#1@example.com", "Lee Hash"),
        ("käthe@müller.example", "Käthe Größe"),
        ("KÄTHE@MÜLLER.example", "Käthe Größe"),
        ("maria.private@example.org", "Maria Several"),
        ("taro@example.jp", "山田 太郎"),
        ("sean.o'brien@example.ie", "Seán \"Sol\" O'Brien <CEO>"),
        ("umit.yilmaz@example.com", "Ümit 🌞 Yılmaz"),
    ] {
        let text = post(&stack, PERSON, "*/*", asking_for(email)).await;
        let json = post(&stack, PERSON, "application/json", asking_for(email)).await;

        assert_eq!(text.expect(200).body, name, "{email}");
        assert_eq!(json.expect(200).json(), name, "{email}");
    }
}

pub(crate) async fn what_is_only_like_the_email_is_nobodys(backend: Backend) {
    let (stack, _) = connected(backend).await;
    for email in [
        "nn@example.com",
        "nobody@example.com",
        "jane@example.co",
        "sam solar@example.com",
        "sam%2Bsolar@example.com",
        "jane@example.com&fields=name",
        "jane@example.com&exact_match=false",
        "jane@example.com#",
        "jane@example.com?limit=1",
        "a@b&term=jane@example.com",
    ] {
        let answer = post(&stack, PERSON, "application/json", asking_for(email)).await;

        let blank = email.contains(' ');
        let (status, code) = if blank {
            (422, "BAD_REQUEST")
        } else {
            (404, "PERSON_NOT_FOUND")
        };
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{email}"
        );
        answer.expect_problem(status, code);
    }
    let nobody = post(
        &stack,
        "/webhook/pipedrive/person?full=true",
        "*/*",
        asking_for("no@bo.dy"),
    )
    .await;
    assert_eq!(nobody.expect(200).json()["data"]["items"], json!([]));
}

pub(crate) async fn nothing_connected_is_not_found(backend: Backend) {
    let stack = Stack::start(backend).await;
    let nothing = stack.person(EMAIL).await.unwrap();
    stack.connect(1, 1).await.unwrap();
    let body = |more: Value| {
        let mut body = json!({"person": {"email": EMAIL}});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body.to_string()
    };

    nothing.expect_problem(404, "CONNECTION_NOT_FOUND");
    for more in [
        json!({"appId": "unknown"}),
        json!({"platform": "Other"}),
        json!({"accountId": "unknown"}),
        json!({"accountId": "~pipedrive:1", "owner": "unknown"}),
    ] {
        let answer = post(&stack, PERSON, "*/*", body(more.clone())).await;

        assert_eq!(answer.status, 404, "{more}: {}", answer.body);
        answer.expect_problem(404, "CONNECTION_NOT_FOUND");
    }
    // A connection that comes is seen at once: nothing of "not found" is remembered.
    assert_eq!(stack.person(EMAIL).await.unwrap().expect(200).body, NAME);
}

pub(crate) async fn body_without_a_usable_email_is_refused(backend: Backend) {
    let (stack, _) = connected(backend).await;
    let long = asking_for(&format!("{}@example.com", "x".repeat(320)));
    for (body, field) in [
        ("", None),
        ("{", None),
        ("[]", None),
        ("person[email]=jane@example.com", None),
        ("\u{feff}{}", Some("person.email")),
        ("{}", Some("person.email")),
        (r#"{"person":null}"#, Some("person.email")),
        (r#"{"person":{}}"#, Some("person.email")),
        (r#"{"person":{"email":null}}"#, Some("person.email")),
        (r#"{"person":{"email":""}}"#, Some("person.email")),
        (r#"{"person":{"email":" "}}"#, Some("person.email")),
        (r#"{"person":{"email":7}}"#, Some("person.email")),
        (
            r#"{"person":{"email":["jane@example.com"]}}"#,
            Some("person.email"),
        ),
        (r#"{"person":{"email":"jane"}}"#, Some("person.email")),
        (r#"{"person":{"email":"@"}}"#, Some("person.email")),
        (r#"{"person":{"email":"a@b\u0000"}}"#, Some("person.email")),
        (
            r#"{"person":{"email":"a@b\nHost: x"}}"#,
            Some("person.email"),
        ),
        (r#"{"person":"jane@example.com"}"#, Some("person")),
        (r#"{"person":[]}"#, Some("person")),
        (long.as_str(), Some("person.email")),
        (
            r#"{"person":{"email":"a@b.c"},"owner":"x"}"#,
            Some("accountId"),
        ),
        (
            r#"{"person":{"email":"a@b.c"},"accountId":[]}"#,
            Some("accountId"),
        ),
    ] {
        let answer = post(&stack, READABLE, "*/*", body).await;

        assert_eq!(answer.status, 422, "{body}: {}", answer.body);
        let problem = answer.expect_problem(422, "BAD_REQUEST");
        assert_eq!(
            problem.get("field").and_then(Value::as_str),
            field,
            "{body}"
        );
    }
    let answer = post(
        &stack,
        "/webhook/pipedrive/person?full=perhaps",
        "*/*",
        asking_for(EMAIL),
    )
    .await;
    answer.expect_problem(422, "BAD_REQUEST");
    assert_eq!(
        stack.stats().await.unwrap()["api"]["persons/search"],
        Value::Null
    );
}

pub(crate) async fn bodies_are_json_whatever_they_claim(backend: Backend) {
    let (stack, _) = connected(backend).await;
    for content_type in [
        "application/json; charset=utf-8",
        "text/plain",
        "application/x-www-form-urlencoded",
    ] {
        let request = stack
            .http
            .post(format!("{}{PERSON}", stack.data_api))
            .basic_auth("n8n", Some(stack.webhook.1.expose()))
            .header(CONTENT_TYPE, content_type)
            .body(asking_for(EMAIL));

        let answer = Reply::of(request.send().await.unwrap()).await.unwrap();

        assert_eq!(answer.expect(200).body, NAME, "{content_type}");
    }
    let marked = format!(
        "\u{feff}{}",
        asking_for(&format!("\u{feff}{EMAIL}\u{200b}"))
    );
    let answer = post(&stack, PERSON, "*/*", marked).await;
    assert_eq!(answer.expect(200).body, NAME);
}

use pipedrive_sim::{App, Options};
use serde_json::{Value, json};

use crate::sim::Sim;

const SEARCH: &str = "/api/v2/persons/search";

fn names(page: &Value) -> Vec<&str> {
    let items = page["data"]["items"].as_array().expect("items");
    items
        .iter()
        .map(|item| item["item"]["name"].as_str().expect("a name"))
        .collect()
}

#[tokio::test]
async fn both_prefixes_of_v1_say_who_the_token_is() {
    let sim = Sim::start().await;
    let tokens = sim.install(2, 9).await;

    for path in ["/v1/users/me", "/api/v1/users/me"] {
        let me = sim.api(path, &tokens.access).await.expect(200).json();
        assert_eq!(me["success"], true);
        assert_eq!(me["data"]["id"], 9);
        assert_eq!(me["data"]["company_id"], 2);
        assert_eq!(me["data"]["company_name"], "Borealis Energy");
        assert_eq!(me["data"]["company_domain"], "borealis-energy");
    }
}

#[tokio::test]
async fn a_person_is_found_by_email_in_the_tokens_own_company() {
    let sim = Sim::start().await;
    let query = "term=jane%40example.com&fields=email&exact_match=true";
    for (company, name) in [(1, "Jane Doe"), (2, "Jane Doe of Borealis Energy")] {
        let tokens = sim.install(company, 1).await;
        let page = sim
            .api(&format!("{SEARCH}?{query}"), &tokens.access)
            .await
            .expect(200)
            .json();
        assert_eq!(names(&page), [name]);
        assert_eq!(
            page["data"]["items"][0]["item"]["emails"],
            json!(["jane@example.com"])
        );
        assert_eq!(page["additional_data"], json!({"next_cursor": null}));
    }
}

#[tokio::test]
async fn emails_match_loosely_unless_set_otherwise() {
    let sim = Sim::start().await;
    let tokens = sim.install(1, 1).await;
    let path = format!("{SEARCH}?term=ann%40example.com&fields=email&exact_match=true");

    let page = sim.api(&path, &tokens.access).await.expect(200).json();
    assert_eq!(names(&page), ["Joann Carter", "Ann Carter"]);

    sim.settings(json!({"loose_email_match": false})).await;
    let page = sim.api(&path, &tokens.access).await.expect(200).json();
    assert_eq!(names(&page), ["Ann Carter"]);
}

#[tokio::test]
async fn pages_follow_the_cursor_to_the_end() {
    let sim = Sim::start().await;
    let tokens = sim.install(1, 1).await;
    let mut cursor = String::new();
    let mut seen = Vec::new();
    loop {
        let path = format!("{SEARCH}?term=example&fields=email&limit=4{cursor}");
        let page = sim.api(&path, &tokens.access).await.expect(200).json();
        seen.extend(names(&page).into_iter().map(str::to_owned));
        match page["additional_data"]["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }

    assert_eq!(seen.len(), 11);
    assert_eq!(seen[0], "Jane Doe");
    assert_eq!(seen[10], "Ümit 🌞 Yılmaz");
}

#[tokio::test]
async fn unknown_parameters_fail_validation() {
    let sim = Sim::start().await;
    let tokens = sim.install(1, 1).await;

    let refused = sim
        .api(&format!("{SEARCH}?term=jane&type=x"), &tokens.access)
        .await
        .expect(400);

    let body = refused.json();
    assert_eq!(body["code"], "ERR_SCHEMA_VALIDATION_FAILED");
    assert_eq!(body["success"], false);
}

#[tokio::test]
async fn an_added_person_is_found() {
    let sim = Sim::start().await;
    let tokens = sim.install(5, 1).await;

    let person =
        json!({"company": 5, "name": "Zoë", "emails": ["Zoe@Example.org"], "phones": ["1"]});
    sim.control("/_sim/persons", person).await;

    let path = format!("{SEARCH}?term=zoe%40example.org&fields=email&exact_match=true");
    let page = sim.api(&path, &tokens.access).await.expect(200).json();
    assert_eq!(names(&page), ["Zoë"]);
}

#[tokio::test]
async fn without_a_good_bearer_everything_is_a_401() {
    let sim = Sim::start().await;
    let expected = json!({
        "success": false,
        "error": "unauthorized access",
        "errorCode": 401,
        "error_info": "Please check developers.pipedrive.com",
    });
    for path in [
        "/v1/users/me",
        SEARCH,
        "/api/v2/nothing",
        "/v1/nothing",
        "/",
    ] {
        let answer = sim.get(path).await.expect(401);
        assert_eq!(answer.header("x-401-by-gw"), Some("true"));
        assert_eq!(answer.header("x-correlation-id").unwrap().len(), 36);
        assert_eq!(answer.json(), expected);
    }
    sim.me("bogus").await.expect(401);
    let post = sim.http.post(sim.url("/v1/users/me"));
    sim.send(post).await.expect(401);
    assert_eq!(sim.stats().await["bearers_refused"], 7);
}

#[tokio::test]
async fn the_401_reads_as_it_is_set() {
    let sim = Sim::start().await;

    sim.settings(json!({"unauthorized_body": "n8n"})).await;
    let body = sim.me("bogus").await.expect(401).json();
    assert_eq!(body["error"], "Invalid token: access token is invalid");

    sim.settings(json!({"unauthorized_body": "reference"}))
        .await;
    let body = sim.me("bogus").await.expect(401).json();
    assert_eq!(
        body,
        json!({"success": false, "error": "Unauthorized", "errorCode": "401"})
    );
}

#[tokio::test]
async fn another_scheme_than_bearer_is_a_400() {
    let sim = Sim::start().await;
    let request = sim
        .http
        .get(sim.url("/v1/users/me"))
        .basic_auth("a", Some("b"));

    let body = sim.send(request).await.expect(400).json();

    assert_eq!(
        body["error"],
        "Invalid request: malformed authorization header"
    );
}

#[tokio::test]
async fn unknown_routes_are_a_scope_mismatch_in_v2_and_not_found_in_v1() {
    let sim = Sim::start().await;
    let tokens = sim.install(1, 1).await;

    let body = sim
        .api("/api/v2/users/1", &tokens.access)
        .await
        .expect(403)
        .json();
    assert_eq!(body["error"], "Scope and URL mismatch");
    assert_eq!(body["errorCode"], 403);
    sim.api("/api/v1/nothing", &tokens.access).await.expect(404);
}

#[tokio::test]
async fn a_token_opens_what_its_scopes_cover() {
    let app = App {
        scopes: vec!["base".to_owned()],
        ..App::default()
    };
    let sim = Sim::with(Options {
        apps: vec![app],
        ..Options::default()
    })
    .await;
    let tokens = sim.install(1, 1).await;

    sim.me(&tokens.access).await.expect(200);
    let refused = sim
        .api(&format!("{SEARCH}?term=jane"), &tokens.access)
        .await;
    assert_eq!(
        refused.expect(403).json()["error"],
        "Scope and URL mismatch"
    );
}

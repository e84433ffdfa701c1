//! Two accounts of one app never touch each other's connection, and no one is answered from another's.

use pipedrive_sim::DEFAULT_CLIENT_SECRET;
use pipekeeper_core::store::Backend;
use serde_json::{Value, json};
use stack_tests::stack::{OTHER_APP, REDIRECT_URL};
use stack_tests::{Client, Reply, Setup, Stack};

use crate::logins::logged_in;
use crate::support::{EMAIL, NAME, books, connected, expire, refreshes, row};

const ELSEWHERE: &str = "Jane Doe of Borealis Energy";

pub(crate) async fn refresh_of_one_account_leaves_the_other_alone(backend: Backend) {
    let stack = Stack::start(backend).await;
    let first = logged_in(&stack, "acme", 1, 1).await;
    let second = logged_in(&stack, "borealis", 2, 1).await;
    let before = row(&stack, &second).await;

    let body = json!({"appId": stack.client_id, "accountId": "acme", "owner": "boss"});
    stack.refresh(&body).await.unwrap().expect(200);

    assert_eq!(row(&stack, &first).await.generation, 2);
    assert_eq!(row(&stack, &second).await, before);
    assert_eq!(books(&stack, 1, 1).await["refreshes"], 1);
    assert_eq!(books(&stack, 2, 1).await["refreshes"], 0);
}

pub(crate) async fn each_account_is_answered_from_its_own_company(backend: Backend) {
    let stack = Stack::start(backend).await;
    let first = logged_in(&stack, "acme", 1, 1).await;
    let second = logged_in(&stack, "borealis", 2, 1).await;
    expire(&stack).await;

    for (connection, name) in [
        (&first, NAME),
        (&second, ELSEWHERE),
        (&first, NAME),
        (&second, ELSEWHERE),
    ] {
        let answer = stack.person_of(connection, EMAIL).await.unwrap();

        assert_eq!(answer.expect(200).body, name);
    }
    assert_eq!(refreshes(&stack).await, 2);
    for connection in [&first, &second] {
        assert_eq!(row(&stack, connection).await.generation, 2);
    }
}

pub(crate) async fn connection_id_names_one_connection_to_both_webhooks(backend: Backend) {
    let stack = Stack::start(backend).await;
    logged_in(&stack, "acme", 1, 1).await;
    let second = logged_in(&stack, "borealis", 2, 1).await;
    let of_second = json!({"connectionId": second["id"]});
    let and = |name: &str, value: Value| {
        let mut named = of_second.clone();
        named[name] = value;
        named
    };

    for named in [
        of_second.clone(),
        and("appId", json!(stack.client_id)),
        and("accountId", json!("borealis")),
        and("owner", json!("boss")),
    ] {
        assert_eq!(person_by(&stack, &named).await.expect(200).body, ELSEWHERE);
        let refreshed = stack.refresh(&named).await.unwrap().expect(200).json();
        assert_eq!(refreshed["connectionId"], second["id"], "{named}");
    }
    for named in [
        and("appId", json!(OTHER_APP)),
        and("accountId", json!("acme")),
        and("owner", json!("somebody")),
        and(
            "connectionId",
            json!("01900000-0000-7000-8000-000000000000"),
        ),
    ] {
        for answer in [
            person_by(&stack, &named).await,
            stack.refresh(&named).await.unwrap(),
        ] {
            answer.expect_problem(404, "CONNECTION_NOT_FOUND");
        }
    }
}

/// Who has the email, in the connection that these fields select.
async fn person_by(stack: &Stack, named: &Value) -> Reply {
    let mut body = named.clone();
    body["person"] = json!({"email": EMAIL});
    Reply::of(stack.person_request(&body).send().await.unwrap())
        .await
        .unwrap()
}

pub(crate) async fn end_of_one_account_leaves_the_other_alone(backend: Backend) {
    let stack = Stack::start(backend).await;
    let first = logged_in(&stack, "acme", 1, 1).await;
    let second = logged_in(&stack, "borealis", 2, 1).await;
    stack.sim("revoke", &json!({"company": 1})).await.unwrap();

    let ended = stack.person_of(&first, EMAIL).await.unwrap();
    let other = stack.person_of(&second, EMAIL).await.unwrap();

    let problem = ended.expect_problem(401, "TOKEN_INVALIDATED");
    assert_eq!(problem["state"], "reauth_required");
    assert_eq!(other.expect(200).body, ELSEWHERE);
    assert_eq!(
        row(&stack, &first).await.state_reason.as_deref(),
        Some("rejected")
    );
    assert_eq!(row(&stack, &second).await.state.as_str(), "active");
}

/// What callers get who name only the app: `data-api`'s name, and `token-refresher`'s connection.
async fn served(stack: &Stack) -> (String, Value) {
    let person = stack.person(EMAIL).await.unwrap().expect(200).body;
    let body = json!({"appId": stack.client_id});
    let refreshed = stack.refresh(&body).await.unwrap().expect(200).json();
    (person, refreshed["connectionId"].clone())
}

/// A login in which the operator names account and owner.
async fn logged_in_as(stack: &Stack, query: &str, company: u32, user: u32) -> Value {
    let url = format!("{}/auth/login?{query}", stack.auth_capture);
    let operator = ("operator", Some("webhook-password"));
    let begun = stack.http.get(url).basic_auth(operator.0, operator.1);
    let begun = begun.send().await.unwrap();
    let header = |name| begun.headers()[name].to_str().unwrap().to_owned();
    let location = header("location");
    let back = stack.consent(&location, "approve", company, user).await;
    let (back, cookie) = (back.unwrap(), header("set-cookie"));
    let ended = stack.finish_login(&back, cookie.split(';').next()).await;
    ended.unwrap().expect(200).json()["connection"].clone()
}

pub(crate) async fn stranger_s_install_changes_nothing_for_callers_who_name_no_account(
    backend: Backend,
) {
    let (stack, first) = connected(backend).await;
    let before = row(&stack, &first).await;
    assert_eq!(first["default"], true);
    let stranger = stack.connect(2, 1).await.unwrap();
    let colleague = stack.connect(1, 99).await.unwrap();
    let (location, cookie) = stack.start_login("").await.unwrap();
    let back = stack.consent(&location, "approve", 3, 1).await.unwrap();
    let by_link = stack.finish_login(&back, Some(&cookie)).await.unwrap();
    let by_link = by_link.expect(200).json()["connection"].clone();
    // Past what data-api has cached.
    let fresh = stack.add_data_api(&[]).await;

    for new in [&stranger, &colleague, &by_link] {
        assert_eq!(new["default"], false);
    }
    assert_eq!(fresh.person(EMAIL).await.unwrap().expect(200).body, NAME);
    assert_eq!(served(&stack).await, (NAME.to_owned(), first["id"].clone()));
    let company = json!({"appId": stack.client_id, "accountId": "~pipedrive:1"});
    let refreshed = stack.refresh(&company).await.unwrap().expect(200).json();
    assert_eq!(refreshed["connectionId"], first["id"]);
    assert_eq!(row(&stack, &first).await.account_id, before.account_id);
    // Who names the account gets it.
    let own = json!({"appId": stack.client_id, "accountId": "~pipedrive:2"});
    let refreshed = stack.refresh(&own).await.unwrap().expect(200).json();
    assert_eq!(refreshed["connectionId"], stranger["id"]);
}

pub(crate) async fn default_connection_is_the_first_that_somebody_vouches_for(backend: Backend) {
    let stack = Stack::start(backend).await;
    let first = logged_in(&stack, "acme", 1, 1).await;
    let colleague = logged_in_as(&stack, "account_id=acme&owner=other", 1, 2).await;
    let second = logged_in(&stack, "borealis", 2, 1).await;

    assert_eq!(
        [&first, &colleague, &second].map(|new| new["default"].clone()),
        [json!(true), json!(false), json!(false)]
    );
    assert_eq!(served(&stack).await, (NAME.to_owned(), first["id"].clone()));
    for (account, connection) in [("acme", &first), ("borealis", &second)] {
        let body = json!({"appId": stack.client_id, "accountId": account});
        let refreshed = stack.refresh(&body).await.unwrap().expect(200).json();
        assert_eq!(refreshed["connectionId"], connection["id"], "{account}");
    }
    // Nor does an install change it.
    let installed = stack.connect(3, 1).await.unwrap();
    assert_eq!(installed["default"], false);
    assert_eq!(served(&stack).await.1, first["id"]);
}

pub(crate) async fn default_connection_that_has_ended_is_told(backend: Backend) {
    let (stack, first) = connected(backend).await;
    stack.connect(2, 1).await.unwrap();
    let app = json!({"appId": stack.client_id});
    stack.sim("revoke", &json!({"company": 1})).await.unwrap();

    let person = stack.person(EMAIL).await.unwrap();
    let refresh = stack.refresh(&app).await.unwrap();

    for (answer, status) in [(person, 401), (refresh, 409)] {
        let problem = answer.expect_problem(status, "TOKEN_INVALIDATED");
        assert_eq!(problem["state"], "reauth_required");
    }
    // The same person's new consent heals it.
    let again = stack.connect(1, 1).await.unwrap();
    assert_eq!(
        (&again["id"], &again["default"]),
        (&first["id"], &json!(true))
    );
    assert_eq!(served(&stack).await, (NAME.to_owned(), first["id"].clone()));
}

pub(crate) async fn default_connection_of_another_company_is_not_served(backend: Backend) {
    let stack = Stack::start(backend).await;
    let first = logged_in(&stack, "acme", 1, 1).await;
    uninstalled(&stack, 1, 1).await;

    let moved = logged_in(&stack, "acme", 2, 1).await;

    assert_eq!(
        (&moved["id"], &moved["default"]),
        (&first["id"], &json!(false))
    );
    let body = json!({"appId": stack.client_id});
    for answer in [
        stack.person(EMAIL).await.unwrap(),
        stack.refresh(&body).await.unwrap(),
    ] {
        let problem = answer.expect_problem(404, "CONNECTION_NOT_FOUND");
        assert_eq!(problem["reason"], "default_connection_gone");
        assert!(!problem.to_string().contains("acme"), "{problem}");
    }
    let named = stack.person_of(&moved, EMAIL).await.unwrap();
    assert_eq!(named.expect(200).body, ELSEWHERE);
}

/// A colleague's login takes the account's row over, and not its place as the default.
pub(crate) async fn default_connection_of_another_user_is_not_served(backend: Backend) {
    let stack = Stack::start(backend).await;
    let first = logged_in(&stack, "acme", 1, 1).await;

    let colleague = logged_in(&stack, "acme", 1, 2).await;

    assert_eq!(
        (&colleague["id"], &colleague["default"]),
        (&first["id"], &json!(false))
    );
    for body in [
        json!({"appId": stack.client_id}),
        json!({"appId": stack.client_id, "accountId": "acme"}),
    ] {
        let problem = stack.refresh(&body).await.unwrap();
        let problem = problem.expect_problem(404, "CONNECTION_NOT_FOUND");
        assert_eq!(problem["reason"], "default_connection_gone");
    }
    let person = stack.person(EMAIL).await.unwrap();
    person.expect_problem(404, "CONNECTION_NOT_FOUND");
    stack
        .person_of(&colleague, EMAIL)
        .await
        .unwrap()
        .expect(200);

    // The same person's new consent brings it back.
    let again = logged_in(&stack, "acme", 1, 1).await;
    assert_eq!(again["default"], true);
    assert_eq!(served(&stack).await.1, first["id"]);
}

async fn uninstalled(stack: &Stack, company: u32, user: u32) {
    let order = json!({
        "company": company, "user": user,
        "notify_url": format!("{}/auth/callback", stack.auth_capture),
    });
    stack.sim("uninstall", &order).await.unwrap();
}

/// Of the same person's two rows the one that has ended makes room, and takes its place as the default with it.
pub(crate) async fn default_connection_follows_its_person(backend: Backend) {
    let stack = Stack::start(backend).await;
    logged_in(&stack, "acme", 1, 1).await;
    logged_in(&stack, "other", 1, 2).await;
    uninstalled(&stack, 1, 1).await;

    let own = logged_in(&stack, "other", 1, 1).await;

    assert_eq!(own["default"], true);
    assert_eq!(served(&stack).await, (NAME.to_owned(), own["id"].clone()));
    assert_eq!(stack.sql("SELECT id AS line FROM connections").len(), 1);
}

pub(crate) async fn installs_are_restricted_to_the_companies_that_are_named(backend: Backend) {
    let stack = Stack::start(backend).await;
    let own = [("auth-capture.login.companies", "7 borealis-energy")];
    let restricted = stack.add_auth_capture(&own).await;
    let query = restricted.marketplace_consent("approve", 1, 1).await;

    let refused = restricted.callback(&query.unwrap()).await.unwrap();

    let problem = refused.expect_problem(403, "DIFFERENT_COMPANY");
    assert_eq!(problem["reason"], "company_not_allowed");
    assert!(stack.sql("SELECT id AS line FROM connections").is_empty());
    // No one's row holds the grant: it is not left alive.
    assert_eq!(books(&stack, 1, 1).await["state"], "revoked");

    let named = restricted.connect(2, 1).await.unwrap();
    let by_id = restricted.connect(7, 1).await.unwrap();
    assert_eq!(
        (&named["default"], &by_id["default"]),
        (&json!(true), &json!(false))
    );
    // A login of the operator's is not restricted; nor is the reinstall of what lives.
    let acme = logged_in(&restricted, "acme", 1, 1).await;
    let again = restricted.connect(1, 1).await.unwrap();
    assert_eq!(
        (&again["id"], &again["account_id"]),
        (&acme["id"], &json!("acme"))
    );
}

pub(crate) async fn of_several_apps_one_is_meant_by_callers_who_name_none(backend: Backend) {
    let two = [
        ("*.apps.other.provider", "pipedrive"),
        ("*.apps.other.client_id", OTHER_APP),
        ("*.apps.other.client_secret", DEFAULT_CLIENT_SECRET),
        ("auth-capture.apps.other.redirect_url", REDIRECT_URL),
    ];
    let setup = Setup {
        set: &two,
        ..Setup::default()
    };
    let stack = Stack::with(backend, setup).await;
    let first = stack.connect(1, 1).await.unwrap();
    let other = Client {
        client_id: OTHER_APP.to_owned(),
        ..stack.client.clone()
    };
    let query = other.marketplace_consent("approve", 2, 1).await.unwrap();
    let url = format!(
        "{}/webhook/pipedrive/callback/other?{query}",
        stack.auth_capture
    );
    let second = Reply::of(stack.http.get(url).send().await.unwrap()).await;
    let second = second.unwrap().expect(200).json()["connection"].clone();

    assert_eq!(first["AppId"], stack.client_id);
    assert_eq!(
        (&second["AppId"], &second["default"]),
        (&json!(OTHER_APP), &json!(true))
    );
    assert_eq!(stack.person(EMAIL).await.unwrap().expect(200).body, NAME);
    let named = json!({"person": {"email": EMAIL}, "appId": OTHER_APP});
    let named = stack.person_request(&named).send().await.unwrap();
    assert_eq!(Reply::of(named).await.unwrap().expect(200).body, ELSEWHERE);
}

/// The cached token is dead, and the row's is good: a reconnect is not refreshed for the older token's sake.
pub(crate) async fn reconnect_is_not_refreshed_for_the_older_tokens_sake(backend: Backend) {
    let (stack, first) = connected(backend).await;
    assert_eq!(stack.person(EMAIL).await.unwrap().expect(200).body, NAME);
    stack.sim("expire", &json!({"company": 1})).await.unwrap();
    stack.connect(1, 1).await.unwrap();

    let answer = stack.person(EMAIL).await.unwrap();

    assert_eq!(answer.expect(200).body, NAME);
    assert_eq!(refreshes(&stack).await, 0);
    assert_eq!(row(&stack, &first).await.generation, 2);
}

//! A running simulator and an app that talks to it.

use std::time::Duration;

use pipedrive_sim::{
    DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, DEFAULT_REDIRECT_URL, Options, Simulator,
};
use reqwest::header::HeaderMap;
use reqwest::{Client, RequestBuilder, StatusCode, redirect};
use serde_json::Value;

/// Nothing on a slow machine takes so long that does not hang.
pub(crate) const HANGS: Duration = Duration::from_mins(2);

pub(crate) struct Sim {
    pub(crate) simulator: Simulator,
    pub(crate) http: Client,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

/// What a token answer carried.
#[derive(Debug, Clone)]
pub(crate) struct Tokens {
    pub(crate) access: String,
    pub(crate) refresh: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).expect("a JSON body")
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    #[track_caller]
    pub(crate) fn tokens(self) -> Tokens {
        let body = self.expect(200).json();
        Tokens {
            access: text(&body["access_token"]),
            refresh: text(&body["refresh_token"]),
        }
    }
}

#[track_caller]
pub(crate) fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

#[expect(
    clippy::disallowed_methods,
    reason = "these tests share no code with the services, so they have a client of their own"
)]
fn client() -> Client {
    Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .timeout(HANGS)
        .build()
        .expect("a client")
}

impl Sim {
    pub(crate) async fn start() -> Self {
        Self::with(Options::default()).await
    }

    pub(crate) async fn with(options: Options) -> Self {
        Self {
            simulator: Simulator::start(options).await.expect("a free port"),
            http: client(),
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.simulator.url())
    }

    pub(crate) async fn try_send(&self, request: RequestBuilder) -> reqwest::Result<Answer> {
        let response = request.send().await?;
        Ok(Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            text: response.text().await?,
        })
    }

    #[track_caller]
    pub(crate) fn send(&self, request: RequestBuilder) -> impl Future<Output = Answer> {
        let answer = self.try_send(request);
        async { answer.await.expect("an answer") }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.http.get(self.url(path))).await
    }

    /// A control; it has to be taken.
    pub(crate) async fn control(&self, path: &str, body: Value) -> Value {
        let request = self.http.post(self.url(path)).json(&body);
        self.send(request).await.expect(200).json()
    }

    pub(crate) async fn settings(&self, changes: Value) {
        self.control("/_sim/settings", changes).await;
    }

    pub(crate) async fn fault(&self, rule: Value) {
        self.control("/_sim/faults", rule).await;
    }

    pub(crate) async fn stats(&self) -> Value {
        self.get("/_sim/stats").await.expect(200).json()
    }

    pub(crate) async fn authorize(&self, query: &[(&str, &str)]) -> Answer {
        let mut all = vec![
            ("client_id", DEFAULT_CLIENT_ID),
            ("redirect_uri", DEFAULT_REDIRECT_URL),
        ];
        all.retain(|(name, _)| !query.iter().any(|(given, _)| given == name));
        all.extend(query);
        self.send(self.http.get(self.url("/oauth/authorize")).query(&all))
            .await
    }

    /// The code of a consent without a click.
    pub(crate) async fn code(&self, company: u64, user: u64) -> String {
        let (company, user) = (company.to_string(), user.to_string());
        let query = [("auto", "approve"), ("company", &company), ("user", &user)];
        let answer = self.authorize(&query).await.expect(302);
        let location = answer.header("location").expect("a location").to_owned();
        let (_, code) = location.split_once("code=").expect("a code");
        code.split('&').next().unwrap_or_default().to_owned()
    }

    pub(crate) fn token_request(&self, form: &[(&str, &str)]) -> RequestBuilder {
        self.http
            .post(self.url("/oauth/token"))
            .basic_auth(DEFAULT_CLIENT_ID, Some(DEFAULT_CLIENT_SECRET))
            .form(form)
    }

    pub(crate) async fn exchange(&self, code: &str) -> Answer {
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", DEFAULT_REDIRECT_URL),
        ];
        self.send(self.token_request(&form)).await
    }

    pub(crate) async fn install(&self, company: u64, user: u64) -> Tokens {
        let code = self.code(company, user).await;
        self.exchange(&code).await.tokens()
    }

    pub(crate) fn refresh_request(&self, token: &str) -> RequestBuilder {
        self.token_request(&[("grant_type", "refresh_token"), ("refresh_token", token)])
    }

    pub(crate) async fn refresh(&self, token: &str) -> Answer {
        self.send(self.refresh_request(token)).await
    }

    pub(crate) async fn revoke(&self, form: &[(&str, &str)]) -> Answer {
        let request = self
            .http
            .post(self.url("/oauth/revoke"))
            .basic_auth(DEFAULT_CLIENT_ID, Some(DEFAULT_CLIENT_SECRET))
            .form(form);
        self.send(request).await
    }

    pub(crate) fn api_request(&self, path: &str, access_token: &str) -> RequestBuilder {
        self.http.get(self.url(path)).bearer_auth(access_token)
    }

    pub(crate) async fn api(&self, path: &str, access_token: &str) -> Answer {
        self.send(self.api_request(path, access_token)).await
    }

    pub(crate) async fn me(&self, access_token: &str) -> Answer {
        self.api("/v1/users/me", access_token).await
    }

    /// Whether the API takes this access token.
    pub(crate) async fn good(&self, access_token: &str) -> bool {
        let status = self.me(access_token).await.status;
        status == StatusCode::OK.as_u16()
    }
}

/// Until no fault is left that waits for its request.
pub(crate) async fn until_met(http: &Client, simulator: &str) {
    let url = format!("{simulator}/_sim/faults");
    let met = async {
        loop {
            let answer = http.get(&url).send().await.expect("an answer");
            let waiting: Value = answer.json().await.expect("JSON");
            if waiting == Value::Array(Vec::new()) {
                return;
            }
        }
    };
    tokio::time::timeout(HANGS, met)
        .await
        .expect("the request comes");
}

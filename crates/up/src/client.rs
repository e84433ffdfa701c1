//! What callers, browsers and tests say to the stack, over HTTP.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use pipekeeper_core::crypto::sha256_hex;
use pipekeeper_core::http_client::{self, Limits};
use pipekeeper_core::secret::Secret;
use reqwest::header::{COOKIE, HeaderMap, LOCATION, SET_COOKIE};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use url::Url;

/// n8n's webhook ids, which ported callers go on using.
pub const CALLBACK: &str = "/webhook/aae545fb-a69d-4e20-91ce-65f105d0ea2f";
pub const REFRESH: &str = "/webhook/937a8843-a28a-400a-b473-bdc598366fa0";
pub const PERSON: &str = "/webhook/47704458-bfa6-4d95-adf1-97fc78e35d8a";

/// Where a stack listens, and what its callers know.
#[derive(Debug, Clone)]
pub struct Client {
    pub http: reqwest::Client,
    pub auth_capture: String,
    pub data_api: String,
    pub token_refresher: String,
    pub simulator: String,
    /// Where token-refresher's metrics are.
    pub refresher_metrics: String,
    pub client_id: String,
    pub redirect_url: String,
    pub webhook: (String, Secret),
    pub refresher: (String, Secret),
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Reply {
    /// # Errors
    /// Also a response that shows a token: no caller may ever get one.
    pub async fn of(response: Response) -> anyhow::Result<Self> {
        let answer = Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.text().await?,
        };
        let shown = format!("{:?} {}", answer.headers, answer.body);
        ensure!(!shows_a_token(&shown), "an answer shows a token: {shown}");
        Ok(answer)
    }

    /// This answer, whose status has to be the one.
    #[track_caller]
    #[expect(
        clippy::return_self_not_must_use,
        reason = "called for what it checks; few look at the rest"
    )]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }

    /// The body of a problem that has to have this status and code, and the shape that all of them have.
    #[track_caller]
    pub fn expect_problem(&self, status: u16, code: &str) -> Value {
        let problem = self.json();
        assert_eq!(
            (self.status, self.code().as_str()),
            (status, code),
            "{}",
            self.body
        );
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.header("x-content-type-options"), "nosniff");
        let kebab = code.to_lowercase().replace('_', "-");
        let expected = json!({
            "type": format!("urn:pipekeeper:problem:{kebab}"),
            "status": status,
            "instance": format!("urn:request:{}", self.header("x-request-id")),
            "success": false,
            "code": code,
            "message": code,
        });
        for (key, value) in expected.as_object().into_iter().flatten() {
            assert_eq!(problem.get(key), Some(value), "{key} of {}", self.body);
        }
        for text in ["title", "detail"] {
            assert!(
                problem[text].as_str().is_some_and(|text| !text.is_empty()),
                "{text} of {}",
                self.body
            );
        }
        problem
    }

    /// `Retry-After`, which has to be there.
    #[track_caller]
    pub fn retry_after(&self) -> u64 {
        let secs = self.header("retry-after").parse();
        secs.expect("Retry-After is a number of seconds")
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }

    /// The problem's code; empty if the body is no problem.
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }
}

impl Client {
    /// A client whose every call ends within half a minute.
    pub fn http() -> anyhow::Result<reqwest::Client> {
        let limits = Limits {
            connect: Duration::from_secs(5),
            total: Duration::from_secs(30),
        };
        http_client::build(limits).context("no HTTP client")
    }

    /// The user of a company gives (or declines) consent; where the browser is sent then.
    pub async fn consent(
        &self,
        location: &str,
        auto: &str,
        company: u32,
        user: u32,
    ) -> anyhow::Result<Url> {
        let mut url = Url::parse(location)?;
        url.query_pairs_mut()
            .append_pair("auto", auto)
            .append_pair("company", &company.to_string())
            .append_pair("user", &user.to_string());
        let response = self.http.get(url).send().await?;
        ensure!(
            response.status().is_redirection(),
            "the authorize page answered {}",
            response.status()
        );
        let location = response
            .headers()
            .get(LOCATION)
            .context("no Location")?
            .to_str()?;
        Ok(Url::parse(location)?)
    }

    /// Pipedrive's "Install and test": a consent that no login of ours started. The query that the callback gets.
    pub async fn marketplace_consent(
        &self,
        auto: &str,
        company: u32,
        user: u32,
    ) -> anyhow::Result<String> {
        let mut url = Url::parse(&format!("{}/oauth/authorize", self.simulator))?;
        url.query_pairs_mut()
            .append_pair("client_id", &self.client_id)
            .append_pair("redirect_uri", &self.redirect_url);
        let location = self.consent(url.as_str(), auto, company, user).await?;
        Ok(location.query().unwrap_or_default().to_owned())
    }

    /// The callback, as an API client calls it.
    pub async fn callback(&self, query: &str) -> anyhow::Result<Reply> {
        let url = format!("{}{CALLBACK}?{query}", self.auth_capture);
        Reply::of(self.http.get(url).send().await?).await
    }

    /// Installs the app for a user of a company.
    pub async fn connect(&self, company: u32, user: u32) -> anyhow::Result<Value> {
        let query = self.marketplace_consent("approve", company, user).await?;
        let answer = self.callback(&query).await?;
        ensure!(
            answer.status == 200,
            "the callback answered {}: {}",
            answer.status,
            answer.body
        );
        Ok(answer.json()["connection"].clone())
    }

    /// Starts a login; where the browser is sent, and the cookie that it keeps.
    pub async fn start_login(&self, query: &str) -> anyhow::Result<(String, String)> {
        let url = format!("{}/auth/login?{query}", self.auth_capture);
        login_of(&self.http.get(url).send().await?)
    }

    /// Starts a login in which the operator names the account; where the browser is sent, and the cookie that it keeps.
    pub async fn start_login_by(
        &self,
        (user, password): &(String, Secret),
        query: &str,
    ) -> anyhow::Result<(String, String)> {
        let url = format!("{}/auth/login?{query}", self.auth_capture);
        let request = self.http.get(url).basic_auth(user, Some(password.expose()));
        login_of(&request.send().await?)
    }

    /// A browser comes back from the provider.
    pub async fn finish_login(
        &self,
        location: &Url,
        cookie: Option<&str>,
    ) -> anyhow::Result<Reply> {
        let query = location.query().unwrap_or_default();
        let mut request = self
            .http
            .get(format!("{}{CALLBACK}?{query}", self.auth_capture));
        if let Some(cookie) = cookie {
            request = request.header(COOKIE, cookie);
        }
        Reply::of(request.send().await?).await
    }

    pub fn person_request(&self, body: &Value) -> RequestBuilder {
        let (user, password) = &self.webhook;
        self.http
            .post(format!("{}{PERSON}", self.data_api))
            .basic_auth(user, Some(password.expose()))
            .json(body)
    }

    /// The person who has this email, in the default connection.
    pub async fn person(&self, email: &str) -> anyhow::Result<Reply> {
        Reply::of(
            self.person_request(&json!({"person": {"email": email}}))
                .send()
                .await?,
        )
        .await
    }

    /// The person who has this email, of one account's connection.
    pub async fn person_of(&self, connection: &Value, email: &str) -> anyhow::Result<Reply> {
        let body = json!({
            "person": {"email": email},
            "accountId": connection["account_id"],
            "owner": connection["owner"],
        });
        Reply::of(self.person_request(&body).send().await?).await
    }

    pub fn refresh_request(&self, body: &Value) -> RequestBuilder {
        let (user, password) = &self.refresher;
        self.http
            .post(format!("{}{REFRESH}", self.token_refresher))
            .basic_auth(user, Some(password.expose()))
            .json(body)
    }

    pub async fn refresh(&self, body: &Value) -> anyhow::Result<Reply> {
        Reply::of(self.refresh_request(body).send().await?).await
    }

    /// One of the simulator's controls: `expire`, `settings`, `faults`, …
    pub async fn sim(&self, control: &str, body: &Value) -> anyhow::Result<Value> {
        let url = format!("{}/_sim/{control}", self.simulator);
        let answer = Reply::of(self.http.post(url).json(body).send().await?).await?;
        ensure!(
            answer.status == 200,
            "/_sim/{control} answered {}: {}",
            answer.status,
            answer.body
        );
        Ok(answer.json())
    }

    /// The simulator's counters and books.
    pub async fn stats(&self) -> anyhow::Result<Value> {
        let url = format!("{}/_sim/stats", self.simulator);
        Ok(Reply::of(self.http.get(url).send().await?).await?.json())
    }

    /// Calls of token-refresher's webhook, as its own metrics count them.
    pub async fn refresher_calls(&self) -> anyhow::Result<u64> {
        let response = self.http.get(&self.refresher_metrics).send().await;
        let metrics = response
            .context("token-refresher does not answer")?
            .text()
            .await?;
        Ok(metrics
            .lines()
            .filter(|line| line.starts_with("pipekeeper_http_requests_total{"))
            .filter(|line| line.contains("route=\"/webhook/pipedrive/refresh\""))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum())
    }

    /// Token calls of this grant type so far, whatever came of them.
    pub async fn token_calls(&self, grant_type: &str) -> anyhow::Result<u64> {
        Ok(total(&self.stats().await?["token"][grant_type]))
    }
}

fn login_of(response: &Response) -> anyhow::Result<(String, String)> {
    if response.status() != StatusCode::SEE_OTHER {
        bail!("the login answered {}", response.status());
    }
    let header = |name| {
        response
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let cookie = header(SET_COOKIE).context("no cookie")?;
    let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
    Ok((header(LOCATION).context("no Location")?, cookie))
}

/// The first 16 hex digits of the SHA-256, as in the simulator's books.
pub fn fingerprint(token: &str) -> String {
    let mut digest = sha256_hex(token);
    digest.truncate(16);
    digest
}

/// Whether a text holds what looks like one of the simulator's access tokens (`v1u:…`) or refresh tokens
/// (`COMPANY:USER:` and forty hex digits).
pub fn shows_a_token(text: &str) -> bool {
    let is_refresh_token = |word: &str| {
        let mut parts = word.rsplit(':');
        let secret = parts.next().unwrap_or_default();
        let mut number = || {
            parts
                .next()
                .is_some_and(|part| part.bytes().next_back().is_some_and(|b| b.is_ascii_digit()))
        };
        secret.len() == 40 && secret.bytes().all(|b| b.is_ascii_hexdigit()) && number() && number()
    };
    text.contains("v1u:")
        || text
            .split(|c: char| !c.is_ascii_alphanumeric() && c != ':')
            .any(is_refresh_token)
}

/// The sum of a tally.
pub fn total(tally: &Value) -> u64 {
    tally
        .as_object()
        .map_or(0, |tally| tally.values().filter_map(Value::as_u64).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_told_from_everything_else() {
        let hex = "0123456789abcdef0123456789abcdef01234567";
        for shown in [
            "x v1u:AQI".to_owned(),
            format!("{{\"refresh_token\":\"12:7:{hex}\"}}"),
            format!("1:1:{hex}"),
        ] {
            assert!(shows_a_token(&shown), "{shown}");
        }
        for harmless in [
            hex.to_owned(),
            format!("urn:request:{hex}"),
            format!("1.1.{hex}"),
            "~pipedrive:12".to_owned(),
        ] {
            assert!(!shows_a_token(&harmless), "{harmless}");
        }
    }
}

//! Outbound HTTP: one way to make a client, so that none follows redirects or reads proxies from the environment.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use reqwest::header::{ACCEPT_ENCODING, DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt as _;

use crate::clock::{SystemClock, Timestamp};
use crate::content_coding::ContentCoding;

/// Twice as many as hyper takes by itself are not unheard of behind some proxies.
const HEADERS_MAX: usize = 512;

/// A longer wait means "never".
const RETRY_AFTER_MAX: Duration = Duration::from_hours(366 * 24);

/// What differs between the clients of a process.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub connect: Duration,
    /// From the request's first byte to the answer's last.
    pub total: Duration,
}

/// Asks for bodies that are not packed (without `Accept-Encoding` a server may pack as it likes, RFC 9110 §12.5.3) and
/// unpacks none by itself. Takes header lines that other clients take: a response may hold tokens that are sent once.
///
/// # Errors
/// Only a broken TLS library explains one.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that makes clients"
)]
pub fn build(limits: Limits) -> Result<Client, reqwest::Error> {
    Client::builder()
        .user_agent("pipekeeper")
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .referer(false)
        .tcp_nodelay(true)
        .connect_timeout(limits.connect)
        .timeout(limits.total)
        .pool_idle_timeout(Duration::from_secs(30))
        .default_headers(HeaderMap::from_iter([(
            ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        )]))
        .http1_ignore_invalid_headers_in_responses(true)
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .http1_max_headers(HEADERS_MAX)
        .tls_backend_preconfigured(tls())
        .build()
}

/// Why an answer's body could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the response is too large")]
    TooLarge,
    #[error("the answer broke off")]
    Transport(#[source] reqwest::Error),
}

/// The whole body, unpacked, if it has no more than `max` bytes before and after.
pub async fn decoded_body(response: Response, max: usize) -> Result<Vec<u8>, BodyError> {
    let coding = ContentCoding::of(response.headers());
    let body = body(response, max).await?;
    let unpacked = match coding.decode(&body, max) {
        None => return Err(BodyError::TooLarge),
        Some(Cow::Owned(unpacked)) => Some(unpacked),
        Some(Cow::Borrowed(_)) => None,
    };
    Ok(unpacked.unwrap_or(body))
}

/// The whole body as received, if it has no more than `max` bytes.
pub async fn body(mut response: Response, max: usize) -> Result<Vec<u8>, BodyError> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= max => body.extend_from_slice(&chunk),
            Ok(Some(_)) => return Err(BodyError::TooLarge),
            Ok(None) => return Ok(body),
            Err(error) => return Err(BodyError::Transport(error.without_url())),
        }
    }
}

/// `Retry-After` (RFC 9110 §10.2.3): seconds, also with a fraction, or a date. A date counts from the response's own `Date`:
/// the provider's clock and ours may differ.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    seconds(text).or_else(|| {
        let until = date(text)?;
        let sent = headers.get(DATE).and_then(|sent| date(sent.to_str().ok()?));
        let sent = sent.unwrap_or_else(|| SystemClock::shared().now());
        Some(until.saturating_since(sent).min(RETRY_AFTER_MAX))
    })
}

/// A number of seconds in a header: digits, perhaps with a fraction.
pub fn seconds(text: &str) -> Option<Duration> {
    let text = text.trim();
    let is_number = text.bytes().all(|c| c.is_ascii_digit() || c == b'.');
    let secs = text.parse().ok().filter(|_| is_number)?;
    let wait = Duration::try_from_secs_f64(secs).unwrap_or(Duration::MAX);
    Some(wait.min(RETRY_AFTER_MAX))
}

fn date(text: &str) -> Option<Timestamp> {
    let date: SystemTime = httpdate::parse_http_date(text).ok()?;
    Some(Timestamp::new(DateTime::<Utc>::from(date)))
}

/// Trusts the platform's roots; where the machine has none (a bare image), the bundled ones of Mozilla. Read once for all
/// clients of a process: there are more than a hundred.
fn tls() -> ClientConfig {
    static TLS: LazyLock<ClientConfig> = LazyLock::new(|| {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = || {
            ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .expect("aws-lc-rs speaks TLS 1.2 and 1.3")
        };
        let trusting = builder()
            .with_platform_verifier()
            .unwrap_or_else(|_no_platform_roots| {
                let bundled = webpki_roots::TLS_SERVER_ROOTS.iter().cloned();
                builder().with_root_certificates(bundled.collect::<RootCertStore>())
            });
        let mut config = trusting.with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    });
    TLS.clone()
}

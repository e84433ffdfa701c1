//! Outbound HTTP: one way to make a client, so that none follows redirects or reads proxies from the environment.

use std::time::Duration;

use reqwest::{Client, Response};
use rustls::{ClientConfig, RootCertStore};

/// What differs between the clients of a process.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub connect: Duration,
    /// From the request's first byte to the answer's last.
    pub total: Duration,
}

/// Trusts the platform's roots; where the machine has none (a bare image), the bundled ones of Mozilla.
///
/// # Errors
/// When neither makes a client, which only a broken TLS library explains.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that makes clients"
)]
pub fn build(limits: Limits) -> Result<Client, reqwest::Error> {
    let builder = || {
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
    };
    builder()
        .build()
        .or_else(|_no_platform_roots| builder().tls_backend_preconfigured(bundled_roots()).build())
}

/// Why an answer's body could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the answer is larger than any that makes sense")]
    TooLarge,
    #[error("the answer broke off")]
    Transport(#[source] reqwest::Error),
}

/// The whole body, if it has no more than `max` bytes.
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

fn bundled_roots() -> ClientConfig {
    let roots: RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("aws-lc-rs speaks TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

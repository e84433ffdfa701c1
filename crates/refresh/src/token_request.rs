//! The one call that spends a refresh token (RFC 6749 §6).

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pipekeeper_core::oauth::{TokenError, TokenResponse, Unknown, token_request};
use pipekeeper_core::provider::App;
use pipekeeper_core::secret::Secret;
use reqwest::{Client, RequestBuilder};

/// Sends the token to its provider. Nothing else in the product does.
///
/// `in_time` is asked at the last moment, when the connection stands and the body is wanted: a process that was frozen
/// since it decided to call must not send a token that another process spends by now.
pub(crate) async fn spend(
    client: &Client,
    app: &App,
    secret: &Secret,
    refresh_token: &Secret,
    in_time: impl Fn() -> bool + Send + Sync + 'static,
) -> Result<TokenResponse, TokenError> {
    let form = vec![
        ("grant_type", "refresh_token"),
        ("refresh_token", refresh_token.expose()),
    ];
    let request = token_request(client, app, secret, &app.provider.token_url, form);
    let handed_over = Arc::new(AtomicBool::new(false));
    let request = guarded(request, in_time, Arc::clone(&handed_over))?;
    TokenResponse::to(request)
        .await
        .map_err(|error| match error {
            // What was never handed over can't have been spent, however the call ended.
            TokenError::Unknown(Unknown::TimedOut(cause) | Unknown::Broken(cause))
                if !handed_over.load(Ordering::Acquire) =>
            {
                TokenError::NotSent(cause)
            }
            other => other,
        })
}

/// The same request, with a body that is handed over only in time.
fn guarded(
    request: RequestBuilder,
    in_time: impl Fn() -> bool + Send + Sync + 'static,
    handed_over: Arc<AtomicBool>,
) -> Result<RequestBuilder, TokenError> {
    let (client, request) = request.build_split();
    let mut request = request.map_err(TokenError::NotSent)?;
    let form = request.body().and_then(reqwest::Body::as_bytes);
    let body = GuardedForm {
        form: form.map(Bytes::copy_from_slice),
        in_time: Box::new(in_time),
        handed_over,
    };
    *request.body_mut() = Some(reqwest::Body::wrap(body));
    Ok(RequestBuilder::from_parts(client, request))
}

/// A request body in one piece, handed over once or never.
struct GuardedForm {
    form: Option<Bytes>,
    in_time: Box<dyn Fn() -> bool + Send + Sync>,
    handed_over: Arc<AtomicBool>,
}

/// The lease that the token was to be spent under has run too far.
#[derive(Debug)]
struct TooLate;

impl fmt::Display for TooLate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too late to spend a token under this lease")
    }
}

impl std::error::Error for TooLate {}

impl Body for GuardedForm {
    type Data = Bytes;
    type Error = TooLate;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TooLate>>> {
        let Some(form) = self.form.take() else {
            return Poll::Ready(None);
        };
        if !(self.in_time)() {
            return Poll::Ready(Some(Err(TooLate)));
        }
        self.handed_over.store(true, Ordering::Release);
        Poll::Ready(Some(Ok(Frame::data(form))))
    }

    fn is_end_stream(&self) -> bool {
        self.form.is_none()
    }

    /// Known beforehand: not every token endpoint takes a chunked request.
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(
            self.form
                .as_ref()
                .map_or(0, |form| u64::try_from(form.len()).unwrap_or(u64::MAX)),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pipekeeper_core::config::{Loader, Sources};
    use pipekeeper_core::http_client::{self, Limits};
    use pipekeeper_core::provider::{AppUse, Apps};
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    /// Spends at an endpoint that reads what comes and answers nothing; gives back what came.
    async fn spent(in_time: bool) -> (Result<TokenResponse, TokenError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let endpoint = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let (mut came, mut buffer) = (Vec::new(), [0; 4096]);
            loop {
                let read = socket.read(&mut buffer).await.unwrap_or(0);
                came.extend_from_slice(&buffer[..read]);
                let text = String::from_utf8_lossy(&came).into_owned();
                if read == 0 || text.contains("refresh_token=t0k3n") {
                    return text;
                }
            }
        };
        let mut loader = Loader::new(&Sources {
            defaults: "[apps.pipedrive]\nprovider = \"pipedrive\"\nclient_id = \"c\"\nclient_secret = \"s\"\n",
            file: None,
            env: vec![
                ("PIPEKEEPER__PROVIDERS__PIPEDRIVE__ALLOW_HTTP".to_owned(), "true".to_owned()),
                ("PIPEKEEPER__PROVIDERS__PIPEDRIVE__TOKEN_URL".to_owned(), url),
            ],
        })
        .unwrap();
        let apps = Apps::load(&mut loader, AppUse::Refresh);
        loader.finish().unwrap();
        let app = apps.iter().next().unwrap();
        let limit = Duration::from_mins(1);
        let client = http_client::build(Limits {
            connect: limit,
            total: limit,
        })
        .unwrap();
        let token = Secret::from("t0k3n");
        let call = spend(&client, app, &app.client_secret, &token, move || in_time);
        tokio::join!(call, endpoint)
    }

    #[tokio::test]
    async fn a_token_in_time_is_sent_in_one_piece() {
        let (answer, came) = spent(true).await;

        assert!(matches!(answer, Err(TokenError::Unknown(_))), "{answer:?}");
        assert!(came.contains("content-length: 44"), "{came}");
        assert!(
            came.ends_with("grant_type=refresh_token&refresh_token=t0k3n"),
            "{came}"
        );
    }

    #[tokio::test]
    async fn too_late_the_token_does_not_leave() {
        let (answer, came) = spent(false).await;

        assert!(matches!(answer, Err(TokenError::NotSent(_))), "{answer:?}");
        assert!(!came.contains("t0k3n"), "{came}");
    }
}

//! How a fault is played: answers in place of the real one, and connections that break.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::body::{self, BodyStream, SizedStream};
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, SERVER};
use actix_web::rt;
use actix_web::web::Bytes;
use futures_util::stream;
use tokio::time::{sleep, timeout};

use crate::api::errors;
use crate::faults::{Answers, Fault, Method, Request, Rule, Target, When};
use crate::oauth::error::OAuthError;
use crate::outside;
use crate::world::Shared;

const HELD_FOR: Duration = Duration::from_mins(10);
/// Long enough for the first half of an answer to leave the machine before the connection breaks.
const FLUSH: Duration = Duration::from_millis(30);

/// The fault of one request, if any.
#[derive(Debug, Default)]
pub(crate) struct Play {
    rule: Option<Arc<Rule>>,
    /// The request's.
    query: String,
}

impl Play {
    pub(crate) fn draw(shared: &Shared, request: Request<'_>) -> Self {
        Self {
            rule: shared.world().faults.take(request),
            query: request.query.to_owned(),
        }
    }

    /// The fault's name, as the log has it.
    pub(crate) fn name(&self) -> Option<String> {
        let rule = self.rule.as_deref()?;
        Some(match rule.fault {
            Fault::Call => format!("call {}", rule.when().name()),
            fault => fault.name().to_owned(),
        })
    }

    /// What the token answer is to name, if that is the fault.
    pub(crate) fn api_domain(&self) -> Option<&str> {
        let rule = self.rule.as_deref()?;
        rule.api_domain
            .as_deref()
            .filter(|_| rule.fault == Fault::ChangedApiDomain)
    }

    pub(crate) fn answers(&self) -> Answers {
        self.rule
            .as_ref()
            .map_or(Answers::Whole, |rule| rule.fault.answers())
    }

    /// What comes before the commit. An answer given here stands in for the real one.
    pub(crate) async fn before(&self, shared: &Shared) -> Option<(HttpResponse, Fault)> {
        let rule = self.rule.as_deref()?;
        let mut answer = match rule.fault {
            Fault::InternalError => internal_error(),
            Fault::MaintenancePage => page(StatusCode::SERVICE_UNAVAILABLE, MAINTENANCE),
            Fault::CloudflareBlock => page(StatusCode::FORBIDDEN, CLOUDFLARE),
            Fault::Burst => {
                let headers = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "2")];
                with_rates(shared, errors::burst(), &headers)
            }
            Fault::Daily => {
                let headers = [("x-daily-ratelimit-token-remaining", "0")];
                with_rates(shared, errors::daily(outside::now_ms()), &headers)
            }
            Fault::PaymentRequired => errors::payment_required(),
            Fault::Unauthorized | Fault::UnauthorizedOnce => unauthorized(shared, rule.on),
            Fault::InvalidGrant => OAuthError::RefreshToken.answer(),
            Fault::Garbage => page(StatusCode::OK, "<!-- not what you asked for"),
            Fault::Reset => cut(),
            Fault::Timeout => {
                hold(shared).await;
                cut()
            }
            Fault::Slow => {
                sleep(Duration::from_millis(rule.ms.unwrap_or_default())).await;
                return None;
            }
            Fault::Call if rule.when() == When::BeforeCommit => {
                call(rule, &self.query).await;
                return None;
            }
            Fault::Call
            | Fault::ChangedApiDomain
            | Fault::CommitThenReset
            | Fault::CommitThenHang
            | Fault::Truncated => return None,
        };
        let retry_after = rule.retry_after.as_deref();
        if let Some(Ok(retry_after)) = retry_after.map(HeaderValue::from_str) {
            answer.headers_mut().insert(RETRY_AFTER, retry_after);
        }
        Some((answer, rule.fault))
    }

    /// What comes after the commit, with the answer as it was to be.
    pub(crate) async fn after(self, shared: &Shared, answer: HttpResponse) -> HttpResponse {
        let Self {
            rule: Some(rule),
            query,
        } = self
        else {
            return answer;
        };
        match (rule.fault, rule.when()) {
            (Fault::CommitThenReset, _) => cut(),
            (Fault::CommitThenHang, _) => {
                hold(shared).await;
                cut()
            }
            (Fault::Truncated, _) => in_two_halves(answer, Between::Break).await,
            (Fault::Call, When::AfterCommit) => {
                call(&rule, &query).await;
                answer
            }
            (Fault::Call, When::MidAnswer) => {
                in_two_halves(answer, Between::Call(rule, query)).await
            }
            (Fault::Call, When::AfterAnswer) => {
                // the answer is on its way as soon as this function returns
                rt::spawn(async move {
                    sleep(Duration::from_millis(rule.ms.unwrap_or_default())).await;
                    call(&rule, &query).await;
                });
                answer
            }
            _ => answer,
        }
    }
}

/// A body that fails at once: the server drops the connection before the headers have left.
fn cut() -> HttpResponse {
    HttpResponse::Ok().body(BodyStream::new(stream::iter([broken()])))
}

fn broken() -> io::Result<Bytes> {
    Err(io::ErrorKind::ConnectionReset.into())
}

async fn hold(shared: &Shared) {
    let mut resets = shared.resets();
    // an error means that the simulator is gone, and the connection with it
    let _elapsed = timeout(HELD_FOR, resets.changed()).await;
}

enum Between {
    Break,
    Call(Arc<Rule>, String),
}

enum Part {
    First(Bytes, Bytes, Between),
    Second(Bytes, Between),
    End,
}

async fn in_two_halves(answer: HttpResponse, between: Between) -> HttpResponse {
    let (head, body) = answer.into_parts();
    // the bodies of this simulator are in memory, so reading them cannot fail
    let mut first = body::to_bytes(body).await.unwrap_or_default();
    let length = u64::try_from(first.len()).unwrap_or_default();
    let second = first.split_off(first.len() / 2);
    let parts = stream::unfold(Part::First(first, second, between), |part| async {
        match part {
            Part::First(first, second, between) => Some((Ok(first), Part::Second(second, between))),
            Part::Second(_, Between::Break) => {
                sleep(FLUSH).await;
                Some((broken(), Part::End))
            }
            Part::Second(second, Between::Call(rule, query)) => {
                sleep(FLUSH).await;
                call(&rule, &query).await;
                Some((Ok(second), Part::End))
            }
            Part::End => None,
        }
    });
    head.set_body(SizedStream::new(length, Box::pin(parts)))
        .map_into_boxed_body()
}

/// What the other side answers is of no interest: the fault is there to act at this instant.
async fn call(rule: &Rule, query: &str) {
    let (Some(url), Ok(client)) = (&rule.url, outside::http_client()) else {
        return;
    };
    let url = url.replace("{query}", query);
    let request = match rule.method.unwrap_or(Method::Get) {
        Method::Get => client.get(url),
        Method::Post => client.post(url),
        Method::Delete => client.delete(url),
    };
    request.send().await.ok();
}

fn unauthorized(shared: &Shared, target: Target) -> HttpResponse {
    match target {
        Target::Api => {
            let mut world = shared.world();
            let correlation_id = world.random.uuid();
            errors::unauthorized(world.settings.unauthorized_body, &correlation_id)
        }
        Target::Token | Target::Revoke => OAuthError::client_refused_with_401(),
    }
}

fn with_rates(
    shared: &Shared,
    mut answer: HttpResponse,
    headers: &[(&'static str, &'static str)],
) -> HttpResponse {
    if shared.world().settings.rate_headers {
        for &(name, value) in headers {
            let (name, value) = (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
            answer.headers_mut().insert(name, value);
        }
    }
    answer
}

fn internal_error() -> HttpResponse {
    HttpResponse::InternalServerError().json(serde_json::json!({
        "success": false,
        "error": "An internal server error occurred",
        "error_info": "Please check developers.pipedrive.com for more information about Pipedrive API.",
        "data": null,
        "additional_data": null,
    }))
}

fn page(status: StatusCode, html: &'static str) -> HttpResponse {
    HttpResponse::build(status)
        .insert_header((CONTENT_TYPE, "text/html; charset=utf-8"))
        .insert_header((SERVER, "cloudflare"))
        .body(html)
}

const MAINTENANCE: &str = "<!DOCTYPE html><html><head><title>503</title></head><body><h1>Whoops! Something broke in our \
     servers and we cannot serve you this page.</h1></body></html>";
const CLOUDFLARE: &str = "<!DOCTYPE html><html><head><title>Access denied</title></head><body><h1>Sorry, you have been \
     blocked</h1><p>This error is produced by Cloudflare.</p></body></html>";

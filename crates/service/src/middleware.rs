//! What happens to every request before and after its handler: its names, its span, its error body, its numbers.

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use actix_web::http::uri::PathAndQuery;
use actix_web::http::{Method, StatusCode, Uri};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{Error, HttpMessage as _, HttpRequest, HttpResponse};
use pipekeeper_core::random;
use pipekeeper_core::refresher_client::{REQUEST_ID, TRACEPARENT, Trace};
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use crate::known_paths::{ALSO_HEAD, KnownPaths};
use crate::observer::Observer;
use crate::problem::{Code, Problem};

/// The middleware around every route.
pub(crate) async fn observe<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let observer = request
        .app_data::<Data<Observer>>()
        .cloned()
        .expect("the server registers it");
    let started = observer.clock.monotonic();
    resolve_alias(&mut request, observer.aliases);
    let trace = trace_of(&request);
    let span = tracing::info_span!(
        "request",
        service = observer.service,
        method = %request.method(),
        route = Empty,
        request_id = trace.request_id,
        trace_id = trace.traceparent.get(3..35),
        connection.id = Empty,
        generation = Empty,
        caller = Empty,
    );
    request.extensions_mut().insert(trace.clone());
    if request.method() == Method::HEAD && ALSO_HEAD.contains(&request.path()) {
        // The server itself knows what was asked, and sends no body.
        request.head_mut().method = Method::GET;
    }

    let health = request.path() == "/healthz" || request.path() == "/readyz";
    let response = if observer.ready.is_set() || health {
        let inside = span.clone();
        async move {
            let response = next.call(request).await?;
            Ok::<_, Error>(render_problems(response, &trace.request_id))
        }
        .instrument(inside)
        .await?
    } else {
        let problem = Problem::new(
            Code::StoreUnavailable,
            "The database is not ready; try again shortly.",
        )
        .retry_after(Some(std::time::Duration::from_secs(1)));
        request
            .into_response(problem.response(Some(&trace.request_id)))
            .map_into_right_body()
    };
    Ok(finish(&observer, &span, started, response))
}

/// The names that tie this request to those it causes.
pub fn trace(request: &HttpRequest) -> Trace {
    request
        .extensions()
        .get::<Trace>()
        .cloned()
        .unwrap_or_else(new_trace)
}

/// Puts what a handler found out on its request's span.
pub fn record(connection: &pipekeeper_core::connection::ConnectionId, generation: i64) {
    Span::current()
        .record("connection.id", connection.as_str())
        .record("generation", generation);
}

/// A request to an alias, or with a trailing slash, goes on as one to the route itself.
fn resolve_alias(request: &mut ServiceRequest, aliases: &[(&str, &'static str)]) {
    let path = request.path();
    let trimmed = if path.len() > 1 {
        path.trim_end_matches('/')
    } else {
        path
    };
    let target = aliases
        .iter()
        .find_map(|(alias, route)| (*alias == trimmed).then_some(*route))
        .unwrap_or(trimmed);
    if target == path || target.is_empty() {
        return;
    }
    let query = request.query_string();
    let rewritten = if query.is_empty() {
        target.to_owned()
    } else {
        format!("{target}?{query}")
    };
    let mut parts = request.uri().clone().into_parts();
    let Ok(rewritten) = rewritten.parse::<PathAndQuery>() else {
        return;
    };
    parts.path_and_query = Some(rewritten);
    if let Ok(uri) = Uri::from_parts(parts) {
        request.match_info_mut().get_mut().update(&uri);
        request.head_mut().uri = uri;
    }
}

fn trace_of(request: &ServiceRequest) -> Trace {
    let header = |name: &str| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let mut trace = new_trace();
    if let Some(id) = header(REQUEST_ID).filter(|id| is_sane_id(id)) {
        id.clone_into(&mut trace.request_id);
    }
    if let Some(parent) = header(TRACEPARENT).filter(|text| is_traceparent(text)) {
        parent.clone_into(&mut trace.traceparent);
    }
    trace
}

fn new_trace() -> Trace {
    let request_id = hex::encode(random::bytes::<16>());
    let traceparent = format!("00-{request_id}-{}-01", hex::encode(random::bytes::<8>()));
    Trace {
        request_id,
        traceparent,
    }
}

fn is_sane_id(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Version 00 of W3C Trace Context: `00-<32 hex>-<16 hex>-<2 hex>`, neither id all zeros.
fn is_traceparent(text: &str) -> bool {
    let mut parts = text.split('-');
    let mut hex = |length: usize| {
        parts.next().filter(|part| {
            part.len() == length
                && part
                    .bytes()
                    .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        })
    };
    let nonzero = |part: &str| part.bytes().any(|b| b != b'0');
    let fits = hex(2) == Some("00")
        && hex(32).is_some_and(nonzero)
        && hex(16).is_some_and(nonzero)
        && hex(2).is_some();
    fits && parts.next().is_none()
}

/// Every error of ours leaves as a problem, and is logged here, once. A response that a handler has built, such as a page or an
/// upstream's own error, leaves as it is.
fn render_problems<B: MessageBody>(
    response: ServiceResponse<B>,
    request_id: &str,
) -> ServiceResponse<EitherBody<B>> {
    let Some(error) = response.response().error() else {
        return response.map_into_left_body();
    };
    let rendered = match error.as_error::<Problem>() {
        Some(problem) => render(problem, request_id),
        None => render(&problem_of(response.status(), error), request_id),
    };
    response.into_response(rendered).map_into_right_body()
}

fn render(problem: &Problem, request_id: &str) -> HttpResponse {
    problem.log();
    problem.response(Some(request_id))
}

/// What actix-web itself refuses, in our words.
fn problem_of(status: StatusCode, error: &Error) -> Problem {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(Code::TooLarge, "The body is too large."),
        status if status.is_client_error() => {
            Problem::new(Code::BadRequest, error.to_string()).with_status(status)
        }
        _ => Problem::new(Code::Internal, "The service failed.")
            .caused_by(anyhow::anyhow!(error.to_string())),
    }
}

fn finish<B>(
    observer: &Observer,
    span: &Span,
    started: std::time::Duration,
    mut response: ServiceResponse<B>,
) -> ServiceResponse<B> {
    let route = response
        .request()
        .match_pattern()
        .unwrap_or_else(|| "none".to_owned());
    let method = known_method(response.request().method());
    let took = observer.clock.monotonic().saturating_sub(started);
    let status = response.status().as_u16();
    span.record("route", &route);
    span.in_scope(|| tracing::debug!(status, duration_ms = took.as_secs_f64() * 1e3, "answered"));
    metrics::counter!("pipekeeper_http_requests_total",
        "service" => observer.service, "route" => route.clone(), "method" => method, "status" => status.to_string())
    .increment(1);
    metrics::histogram!("pipekeeper_http_request_duration_seconds", "service" => observer.service, "route" => route)
        .record(took.as_secs_f64());
    let id = response
        .request()
        .extensions()
        .get::<Trace>()
        .map(|trace| trace.request_id.clone());
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(id) = id.and_then(|id| HeaderValue::from_str(&id).ok()) {
        headers.insert(HeaderName::from_static(REQUEST_ID), id);
    }
    response
}

/// Clients may send any method: as labels they would be time series without end.
fn known_method(method: &Method) -> &'static str {
    ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
        .into_iter()
        .find(|known| method.as_str() == *known)
        .unwrap_or("other")
}

/// What answers where no route does: 405 with the methods that the path takes, else 404.
pub(crate) async fn no_route(
    request: HttpRequest,
    known: Data<KnownPaths>,
) -> Result<HttpResponse, Problem> {
    Err(match known.methods_of(request.path()) {
        Some(methods) => Problem::new(Code::MethodNotAllowed, "This path takes other methods.")
            .allow(methods.to_owned()),
        None => Problem::new(Code::NotFound, "Nothing answers at this path."),
    })
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::CONTENT_TYPE;

    use super::*;

    #[test]
    fn only_a_well_formed_traceparent_is_taken_over() {
        assert!(is_traceparent(
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        ));
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            assert!(!is_traceparent(bad), "{bad}");
        }
        assert!(is_traceparent(&new_trace().traceparent));
    }

    #[test]
    fn only_our_own_errors_become_problems() {
        let render = |response| {
            let request = actix_web::test::TestRequest::default().to_http_request();
            let rendered = render_problems(ServiceResponse::new(request, response), "r1");
            let kind = rendered.headers().get(CONTENT_TYPE).cloned();
            let body = rendered.into_body().try_into_bytes().ok().unwrap();
            (kind.map(|kind| kind.to_str().unwrap().to_owned()), body)
        };

        let (kind, body) = render(
            HttpResponse::NotFound()
                .content_type("application/json")
                .body(r#"{"success":false}"#),
        );
        assert_eq!(kind.as_deref(), Some("application/json"));
        assert_eq!(body, r#"{"success":false}"#);
        let ours: Error = Problem::new(Code::PersonNotFound, "No person.").into();
        for error in [ours, actix_web::error::ErrorBadRequest("no JSON")] {
            let (kind, _) = render(HttpResponse::from_error(error));
            assert_eq!(kind.as_deref(), Some("application/problem+json"));
        }
    }

    #[test]
    fn a_request_id_that_could_forge_a_log_line_is_not_taken_over() {
        assert!(is_sane_id("01J-a_b.c"));
        for bad in ["", "a b", "a\"b", &"x".repeat(65)] {
            assert!(!is_sane_id(bad), "{bad}");
        }
    }
}

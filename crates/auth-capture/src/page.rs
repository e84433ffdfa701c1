//! What a person sees: plain pages without scripts or foreign assets, so that nothing on them can run or leak.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_FRAME_OPTIONS,
};
use maud::{DOCTYPE, Markup, html};
use pipekeeper_service::problem::Problem;

use crate::connect::Connected;

/// Styles are the only thing that the policy lets in, by their own text: no file to fetch.
const STYLE: &str = "body{font:1rem/1.5 system-ui,sans-serif;margin:0;background:#f4f5f7;color:#1f2733}\
main{max-width:30rem;margin:12vh auto;padding:2rem 2.25rem;background:#fff;border-radius:.75rem;\
box-shadow:0 1px 3px #0002,0 8px 24px #0001}h1{font-size:1.35rem;margin:0 0 .75rem}p{margin:.5rem 0}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1rem;margin:1.25rem 0 .5rem}dt{color:#5b6675}\
dd{margin:0;font-weight:600;overflow-wrap:anywhere}.ok{color:#08a742}.bad{color:#c1351c}small{color:#5b6675}\
@media(prefers-color-scheme:dark){body{background:#12161c;color:#e6e9ee}main{background:#1b212a}dt,small{color:#9aa5b4}}";

pub(crate) fn connected(connected: &Connected) -> HttpResponse {
    let body = html! {
        h1 { span.ok aria-hidden="true" { "✓ " } "Connected" }
        p { "Your Pipedrive account is connected. You can close this window." }
        dl {
            dt { "Company" } dd { (connected.company_name) }
            @if !connected.company_domain.is_empty() { dt { "Domain" } dd { (connected.company_domain) } }
            dt { "User" } dd { (connected.user_name) }
        }
        @if !connected.default {
            p { small {
                "This is not the app's default connection: applications that name no account do not use it."
            } }
        }
    };
    page(StatusCode::OK, "Connected", &body)
}

pub(crate) fn failed(problem: &Problem, request_id: &str) -> HttpResponse {
    let body = html! {
        h1 { span.bad aria-hidden="true" { "✕ " } (problem.title()) }
        p { (problem.detail()) }
        p { small { "Request " (request_id) } }
    };
    page(problem.status(), problem.title(), &body)
}

fn page(status: StatusCode, title: &str, body: &Markup) -> HttpResponse {
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " · Pipekeeper" }
                style { (maud::PreEscaped(STYLE)) }
            }
            body { main { (body) } }
        }
    };
    HttpResponse::build(status)
        .content_type("text/html; charset=utf-8")
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .insert_header((X_FRAME_OPTIONS, "DENY"))
        .insert_header((
            CONTENT_SECURITY_POLICY,
            format!(
                "default-src 'none'; style-src 'sha256-{}'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
                pipekeeper_core::crypto::sha256_base64(STYLE)
            ),
        ))
        .body(document.into_string())
}

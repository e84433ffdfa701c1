//! The refusals of the API gateway, word for word as far as they are known.

use actix_web::http::StatusCode;
use actix_web::http::header::RETRY_AFTER;
use actix_web::{HttpResponse, HttpResponseBuilder};
use serde_json::json;

use crate::settings::UnauthorizedBody;

const INFO: &str = "Please check developers.pipedrive.com";
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

pub(crate) fn unauthorized(body: UnauthorizedBody, correlation_id: &str) -> HttpResponse {
    let body = match body {
        UnauthorizedBody::Gateway => {
            json!({"success": false, "error": "unauthorized access", "errorCode": 401, "error_info": INFO})
        }
        UnauthorizedBody::N8n => {
            json!({"success": false, "error": "Invalid token: access token is invalid", "errorCode": 401, "error_info": INFO})
        }
        UnauthorizedBody::Reference => {
            json!({"success": false, "error": "Unauthorized", "errorCode": "401"})
        }
    };
    HttpResponse::Unauthorized()
        .insert_header(("x-401-by-gw", "true"))
        .insert_header(("x-correlation-id", correlation_id))
        .json(body)
}

pub(crate) fn malformed_authorization() -> HttpResponse {
    short(
        &mut HttpResponse::BadRequest(),
        400,
        "Invalid request: malformed authorization header",
    )
}

pub(crate) fn scope_mismatch() -> HttpResponse {
    short(
        &mut HttpResponse::Forbidden(),
        403,
        "Scope and URL mismatch",
    )
}

pub(crate) fn burst() -> HttpResponse {
    short(
        HttpResponse::TooManyRequests().insert_header((RETRY_AFTER, 2)),
        429,
        "request over limit",
    )
}

/// `now` decides how long it is until midnight UTC.
pub(crate) fn daily(now: u64) -> HttpResponse {
    let secs_left = (DAY_MS - now % DAY_MS).div_ceil(1000);
    short(
        HttpResponse::TooManyRequests().insert_header((RETRY_AFTER, secs_left)),
        429,
        "daily request budget exceeded",
    )
}

pub(crate) fn payment_required() -> HttpResponse {
    short(
        &mut HttpResponse::PaymentRequired(),
        402,
        "Required suites missing",
    )
}

pub(crate) fn not_found() -> HttpResponse {
    HttpResponse::NotFound().json(json!({
        "success": false,
        "error": "Resource not found",
        "error_info": INFO,
        "data": null,
        "additional_data": null,
    }))
}

pub(crate) fn validation(detail: &str) -> HttpResponse {
    HttpResponse::build(StatusCode::BAD_REQUEST).json(json!({
        "success": false,
        "error": format!("Validation failed: {detail}"),
        "error_info": INFO,
        "data": null,
        "additional_data": null,
        "code": "ERR_SCHEMA_VALIDATION_FAILED",
    }))
}

fn short(response: &mut HttpResponseBuilder, code: u16, error: &str) -> HttpResponse {
    response.json(json!({
        "success": false,
        "error": error,
        "errorCode": code,
        "error_info": INFO,
    }))
}

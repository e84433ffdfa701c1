//! The refusals of the OAuth endpoints: Pipedrive's sentences, and the error words of RFC 6749 that go with them.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::WWW_AUTHENTICATE;
use serde_json::json;

use crate::settings::InvalidClientStatus;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OAuthError {
    ContentType,
    NoCredentials,
    Client,
    MissingParameter(&'static str),
    GrantType,
    Code,
    CodeExpired,
    RedirectUriMalformed,
    RedirectUri,
    RefreshToken,
    ApiToken,
}

impl OAuthError {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::ContentType
            | Self::MissingParameter(_)
            | Self::RedirectUriMalformed
            | Self::RedirectUri => "invalid_request",
            Self::NoCredentials | Self::Client => "invalid_client",
            Self::GrantType => "unsupported_grant_type",
            Self::Code | Self::CodeExpired | Self::RefreshToken | Self::ApiToken => "invalid_grant",
        }
    }

    fn sentence(self) -> String {
        match self {
            Self::MissingParameter(name) => return format!("Missing parameter: `{name}`"),
            Self::ContentType => {
                "Invalid request: content must be `application/x-www-form-urlencoded`"
            }
            Self::NoCredentials => "Invalid client: cannot retrieve client credentials",
            Self::Client => "Invalid client: client is invalid",
            Self::GrantType => "Unsupported grant type: `grant_type` is invalid",
            Self::Code => "Invalid grant: authorization_code is invalid",
            Self::CodeExpired => "Invalid grant: authorization_code has expired",
            Self::RedirectUriMalformed => "Invalid request: `redirect_uri` is not a valid URI",
            Self::RedirectUri => "Invalid request: `redirect_uri` is invalid",
            Self::RefreshToken => "Invalid grant: refresh_token is invalid",
            Self::ApiToken => "Invalid grant: api_token is invalid",
        }
        .to_owned()
    }

    /// The documented 400.
    pub(crate) fn answer(self) -> HttpResponse {
        self.answer_with(StatusCode::BAD_REQUEST)
    }

    /// 400 or, for client errors and if so set, the 401 of RFC 6749.
    pub(crate) fn answer_as_set(self, status: InvalidClientStatus) -> HttpResponse {
        match (self, status) {
            (Self::NoCredentials | Self::Client, InvalidClientStatus::Unauthorized) => {
                self.answer_with(StatusCode::UNAUTHORIZED)
            }
            _ => self.answer(),
        }
    }

    pub(crate) fn client_refused_with_401() -> HttpResponse {
        Self::Client.answer_with(StatusCode::UNAUTHORIZED)
    }

    fn answer_with(self, status: StatusCode) -> HttpResponse {
        let mut response = HttpResponse::build(status);
        if status == StatusCode::UNAUTHORIZED {
            response.insert_header((WWW_AUTHENTICATE, "Basic realm=\"Service\""));
        }
        response.json(json!({
            "success": false,
            "message": self.sentence(),
            "error": self.word(),
        }))
    }
}

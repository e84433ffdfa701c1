//! The DELETE that Pipedrive sends to an app when a user uninstalls it.

use reqwest::header::CONTENT_TYPE;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::outside;

#[derive(Debug, Serialize)]
pub(crate) struct Notice<'a> {
    pub(crate) client_id: &'a str,
    pub(crate) company_id: u64,
    pub(crate) user_id: u64,
    pub(crate) timestamp: String,
}

/// What the app said to it. Pipedrive does not care; tests do.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Sent {
    client_id: String,
    url: String,
    timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Notice<'_> {
    pub(crate) async fn send(self, app: &App, url: &str) -> Sent {
        let answer = self.deliver(app, url).await;
        let mut sent = Sent {
            client_id: self.client_id.to_owned(),
            url: url.to_owned(),
            timestamp: self.timestamp,
            status: None,
            body: None,
            error: None,
        };
        match answer {
            Ok((status, body)) => {
                sent.status = Some(status);
                sent.body = Some(body);
            }
            Err(error) => sent.error = Some(error.to_string()),
        }
        sent
    }

    async fn deliver(&self, app: &App, url: &str) -> Result<(u16, String), reqwest::Error> {
        let answer = outside::http_client()?
            .delete(url)
            .basic_auth(&app.client_id, Some(&app.client_secret))
            .header(CONTENT_TYPE, "application/json")
            .json(self)
            .send()
            .await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }
}

impl Sent {
    /// For the counters: the status, or that none came.
    pub(crate) fn outcome(&self) -> String {
        self.status
            .map_or_else(|| "failed".to_owned(), |status| status.to_string())
    }
}

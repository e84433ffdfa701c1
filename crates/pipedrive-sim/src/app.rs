//! An app as its developer registers it.

pub const DEFAULT_CLIENT_ID: &str = "57db0bab2932f657";
pub const DEFAULT_CLIENT_SECRET: &str = "5d9c1ab9a7f4c7ee8c1d6b2b1f0e3a4d5c6b7a88";
pub const DEFAULT_REDIRECT_URL: &str = "http://127.0.0.1:8080/webhook/pipedrive/callback";

/// An app as registered in Pipedrive's Developer Hub.
#[derive(Debug, Clone)]
pub struct App {
    pub client_id: String,
    pub client_secret: String,
    pub redirect_url: String,
    pub scopes: Vec<String>,
}

impl Default for App {
    fn default() -> Self {
        let scopes = [
            "base",
            "deals:full",
            "activities:full",
            "contacts:full",
            "products:full",
            "users:read",
            "recents:read",
            "search:read",
        ];
        Self {
            client_id: DEFAULT_CLIENT_ID.to_owned(),
            client_secret: DEFAULT_CLIENT_SECRET.to_owned(),
            redirect_url: DEFAULT_REDIRECT_URL.to_owned(),
            scopes: scopes.map(str::to_owned).to_vec(),
        }
    }
}

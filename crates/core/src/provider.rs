//! Providers and our registrations with them: what the configuration says of each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use url::{Host, Url};

use crate::config::{Loader, problem_of};
use crate::connection::AppKey;
use crate::secret::Secret;

mod policy;

pub use policy::RefreshPolicy;

/// The provider that this is made for.
const PIPEDRIVE: &str = "pipedrive";

/// An OAuth 2.0 authorization-code provider (RFC 6749 §4.1).
#[derive(Debug, Clone)]
pub struct Provider {
    /// The entry's name in the configuration and in URLs: `pipedrive`.
    pub key: String,
    /// n8n's word for it: `Pipedrive`.
    pub platform: String,
    pub authorize_url: Url,
    pub token_url: Url,
    pub revoke_url: Option<Url>,
    pub client_auth: ClientAuth,
    pub response_type: bool,
    pub scope: String,
    pub pkce: bool,
    pub identity: Identity,
    pub default_expires_in: Duration,
    /// `None`: a refresh token does not die of disuse.
    pub refresh_idle: Option<Duration>,
    /// What holds for the apps that say nothing else: [`App::policy`].
    pub refresh_policy: RefreshPolicy,
    api_domain: Option<ApiDomain>,
    api_host_suffix: String,
    allow_http: bool,
}

/// How a client authenticates at the token endpoint (RFC 6749 §2.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// `Authorization: Basic`, id and secret as they are: Pipedrive decodes no percent-encoding in them.
    Basic,
    /// `client_id` and `client_secret` in the form.
    Body,
}

/// Where to ask who a token belongs to, and JSON pointers (RFC 6901) into the answer.
#[derive(Debug, Clone)]
pub struct Identity {
    pub url: String,
    pub company_id: String,
    pub company_domain: String,
    pub company_name: String,
    pub user_id: String,
    pub user_name: String,
}

/// Our registration with a provider.
#[derive(Debug, Clone)]
pub struct App {
    /// The entry's name in the configuration and in URLs.
    pub key: String,
    pub provider: Arc<Provider>,
    pub client_id: String,
    /// What callers moved over from elsewhere know it by, in the client id's place.
    pub aliases: Vec<String>,
    /// Of several apps of its provider it is the one that is meant where none is named.
    pub is_default: bool,
    pub client_secret: Secret,
    /// While the secret is being changed: the other one.
    pub second_client_secret: Option<Secret>,
    /// `None` where the provider's holds.
    pub refresh_policy: Option<RefreshPolicy>,
    /// `None` where this service sends no user to the provider.
    pub redirect_url: Option<RedirectUrl>,
}

/// The callback URL. It is sent as it was configured: providers compare it with the registered one as text (RFC 6749
/// §3.1.2.3), and a parsed URL would be written otherwise (`https://app.example` gets a slash).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedirectUrl {
    text: String,
    url: Url,
}

impl RedirectUrl {
    /// Notes what is wrong with it.
    fn checked(loader: &mut Loader, name: &str, text: &str) -> Option<Self> {
        let url = loader.url(name, text)?;
        if url.fragment().is_some() {
            loader.problem(name, "has a fragment (#…), which RFC 6749 §3.1.2 forbids");
        } else if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            loader.problem(name, "has a blank or a control character");
        }
        Some(Self {
            text: text.to_owned(),
            url,
        })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn url(&self) -> &Url {
        &self.url
    }
}

impl App {
    /// What the rows of this app's connections have in common.
    pub fn app_key(&self) -> AppKey {
        AppKey {
            platform: self.provider.platform.clone(),
            app_id: self.client_id.clone(),
        }
    }

    /// When this app's access tokens are renewed.
    pub fn policy(&self) -> RefreshPolicy {
        self.refresh_policy.unwrap_or(self.provider.refresh_policy)
    }

    /// Whether this is n8n's `AppId` for it: the client id, or an alias.
    pub fn is_known_as(&self, app_id: &str) -> bool {
        self.client_id == app_id || self.aliases.iter().any(|alias| alias == app_id)
    }

    /// The secrets that the provider may know us by: the second is tried when the first is refused.
    pub fn client_secrets(&self) -> impl Iterator<Item = &Secret> {
        std::iter::once(&self.client_secret).chain(&self.second_client_secret)
    }
}

/// The origin that a connection's API lives at, checked against its provider's entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiDomain(Url);

impl ApiDomain {
    /// Scheme, host and port, without a trailing slash.
    pub fn as_str(&self) -> &str {
        self.0.as_str().trim_end_matches('/')
    }
}

/// Why a bearer is not sent to a host.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadApiDomain {
    #[error("is no URL")]
    NotAUrl,
    #[error("is not https")]
    NotHttps,
    #[error("has more than scheme and host")]
    NotAnOrigin,
    #[error("is not a host of this provider")]
    ForeignHost,
}

impl Provider {
    /// Accepts an `api_domain` only if a bearer may be sent there.
    pub fn api_domain(&self, text: &str) -> Result<ApiDomain, BadApiDomain> {
        let url = Url::parse(text).map_err(|_unparsable| BadApiDomain::NotAUrl)?;
        match url.scheme() {
            "https" => {}
            "http" if self.allow_http => {}
            _ => return Err(BadApiDomain::NotHttps),
        }
        let bare = url.username().is_empty()
            && url.password().is_none()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && (url.port().is_none() || self.allow_http);
        if !bare {
            return Err(BadApiDomain::NotAnOrigin);
        }
        if self.is_own_host(&url) {
            Ok(ApiDomain(url))
        } else {
            Err(BadApiDomain::ForeignHost)
        }
    }

    /// What holds where the token response names no domain.
    pub fn default_api_domain(&self) -> Option<&ApiDomain> {
        self.api_domain.as_ref()
    }

    fn is_own_host(&self, url: &Url) -> bool {
        let host = match url.host() {
            Some(Host::Domain(domain)) => domain.to_owned(),
            Some(Host::Ipv4(ip)) => ip.to_string(),
            Some(Host::Ipv6(ip)) => ip.to_string(),
            None => return false,
        };
        // RFC 1035 §2.3.4: longer ones resolve nowhere, and may not fit a column.
        if host.len() > 253 {
            return false;
        }
        match self.api_host_suffix.strip_prefix('.') {
            Some(parent) => host
                .strip_suffix(parent)
                .is_some_and(|left| left.len() > 1 && left.ends_with('.')),
            None => host == self.api_host_suffix,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProvider {
    platform: String,
    authorize_url: String,
    token_url: String,
    #[serde(default)]
    revoke_url: String,
    client_auth: ClientAuth,
    #[serde(default = "yes")]
    response_type: bool,
    #[serde(default)]
    scope: String,
    #[serde(default = "yes")]
    pkce: bool,
    #[serde(default)]
    api_domain: String,
    api_host_suffix: String,
    #[serde(default)]
    allow_http: bool,
    identity_url: String,
    #[serde(default)]
    identity_company_id: String,
    #[serde(default)]
    identity_company_domain: String,
    #[serde(default)]
    identity_company_name: String,
    identity_user_id: String,
    #[serde(default)]
    identity_user_name: String,
    default_expires_in_secs: u32,
    #[serde(default)]
    refresh_idle_days: u32,
    #[serde(default)]
    refresh_policy: RefreshPolicy,
}

/// RFC 6749 §4.1.1 and RFC 9700 §2.1.1 ask for `response_type` and PKCE; Pipedrive's entry says no to both.
fn yes() -> bool {
    true
}

impl RawProvider {
    fn checked(self, key: &str, loader: &mut Loader) -> Option<Provider> {
        let mut url = |name: &str, text: &str| {
            let name = format!("providers.{key}.{name}");
            let url = loader.url(&name, text)?;
            if url.scheme() == "https" || (url.scheme() == "http" && self.allow_http) {
                Some(url)
            } else {
                loader.problem(
                    &name,
                    "is not https; a test stand-in needs allow_http = true",
                );
                None
            }
        };
        let authorize_url = url("authorize_url", &self.authorize_url);
        let token_url = url("token_url", &self.token_url);
        let revoke_url = if self.revoke_url.is_empty() {
            None
        } else {
            url("revoke_url", &self.revoke_url)
        };
        // A bearer goes there.
        if !self.identity_url.starts_with('/') {
            url("identity_url", &self.identity_url);
        }
        if self.api_host_suffix.trim_matches('.').is_empty() {
            loader.problem(
                &format!("providers.{key}.api_host_suffix"),
                "is empty: every host would be sent bearers",
            );
        }
        if self.default_expires_in_secs == 0 {
            loader.problem(
                &format!("providers.{key}.default_expires_in_secs"),
                "is 0: every token would be renewed without end",
            );
        }
        let mut provider = Provider {
            key: key.to_owned(),
            platform: self.platform,
            authorize_url: authorize_url?,
            token_url: token_url?,
            revoke_url,
            client_auth: self.client_auth,
            response_type: self.response_type,
            scope: self.scope,
            pkce: self.pkce,
            identity: Identity {
                url: self.identity_url,
                company_id: self.identity_company_id,
                company_domain: self.identity_company_domain,
                company_name: self.identity_company_name,
                user_id: self.identity_user_id,
                user_name: self.identity_user_name,
            },
            default_expires_in: Duration::from_secs(self.default_expires_in_secs.into()),
            refresh_idle: (self.refresh_idle_days > 0)
                .then(|| Duration::from_secs(u64::from(self.refresh_idle_days) * 86_400)),
            refresh_policy: self.refresh_policy,
            api_domain: None,
            // An IPv6 address may be written as it stands in a URL.
            api_host_suffix: self
                .api_host_suffix
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_lowercase(),
            allow_http: self.allow_http,
        };
        if !self.api_domain.is_empty() {
            match provider.api_domain(&self.api_domain) {
                Ok(domain) => provider.api_domain = Some(domain),
                Err(error) => {
                    loader.problem(&format!("providers.{key}.api_domain"), &problem_of(&error));
                }
            }
        }
        Some(provider)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawApp {
    provider: String,
    client_id: String,
    #[serde(default)]
    aliases: String,
    #[serde(default)]
    default: bool,
    #[serde(default)]
    client_secret: Secret,
    #[serde(default)]
    client_secret_file: String,
    #[serde(default)]
    second_client_secret: Secret,
    #[serde(default)]
    second_client_secret_file: String,
    #[serde(default, deserialize_with = "RefreshPolicy::unless_empty")]
    refresh_policy: Option<RefreshPolicy>,
    #[serde(default)]
    redirect_url: String,
}

/// What a service does with an app, and so must know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppUse {
    /// Reads its connections.
    Read,
    /// Talks to the token endpoint.
    Refresh,
    /// Sends users to the provider and takes them back.
    Login,
}

/// The registrations that this process serves: at least one.
#[derive(Debug, Clone)]
pub struct Apps(Vec<Arc<App>>);

/// An app that an operator named, and that the configuration does not have.
#[derive(Debug, thiserror::Error)]
#[error("no app `{0}` is configured")]
pub struct NoSuchApp(String);

impl Apps {
    /// Reads `[apps.*]` and the `[providers.*]` they name; every problem goes to the loader.
    pub fn load(loader: &mut Loader, purpose: AppUse) -> Self {
        let mut providers = BTreeMap::new();
        for (key, raw) in loader.entries::<RawProvider>("providers") {
            if let Some(provider) = raw.checked(&key, loader) {
                providers.insert(key, Arc::new(provider));
            }
        }
        let mut apps: Vec<Arc<App>> = Vec::new();
        for (key, raw) in loader.entries::<RawApp>("apps") {
            let name = |field: &str| format!("apps.{key}.{field}");
            if raw.client_id.is_empty() {
                loader.problem(&name("client_id"), "is not set");
            }
            let client_secret = loader.secret(
                &name("client_secret"),
                raw.client_secret,
                &raw.client_secret_file,
            );
            if purpose != AppUse::Read && client_secret.is_empty() {
                loader.problem(&name("client_secret"), "is not set");
            }
            let second_client_secret = loader.secret(
                &name("second_client_secret"),
                raw.second_client_secret,
                &raw.second_client_secret_file,
            );
            let redirect_url = if purpose == AppUse::Login {
                RedirectUrl::checked(loader, &name("redirect_url"), &raw.redirect_url)
            } else {
                None
            };
            let Some(provider) = providers.get(&raw.provider) else {
                // One that is there but unusable has been told of already.
                if !loader.has(&format!("providers.{}", raw.provider)) {
                    loader.problem(
                        &name("provider"),
                        &format!("no providers.{} is there", raw.provider),
                    );
                }
                continue;
            };
            if apps.iter().any(|app| {
                app.client_id == raw.client_id && app.provider.platform == provider.platform
            }) {
                loader.problem(
                    &name("client_id"),
                    "stands in another app of this platform too",
                );
            }
            let aliases: Vec<String> = raw.aliases.split_whitespace().map(str::to_owned).collect();
            apps.push(Arc::new(App {
                key,
                provider: Arc::clone(provider),
                client_id: raw.client_id,
                aliases,
                is_default: raw.default,
                client_secret,
                second_client_secret: Some(second_client_secret)
                    .filter(|secret| !secret.is_empty()),
                refresh_policy: raw.refresh_policy,
                redirect_url,
            }));
        }
        if !loader.has("apps") {
            loader.problem("apps", "names no app");
        }
        for app in &apps {
            let others = || apps.iter().filter(|other| other.key != app.key);
            for alias in &app.aliases {
                // Of any platform: not every caller names one.
                if others().any(|other| other.is_known_as(alias)) {
                    loader.problem(
                        &format!("apps.{}.aliases", app.key),
                        &format!("`{alias}` is the client id or an alias of another app"),
                    );
                }
            }
        }
        let apps = Self(apps);
        apps.check_defaults(loader);
        apps
    }

    /// Of several apps of a provider exactly one is the default.
    fn check_defaults(&self, loader: &mut Loader) {
        for (provider, apps) in self.by_provider() {
            let flagged: Vec<_> = apps.iter().filter(|app| app.is_default).collect();
            if flagged.len() > 1 {
                for app in flagged {
                    loader.problem(
                        &format!("apps.{}.default", app.key),
                        "is set in another app of this provider too",
                    );
                }
            } else if default_of(&apps).is_none() {
                loader.problem(
                    "apps",
                    &format!(
                        "has several apps of provider {provider}: set default = true in one of them"
                    ),
                );
            }
        }
    }

    fn by_provider(&self) -> BTreeMap<&str, Vec<&Arc<App>>> {
        let mut all: BTreeMap<&str, Vec<&Arc<App>>> = BTreeMap::new();
        for app in &self.0 {
            all.entry(&app.provider.key).or_default().push(app);
        }
        all
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<App>> {
        self.0.iter()
    }

    /// The app whose n8n `AppId` and `Platform` these are; both are optional where there is one app.
    pub fn find(&self, app_id: Option<&str>, platform: Option<&str>) -> AppChoice<'_> {
        let mut found = self.0.iter().filter(|app| {
            app_id.is_none_or(|id| app.is_known_as(id))
                && platform.is_none_or(|name| app.provider.platform.eq_ignore_ascii_case(name))
        });
        match (found.next(), found.next()) {
            (None, _) => AppChoice::Unknown,
            (Some(app), None) => AppChoice::One(app),
            (Some(_), Some(_)) => AppChoice::Several,
        }
    }

    /// As [`Apps::find`]; where no app is named and several fit, the default one of the platform, or of Pipedrive.
    pub fn meant(&self, app_id: Option<&str>, platform: Option<&str>) -> AppChoice<'_> {
        let found = self.find(app_id, platform);
        if app_id.is_some() || !matches!(found, AppChoice::Several) {
            return found;
        }
        let mut defaults = self.by_provider();
        defaults.retain(|_, apps| {
            apps.retain(|app| {
                platform.is_none_or(|name| app.provider.platform.eq_ignore_ascii_case(name))
            });
            !apps.is_empty()
        });
        let meant = if defaults.len() > 1 {
            defaults.remove(PIPEDRIVE)
        } else {
            defaults.into_values().next()
        };
        match meant.and_then(|apps| default_of(&apps)) {
            Some(app) => AppChoice::One(app),
            None => AppChoice::Several,
        }
    }

    /// The app registered under this name.
    pub fn named(&self, key: &str) -> Option<&Arc<App>> {
        self.0.iter().find(|app| app.key == key)
    }

    /// # Errors
    /// No app has this key in the configuration.
    pub fn get(&self, key: &str) -> Result<&Arc<App>, NoSuchApp> {
        self.named(key).ok_or_else(|| NoSuchApp(key.to_owned()))
    }

    /// The app that rows with this key belong to.
    pub fn of(&self, key: &AppKey) -> Option<&Arc<App>> {
        self.0.iter().find(|app| app.app_key() == *key)
    }

    /// The app registered under this name; without a name the default one of the provider.
    pub fn by_key(&self, provider: &str, key: Option<&str>) -> Option<&Arc<App>> {
        match key {
            Some(key) => self.named(key).filter(|app| app.provider.key == provider),
            None => default_of(self.by_provider().get(provider)?),
        }
    }
}

/// The default one of a provider's apps: the only one, the one that says so, or the one that has the provider's name.
fn default_of<'a>(apps: &[&'a Arc<App>]) -> Option<&'a Arc<App>> {
    match apps {
        [app] => Some(*app),
        several => several
            .iter()
            .find(|app| app.is_default)
            .or_else(|| several.iter().find(|app| app.key == app.provider.key))
            .copied(),
    }
}

/// What naming an app comes to.
#[derive(Debug, Clone, Copy)]
pub enum AppChoice<'a> {
    One(&'a Arc<App>),
    Unknown,
    Several,
}

#[cfg(test)]
mod tests;

//! `[login]`, checked.

use std::time::Duration;

use pipekeeper_core::config::Loader;
use pipekeeper_core::placement::AllowedCompanies;
use pipekeeper_core::provider::{AppUse, Apps};
use pipekeeper_core::secret::Secret;
use pipekeeper_core::vault::Vault;
use pipekeeper_service::auth::{Authenticator, Credentials};
use pipekeeper_service::config::vault;
use pipekeeper_service::refresher::RefresherSection;
use serde::Deserialize;
use url::{Host, Url};

use crate::limits::TrustedProxies;

/// A valid configuration; what is optional here was a problem for the loader.
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) apps: Apps,
    pub(crate) vault: Option<Vault>,
    pub(crate) login: Login,
    pub(crate) refresher: RefresherSection,
}

/// `[login]`.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    pub(crate) allow_marketplace_installs: bool,
    pub(crate) companies: AllowedCompanies,
    pub(crate) marketplace_concurrency: usize,
    pub(crate) installs_per_minute: u16,
    pub(crate) trusted_proxies: TrustedProxies,
    pub(crate) store_patience: Duration,
    /// Who may name the account that a login is for.
    pub(crate) operator: Option<Authenticator>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLogin {
    allow_marketplace_installs: bool,
    companies: String,
    marketplace_concurrency: u16,
    installs_per_minute: u16,
    trusted_proxies: String,
    store_patience_secs: u16,
    operator_user: String,
    operator_password: Secret,
    operator_password_file: String,
}

impl Config {
    pub(crate) fn load(loader: &mut Loader) -> Self {
        let apps = Apps::load(loader, AppUse::Login);
        for app in apps.iter() {
            if let Some(url) = &app.redirect_url
                && url.url().scheme() != "https"
                && !is_loopback(url.url())
            {
                // The cookie that binds a login to its browser would travel in the clear.
                loader.problem(
                    &format!("apps.{}.redirect_url", app.key),
                    "is neither https nor on this machine",
                );
            }
        }
        Self {
            apps,
            vault: vault(loader),
            login: Login::load(loader),
            refresher: RefresherSection::load(loader),
        }
    }
}

impl Login {
    fn load(loader: &mut Loader) -> Self {
        let raw = loader.section::<RawLogin>("login").unwrap_or(RawLogin {
            allow_marketplace_installs: false,
            companies: String::new(),
            marketplace_concurrency: 1,
            installs_per_minute: 1,
            trusted_proxies: String::new(),
            store_patience_secs: 0,
            operator_user: String::new(),
            operator_password: Secret::default(),
            operator_password_file: String::new(),
        });
        if raw.marketplace_concurrency == 0 {
            loader.problem("login.marketplace_concurrency", "is 0");
        }
        if raw.installs_per_minute == 0 {
            loader.problem("login.installs_per_minute", "is 0");
        }
        let trusted_proxies = TrustedProxies::parse(&raw.trusted_proxies).unwrap_or_else(|entry| {
            let what = format!("`{entry}` is neither an address nor a network such as 10.0.0.0/8");
            loader.problem("login.trusted_proxies", &what);
            TrustedProxies::default()
        });
        let password = loader.secret(
            "login.operator_password",
            raw.operator_password,
            &raw.operator_password_file,
        );
        let operator = if password.is_empty() {
            None
        } else {
            Some(Authenticator::new(Credentials::checked(
                loader,
                "login.operator_user",
                raw.operator_user,
                password,
            )))
        };
        Self {
            allow_marketplace_installs: raw.allow_marketplace_installs,
            companies: AllowedCompanies::parse(&raw.companies),
            marketplace_concurrency: raw.marketplace_concurrency.into(),
            installs_per_minute: raw.installs_per_minute,
            trusted_proxies,
            store_patience: Duration::from_secs(raw.store_patience_secs.into()),
            operator,
        }
    }
}

pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

//! Which token: a bounded cache over the rows. The hot path does not touch the database.
//!
//! An entry is trusted for ten seconds after its row was read, so that a disconnect is felt everywhere within that time.
//! Reading a row, and asking token-refresher for a newer token, happens once at a time for all callers who name a connection
//! alike.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use moka::sync::Cache;
use pipekeeper_core::clock::{SharedClock, Timestamp};
use pipekeeper_core::connection::{Connection, ConnectionId, ConnectionState};
use pipekeeper_core::crypto::OpenError;
use pipekeeper_core::oauth::bearer;
use pipekeeper_core::provider::{ApiDomain, App, AppChoice, Apps, RefreshPolicy};
use pipekeeper_core::refresh_schedule::{due_at, minted_at, renewal_due_of};
use pipekeeper_core::refresher_client::{RefreshClientError, RefresherClient, Trace};
use pipekeeper_core::store::{Selection, Store, StoreError};
use pipekeeper_core::tasks::Tasks;
use pipekeeper_core::vault::Vault;
use pipekeeper_service::Context;
use pipekeeper_service::connection_selector::Target;
use reqwest::header::HeaderValue;
use tracing::Instrument as _;

use crate::config::Config;

/// How long a row is not read again.
const TRUSTED: Duration = Duration::from_secs(10);

/// How long an entry is used on when the database is away.
const TRUSTED_WITHOUT_STORE: Duration = Duration::from_secs(310);

/// While a token is good, a refresher that can't help or is refreshing is asked no more often than this.
const ASK_AHEAD_EVERY: Duration = Duration::from_secs(5);

/// `last_used_at` is written no more often.
const TOUCH_EVERY: Duration = Duration::from_hours(4);

/// An access token, as one read of its row gave it.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) id: ConnectionId,
    pub(crate) generation: i64,
    /// `Authorization`, marked sensitive.
    pub(crate) bearer: HeaderValue,
    pub(crate) api_domain: ApiDomain,
    pub(crate) expires_at: Timestamp,
    policy: RefreshPolicy,
    renewal_due: Timestamp,
    /// On the monotonic clock.
    read_at: Duration,
}

impl Token {
    /// Whether both are the same token: a selection may come to mean another connection, of the same generation.
    pub(crate) fn is(&self, other: &Self) -> bool {
        (&self.id, self.generation) == (&other.id, other.generation)
    }
}

/// Why there is no token to send.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum NoToken {
    #[error("no such connection")]
    NotFound,
    #[error("more than one connection fits")]
    Ambiguous,
    #[error("the default connection is gone")]
    DefaultGone,
    #[error("the connection is {}", state.as_str())]
    Ended {
        state: ConnectionState,
        reason: Option<String>,
        since: Timestamp,
    },
    #[error("the database could not be used")]
    Store(#[source] Arc<StoreError>),
    #[error("the stored token does not open")]
    Sealed(#[source] OpenError),
    #[error("the connection's api_domain is not one of its provider's")]
    ApiDomain,
    #[error("token-refresher gave no newer token")]
    Refresh(#[source] Arc<RefreshClientError>),
}

impl From<StoreError> for NoToken {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

type Renewal = Shared<BoxFuture<'static, Result<(), Arc<RefreshClientError>>>>;

/// What is known of one selection of a connection.
#[derive(Debug, Default)]
struct CacheEntry {
    token: Mutex<Option<Arc<Token>>>,
    /// Held while the row is read.
    reading: tokio::sync::Mutex<()>,
    /// When the next token was last asked for ahead of need, or in vain, on the monotonic clock.
    asked_ahead_at: Mutex<Option<Duration>>,
    /// The call of token-refresher that is under way, and the token that it is about.
    renewal: Mutex<Option<(Arc<Token>, Renewal)>>,
}

impl CacheEntry {
    fn token(&self) -> Option<Arc<Token>> {
        self.token
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The tokens of all connections that callers asked for lately.
pub(crate) struct Tokens {
    entries: Cache<Target, Arc<CacheEntry>>,
    store: Store,
    clock: SharedClock,
    tasks: Tasks,
    vault: Vault,
    apps: Apps,
    refresher: Arc<RefresherClient>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens")
            .field("entries", &self.entries.entry_count())
            .finish_non_exhaustive()
    }
}

impl Tokens {
    pub(crate) fn new(
        config: &Config,
        context: Context,
        vault: Vault,
        refresher: RefresherClient,
    ) -> Self {
        Self {
            entries: Cache::new(config.cached_connections),
            store: context.store,
            clock: context.clock,
            tasks: context.tasks,
            vault,
            apps: config.apps.clone(),
            refresher: Arc::new(refresher),
        }
    }

    pub(crate) fn apps(&self) -> &Apps {
        &self.apps
    }

    pub(crate) fn vault(&self) -> &Vault {
        &self.vault
    }

    /// A token that its row held no more than ten seconds ago, renewed first where its app's policy says so.
    pub(crate) async fn get(
        self: &Arc<Self>,
        selected: &Target,
        trace: &Trace,
    ) -> Result<Arc<Token>, NoToken> {
        let entry = self.entry(selected);
        let trusted_since = self.clock.monotonic().saturating_sub(TRUSTED);
        let token = self.known_since(&entry, selected, trusted_since).await?;
        let now = self.clock.now();
        let (is_due, has_ended) = (now >= token.renewal_due, now >= token.expires_at);
        match token.policy {
            RefreshPolicy::BeforeExpiry | RefreshPolicy::EveryRequest if has_ended => {
                self.newer(selected, &token, trace).await
            }
            RefreshPolicy::BeforeExpiry if is_due => {
                self.ask_ahead(&entry, selected, &token, trace);
                Ok(token)
            }
            RefreshPolicy::EveryRequest if is_due => {
                self.newer_if_any(&entry, selected, token, trace).await
            }
            RefreshPolicy::BeforeExpiry
            | RefreshPolicy::OnRefusal
            | RefreshPolicy::EveryRequest => Ok(token),
        }
    }

    /// The next token if there is one to be had; else this one, which is good by the clock.
    async fn newer_if_any(
        &self,
        entry: &CacheEntry,
        selected: &Target,
        token: Arc<Token>,
        trace: &Trace,
    ) -> Result<Arc<Token>, NoToken> {
        let asked_in_vain_at = || {
            entry
                .asked_ahead_at
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        let now = self.clock.monotonic();
        if asked_in_vain_at().is_some_and(|at| now.saturating_sub(at) < ASK_AHEAD_EVERY) {
            return Ok(token);
        }
        match self.newer(selected, &token, trace).await {
            Err(NoToken::Refresh(refusal))
                if !refusal.is_final() && self.clock.now() < token.expires_at =>
            {
                *asked_in_vain_at() = Some(self.clock.monotonic());
                tracing::debug!(connection.id = %token.id, "sending a token that could not be renewed: {refusal}");
                Ok(token)
            }
            newer => newer,
        }
    }

    /// Has the next token made while this one is still served.
    fn ask_ahead(
        self: &Arc<Self>,
        entry: &Arc<CacheEntry>,
        selected: &Target,
        token: &Arc<Token>,
        trace: &Trace,
    ) {
        let now = self.clock.monotonic();
        {
            let mut asked = entry
                .asked_ahead_at
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if asked.is_some_and(|at| now.saturating_sub(at) < ASK_AHEAD_EVERY) {
                return;
            }
            *asked = Some(now);
        }
        let renewal = self.renewal(entry, token, trace);
        let (tokens, entry, selected) = (Arc::clone(self), Arc::clone(entry), selected.clone());
        self.tasks.spawn(async move {
            // A caller that needs a new token gets the refusal; until then the old one is good.
            if renewal.await.is_ok() {
                let renewed_at = tokens.clock.monotonic();
                drop(tokens.read_since(&entry, &selected, renewed_at).await);
            }
        });
    }

    /// The row's token, read no earlier than `since` on the monotonic clock.
    pub(crate) async fn reread(
        &self,
        selected: &Target,
        since: Duration,
    ) -> Result<Arc<Token>, NoToken> {
        let entry = self.entry(selected);
        self.known_since(&entry, selected, since).await
    }

    /// The row's token after token-refresher was asked for one newer than `refused`.
    pub(crate) async fn newer(
        &self,
        selected: &Target,
        refused: &Arc<Token>,
        trace: &Trace,
    ) -> Result<Arc<Token>, NoToken> {
        let entry = self.entry(selected);
        let another = || entry.token().filter(|token| !token.is(refused));
        if let Some(token) = another() {
            return Ok(token);
        }
        self.renewal(&entry, refused, trace)
            .await
            .map_err(NoToken::Refresh)?;
        // What was read while the call was under way may be the refused token still.
        if let Some(token) = another() {
            return Ok(token);
        }
        // There is a newer one: no use for what is known without the database.
        let renewed_at = self.clock.monotonic();
        self.read_since(&entry, selected, renewed_at).await
    }

    fn entry(&self, selected: &Target) -> Arc<CacheEntry> {
        match self.entries.get(selected) {
            Some(entry) => entry,
            None => self.entries.get_with(selected.clone(), Arc::default),
        }
    }

    /// The same, and what was read last while the database is away.
    async fn known_since(
        &self,
        entry: &CacheEntry,
        selected: &Target,
        since: Duration,
    ) -> Result<Arc<Token>, NoToken> {
        match self.read_since(entry, selected, since).await {
            Err(NoToken::Store(error)) if error.is_unavailable() => {
                let now = self.clock.monotonic();
                entry
                    .token()
                    .filter(|token| now.saturating_sub(token.read_at) < TRUSTED_WITHOUT_STORE)
                    .ok_or(NoToken::Store(error))
            }
            read => read,
        }
    }

    /// The token that the row holds, or held no earlier than that.
    async fn read_since(
        &self,
        entry: &CacheEntry,
        selected: &Target,
        since: Duration,
    ) -> Result<Arc<Token>, NoToken> {
        let recent = || entry.token().filter(|token| token.read_at >= since);
        if let Some(token) = recent() {
            return Ok(token);
        }
        let _one_at_a_time = entry.reading.lock().await;
        if let Some(token) = recent() {
            return Ok(token);
        }
        let read_at = self.clock.monotonic();
        match self.read(selected, read_at).await {
            Ok(token) => {
                let token = Arc::new(token);
                *entry.token.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(Arc::clone(&token));
                Ok(token)
            }
            Err(NoToken::Store(error)) if error.is_unavailable() => Err(NoToken::Store(error)),
            Err(error) => {
                *entry.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
                Err(error)
            }
        }
    }

    async fn read(&self, selected: &Target, read_at: Duration) -> Result<Token, NoToken> {
        let row = match selected.find(&self.store).await? {
            Selection::One(row) => row,
            Selection::None => return Err(NoToken::NotFound),
            Selection::Ambiguous => return Err(NoToken::Ambiguous),
            Selection::DefaultGone => return Err(NoToken::DefaultGone),
        };
        if row.state != ConnectionState::Active {
            return Err(NoToken::Ended {
                state: row.state,
                reason: row.state_reason.clone(),
                since: row.state_since,
            });
        }
        let app = match self.apps.find(Some(&row.app_id), Some(&row.platform)) {
            AppChoice::One(app) => app,
            AppChoice::Unknown | AppChoice::Several => return Err(NoToken::NotFound),
        };
        // Checked when it was stored, too: a row is only text, and a bearer goes where it says.
        let api_domain = app
            .provider
            .api_domain(&row.api_domain)
            .map_err(|_foreign| NoToken::ApiDomain)?;
        let access_token = self.vault.access_token(&row).map_err(NoToken::Sealed)?;
        self.touch(app, &row);
        Ok(Token {
            bearer: bearer(&access_token),
            api_domain,
            expires_at: row.expires_at,
            policy: app.policy(),
            renewal_due: renewal_due_of(app.policy(), &row),
            id: row.id,
            generation: row.generation,
            read_at,
        })
    }

    /// Notes the use of a connection, seldom enough to cost nothing, and has the sweep renew it from now on.
    fn touch(&self, app: &App, row: &Connection) {
        let now = self.clock.now();
        if row
            .last_used_at
            .is_some_and(|at| now.saturating_since(at) < TOUCH_EVERY)
        {
            return;
        }
        let due_at = due_at(app, minted_at(row), row.expires_at, Some(now), now);
        let (store, id) = (self.store.clone(), row.id.clone());
        self.tasks.spawn(async move {
            if let Err(error) = store.connection_touch(&id, now, due_at).await {
                tracing::debug!(connection.id = %id, "last_used_at not written: {:#}", anyhow::Error::from(error));
            }
        });
    }

    /// Joins the call of token-refresher about this token, or makes it. It goes on when its callers leave.
    fn renewal(&self, entry: &CacheEntry, refused: &Arc<Token>, trace: &Trace) -> Renewal {
        let mut renewal = entry.renewal.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((about, under_way)) = renewal.as_ref()
            && about.is(refused)
            && under_way.peek().is_none()
        {
            return under_way.clone();
        }
        let (refresher, id, generation) = (
            Arc::clone(&self.refresher),
            refused.id.clone(),
            refused.generation,
        );
        let trace = trace.clone();
        tracing::info!(connection.id = %id, generation, "asking token-refresher for a newer token");
        let call = async move {
            refresher
                .refresh(&id, generation, &trace)
                .await
                .map(drop)
                .map_err(Arc::new)
        };
        let task = self.tasks.spawn(call.instrument(tracing::Span::current()));
        let joined = async {
            task.await
                .unwrap_or_else(|_aborted| Err(Arc::new(RefreshClientError::Aborted)))
        };
        let started = joined.boxed().shared();
        *renewal = Some((Arc::clone(refused), started.clone()));
        started
    }
}

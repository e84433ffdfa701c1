//! Whether the process lives, and whether it can be of use.

use std::time::Duration;

use actix_web::{HttpResponse, get, web::Data};
use pipekeeper_core::crypto::OpenError;
use pipekeeper_core::store::{Schema, Store, StoreError};
use pipekeeper_core::vault::Vault;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::observer::{Observer, Ready};
use crate::problem::{Code, Problem};

/// What works in a service, but not as it should.
pub(crate) struct Degraded {
    own: Box<dyn Fn() -> Vec<String> + Send + Sync>,
    vault: Vault,
}

impl Degraded {
    /// `own` is what the service itself knows of.
    pub(crate) fn of(vault: Vault, own: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Self {
        Self {
            own: Box::new(own),
            vault,
        }
    }

    async fn all(&self, store: &Store) -> Result<Vec<String>, StoreError> {
        let mut all = (self.own)();
        if let Some(diagnosis) = store.refuses_writes().await {
            all.push(format!("{} {}", diagnosis.as_str(), diagnosis.advice()));
        }
        all.extend(self.keys(store).await?);
        Ok(all)
    }

    /// Whether the keys open what was sealed last, by whichever process, and what no process can refresh.
    async fn keys(&self, store: &Store) -> Result<Option<String>, StoreError> {
        let rows = store.connections_due_first_and_last().await?;
        let sealed = rows.into_iter().find_map(|row| {
            let error = self.vault.access_token(&row).err()?;
            Some((row.id, error))
        });
        Ok(sealed.map(|(id, error)| {
            let why = match error {
                OpenError::UnknownKey(key) => {
                    format!("is sealed with key `{key}`, which this service was not given")
                }
                OpenError::Tampered | OpenError::Malformed => {
                    "does not open: a key has the same id and another value, or the row was altered"
                        .to_owned()
                }
            };
            format!("encryption.keys: the token of connection {id} {why}")
        }))
    }
}

/// The schema is one that this binary does not know.
#[derive(Debug, thiserror::Error)]
#[error("the database has migrations that this binary does not know ({0}): run a newer one")]
pub(crate) struct SchemaTooNew(pub(crate) String);

/// A failure with all its causes and, where the database is one of them, what to do about it.
pub(crate) fn explain(error: &anyhow::Error) -> String {
    let mut causes = error.chain();
    let store = causes.find_map(|cause| cause.downcast_ref::<StoreError>());
    match store.and_then(StoreError::diagnosis) {
        Some(diagnosis) => format!("{error:#}; {}", diagnosis.advice()),
        None => format!("{error:#}"),
    }
}

/// What to do about a schema that is behind.
pub(crate) fn lacks(service: &str, missing: &[String]) -> String {
    let missing = missing.join(", ");
    format!("the schema lacks {missing}: run `{service} migrate`")
}

/// Waits until the schema is current: a database that is not there yet, or not migrated yet, comes later.
pub(crate) async fn await_schema(
    service: &str,
    store: &Store,
    ready: &Ready,
    stop: &CancellationToken,
) -> Result<(), SchemaTooNew> {
    let mut told = String::new();
    while !stop.is_cancelled() {
        let waiting_for = match store.schema_status().await {
            Ok(Schema::Current) => {
                ready.set();
                return Ok(());
            }
            Ok(Schema::Newer { unknown }) => return Err(SchemaTooNew(unknown.join(", "))),
            Ok(Schema::Behind { missing }) => lacks(service, &missing),
            Err(error) => explain(&error.into()),
        };
        if waiting_for != told {
            tracing::warn!("waiting for the database: {waiting_for}");
            told = waiting_for;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_millis(250)) => {}
        }
    }
    Ok(())
}

/// Alive: 200 as long as the process answers.
#[utoipa::path(tag = "health", responses((status = 200, description = "Alive")))]
#[get("/healthz")]
pub(crate) async fn healthz() -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "ok"}))
}

/// Ready: the database answers and its schema is current.
///
/// What works, but not as it should, is named in `degraded`.
#[utoipa::path(tag = "health", responses(
    (status = 200, description = "Ready"),
    (status = 503, description = "Not ready; the body names what is degraded", body = crate::problem::ProblemBody),
))]
#[get("/readyz")]
pub(crate) async fn readyz(
    store: Data<Store>,
    service: Data<Degraded>,
    observer: Data<Observer>,
) -> Result<HttpResponse, Problem> {
    let degraded = match store.schema_status().await {
        Ok(Schema::Current) => {
            // A caller that reads this may send the next request at once.
            observer.ready.set();
            match service.all(&store).await {
                Ok(degraded) => {
                    let ready = json!({"status": "ready", "degraded": degraded});
                    return Ok(HttpResponse::Ok().json(ready));
                }
                Err(error) => unavailable(error),
            }
        }
        Ok(Schema::Behind { missing }) => Problem::new(
            Code::StoreUnavailable,
            format!("The schema is behind: run `{} migrate`.", observer.service),
        )
        .with("missing", missing),
        Ok(Schema::Newer { unknown }) => Problem::new(
            Code::StoreUnavailable,
            "The schema is newer than this binary: run a newer one.",
        )
        .with("unknown", unknown),
        Err(error) => unavailable(error),
    };
    Err(degraded.with("degraded", json!(["database"])))
}

/// Whatever keeps the schema from being read keeps the service from being ready.
fn unavailable(error: StoreError) -> Problem {
    let problem = |detail: &str| Problem::new(Code::StoreUnavailable, detail);
    match error.diagnosis() {
        Some(diagnosis) => problem(diagnosis.as_str()).with("advice", diagnosis.advice()),
        None => problem("The database does not answer."),
    }
    .caused_by(error)
}

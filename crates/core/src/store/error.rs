//! What can go wrong with the database, by what a caller can do about it.

use std::iter::successors;

use deadpool::managed::PoolError;
use diesel::result::{ConnectionError, DatabaseErrorKind, Error as DieselError};

use super::obstacle::Obstacle;
use super::target::UrlError;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why the store could not do as asked. Neither it nor its causes hold the URL or the password.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Down, unreachable, overloaded or busy: the same call may succeed later. Whether a write took effect is unknown.
    #[error("the database is unavailable")]
    Unavailable {
        #[source]
        source: Cause,
    },
    /// Another row holds the keeper, the upstream grant or the id.
    #[error("another row has the same unique values")]
    Duplicate,
    #[error("running the migrations failed")]
    Migrate {
        #[source]
        source: Cause,
    },
    /// The database answered and does not do it: the same call fails again until somebody changes the database or the data.
    #[error("the database refused a query")]
    Query {
        #[source]
        source: DieselError,
    },
    #[error("the database URL can't be used")]
    Url {
        #[from]
        source: UrlError,
    },
}

impl StoreError {
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// What stands in the way, where that shows.
    pub fn obstacle(&self) -> Option<Obstacle> {
        let first: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(self);
        successors(first, |&cause| cause.source()).find_map(|cause| {
            match cause.downcast_ref::<ConnectError>() {
                Some(cause) => cause.obstacle,
                None => Obstacle::of_words(&cause.to_string()),
            }
        })
    }

    pub(super) fn unavailable(source: impl Into<Cause>) -> Self {
        Self::Unavailable {
            source: source.into(),
        }
    }

    pub(super) fn migrate(source: impl Into<Cause>) -> Self {
        Self::Migrate {
            source: source.into(),
        }
    }
}

impl From<DieselError> for StoreError {
    fn from(error: DieselError) -> Self {
        match trouble(&error) {
            Trouble::Duplicate => Self::Duplicate,
            Trouble::Lost | Trouble::Busy => Self::unavailable(error),
            Trouble::Refused => Self::Query { source: error },
        }
    }
}

impl From<PoolError<ConnectError>> for StoreError {
    fn from(error: PoolError<ConnectError>) -> Self {
        match error {
            PoolError::Backend(error) => error.into(),
            other => Self::unavailable(other),
        }
    }
}

impl From<ConnectError> for StoreError {
    fn from(error: ConnectError) -> Self {
        Self::unavailable(error)
    }
}

/// Why no connection could be made.
#[derive(Debug, thiserror::Error)]
#[error("{said}")]
pub(super) struct ConnectError {
    pub(super) said: String,
    pub(super) obstacle: Option<Obstacle>,
}

impl ConnectError {
    pub(super) fn of(obstacle: Option<Obstacle>, said: impl Into<String>) -> Self {
        Self {
            said: said.into(),
            obstacle,
        }
    }
}

impl From<ConnectionError> for ConnectError {
    fn from(error: ConnectionError) -> Self {
        let said = error.to_string();
        Self::of(Obstacle::of_words(&said), said)
    }
}

impl From<DieselError> for ConnectError {
    fn from(error: DieselError) -> Self {
        ConnectionError::CouldntSetupConfiguration(error).into()
    }
}

/// Whether the connection that gave this error is of no further use.
pub(super) fn is_lost(error: &DieselError) -> bool {
    trouble(error) == Trouble::Lost
}

#[derive(Debug, PartialEq, Eq)]
enum Trouble {
    Duplicate,
    Lost,
    Busy,
    Refused,
}

fn trouble(error: &DieselError) -> Trouble {
    let DieselError::DatabaseError(kind, info) = error else {
        return if matches!(error, DieselError::BrokenTransactionManager) {
            Trouble::Lost
        } else {
            Trouble::Refused
        };
    };
    match kind {
        DatabaseErrorKind::UniqueViolation => Trouble::Duplicate,
        // A server that became a replica answers so; the next connection may find the primary.
        DatabaseErrorKind::ClosedConnection
        | DatabaseErrorKind::UnableToSendCommand
        | DatabaseErrorKind::ReadOnlyTransaction => Trouble::Lost,
        DatabaseErrorKind::SerializationFailure => Trouble::Busy,
        DatabaseErrorKind::Unknown => trouble_by_message(info.message()),
        _ => Trouble::Refused,
    }
}

/// diesel-async keeps only the text of what `MySQL`'s driver says, diesel only the text of what `SQLite` says.
fn trouble_by_message(message: &str) -> Trouble {
    const LOST: [&str; 10] = [
        "Input/output error",
        "Driver error",
        "Server shutdown in progress",
        "Connection was killed",
        "The MySQL server is running with the",
        "The MariaDB server is running with the",
        "disk I/O error",
        // The file was taken away or replaced.
        "no such table",
        "file is not a database",
        "attempt to write a readonly database",
    ];
    const BUSY: [&str; 9] = [
        "Deadlock found",
        "Lock wait timeout exceeded",
        "Record has changed since last read",
        "database is locked",
        "database table is locked",
        "database or disk is full",
        "unable to open database file",
        "Disk full",
        "Too many connections",
    ];
    if LOST.iter().any(|start| message.starts_with(start)) {
        Trouble::Lost
    } else if BUSY.iter().any(|start| message.starts_with(start)) {
        Trouble::Busy
    } else {
        Trouble::Refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(kind: DatabaseErrorKind, message: &str) -> StoreError {
        DieselError::DatabaseError(kind, Box::new(message.to_owned())).into()
    }

    #[test]
    fn what_may_pass_is_told_from_what_stays_wrong() {
        use DatabaseErrorKind::{CheckViolation, UnableToSendCommand, UniqueViolation, Unknown};
        for (kind, message) in [
            (UnableToSendCommand, "connection closed"),
            (Unknown, "Input/output error: Broken pipe (os error 32)"),
            (Unknown, "Deadlock found when trying to get lock; try again"),
            (Unknown, "database is locked"),
        ] {
            assert!(said(kind, message).is_unavailable(), "{message}");
        }
        assert!(matches!(said(UniqueViolation, ""), StoreError::Duplicate));
        assert!(matches!(said(CheckViolation, ""), StoreError::Query { .. }));
        assert!(matches!(
            said(Unknown, "no such column: colour"),
            StoreError::Query { .. }
        ));
    }
}

//! What can go wrong with the database, by what a caller can do about it.

use std::iter::successors;

use deadpool::managed::PoolError;
use diesel::result::{ConnectionError, DatabaseErrorKind, Error as DieselError};

use super::diagnosis::Diagnosis;
use super::url_parameters::UrlError;

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
    /// Another row holds the account and owner, the upstream grant or the id.
    #[error("another row has the same unique values")]
    Duplicate,
    #[error("running the migrations failed")]
    Migrate {
        #[source]
        source: Cause,
    },
    /// The database answered and does not do it: the same call fails again until the database or the data is changed.
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

    /// Whether reads may succeed all the same.
    pub(super) fn refuses_writes(&self) -> bool {
        let Self::Unavailable { source } = self else {
            return false;
        };
        !source.is::<ConnectError>() && self.diagnosis().is_some_and(Diagnosis::refuses_writes)
    }

    /// What stands in the way, where that shows.
    pub fn diagnosis(&self) -> Option<Diagnosis> {
        let first: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(self);
        successors(first, |&cause| cause.source()).find_map(|cause| {
            match cause.downcast_ref::<ConnectError>() {
                Some(cause) => cause.diagnosis,
                None => Diagnosis::of_words(&cause.to_string()),
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
        match kind_of(&error) {
            ErrorKind::Duplicate => Self::Duplicate,
            ErrorKind::Lost
            | ErrorKind::ReadOnly
            | ErrorKind::Busy
            | ErrorKind::Conflict
            | ErrorKind::NotHere => Self::unavailable(error),
            ErrorKind::Refused => Self::Query { source: error },
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
    pub(super) diagnosis: Option<Diagnosis>,
}

impl ConnectError {
    pub(super) fn of(diagnosis: Option<Diagnosis>, said: impl Into<String>) -> Self {
        Self {
            said: said.into(),
            diagnosis,
        }
    }
}

impl From<ConnectionError> for ConnectError {
    fn from(error: ConnectionError) -> Self {
        let said = error.to_string();
        Self::of(Diagnosis::of_words(&said), said)
    }
}

impl From<DieselError> for ConnectError {
    fn from(error: DieselError) -> Self {
        ConnectionError::CouldntSetupConfiguration(error).into()
    }
}

/// Which connections an error shows to be useless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Useless {
    None,
    /// The one that gave the error.
    This,
    /// Most likely the whole pool's.
    All,
}

impl Useless {
    pub(super) fn after(error: &DieselError) -> Self {
        match kind_of(error) {
            ErrorKind::Lost | ErrorKind::NotHere => Self::All,
            ErrorKind::ReadOnly => Self::This,
            ErrorKind::Duplicate | ErrorKind::Busy | ErrorKind::Conflict | ErrorKind::Refused => {
                Self::None
            }
        }
    }
}

/// Whether nothing of the query, or of the transaction, took effect, and the same again may succeed.
pub(super) fn may_be_repeated(error: &DieselError) -> bool {
    matches!(kind_of(error), ErrorKind::Conflict | ErrorKind::NotHere)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ErrorKind {
    Duplicate,
    Lost,
    /// This connection leads to a server, or to a session, that takes no writes; a new one may lead to another.
    ReadOnly,
    Busy,
    /// Undone in favour of another transaction.
    Conflict,
    /// This server takes no queries for now; another connection may lead to one that does.
    NotHere,
    Refused,
}

fn kind_of(error: &DieselError) -> ErrorKind {
    let DieselError::DatabaseError(kind, info) = error else {
        return if matches!(error, DieselError::BrokenTransactionManager) {
            ErrorKind::Lost
        } else {
            ErrorKind::Refused
        };
    };
    match kind {
        DatabaseErrorKind::UniqueViolation => ErrorKind::Duplicate,
        DatabaseErrorKind::ClosedConnection | DatabaseErrorKind::UnableToSendCommand => {
            ErrorKind::Lost
        }
        DatabaseErrorKind::ReadOnlyTransaction => ErrorKind::ReadOnly,
        DatabaseErrorKind::SerializationFailure => ErrorKind::Conflict,
        DatabaseErrorKind::Unknown => kind_by_message(info.message()),
        _ => ErrorKind::Refused,
    }
}

/// diesel-async keeps only the text of what `MySQL`'s driver says, diesel only the text of what `SQLite` says, and it has no
/// word for some of Postgres's codes. The texts of `MySQL` are English, as the session asks for them.
fn kind_by_message(message: &str) -> ErrorKind {
    const STARTS: [(&str, ErrorKind); 27] = [
        ("Input/output error", ErrorKind::Lost),
        ("Driver error", ErrorKind::Lost),
        ("Server shutdown in progress", ErrorKind::Lost),
        ("Connection was killed", ErrorKind::Lost),
        ("The MySQL server is running with the", ErrorKind::ReadOnly),
        (
            "The MariaDB server is running with the",
            ErrorKind::ReadOnly,
        ),
        ("Running in read-only mode", ErrorKind::ReadOnly),
        ("disk I/O error", ErrorKind::Lost),
        // A file that is empty, or another one.
        ("no such table", ErrorKind::Lost),
        ("file is not a database", ErrorKind::Lost),
        // InnoDB, and Galera's certification of a commit.
        ("Deadlock found", ErrorKind::Conflict),
        ("Lock wait timeout exceeded", ErrorKind::Conflict),
        ("Record has changed since last read", ErrorKind::Conflict),
        ("WSREP detected deadlock/conflict", ErrorKind::Conflict),
        // A Galera node that joins the cluster, or has lost it.
        ("WSREP has not yet prepared node", ErrorKind::NotHere),
        ("database is locked", ErrorKind::Busy),
        ("database table is locked", ErrorKind::Busy),
        ("database or disk is full", ErrorKind::Busy),
        ("unable to open database file", ErrorKind::Busy),
        ("attempt to write a readonly database", ErrorKind::Busy),
        ("Disk full", ErrorKind::Busy),
        ("Disk got full", ErrorKind::Busy),
        ("Too many connections", ErrorKind::Busy),
        ("Query execution was interrupted", ErrorKind::Busy),
        ("Got error 28", ErrorKind::Busy),
        ("Error writing file", ErrorKind::Busy),
        ("No space left on device", ErrorKind::Busy),
    ];
    // Cancelled by a time limit, a lock that was not to be had, a transaction that ended otherwise.
    const SQLSTATES: [&str; 4] = ["57014", "55P03", "40000", "40003"];
    let start = STARTS.iter().find(|(start, _)| message.starts_with(start));
    let is_state = |state: &&str| message.ends_with(&format!("(SQLSTATE {state})"));
    match start {
        Some((_, kind_of)) => *kind_of,
        // `innodb_read_only`.
        None if message.starts_with("Table '") && message.ends_with("' is read only") => {
            ErrorKind::ReadOnly
        }
        None if message.starts_with("Got error ") && message.ends_with(" during COMMIT") => {
            ErrorKind::Busy
        }
        None if SQLSTATES.iter().any(is_state) || message.ends_with("' is full") => ErrorKind::Busy,
        None => ErrorKind::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(kind: DatabaseErrorKind, message: &str) -> DieselError {
        DieselError::DatabaseError(kind, Box::new(message.to_owned()))
    }

    use DatabaseErrorKind::{
        CheckViolation, ReadOnlyTransaction, SerializationFailure, UnableToSendCommand,
        UniqueViolation, Unknown,
    };

    /// What servers and drivers say, and how diesel classes it.
    const SAID: [(DatabaseErrorKind, &str, ErrorKind); 30] = [
        (UnableToSendCommand, "connection closed", ErrorKind::Lost),
        (
            ReadOnlyTransaction,
            "cannot execute UPDATE in a read-only transaction (SQLSTATE 25006)",
            ErrorKind::ReadOnly,
        ),
        (
            Unknown,
            "Input/output error: Broken pipe (os error 32)",
            ErrorKind::Lost,
        ),
        (
            Unknown,
            "The MariaDB server is running with the --read-only option so it cannot execute this statement",
            ErrorKind::ReadOnly,
        ),
        // MySQL 1836, 1036 (innodb_read_only) and 1290.
        (Unknown, "Running in read-only mode", ErrorKind::ReadOnly),
        (
            Unknown,
            "Table 'connections' is read only",
            ErrorKind::ReadOnly,
        ),
        (
            Unknown,
            "The MySQL server is running with the --super-read-only option so it cannot execute this statement",
            ErrorKind::ReadOnly,
        ),
        // 1180: a commit that Galera or InnoDB could not finish, whose outcome is unknown.
        (
            Unknown,
            "Got error 6 \"No such device or address\" during COMMIT",
            ErrorKind::Busy,
        ),
        (
            Unknown,
            "Got error 149 - 'Lock deadlock; Retry transaction' during COMMIT",
            ErrorKind::Busy,
        ),
        (Unknown, "Got error 5 during COMMIT", ErrorKind::Busy),
        (
            SerializationFailure,
            "could not serialize access due to read/write dependencies among transactions (SQLSTATE 40001)",
            ErrorKind::Conflict,
        ),
        (
            SerializationFailure,
            "deadlock detected (SQLSTATE 40P01)",
            ErrorKind::Conflict,
        ),
        (
            Unknown,
            "Deadlock found when trying to get lock; try restarting transaction",
            ErrorKind::Conflict,
        ),
        (
            Unknown,
            "Lock wait timeout exceeded; try restarting transaction",
            ErrorKind::Conflict,
        ),
        (
            Unknown,
            "Record has changed since last read in table 'connections'",
            ErrorKind::Conflict,
        ),
        (
            Unknown,
            "WSREP detected deadlock/conflict and aborted the transaction. Try restarting the transaction",
            ErrorKind::Conflict,
        ),
        (
            Unknown,
            "WSREP has not yet prepared node for application use",
            ErrorKind::NotHere,
        ),
        (Unknown, "database is locked", ErrorKind::Busy),
        (Unknown, "database or disk is full", ErrorKind::Busy),
        (
            Unknown,
            "attempt to write a readonly database",
            ErrorKind::Busy,
        ),
        (Unknown, "The table 'connections' is full", ErrorKind::Busy),
        (
            Unknown,
            "Query execution was interrupted (max_statement_time exceeded)",
            ErrorKind::Busy,
        ),
        (
            Unknown,
            "canceling statement due to statement timeout (SQLSTATE 57014)",
            ErrorKind::Busy,
        ),
        (
            Unknown,
            "canceling statement due to lock timeout (SQLSTATE 55P03)",
            ErrorKind::Busy,
        ),
        (
            Unknown,
            "the commit's outcome is not known (SQLSTATE 40003)",
            ErrorKind::Busy,
        ),
        (UniqueViolation, "", ErrorKind::Duplicate),
        (CheckViolation, "", ErrorKind::Refused),
        (Unknown, "no such column: colour", ErrorKind::Refused),
        (
            Unknown,
            "invalid byte sequence for encoding \"UTF8\": 0x00 (SQLSTATE 22021)",
            ErrorKind::Refused,
        ),
        (
            Unknown,
            "Data too long for column 'scope' at row 1",
            ErrorKind::Refused,
        ),
    ];

    #[test]
    fn what_may_pass_is_told_from_what_stays_wrong() {
        for (kind, message, expected) in SAID {
            let error = said(kind, message);
            assert_eq!(kind_of(&error), expected, "{message}");
            let shown = StoreError::from(error);
            let may_pass = !matches!(expected, ErrorKind::Duplicate | ErrorKind::Refused);
            assert_eq!(shown.is_unavailable(), may_pass, "{message}");
        }
    }

    #[test]
    fn a_database_that_takes_no_writes_is_told_from_one_that_is_away() {
        for (message, diagnosis) in [
            (
                "cannot execute UPDATE in a read-only transaction (SQLSTATE 25006)",
                Diagnosis::ReadOnly,
            ),
            (
                "The MariaDB server is running with the --read-only option so it cannot execute this statement",
                Diagnosis::ReadOnly,
            ),
            ("Running in read-only mode", Diagnosis::ReadOnly),
            ("Table 'connections' is read only", Diagnosis::ReadOnly),
            (
                "attempt to write a readonly database",
                Diagnosis::NotWritable,
            ),
            ("database or disk is full", Diagnosis::DiskFull),
            (
                "could not extend file \"base/1/2\": No space left on device (SQLSTATE 53100)",
                Diagnosis::DiskFull,
            ),
            ("The table 'connections' is full", Diagnosis::DiskFull),
        ] {
            let kind = UnableToSendCommand;
            let error = StoreError::from(said(kind, message));
            assert_eq!(error.diagnosis(), Some(diagnosis), "{message}");
            assert!(error.refuses_writes(), "{message}");
        }
        let away = StoreError::from(ConnectError::of(Some(Diagnosis::NotWritable), "no rights"));
        assert!(!away.refuses_writes());
    }
}

//! Another writer on a `SQLite` file, who takes his time.

use std::path::Path;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;

/// Holds the file's write lock until it is dropped; nothing is written.
pub struct WriteLock(SqliteConnection);

impl WriteLock {
    /// Waits for the lock, ten seconds at most.
    ///
    /// # Errors
    /// What the database says.
    pub fn take(path: &Path) -> Result<Self, String> {
        let said = |error: &dyn std::error::Error| error.to_string();
        let mut connection = SqliteConnection::establish(&path.display().to_string())
            .map_err(|error| said(&error))?;
        connection
            .batch_execute("PRAGMA busy_timeout = 10000; BEGIN EXCLUSIVE")
            .map_err(|error| said(&error))?;
        Ok(Self(connection))
    }
}

impl std::fmt::Debug for WriteLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteLock").finish_non_exhaustive()
    }
}

impl Drop for WriteLock {
    fn drop(&mut self) {
        // A connection that is closed in a transaction rolls back.
        drop(self.0.batch_execute("ROLLBACK"));
    }
}

//! A database whose disk is full, as far as updates of `connections` tell.

use super::TestDatabase;
use pipekeeper_core::store::Backend;

/// What the database says when it can't extend a file, said by a trigger.
fn statements(backend: Backend) -> (Vec<&'static str>, &'static str) {
    match backend {
        Backend::Postgres => (
            vec![
                "CREATE OR REPLACE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                 RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$",
                "CREATE TRIGGER full_disk BEFORE UPDATE ON connections FOR EACH ROW EXECUTE FUNCTION full_disk()",
            ],
            "DROP TRIGGER full_disk ON connections",
        ),
        Backend::Mysql => (
            vec![
                "CREATE TRIGGER full_disk BEFORE UPDATE ON connections FOR EACH ROW \
                 SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1114, MESSAGE_TEXT = 'The table ''connections'' is full'",
            ],
            "DROP TRIGGER full_disk",
        ),
        Backend::Sqlite => (
            vec![
                "CREATE TRIGGER full_disk BEFORE UPDATE ON connections BEGIN \
                 SELECT RAISE(FAIL, 'database or disk is full'); END",
            ],
            "DROP TRIGGER full_disk",
        ),
    }
}

impl TestDatabase {
    /// From now on no row of `connections` can be updated.
    pub fn fill_disk(&self) {
        for statement in statements(self.backend).0 {
            self.lines(statement).expect("the test's own database");
        }
    }

    /// There is space again.
    pub fn clear_disk(&self) {
        let statement = statements(self.backend).1;
        self.lines(statement).expect("the test's own database");
    }
}

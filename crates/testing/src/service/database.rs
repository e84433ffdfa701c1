//! A database that is not there yet, or not as it should be.

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;

use crate::{TestDatabase, role_name};
use pipekeeper_core::store::Backend;

use super::{Home, MARKER, Program, Serving, Settings, WAIT, WAITS, as_variables, set, taken_port};
use pipekeeper_service::Service;

const WAITING: &str = "waiting for the database: ";

impl<S: Service + std::fmt::Debug> Program<S> {
    fn settings_with(home: &Home, database_url: &str) -> Settings {
        let mut settings = Self::settings(home);
        settings.retain(|(key, _)| key != "database.url");
        settings.push(set("database.url", database_url));
        settings
    }

    pub fn migrate_waits_as_long_as_it_is_told(&self) {
        let home = Home::new();
        let (held, nowhere) = taken_port();
        drop(held);
        let url = format!("postgres://u:{MARKER}@{nowhere}/db");
        let settings = Self::settings_with(&home, &url);
        let migrate = |wait_secs| {
            self.run_with(&["migrate", "--wait-secs", wait_secs], &settings)
                .keeps_secrets()
                .expect_stderr(&["refused", "nothing listens there: check host and port"])
                .expect_code(1)
        };

        let waited = migrate("1");
        let did_not = migrate("0");

        assert_eq!(waited.stderr.matches(WAITING).count(), 1, "{waited:#?}");
        assert_eq!(did_not.stderr.matches(WAITING).count(), 0, "{did_not:#?}");
    }

    pub fn migrate_does_not_wait_for_a_mistake_to_pass(&self) {
        let home = Home::new();
        let missing = format!("sqlite:{}/missing/pipekeeper.db", home.directory.display());
        let settings = Self::settings_with(&home, &missing);

        let run = self
            .run_with(&["migrate"], &settings)
            .expect_stderr(&["/missing/pipekeeper.db", "create the directory"])
            .expect_code(1);

        assert!(!run.stderr.contains(WAITING), "{run:#?}");
    }

    pub fn a_service_says_what_it_waits_for(&self) {
        let home = Home::new();
        let (held, nowhere) = taken_port();
        drop(held);
        let (held, addr) = taken_port();
        drop(held);
        let url = format!("postgres://u:{MARKER}@{nowhere}/db");
        let mut settings = Self::settings_with(&home, &url);
        settings.push(set("http.listen", addr.to_string()));
        settings.push(set("http.metrics_listen", "127.0.0.1:0"));
        settings.push(set("http.workers", "1"));

        let serving = self.serve(&home, &settings);
        until(&serving, WAITING);
        until(&serving, "serving");

        self.run_with(&["healthcheck"], &settings)
            .keeps_secrets()
            .expect_stderr(&["refuses the connection", "nothing listens there"])
            .expect_code(1);
        let log = serving.log();
        let waiting: Vec<_> = log.lines().filter(|line| line.contains(WAITING)).collect();
        assert_eq!(waiting.len(), 1, "{log}");
        assert!(waiting.concat().contains("nothing listens there"), "{log}");
        assert!(!log.contains(MARKER), "{log}");
    }

    pub fn a_role_needs_a_server(&self) {
        let home = Home::new();

        self.run_with(&["migrate", "--role", "services"], &Self::settings(&home))
            .expect_stderr(&["SQLite knows no roles"])
            .expect_code(1);
    }

    pub fn migrate_goes_on_when_the_database_is_up(&self) {
        let home = Home::new();
        let database = TestDatabase::create(Backend::Postgres);
        let gate = database.gate();
        gate.cut();
        let settings = Self::settings_with(&home, gate.url().expose());
        let log = home.directory.join("log");
        let errors = fs::File::create(&log).expect("the test's own directory");
        let child = Command::new(self.binary)
            .arg("migrate")
            .env_clear()
            .envs(as_variables(&settings))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .expect("the binary runs");
        let mut migrating = Serving { child, log };
        until(&migrating, WAITING);

        gate.open();

        assert_eq!(migrating.ended(), Some(0), "{}", migrating.log());
    }

    pub fn migrate_makes_a_role_for_the_services(&self) {
        let home = Home::new();
        let database = TestDatabase::create(Backend::Postgres);
        let name = role_name();
        let file = home.write("password", &format!("{MARKER}\n"));
        let owner = Self::settings_with(&home, database.url().expose());
        let arguments = ["migrate", "--role", &name, "--role-password-file", &file];

        let made = self.run_with(&arguments, &owner).keeps_secrets();

        let made = made.expect_code(0);
        let words = format!("the role {name} can do what the services need\n");
        assert!(made.stdout.ends_with(&words), "{made:#?}");
        let url = database.url_by(&name, MARKER);
        let count = "SELECT COUNT(*) FROM connections";
        assert_eq!(database.lines_by(&url, count), Ok(vec!["0".to_owned()]));
        self.run_with(&["migrate"], &Self::settings_with(&home, url.expose()))
            .keeps_secrets()
            .expect_stderr(&["permission denied", "`migrate` needs the owner"])
            .expect_code(1);
        for statement in [format!("DROP OWNED BY {name}"), format!("DROP ROLE {name}")] {
            database.lines(&statement).expect("it is not in use");
        }
    }
}

pub(super) fn until(serving: &Serving, part: &str) {
    for _ in 0..WAITS {
        if serving.log().contains(part) {
            return;
        }
        sleep(WAIT);
    }
    assert!(serving.log().contains(part), "{part} in {}", serving.log());
}

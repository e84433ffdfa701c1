//! How a process comes up, and how it goes.

use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{Home, MARKER, Program, set, taken_port};
use crate::server::Service;

impl<S: Service + std::fmt::Debug> Program<S> {
    pub fn migrate_says_what_it_did(&self) {
        let home = Home::new();
        let settings = Self::settings(&home);

        let first = self.run_with(&["migrate"], &settings).expect_code(0);
        let second = self.run_with(&["migrate"], &settings).expect_code(0);

        let count: usize = first
            .stdout
            .split_once(' ')
            .and_then(|(count, _)| count.parse().ok())
            .expect("it begins with their number");
        assert!(count > 0);
        let words = "migrations applied, the schema is current\n";
        assert_eq!(first.stdout, format!("{count} {words}"));
        assert_eq!(second.stdout, format!("0 {words}"));
    }

    pub fn a_service_comes_up_says_so_and_goes(&self) {
        let home = Home::new();
        let mut settings = Self::settings(&home);
        let (held, addr) = taken_port();
        drop(held);
        settings.push(set("http.listen", addr.to_string()));
        settings.push(set("http.metrics_listen", "127.0.0.1:0"));
        settings.push(set("http.workers", "1"));
        settings.push(set("telemetry.filter", "debug"));
        let healthy = || self.run_with(&["healthcheck"], &settings);

        healthy()
            .keeps_secrets()
            .expect_stderr(&["error sending request"])
            .expect_code(1);
        let mut serving = self.serve(&home, &settings);
        let mut ready = healthy();
        for _ in 0..100 {
            if ready.code == Some(0) {
                break;
            }
            sleep(Duration::from_millis(50));
            ready = healthy();
        }
        assert_eq!(ready.code, Some(0), "{ready:#?} {}", serving.log());
        assert_eq!((ready.stdout.as_str(), ready.stderr.as_str()), ("", ""));
        kill_process(Pid::from_child(&serving.child), Signal::TERM).expect("it runs");

        assert_eq!(serving.ended(), Some(0), "{}", serving.log());
        healthy().expect_code(1);
        let log = serving.log();
        assert!(!log.contains(MARKER), "{log}");
        for part in [
            "\"starting\"",
            "[redacted]",
            "\"serving\"",
            "stopping: no new work",
        ] {
            assert!(log.contains(part), "{part} in {log}");
        }
        let json = log
            .lines()
            .all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok());
        assert!(json, "{log}");
    }

    pub fn a_taken_port_is_told_by_its_key(&self) {
        let home = Home::new();
        let (_held, addr) = taken_port();
        for (taken, free) in [
            ("http.listen", "http.metrics_listen"),
            ("http.metrics_listen", "http.listen"),
        ] {
            let mut settings = Self::settings(&home);
            settings.push(set(taken, addr.to_string()));
            settings.push(set(free, "127.0.0.1:0"));

            self.run_with(&["serve"], &settings)
                .keeps_secrets()
                .expect_stderr(&[&format!("can't listen on {addr}"), taken])
                .expect_code(1);
        }
    }

    pub fn a_newer_schema_is_refused(&self) {
        let home = Home::new();
        let mut settings = Self::settings(&home);
        settings.push(set("http.listen", "127.0.0.1:0"));
        settings.push(set("http.metrics_listen", "127.0.0.1:0"));
        settings.push(set("http.workers", "1"));
        self.run_with(&["migrate"], &settings).expect_code(0);
        home.database
            .lines("INSERT INTO __diesel_schema_migrations (version) VALUES ('9999')")
            .expect("diesel's own table");
        let why = "migrations that this binary does not know (9999)";

        let mut serving = self.serve(&home, &settings);
        assert_eq!(serving.ended(), Some(1), "{}", serving.log());
        assert!(serving.log().contains(why), "{}", serving.log());
        self.run_with(&["migrate"], &settings)
            .expect_stderr(&[why])
            .expect_code(1);
    }
}

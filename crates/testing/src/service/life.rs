//! How a process comes up, and how it goes.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::thread::sleep;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, Signal, kill_process};

use super::{Home, MARKER, Program, Serving, WAIT, WAITS, as_variables, ask, get, set, taken_port};
use pipekeeper_service::Service;

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
        let (mut settings, _addr) = Self::served(&home);
        settings.push(set("telemetry.filter", "debug"));
        let healthy = || self.run_with(&["healthcheck"], &settings);

        healthy()
            .keeps_secrets()
            .expect_stderr(&["error sending request"])
            .expect_code(1);
        let mut serving = self.serve(&home, &settings);
        self.await_ready(&settings);
        let ready = healthy();
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

    pub fn an_outage_is_logged_once_and_so_is_its_end(&self) {
        let home = Home::new();
        let (mut settings, addr) = Self::served(&home);
        if Self::keys().contains(&"login.store_patience_secs".to_owned()) {
            settings.push(set("login.store_patience_secs", "1"));
        }
        let serving = self.serve(&home, &settings);
        self.await_ready(&settings);
        let database = home.directory.join("test.db");
        let elsewhere = home.directory.join("elsewhere.db");

        fs::rename(&database, &elsewhere).expect("it is there");
        for _ in 0..50 {
            let answer = get(addr, "/readyz");
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
            assert!(answer.contains("The database file is gone."), "{answer}");
        }
        // Each service has one of these routes.
        let refresh = r#"{"connectionId": "01900000-0000-7000-8000-000000000000"}"#;
        for _ in 0..2 {
            let answers = [
                get(addr, "/webhook/pipedrive/callback?code=c0de"),
                Self::post(addr, "/webhook/pipedrive/refresh", "pipekeeper", refresh),
                Self::post(
                    addr,
                    "/webhook/pipedrive/person",
                    "n8n",
                    r#"{"person": {"email": "jane@acme.example"}}"#,
                ),
            ];
            let refused = |status: &str| {
                let starts = |answer: &&String| answer.starts_with(&format!("HTTP/1.1 {status}"));
                answers.iter().filter(starts).count()
            };
            assert_eq!((refused("503"), refused("404")), (1, 2), "{answers:#?}");
        }
        fs::rename(&elsewhere, &database).expect("it is there");
        for _ in 0..WAITS {
            assert!(get(addr, "/readyz").starts_with("HTTP/1.1 200"));
            if serving.log().contains("is available again") {
                break;
            }
            sleep(WAIT);
        }

        let log = serving.log();
        let lines = |words: &str| {
            let told = log.lines().filter(|line| line.contains(words));
            told.map(str::to_owned).collect::<Vec<_>>()
        };
        let began = lines("the database is unavailable:");
        let ended = lines("the database is available again");
        assert_eq!((began.len(), ended.len()), (1, 1), "{log}");
        // A query that was under way meets another cause.
        let errors = [began, lines("the database is still unavailable, now:")].concat();
        assert!(errors.len() <= 2, "{log}");
        assert!(errors.concat().contains("put the file back"), "{log}");
        let ended = ended.concat();
        let ended: serde_json::Value = serde_json::from_str(&ended).expect("a line is JSON");
        let failures = ended.get("failures").and_then(serde_json::Value::as_u64);
        assert!(failures >= Some(50), "{ended}");
        assert_eq!(log.matches("ERROR").count(), errors.len(), "{log}");
        assert_eq!(log.matches("WARN").count(), 1, "{log}");
        // At this level the configuration is not in the log.
        assert!(!log.contains("encryption.keys"), "{log}");
    }

    /// As a caller who knows the webhook's password.
    fn post(addr: SocketAddr, path: &str, user: &str, body: &str) -> String {
        let password = Self::secret_for("webhook.password");
        let credentials = STANDARD.encode(format!("{user}:{password}"));
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Basic {credentials}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        ask(addr, request.as_bytes())
    }

    pub fn malformed_requests_are_no_errors_of_ours(&self) {
        let home = Home::new();
        let (settings, addr) = Self::served(&home);
        let serving = self.serve(&home, &settings);
        self.await_ready(&settings);

        let endless = [b"GET /".as_slice(), &vec![b'a'; 300_000]].concat();
        for request in [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(),
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"G\x00T / HTTP/1.1\r\n\r\n",
            b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
            b"POST /x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            b"\r\n\r\n\r\nhello\r\n\r\n",
            &endless,
        ] {
            let answer = ask(addr, request);
            let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4");
            assert!(refused, "{answer}");
        }

        assert!(get(addr, "/healthz").starts_with("HTTP/1.1 200"));
        let log = serving.log();
        assert!(!log.contains("ERROR"), "{log}");
    }

    pub fn a_log_whose_reader_is_gone_stops_nothing(&self) {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        self.serves_with_its_log_in(writer);
    }

    pub fn a_log_whose_reader_stalls_stops_nothing(&self) {
        let (_reader, writer) = std::io::pipe().expect("a pipe");
        self.serves_with_its_log_in(writer);
    }

    /// Comes up, answers more requests than a pipe has room for their lines, and goes when it is told to.
    fn serves_with_its_log_in(&self, pipe: std::io::PipeWriter) {
        let home = Home::new();
        let (mut settings, addr) = Self::served(&home);
        settings.push(set("telemetry.filter", "trace"));
        let out = pipe.try_clone().expect("a second handle of a pipe");
        let child = self.start(&home, &settings, out.into(), pipe.into());
        let log = home.directory.join("none");
        let mut serving = Serving { child, log };
        self.await_ready(&settings);

        for _ in 0..300 {
            let answer = get(addr, "/readyz");
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }

        kill_process(Pid::from_child(&serving.child), Signal::TERM).expect("it runs");
        assert_eq!(serving.ended(), Some(0));
    }

    pub fn a_reader_that_has_seen_enough_is_no_failure(&self) {
        let home = Home::new();
        let settings = Self::settings(&home);
        let run = |out: Stdio| {
            let mut command = Command::new(self.binary);
            let command = command
                .arg("config")
                .env_clear()
                .envs(as_variables(&settings))
                .stdout(out)
                .stderr(Stdio::piped());
            command
                .spawn()
                .expect("the binary runs")
                .wait_with_output()
                .expect("it ends")
        };

        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let enough = run(writer.into());
        assert_eq!(
            (enough.status.code(), enough.stderr.as_slice()),
            (Some(0), b"".as_slice())
        );

        let full = File::options()
            .write(true)
            .open("/dev/full")
            .expect("a device");
        let full = run(full.into());
        let said = String::from_utf8_lossy(&full.stderr).into_owned();
        assert_eq!(full.status.code(), Some(1), "{said}");
        assert!(
            said.starts_with("can't write to standard output: "),
            "{said}"
        );
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

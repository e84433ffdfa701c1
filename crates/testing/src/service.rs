//! What the command line of every service promises: cases that each service stamps with [`promises_of_a_service`], and
//! that run its own binary in a cleared environment.
//!
//! [`promises_of_a_service`]: crate::promises_of_a_service

mod configuration;
mod database;
mod life;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::marker::PhantomData;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::TestDatabase;
use pipekeeper_core::crypto::Keyring;
use pipekeeper_core::store::Backend;

use pipekeeper_service::Service;

/// Stands where a secret does, and must be found nowhere else.
const MARKER: &str = "m4rker";

/// Stamps one test per promise: `cli::every_problem_is_listed_at_once`.
#[macro_export]
macro_rules! promises_of_a_service {
    ($service:ty, $binary:expr) => {
        $crate::promises_of_a_service! { @stamp $service, $binary,
            its_version_names_the_commit
            every_problem_is_listed_at_once
            a_bad_configuration_ends_before_a_socket_opens
            what_is_in_no_section_is_refused
            config_shows_everything_but_secrets
            a_value_that_is_no_text_is_refused_for_a_text
            values_that_caught_something_on_their_way_are_refused_by_name
            secrets_come_from_files
            files_that_cannot_be_read_are_problems
            aliases_stand_for_their_keys
            the_file_goes_over_the_defaults_and_the_environment_over_both
            a_broken_file_is_told_of_without_its_lines
            every_key_of_the_defaults_is_needed
            migrate_says_what_it_did
            a_service_comes_up_says_so_and_goes
            an_outage_is_logged_once_and_so_is_its_end
            malformed_requests_are_no_errors_of_ours
            a_log_whose_reader_is_gone_stops_nothing
            a_log_whose_reader_stalls_stops_nothing
            a_reader_that_has_seen_enough_is_no_failure
            a_taken_port_is_told_by_its_key
            a_newer_schema_is_refused
            migrate_waits_as_long_as_it_is_told
            migrate_does_not_wait_for_a_mistake_to_pass
            a_service_says_what_it_waits_for
            a_role_needs_a_server
        }
        $crate::promises_of_a_service! { @stamp_on_postgres $service, $binary,
            migrate_goes_on_when_the_database_is_up
            migrate_makes_a_role_for_the_services
        }
    };
    (@stamp $service:ty, $binary:expr, $($promise:ident)+) => { $(
        #[test]
        fn $promise() {
            $crate::service::Program::<$service>::new($binary).$promise();
        }
    )+ };
    (@stamp_on_postgres $service:ty, $binary:expr, $($promise:ident)+) => { $(
        $crate::on_postgres! {
            #[test]
            fn $promise() {
                $crate::service::Program::<$service>::new($binary).$promise();
            }
        }
    )+ };
}

/// A service's binary.
#[derive(Debug)]
pub struct Program<S> {
    binary: &'static str,
    service: PhantomData<S>,
}

/// How a run ended.
#[derive(Debug)]
pub struct Run {
    code: Option<i32>,
    pub stdout: String,
    stderr: String,
}

impl Run {
    #[track_caller]
    fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    #[track_caller]
    fn expect_stderr(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "{part} in {self:#?}");
        }
        self
    }

    #[track_caller]
    fn keeps_secrets(self) -> Self {
        assert!(!self.stdout.contains(MARKER), "{self:#?}");
        assert!(!self.stderr.contains(MARKER), "{self:#?}");
        self
    }
}

/// How often, and how long, something is waited for that comes at once on an idle machine: two minutes in all.
const WAITS: u32 = 6000;
const WAIT: Duration = Duration::from_millis(20);

/// An environment: `section.key` and its value.
type Settings = Vec<(String, String)>;

/// A directory of a test's own, with a database in it.
struct Home {
    database: TestDatabase,
    directory: PathBuf,
}

impl Home {
    fn new() -> Self {
        let database = TestDatabase::create(Backend::Sqlite);
        let url = database.url();
        let file = Path::new(url.expose().trim_start_matches("sqlite:"));
        let directory = file.parent().expect("it lies in a directory").to_owned();
        Self {
            database,
            directory,
        }
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.directory.join(name);
        fs::write(&path, text).expect("the test's own directory");
        path.display().to_string()
    }
}

/// A running service, killed if its test fails.
struct Serving {
    child: Child,
    log: PathBuf,
}

impl Serving {
    fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("the log of the process")
    }

    /// Its exit code, if it ends in time.
    fn ended(&mut self) -> Option<i32> {
        for _ in 0..WAITS {
            if let Some(status) = self.child.try_wait().expect("it is a child") {
                return status.code();
            }
            sleep(WAIT);
        }
        None
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn set(key: &str, value: impl Into<String>) -> (String, String) {
    (key.to_owned(), value.into())
}

fn variable(key: &str) -> String {
    format!("PIPEKEEPER__{}", key.replace('.', "__").to_uppercase())
}

/// What is answered on a connection of its own: everything, up to its end.
fn ask(addr: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).expect("it listens");
    stream.write_all(request).expect("it reads");
    let mut answer = Vec::new();
    // A connection that is closed early has said what it had to say.
    let _reset = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// A request that ends its connection.
fn get(addr: SocketAddr, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    ask(addr, request.as_bytes())
}

/// Held while no other test may get it.
fn taken_port() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are ports");
    let addr = listener.local_addr().expect("it is bound");
    (listener, addr)
}

impl<S: Service + std::fmt::Debug> Program<S> {
    pub fn new(binary: &'static str) -> Self {
        Self {
            binary,
            service: PhantomData,
        }
    }

    /// With these variables and no others.
    pub fn run(&self, arguments: &[&str], env: &[(String, String)]) -> Run {
        let output = Command::new(self.binary)
            .args(arguments)
            .env_clear()
            .envs(env.iter().cloned())
            .output()
            .expect("the binary runs");
        Run {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn run_with(&self, arguments: &[&str], settings: &[(String, String)]) -> Run {
        self.run(arguments, &as_variables(settings))
    }

    fn serve(&self, home: &Home, settings: &[(String, String)]) -> Serving {
        let log = home.directory.join("log");
        let out = File::create(&log).expect("the test's own directory");
        let err = out.try_clone().expect("a second handle of a file");
        let child = self.start(home, settings, out.into(), err.into());
        Serving { child, log }
    }

    fn start(&self, home: &Home, settings: &[(String, String)], out: Stdio, err: Stdio) -> Child {
        Command::new(self.binary)
            .current_dir(&home.directory)
            .env_clear()
            .envs(as_variables(settings))
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .expect("the binary runs")
    }

    /// What it takes to be served, and where.
    fn served(home: &Home) -> (Settings, SocketAddr) {
        let mut settings = Self::settings(home);
        let (held, addr) = taken_port();
        drop(held);
        settings.push(set("http.listen", addr.to_string()));
        settings.push(set("http.metrics_listen", "127.0.0.1:0"));
        settings.push(set("http.workers", "1"));
        (settings, addr)
    }

    /// Waits until it is ready.
    fn await_ready(&self, settings: &[(String, String)]) {
        let mut ready = self.run_with(&["healthcheck"], settings);
        for _ in 0..WAITS {
            if ready.code == Some(0) {
                return;
            }
            sleep(WAIT);
            ready = self.run_with(&["healthcheck"], settings);
        }
        ready.expect_code(0);
    }

    /// Every key of the defaults, as `section.key`.
    fn keys() -> Vec<String> {
        let mut section = "";
        let mut keys = Vec::new();
        for line in S::DEFAULTS.lines() {
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_end_matches(']');
            } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#'))
            {
                keys.push(format!("{section}.{key}"));
            }
        }
        assert!(keys.len() > 10, "{keys:?}");
        keys
    }

    /// The keys whose value can come from a file: that is what marks a secret.
    fn secrets() -> Vec<String> {
        let keys = Self::keys();
        let secrets: Vec<String> = keys
            .iter()
            .filter(|key| keys.contains(&format!("{key}_file")))
            .cloned()
            .collect();
        assert!(secrets.len() >= 3, "{secrets:?}");
        secrets
    }

    /// A value that the service takes for a secret, with the marker in it.
    fn secret_for(key: &str) -> String {
        match key {
            "encryption.keys" => {
                // Base64 of 32 bytes that begins with the marker.
                let generated = Keyring::generate("k1");
                let (id, value) = generated.expose().split_once(':').expect("id:key");
                let rest = value.split_at(MARKER.len()).1;
                format!("{id}:{MARKER}{rest}")
            }
            "database.url" | "old_table.url" => {
                format!("postgres://u:{MARKER}@127.0.0.1:9/db?sslmode=disable")
            }
            _ => format!("{MARKER} \"+/=#"),
        }
    }

    /// All that has to be set, and every secret.
    fn settings(home: &Home) -> Settings {
        let mut settings: Settings = Self::secrets()
            .into_iter()
            .map(|key| {
                let value = Self::secret_for(&key);
                (key, value)
            })
            .collect();
        settings.push(set("database.url", home.database.url().expose()));
        settings.push(set("apps.pipedrive.client_id", "57db0bab2932f657"));
        if Self::keys().contains(&"apps.pipedrive.redirect_url".to_owned()) {
            let url = "https://app.example/webhook/pipedrive/callback";
            settings.push(set("apps.pipedrive.redirect_url", url));
        }
        settings
    }
}

fn as_variables(settings: &[(String, String)]) -> Vec<(String, String)> {
    settings
        .iter()
        .map(|(key, value)| (variable(key), value.clone()))
        .collect()
}

//! `scripts/up`, as a person runs it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use pipekeeper_core::connection::AppKey;
use pipekeeper_core::secret::Secret;
use pipekeeper_testing::{self as testing, TestDirectory};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use up::processes::{Plan, free_base_port, sibling};
use up::tasks::in_background;

use crate::support::{HANGS, hold_refresh, until};

/// Nothing of the developer's own registration or settings reaches it.
fn up(data: &Path, base_port: u16) -> Command {
    let mut command = Command::new(sibling("up").unwrap());
    command
        .env_clear()
        .arg("--data")
        .arg(data)
        .args(["--base-port", &base_port.to_string()])
        .kill_on_drop(true)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

async fn outcome(mut command: Command) -> Output {
    let ended = tokio::time::timeout(HANGS, command.output()).await;
    ended.expect("it ends by itself").unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

fn ports(base: u16) -> impl Iterator<Item = u16> {
    (base..base + 3)
        .chain([base + 10])
        .chain(base + 1000..base + 1003)
}

#[track_caller]
fn assert_free(base: u16) {
    for port in ports(base) {
        assert!(
            TcpListener::bind(("127.0.0.1", port)).is_ok(),
            "{port} is taken still"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demo_holds_from_consent_to_a_healed_401() {
    let (data, port) = (TestDirectory::create(), free_base_port());
    let mut command = up(&data.path().join("new"), port);
    command.arg("--demo");

    let output = outcome(command).await;

    let told = said(&output);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("All of it held."), "{told}");
    assert_free(port);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demo_fails_without_what_it_is_about() {
    for arguments in [
        ["--without", "token-refresher"],
        ["--without", "data-api"],
        ["--set", "data-api.refresher.password=wrong"],
        [
            "--set",
            "token-refresher.apps.pipedrive.client_secret=wrong",
        ],
        ["--set", "data-api.no.such_key=1"],
    ] {
        let (data, port) = (TestDirectory::create(), free_base_port());
        let mut command = up(data.path(), port);
        command.arg("--demo").args(arguments);

        let output = outcome(command).await;

        assert_eq!(
            output.status.code(),
            Some(1),
            "{arguments:?}: {}",
            said(&output)
        );
        assert!(!said(&output).contains("All of it held."), "{arguments:?}");
        assert_free(port);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn taken_port_is_named_with_the_process_that_wants_it() {
    for (offset, process) in [
        (0, "auth-capture"),
        (1, "data-api"),
        (1002, "token-refresher"),
        (10, "pipedrive-sim"),
    ] {
        let (data, port) = (TestDirectory::create(), free_base_port());
        let _holder = TcpListener::bind(("127.0.0.1", port + offset)).unwrap();

        let output = outcome(up(data.path(), port)).await;

        let told = said(&output);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(
            told.contains(&format!("{} ({process})", port + offset)),
            "{told}"
        );
        assert!(told.contains("--base-port"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_registration_is_a_mistake() {
    let names = [
        "PIPE_DRIVE_CLIENT_ID",
        "PIPE_DRIVE_CLIENT_SECRET",
        "PIPE_DRIVE_REDIRECT_URL",
    ];
    for set in [&names[..1], &names[1..2], &names[..2]] {
        let (data, port) = (TestDirectory::create(), free_base_port());
        let mut command = up(data.path(), port);
        command.envs(set.iter().map(|name| (*name, "x-secret-x")));

        let output = outcome(command).await;

        let told = said(&output);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(names.iter().all(|name| told.contains(name)), "{told}");
        assert!(!told.contains("x-secret-x"), "{told}");
    }
    let (data, port) = (TestDirectory::create(), free_base_port());
    let mut command = up(data.path(), port);
    command.arg("--demo").envs(names.map(|name| (name, "x")));
    assert_eq!(
        outcome(command).await.status.code(),
        Some(1),
        "the demo is the simulator's"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signal_stops_everything_and_secrets_stay() {
    let (data, port) = (TestDirectory::create(), free_base_port());
    let mut secrets = Vec::new();
    for signal in [Signal::INT, Signal::TERM] {
        let running = up(data.path(), port).spawn().unwrap();
        until_ready(port).await;
        secrets.push(read_secrets(data.path()));

        send(&running, signal);
        let output = tokio::time::timeout(HANGS, running.wait_with_output()).await;

        let output = output.expect("it stops").unwrap();
        assert!(output.status.success(), "{signal:?}: {}", said(&output));
        assert_free(port);
    }
    assert_eq!(secrets[0], secrets[1]);
    for (name, _) in &secrets[0] {
        let secret = data.path().join("secrets").join(name);
        assert_eq!(mode(&secret), 0o600, "{name}");
    }
    assert_eq!(secrets[0].len(), 5);
    assert_eq!(mode(&data.path().join("secrets")), 0o700);
    assert_eq!(mode(&data.path().join("pipekeeper.db")), 0o600);
}

/// A terminal sends Ctrl-C to everything that was started from it: a refresh under way is committed all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_in_a_terminal_loses_no_refresh() {
    let (data, port) = (TestDirectory::create(), free_base_port());
    let running = up(data.path(), port).process_group(0).spawn().unwrap();
    until_ready(port).await;
    let client = Plan::new(data.path().to_owned(), port).client().unwrap();
    client.connect(1, 1).await.unwrap();
    let rotation = json!({"rotation": "single_use"});
    client.sim("settings", &rotation).await.unwrap();
    let mut held = hold_refresh(&client).await;
    let caller = client.clone();
    let refresh = in_background(async move {
        let body = json!({"appId": caller.client_id});
        caller.refresh(&body).await
    });
    let database = format!("sqlite:{}", data.path().join("pipekeeper.db").display());
    let store = testing::open(&Secret::new(database));
    let app = AppKey {
        platform: "Pipedrive".to_owned(),
        app_id: client.client_id.clone(),
    };
    let row = || async {
        store
            .connection_find_by_grant(&app, "1", "1")
            .await
            .unwrap()
            .unwrap()
    };
    held.reached().await;

    let pid = i32::try_from(running.id().unwrap()).unwrap();
    kill_process_group(Pid::from_raw(pid).unwrap(), Signal::INT).unwrap();
    held.release();

    assert_eq!(refresh.await.unwrap().unwrap().status, 200);
    let output = tokio::time::timeout(HANGS, running.wait_with_output()).await;
    assert!(output.expect("it stops").unwrap().status.success());
    assert_eq!((row().await.generation, row().await.lease_owner), (2, None));
    assert_free(port);
}

/// While the processes are still being started, too: none is left behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signal_in_the_middle_of_the_start_leaves_nothing_running() {
    let (data, port) = (TestDirectory::create(), free_base_port());
    let running = up(data.path(), port).spawn().unwrap();
    until("the first process writes its log", || async {
        data.path().join("logs/token-refresher.log").exists()
    })
    .await;

    send(&running, Signal::TERM);

    let output = tokio::time::timeout(HANGS, running.wait_with_output()).await;
    let output = output.expect("it stops").unwrap();
    assert!(output.status.success(), "{}", said(&output));
    until("the ports are free", || async {
        ports(port).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn started_stack_says_where_it_is_and_shows_no_secret() {
    let (data, port) = (TestDirectory::create(), free_base_port());
    let mut running = up(data.path(), port).spawn().unwrap();
    let mut told = Vec::new();
    let mut from = running.stdout.take().unwrap();
    while !String::from_utf8_lossy(&told).contains("Ctrl-C") {
        let reading = tokio::time::timeout(HANGS, from.read_buf(&mut told));
        assert_ne!(reading.await.expect("it goes on").unwrap(), 0);
    }

    let told = String::from_utf8(told).unwrap();
    assert!(told.contains("Pipekeeper is up."), "{told}");
    for port in [port, port + 1, port + 2, port + 10] {
        assert!(told.contains(&format!("http://127.0.0.1:{port}")), "{told}");
    }
    for (name, secret) in read_secrets(data.path()) {
        assert!(!told.contains(secret.trim()), "{name}");
    }
    send(&running, Signal::INT);
    assert!(running.wait().await.unwrap().success());
}

/// Neither the simulator's registration nor a real one, nor anything that was generated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_in_an_environment_or_on_a_command_line() {
    let registration = [
        ("PIPE_DRIVE_CLIENT_ID", "cid"),
        ("PIPE_DRIVE_CLIENT_SECRET", "x-secret-x"),
        ("PIPE_DRIVE_REDIRECT_URL", "https://app.example/cb"),
    ];
    for (environment, processes) in [(&registration[..0], 4), (&registration, 3)] {
        let (data, port) = (TestDirectory::create(), free_base_port());
        let mut command = up(data.path(), port);
        command.envs(environment.iter().copied());
        let running = command.spawn().unwrap();
        until_ready(port).await;

        let started = children(running.id().unwrap());

        assert_eq!(started.len(), processes);
        for process in started {
            for (name, secret) in read_secrets(data.path()) {
                let secret = secret.trim();
                for file in ["environ", "cmdline"] {
                    let shown = fs::read(process.join(file)).unwrap();
                    let shown = String::from_utf8_lossy(&shown);
                    assert!(!shown.contains(secret), "{name}: {shown}");
                }
            }
        }
        send(&running, Signal::INT);
        let ended = tokio::time::timeout(HANGS, running.wait_with_output()).await;
        assert!(ended.expect("it stops").unwrap().status.success());
    }
}

/// The directories below `/proc` of the processes that this one has started.
fn children(of: u32) -> Vec<PathBuf> {
    let is_child = |process: &PathBuf| {
        let status = fs::read_to_string(process.join("status"));
        status.is_ok_and(|status| status.contains(&format!("\nPPid:\t{of}\n")))
    };
    let processes = fs::read_dir("/proc")
        .unwrap()
        .map(|process| process.unwrap().path());
    processes.filter(is_child).collect()
}

#[track_caller]
fn send(running: &Child, signal: Signal) {
    let pid = i32::try_from(running.id().expect("it runs")).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

async fn until_ready(port: u16) {
    let http = stack_tests::Client::http().unwrap();
    until("auth-capture, which starts last, is ready", || async {
        let url = format!("http://127.0.0.1:{port}/readyz");
        let answer = http.get(url).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    })
    .await;
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn read_secrets(data: &Path) -> Vec<(String, String)> {
    let mut secrets: Vec<_> = fs::read_dir(data.join("secrets"))
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (
                entry.file_name().into_string().unwrap(),
                fs::read_to_string(entry.path()).unwrap(),
            )
        })
        .collect();
    secrets.sort();
    secrets
}

//! The store's tests once more, in processes of their own: all at once, or by another way to the database.

use std::process::{Command, Stdio};

use pipekeeper_core::store::Backend;
use pipekeeper_testing::admin_url;

/// Runs one test in so many processes at once, with that variable set. All of them have to pass it.
#[track_caller]
pub(crate) fn at_once(processes: usize, test: &[&str], variable: (&str, &str)) {
    let children: Vec<_> = (0..processes)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args(test)
                .arg("--nocapture")
                .env(variable.0, variable.1)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}{stderr}");
        assert!(said.contains("1 passed"), "{said}");
    }
}

/// Runs the tests that have one of these names and none of those, with that variable set, and says how many they were. Fails
/// if one of them does.
#[track_caller]
pub(crate) fn promises_hold(
    backend: Backend,
    variable: (&str, &str),
    names: &[&str],
    left_out: &[&str],
) -> usize {
    let server = match backend {
        Backend::Postgres => "TEST_POSTGRES_URL",
        Backend::Mysql | Backend::Sqlite => "TEST_MYSQL_URL",
    };
    let output = Command::new(std::env::current_exe().unwrap())
        .args(names)
        .args(left_out.iter().flat_map(|name| ["--skip", name]))
        .env("TEST_BACKENDS", backend.as_str())
        .env(server, admin_url(backend).expose())
        .env(variable.0, variable.1)
        .output()
        .unwrap();

    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    said.split_once("test result: ok. ")
        .and_then(|(_, rest)| rest.split_once(" passed"))
        .and_then(|(count, _)| count.parse().ok())
        .unwrap()
}

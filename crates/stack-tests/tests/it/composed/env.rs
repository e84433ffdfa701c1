//! What `scripts/env` makes, refuses and finds missing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use pipekeeper_testing::TestDirectory;

use super::project::{compose_command, variable};
use crate::support::root;

/// What it reads, in a directory of a test's own.
pub(super) fn copy_to(home: &Path) {
    fs::create_dir(home.join("scripts")).unwrap();
    for file in ["scripts/env", ".env.example"] {
        fs::copy(root().join(file), home.join(file)).unwrap();
    }
}

fn run(home: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    // Not executed itself: a process that another test forks at this moment may still hold the copy open for writing.
    Command::new("bash")
        .arg(home.join("scripts/env"))
        .args(arguments)
        .env_clear()
        .env("PATH", variable("PATH").unwrap())
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn home() -> TestDirectory {
    let home = TestDirectory::create();
    copy_to(home.path());
    home
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn secrets_arrive_as_they_are_and_nobody_else_reads_them() {
    let home = home();
    let secret = r#"pass #word "quoted" a ${HOME} b $x \ 'it' `d` = "#;
    let environment = [
        ("PIPE_DRIVE_CLIENT_SECRET", secret),
        ("WEBHOOK_PASSWORD", secret),
        ("DATABASE_URL", "postgres://u:p%40@h/d?options=-c%20a%3Db"),
        ("PIPE_DRIVE_CLIENT_ID", "cid"),
    ];

    let made = run(home.path(), &[], &environment);

    assert!(made.status.success(), "{made:?}");
    let secrets = home.path().join("secrets/compose");
    let read = |name: &str| fs::read_to_string(secrets.join(name)).unwrap();
    for name in ["client.secret", "webhook.password"] {
        assert_eq!(read(name), format!("{secret}\n"), "{name}");
    }
    assert_eq!(
        read("database.url"),
        "postgres://u:p%40@h/d?options=-c%20a%3Db\n"
    );
    assert_eq!(read("old_table.url"), "");
    assert!(read("encryption.keys").starts_with("k1:"));
    assert_eq!(mode(&home.path().join("secrets")), 0o700);
    assert_eq!(mode(&home.path().join(".env")), 0o600);
    let env = fs::read_to_string(home.path().join(".env")).unwrap();
    assert!(!env.contains("#word"), "{env}");
    // What is there is left alone.
    let again = run(home.path(), &[], &environment);
    assert!(!again.status.success());
    assert_eq!(fs::read_to_string(home.path().join(".env")).unwrap(), env);
}

#[test]
fn what_cannot_arrive_is_refused_by_name_and_nothing_is_made() {
    for (name, value) in [
        ("PIPE_DRIVE_CLIENT_ID", "a ${HOME} b"),
        ("PIPE_DRIVE_CLIENT_ID", "it's"),
        ("OLD_APP_IDS", "a\\b"),
        ("PIPE_DRIVE_REDIRECT_URL", "https://x/\r"),
        ("WEBHOOK_PASSWORD", "two\nlines"),
    ] {
        let home = home();
        let refused = run(home.path(), &[], &[(name, value)]);
        let said = String::from_utf8_lossy(&refused.stderr).to_lowercase();
        let name = name.to_lowercase();
        let named = said.contains(&name) || said.contains(&name.replace('_', "."));
        assert!(!refused.status.success() && named, "{name}: {said}");
        assert!(!home.path().join(".env").exists(), "{name}");
        assert!(!home.path().join("secrets").exists(), "{name}");
    }
}

#[test]
fn what_is_missing_is_named_before_anything_is_built() {
    let home = home();
    let check = || {
        let checked = run(home.path(), &["--check"], &[]);
        let said = String::from_utf8(checked.stderr).unwrap();
        (checked.status.success(), said)
    };
    assert_eq!(
        check(),
        (
            false,
            "scripts/env: there is no .env yet: run scripts/env\n".to_owned()
        )
    );

    let made = run(home.path(), &[], &[]);
    let (fine, said) = check();

    assert!(!fine);
    let missing = [
        "PIPE_DRIVE_CLIENT_ID is not set in .env",
        "PIPE_DRIVE_REDIRECT_URL is not set in .env",
        "./secrets/compose/client.secret is empty: the app's client secret",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), missing);
    let told = String::from_utf8(made.stdout).unwrap();
    assert!(missing.iter().all(|line| told.contains(line)), "{told}");

    let dotenv = home.path().join(".env");
    let env = fs::read_to_string(&dotenv).unwrap();
    let env = env
        .replace("CLIENT_ID=", "CLIENT_ID=cid")
        .replace("REDIRECT_URL=", "REDIRECT_URL=https://x/cb");
    fs::write(&dotenv, &env).unwrap();
    fs::write(home.path().join("secrets/compose/client.secret"), "s\n").unwrap();
    assert_eq!(check(), (true, String::new()));

    let open = env.replace(
        "EDGE_ADDRESS=127.0.0.1",
        "EDGE_ADDRESS=0.0.0.0\nWEBHOOK_PASSWORD=x",
    );
    fs::write(&dotenv, open).unwrap();
    let (fine, said) = check();
    assert!(!fine);
    assert!(
        said.contains("WEBHOOK_PASSWORD in .env: nothing reads it"),
        "{said}"
    );
    assert!(said.contains("PIPEKEEPER_DOMAIN is not set"), "{said}");
}

/// Each value of `.env`, and what there is to say of it.
#[test]
fn mistakes_in_env_are_named_and_what_is_fine_is_not() {
    let fine = "Nothing is missing.";
    let with_domain = "PIPEKEEPER_DOMAIN=crm.example.com\nEDGE_ADDRESS=0.0.0.0\n";
    let with_ports = "EDGE_HTTP_PORT=80\nEDGE_HTTPS_PORT=443\n";
    for (lines, says) in [
        (String::new(), fine),
        (
            "PIPEKEEPER_DOMAIN=crm.example.com".to_owned(),
            "lets in only this machine",
        ),
        (with_domain.to_owned(), "EDGE_HTTP_PORT is still 8080"),
        (with_domain.to_owned(), "EDGE_HTTPS_PORT is still 8443"),
        (format!("{with_domain}{with_ports}"), fine),
        (
            "COMPOSE_PROFILES=edge,postgres".to_owned(),
            "database.url is empty",
        ),
        (
            "COMPOSE_PROFILES=edge,mysql".to_owned(),
            "database.url is empty",
        ),
        (
            "OLD_TABLE_MIRROR=true".to_owned(),
            "OLD_TABLE_MIRROR is true, and ./secrets/compose/old_table.url is empty",
        ),
        (
            "SECRETS_DIRECTORY=secrets/compose".to_owned(),
            "write ./secrets/compose",
        ),
        ("EDGE_ADDRESS=::1".to_owned(), "write [::1]"),
        ("EDGE_ADDRESS=[::1]".to_owned(), fine),
        (
            "CADDY_IMAGE=caddy:2.10.2\nCOMPOSE_PROJECT_NAME=crm".to_owned(),
            fine,
        ),
        (
            "SECRETS_DIRECTORY=\"./secrets/compose\"\nEDGE_ADDRESS=\"127.0.0.1\"".to_owned(),
            fine,
        ),
    ] {
        let home = home();
        let given = [
            ("PIPE_DRIVE_CLIENT_ID", "cid"),
            ("PIPE_DRIVE_REDIRECT_URL", "https://x/cb"),
            ("CLIENT_SECRET", "s"),
        ];
        let made = run(home.path(), &[], &given);
        assert!(made.status.success(), "{made:?}");
        let dotenv = home.path().join(".env");
        let env = fs::read_to_string(&dotenv).unwrap();
        fs::write(&dotenv, format!("{env}{lines}\n")).unwrap();

        let checked = run(home.path(), &["--check"], &[]);

        let said = [checked.stdout, checked.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains(says), "{lines}: {said}");
        assert_eq!(checked.status.success(), says == fine, "{lines}: {said}");
    }
}

#[test]
fn a_database_is_named_once_and_no_password_stands_on_a_command_line() {
    let url = ("DATABASE_URL", "postgres://u:hunter2@h/d");
    for (arguments, environment) in [
        (["--database", "postgres"], [url].as_slice()),
        (["--database", "sqlite"], &[url]),
        (["--database", "postgres://u:hunter2@h/d"], &[]),
    ] {
        let home = home();
        let refused = run(home.path(), &arguments, environment);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(!refused.status.success(), "{arguments:?}");
        assert!(
            said.contains("DATABASE_URL") && !said.contains("hunter2"),
            "{said}"
        );
        assert!(!home.path().join(".env").exists(), "{arguments:?}");
    }
}

#[test]
fn a_demo_lacks_nothing_and_a_domain_opens_the_edge() {
    let demo = home();
    let made = run(demo.path(), &["--profile", "sim"], &[]);
    let told = String::from_utf8(made.stdout).unwrap();
    assert!(
        told.ends_with("Still to be filled in:\nnothing\n"),
        "{told}"
    );

    let domain = home();
    run(
        domain.path(),
        &[],
        &[("PIPEKEEPER_DOMAIN", "crm.example.com")],
    );
    let env = fs::read_to_string(domain.path().join(".env")).unwrap();
    for line in [
        "EDGE_ADDRESS=0.0.0.0\n",
        "EDGE_HTTP_PORT=80\n",
        "EDGE_HTTPS_PORT=443\n",
    ] {
        assert!(env.contains(line), "{env}");
    }
}

/// Compose itself reads what was written.
#[test]
#[ignore = "needs Compose: scripts/test runs it"]
fn values_of_env_arrive_as_they_are() {
    for value in [
        "pass #word",
        "\"quoted\"",
        "a $x b",
        "#",
        "a=b",
        "{\"a\": `b`}",
        "Åcme & Co",
    ] {
        let home = home();
        let made = run(home.path(), &[], &[("PIPE_DRIVE_CLIENT_ID", value)]);
        assert!(made.status.success(), "{value}: {made:?}");
        let compose = "services: {x: {image: x, environment: {A: \"${PIPE_DRIVE_CLIENT_ID}\"}}}\nversion: \"3.8\"\n";
        fs::write(home.path().join("docker-compose.yml"), compose).unwrap();
        let mut words = compose_command().into_iter();
        let read = Command::new(words.next().unwrap())
            .args(words)
            .arg("config")
            .current_dir(home.path())
            .output()
            .unwrap();
        let read = String::from_utf8(read.stdout).unwrap();
        let line = read
            .lines()
            .find_map(|line| line.trim().strip_prefix("A: "));
        // `config` writes `$` as it would have to stand in a file of Compose's.
        let arrived = yaml(line.unwrap()).replace("$$", "$");
        assert_eq!(arrived, value, "{read}");
    }
}

/// A scalar as `docker-compose config` writes it.
fn yaml(scalar: &str) -> String {
    if let Some(inside) = scalar
        .strip_prefix('\'')
        .and_then(|rest| rest.strip_suffix('\''))
    {
        return inside.replace("''", "'");
    }
    serde_json::from_str(scalar).unwrap_or_else(|_| scalar.to_owned())
}

//! `docs/from-n8n.md`, step by step: the commands as they are printed, in one shell.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::Duration;

use pipedrive_sim::{DEFAULT_CLIENT_ID as FIRST, DEFAULT_CLIENT_SECRET};
use pipekeeper_core::store::Backend;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use stack_tests::stack::REDIRECT_URL;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use up::client::fingerprint;
use up::processes::{SERVICES, sibling, stand_in, variable};

use super::fixture::Home;
use super::mirror::aged;
use super::n8n::{CREDENTIAL, N8n, RefreshUrl};
use super::{ALIAS, Fixture};
use crate::support::{EMAIL, NAME, settings, until};

/// The path of n8n's refresh webhook.
const REFRESH_ID: &str = "937a8843-a28a-400a-b473-bdc598366fa0";

const GUIDE: &str = include_str!("../../../../../docs/from-n8n.md");

/// Each section's heading and the blocks of commands in it.
fn sections() -> Vec<(&'static str, Vec<String>)> {
    let mut sections: Vec<(&str, Vec<String>)> = Vec::new();
    let mut in_block = false;
    for line in GUIDE.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            sections.push((heading, Vec::new()));
        }
        let Some((_, blocks)) = sections.last_mut() else {
            continue;
        };
        match line {
            "```sh" => {
                in_block = true;
                blocks.push(String::new());
            }
            "```" => in_block = false,
            line if in_block => {
                let block = blocks.last_mut().unwrap();
                block.push_str(line);
                block.push('\n');
            }
            _ => {}
        }
    }
    sections
}

fn port(home: &Home, service: &str) -> u16 {
    match service {
        "auth-capture" => home.port,
        "data-api" => home.port + 1,
        _ => home.port + 2,
    }
}

/// One shell, as somebody types into it.
struct Shell {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Drop for Shell {
    /// With all that was started from it.
    fn drop(&mut self) {
        let pid = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(pid) = pid {
            let _gone_already = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Shell {
    /// In which the programs of the guide are ours, in the simulator's world, at addresses that are free.
    fn open(fixture: &Fixture) -> Self {
        let home = &fixture.home;
        let bin = home.path("bin");
        fs::create_dir(&bin).unwrap();
        let port = |service: &str| port(home, service);
        let put = |name: &str, text: String| {
            let path = bin.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        for service in SERVICES {
            let metrics = format!("127.0.0.1:{}", port(service) + 1000);
            let mut keys = vec![("http.metrics_listen", metrics)];
            keys.extend(stand_in(&fixture.client.simulator));
            if service == "token-refresher" {
                keys.push(("old_table.api_domain", fixture.client.simulator.clone()));
            }
            let set: Vec<String> = keys
                .into_iter()
                .map(|(key, value)| format!("export {}='{value}'\n", variable(key)))
                .collect();
            let binary = sibling(service).unwrap();
            let script = format!(
                "#!/bin/sh\n{}exec '{}' \"$@\"\n",
                set.concat(),
                binary.display()
            );
            put(service, script);
        }
        let at = |service: &str| format!("127.0.0.1:{}", port(service));
        let mut child = Command::new("bash")
            .env_clear()
            .envs([
                ("PATH", format!("{}:/usr/bin:/bin", bin.display())),
                ("PIPE_DRIVE_CLIENT_ID", FIRST.to_owned()),
                ("PIPE_DRIVE_CLIENT_SECRET", DEFAULT_CLIENT_SECRET.to_owned()),
                ("PIPE_DRIVE_REDIRECT_URL", REDIRECT_URL.to_owned()),
                ("DATABASE_URL", home.ours.url().expose().to_owned()),
                ("OLD_DATABASE_URL", home.old.url().expose().to_owned()),
                ("OLD_APP_ID", ALIAS.to_owned()),
                ("OLD_USER", CREDENTIAL.0.to_owned()),
                ("OLD_PASSWORD", CREDENTIAL.1.to_owned()),
                ("REFRESHER_ADDRESS", at("token-refresher")),
                ("DATA_ADDRESS", at("data-api")),
                ("CALLBACK_ADDRESS", at("auth-capture")),
            ])
            .current_dir(home.path("."))
            .process_group(0)
            .kill_on_drop(true)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        Self {
            output: BufReader::new(child.stdout.take().unwrap()).lines(),
            input,
            child,
        }
    }

    /// What the commands print; each of them has to do well.
    async fn run(&mut self, step: &str, commands: &str) -> String {
        let typed = format!("exec 2>&1\n{{\nset -e\n{commands}set +e\n}}\necho \"@done $?\"\n");
        self.input.write_all(typed.as_bytes()).await.unwrap();
        let mut said = String::new();
        let reading = async {
            while let Some(line) = self.output.next_line().await.unwrap() {
                match line.split_once("@done ") {
                    Some((before, code)) => {
                        said += before;
                        assert_eq!(code, "0", "{step}:\n{said}");
                        return;
                    }
                    None => said = format!("{said}{line}\n"),
                }
            }
            panic!("{step} ended the shell:\n{said}");
        };
        let read = tokio::time::timeout(Duration::from_mins(5), reading).await;
        assert!(read.is_ok(), "{step} does not end");
        said
    }
}

/// From n8n's first consent to its refresh after the way back, with a caller a second: the only gap is the one that the guide
/// names, and no token is spent twice.
pub(crate) async fn guide_is_walked_as_it_is_printed(backend: Backend) {
    let mut fixture = Fixture::with(Backend::Sqlite, backend).await;
    let home = &fixture.home;
    let at = |service: &str| format!("http://127.0.0.1:{}", port(home, service));
    let (auth_capture, token_refresher) = (at("auth-capture"), at("token-refresher"));
    fixture.client.auth_capture = auth_capture;
    fixture.client.token_refresher = token_refresher;
    let rules = json!({
        "rotation": "single_use_with_reuse_detection",
        "old_access_token_after_refresh": "dead",
        "reinstall": "replaces_tokens",
        "unauthorized_body": "n8n",
    });
    settings(&fixture.client, rules).await;
    let n8n = N8n::new(&fixture);
    n8n.callback(1, 1).await;
    n8n.app_id_by_hand();
    assert_eq!(n8n.call().await.as_deref(), Ok(NAME));
    fixture.expire(FIRST, 1).await;
    assert_eq!(
        n8n.call().await.as_deref(),
        Ok(NAME),
        "it refreshes by itself"
    );

    tokio::select! {
        () = walk(&fixture, &n8n, backend) => {}
        never = n8n.probe() => never,
    }

    let failures = n8n.failures();
    let [(GAP, why)] = failures.as_slice() else {
        panic!("{failures:#?}");
    };
    // At its very end the row may not be written yet.
    let is_named = ["CONNECTION_NOT_FOUND", "\"reason\":\"old_table\""]
        .iter()
        .any(|part| why.contains(part));
    assert!(is_named, "{why}");
    assert_eq!(fixture.reused().await, 0);
}

/// Between the save in n8n and the first write of the mirror, right after the import.
const GAP: &str = "5. One save in n8n";

async fn walk(fixture: &Fixture, n8n: &N8n<'_>, backend: Backend) {
    let mut shell = Shell::open(fixture);
    let before = fixture.home.old_rows();
    for (heading, blocks) in sections() {
        if heading != "6. Take over, at once" {
            n8n.begin(heading);
        }
        if heading == "9. Cut over" {
            n8n.save(|workflow| workflow.is_called = false);
        }
        for (number, commands) in (1..).zip(blocks) {
            // In the guide the table is in Postgres.
            let commands = commands.replace("--from postgres", &format!("--from {backend}"));
            let said = shell.run(heading, &commands).await;
            match (heading, number) {
                ("3. See what would be done", _) => {
                    assert!(said.contains("row 1"), "{said}");
                    assert!(said.contains("is taken over"), "{said}");
                    assert_eq!(fixture.home.old_rows(), before);
                }
                ("4. Start the services, with the mirror", _) => {
                    assert!(said.contains("\"degraded\":[]"), "{said}");
                }
                ("6. Take over, at once", 1) => {
                    assert!(said.contains("1 taken over."), "{said}");
                    until("the row has the newest token", || async {
                        fixture.api_takes(&fixture.home.tokens(1).access).await
                    })
                    .await;
                    n8n.begin(heading);
                    works_with_a_new_token(fixture, n8n).await;
                    others_install_through_the_old_callback(fixture, n8n).await;
                }
                ("6. Take over, at once", _) => {
                    let answer: Value = serde_json::from_str(&said).unwrap();
                    assert_eq!(answer["success"], true, "{said}");
                }
                ("8. Port what asks for data", _) => assert_eq!(said.trim(), NAME, "{EMAIL}"),
                ("9. Cut over", _) => assert!(said.contains("active"), "{said}"),
                ("The way back", 2) => {
                    n8n.save(|workflow| {
                        workflow.refresh_node = true;
                        workflow.refresh_url = RefreshUrl::Own;
                        workflow.is_called = true;
                    });
                }
                _ => {}
            }
        }
        if heading == GAP {
            n8n.save(|workflow| {
                workflow.refresh_node = false;
                let url = format!("{}/webhook/{REFRESH_ID}", fixture.client.token_refresher);
                workflow.refresh_url = RefreshUrl::Ours(url);
            });
            fixture.expire(FIRST, 1).await;
            n8n.call().await.unwrap_err();
        }
    }
    let handed = fixture.home.tokens(1);
    assert_eq!(fingerprint(&handed.refresh), fixture.newest(FIRST, 1).await);
    works_with_a_new_token(fixture, n8n).await;
    assert_ne!(fixture.home.tokens(1), handed, "n8n refreshes by itself");
}

/// The same person once more, somebody else, and the first one again.
async fn others_install_through_the_old_callback(fixture: &Fixture, n8n: &N8n<'_>) {
    n8n.callback(1, 1).await;
    fixture.takes_over(1).await;
    works_with_a_new_token(fixture, n8n).await;
    n8n.callback(2, 1).await;
    fixture
        .says("row 1 holds the tokens of another person")
        .await;
    assert_eq!(fixture.default_company(FIRST).await.as_deref(), Some("1"));
    let name = n8n.call().await.unwrap();
    assert!(name.starts_with(NAME), "that person's own token: {name}");
    n8n.callback(1, 1).await;
    fixture.takes_over(1).await;
    works_with_a_new_token(fixture, n8n).await;
}

async fn works_with_a_new_token(fixture: &Fixture, n8n: &N8n<'_>) {
    fixture
        .home
        .ours
        .lines(aged(fixture.home.ours.backend()))
        .unwrap();
    fixture.expire(FIRST, 1).await;
    assert_eq!(n8n.call().await.as_deref(), Ok(NAME));
}

#[test]
fn every_section_of_the_guide_has_its_commands() {
    let blocks: Vec<_> = sections()
        .into_iter()
        .map(|(heading, blocks)| (heading, blocks.len()))
        .collect();
    assert_eq!(
        blocks,
        [
            ("1. What you need", 1),
            ("2. Write the configuration", 3),
            ("3. See what would be done", 1),
            ("4. Start the services, with the mirror", 1),
            (GAP, 0),
            ("6. Take over, at once", 2),
            ("7. The callback", 1),
            ("8. Port what asks for data", 1),
            ("9. Cut over", 1),
            ("The way back", 2),
            ("The same with docker-compose", 0),
            ("What is not as n8n does it", 0),
        ]
    );
}

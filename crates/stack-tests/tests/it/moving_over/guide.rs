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
use tools::client::fingerprint;
use tools::processes::{SERVICES, sibling, stand_in, variable};

use super::{ALIAS, Place};
use crate::support::{EMAIL, NAME, settings};

const GUIDE: &str = include_str!("../../../../../docs/from-n8n.md");

/// The commands of each section, by its heading.
fn steps() -> Vec<(&'static str, String)> {
    let mut steps: Vec<(&str, String)> = Vec::new();
    let (mut heading, mut in_block) = ("", false);
    for line in GUIDE.lines() {
        match line {
            "```sh" => {
                in_block = true;
                steps.push((heading, String::new()));
            }
            "```" => in_block = false,
            line if in_block => {
                let step = steps.last_mut().unwrap();
                step.1.push_str(line);
                step.1.push('\n');
            }
            line => heading = line.strip_prefix("## ").unwrap_or(heading),
        }
    }
    steps
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
    /// In which the programs of the guide are ours, in the simulator's world, on ports that are free.
    fn open(place: &Place) -> Self {
        let home = &place.home;
        let bin = home.path("bin");
        fs::create_dir(&bin).unwrap();
        let port = |service: &str| match service {
            "auth-capture" => home.port,
            "data-api" => home.port + 1,
            _ => home.port + 2,
        };
        let put = |name: &str, text: String| {
            let path = bin.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        for service in SERVICES {
            let at = |port: u16| format!("127.0.0.1:{port}");
            let mut keys = vec![
                ("http.listen", at(port(service))),
                ("http.metrics_listen", at(port(service) + 1000)),
            ];
            keys.extend(stand_in(&place.client.simulator));
            keys.push(if service == "token-refresher" {
                ("old_table.api_domain", place.client.simulator.clone())
            } else {
                let refresher = at(port("token-refresher"));
                (
                    "refresher.url",
                    format!("http://{refresher}/webhook/pipedrive/refresh"),
                )
            });
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
        let mapped = format!(
            "#!/bin/bash\nset -- \"${{@//:8081\\//:{}/}}\"\nset -- \"${{@//:8082\\//:{}/}}\"\nexec /usr/bin/curl \"$@\"\n",
            port("data-api"),
            port("token-refresher")
        );
        put("curl", mapped);
        let mut child = Command::new("bash")
            .env_clear()
            .envs([
                ("PATH", format!("{}:/usr/bin:/bin", bin.display())),
                ("PIPE_DRIVE_CLIENT_ID", FIRST.to_owned()),
                ("PIPE_DRIVE_CLIENT_SECRET", DEFAULT_CLIENT_SECRET.to_owned()),
                ("PIPE_DRIVE_REDIRECT_URL", REDIRECT_URL.to_owned()),
                ("OLD_DATABASE_URL", home.old.url().expose().to_owned()),
                ("OLD_APP_ID", ALIAS.to_owned()),
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
        let read = tokio::time::timeout(Duration::from_mins(1), reading).await;
        assert!(read.is_ok(), "{step} does not end");
        said
    }
}

pub(crate) async fn guide_is_walked_as_it_is_printed(backend: Backend) {
    let place = Place::with(Backend::Sqlite, backend).await;
    let rules = json!({
        "rotation": "single_use_with_reuse_detection",
        "old_access_token_after_refresh": "dead",
    });
    settings(&place.client, rules).await;
    let (one, two) = (
        place.consent(FIRST, 1, 1).await,
        place.consent(FIRST, 2, 1).await,
    );
    place
        .home
        .insert(1, Some(ALIAS), "Pipedrive", &two, "2026-02-01 00:00:00");
    place
        .home
        .insert(2, None, "Pipedrive", &one, "2026-03-01 00:00:00");
    place.expire(FIRST, 2).await;
    let mut shell = Shell::open(&place);
    let before = place.home.old_rows();

    for (step, commands) in steps() {
        // In the guide the table is in Postgres.
        let commands = commands.replace("--from postgres", &format!("--from {backend}"));
        let told = shell.run(step, &commands).await;
        match step {
            "3. See what would be done" => {
                assert!(told.contains("row 2"), "{told}");
                assert!(told.contains("is taken over"), "{told}");
                assert!(told.contains("its access token has expired"), "{told}");
            }
            "4. Take over" => {
                assert!(told.contains("2 taken over."), "{told}");
                assert_eq!(place.home.old_rows(), before);
            }
            "6. Let the workflows ask here for refreshes" => {
                let answer: Value = serde_json::from_str(&told).unwrap();
                assert_eq!(answer["success"], true, "{told}");
                for row in [1, 2] {
                    let token = place.home.tokens(row).access;
                    crate::support::until("the row has a token that works", || async {
                        place.api_takes(&token).await
                            || place.api_takes(&place.home.tokens(row).access).await
                    })
                    .await;
                }
            }
            "7. Port what asks for data" => assert_eq!(told.trim(), NAME, "{EMAIL}"),
            "8. Cut over" => assert!(told.contains("active"), "{told}"),
            _ => {}
        }
    }

    for (row, company) in [(1, 2), (2, 1)] {
        let handed = place.home.tokens(row);
        assert_eq!(
            fingerprint(&handed.refresh),
            place.newest(FIRST, company).await
        );
        place.n8n_spends(FIRST, &handed.refresh).await.unwrap();
    }
    assert_eq!(place.reused().await, 0);
}

#[test]
fn every_section_of_the_guide_has_its_commands() {
    let headings: Vec<&str> = steps().into_iter().map(|(heading, _)| heading).collect();
    assert_eq!(headings.len(), 10, "{headings:?}");
}

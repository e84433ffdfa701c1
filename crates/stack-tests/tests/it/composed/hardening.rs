//! What each container may do, and who can reach it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::project::Project;

/// Of every container, those of the one-shot jobs among them.
pub(super) fn holds(project: &Project) {
    let mut publishing = BTreeSet::new();
    for container in project.containers(None) {
        let container = project.inspect(&container);
        let (config, host) = (&container["Config"], &container["HostConfig"]);
        let service = service_of(&container);
        let user = config["User"].as_str().unwrap();
        assert!(
            !["", "0", "root"].contains(&user.split(':').next().unwrap()),
            "{service}: {user}"
        );
        assert_eq!(host["ReadonlyRootfs"], true, "{service}");
        assert_eq!(host["Privileged"], false, "{service}");
        assert_eq!(host["CapDrop"], json!(["ALL"]), "{service}");
        assert!(
            host["CapAdd"].is_null() || service == "edge",
            "{service}: {}",
            host["CapAdd"]
        );
        assert_eq!(
            host["SecurityOpt"],
            json!(["no-new-privileges:true"]),
            "{service}"
        );
        for limit in ["Memory", "NanoCpus", "PidsLimit"] {
            assert!(
                host[limit].as_u64().is_some_and(|limit| limit > 0),
                "{service}: {limit}"
            );
        }
        let is_job = ["secrets", "migrate"].contains(&service);
        let restarts = if is_job { "no" } else { "unless-stopped" };
        assert_eq!(host["RestartPolicy"]["Name"], restarts, "{service}");
        for (port, bound) in container["NetworkSettings"]["Ports"].as_object().unwrap() {
            for at in bound.as_array().into_iter().flatten() {
                assert_eq!(at["HostIp"], "127.0.0.1", "{service} {port}");
                publishing.insert((
                    service.to_owned(),
                    at["HostPort"].as_str().unwrap().parse::<u16>().unwrap(),
                ));
            }
        }
    }
    reads_and_reaches_what_it_needs(project);
    let expected = BTreeSet::from([
        ("edge".to_owned(), project.http_port),
        ("edge".to_owned(), project.http_port + 1),
        ("pipedrive-sim".to_owned(), project.simulator_port),
    ]);
    assert_eq!(publishing, expected);
}

/// Which volumes with secrets a container has, the files that it finds there, and the networks that it is on.
fn needed(service: &str) -> (Vec<&'static str>, Vec<&'static str>, Vec<&'static str>) {
    let beside_own = |own: &[&'static str]| {
        let mut files = vec![
            "database.url",
            "encryption.keys",
            "provider.toml",
            "refresher.password",
        ];
        files.extend(own);
        files.sort_unstable();
        files
    };
    let all = vec!["database", "edge", "services"];
    match service {
        "secrets" => (
            vec![
                "secrets",
                "secrets-auth-capture",
                "secrets-data-api",
                "secrets-mysql",
                "secrets-postgres",
                "secrets-token-refresher",
            ],
            vec![],
            vec!["services"],
        ),
        "migrate" => (
            vec!["secrets-auth-capture"],
            vec![],
            vec!["database", "services"],
        ),
        "auth-capture" => (
            vec!["secrets-auth-capture"],
            beside_own(&["client.secret", "operator.password"]),
            all,
        ),
        "data-api" => (
            vec!["secrets-data-api"],
            beside_own(&["webhook.password"]),
            all,
        ),
        "token-refresher" => (
            vec!["secrets-token-refresher"],
            beside_own(&["client.secret", "old_table.url"]),
            all,
        ),
        "postgres" => (
            vec!["secrets-postgres"],
            vec!["database.password"],
            vec!["database"],
        ),
        "mysql" => (
            vec!["secrets-mysql"],
            vec!["database.password", "database.root.password"],
            vec!["database"],
        ),
        "edge" => (vec![], vec![], vec!["edge"]),
        "pipedrive-sim" => (vec![], vec![], vec!["services"]),
        other => panic!("{other} is new"),
    }
}

fn reads_and_reaches_what_it_needs(project: &Project) {
    for container in project.containers(None) {
        let container = project.inspect(&container);
        let service = service_of(&container);
        let (volumes, files, networks) = needed(service);
        let without_project = |name: &str| name.split_once('_').unwrap().1.to_owned();
        let mut mounted: Vec<_> = container["Mounts"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|mount| mount["Name"].as_str())
            .filter(|name| name.contains("_secrets"))
            .map(without_project)
            .collect();
        mounted.sort();
        assert_eq!(mounted, volumes, "{service}");
        let reached = container["NetworkSettings"]["Networks"]
            .as_object()
            .unwrap();
        let mut reached: Vec<_> = reached.keys().map(|name| without_project(name)).collect();
        reached.sort();
        assert_eq!(reached, networks, "{service}");
        if !files.is_empty() {
            let list = ["exec", "-T", service, "ls", "/run/secrets"];
            let found = project.compose(&list);
            assert_eq!(found.lines().collect::<Vec<_>>(), files, "{service}");
        }
    }
}

/// Neither in an environment nor on a command line, of no container: not of the jobs either.
pub(super) fn no_secret_is_in_an_environment(project: &Project) {
    let mut secrets = BTreeSet::new();
    let services = [
        "auth-capture",
        "data-api",
        "token-refresher",
        "postgres",
        "mysql",
    ];
    for service in services {
        if project.containers(Some(service)).is_empty() {
            continue;
        }
        let files = "cd /run/secrets && \
             cat *.password client.secret encryption.keys database.url 2>/dev/null | grep -v ^sqlite:; true";
        let read = project.compose(&["exec", "-T", service, "sh", "-c", files]);
        secrets.extend(read.lines().map(str::to_owned));
    }
    assert!(secrets.len() >= 5, "{}", secrets.len());
    for container in project.containers(None) {
        let container = project.inspect(&container);
        let service = service_of(&container);
        let shown = format!("{} {}", container["Config"], container["Args"]);
        for secret in &secrets {
            assert!(!shown.contains(secret), "{service}: {shown}");
        }
    }
}

fn service_of(container: &Value) -> &str {
    container["Config"]["Labels"]["com.docker.compose.service"]
        .as_str()
        .unwrap()
}

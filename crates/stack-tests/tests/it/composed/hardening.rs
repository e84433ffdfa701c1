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
    let expected = BTreeSet::from([
        ("edge".to_owned(), project.http_port),
        ("edge".to_owned(), project.http_port + 1),
        ("pipedrive-sim".to_owned(), project.simulator_port),
    ]);
    assert_eq!(publishing, expected);
}

/// The job that writes them down has some in its own.
pub(super) fn no_secret_is_in_an_environment(project: &Project) {
    let files = "cd /run/secrets && cat *.password client.secret encryption.keys";
    let secrets = project.compose(&["exec", "-T", "data-api", "sh", "-c", files]);
    let mut looked_at = 0;
    for container in project.containers(None) {
        let container = project.inspect(&container);
        let service = service_of(&container);
        if ["secrets", "pipedrive-sim"].contains(&service) {
            continue;
        }
        let environment = container["Config"].to_string();
        for secret in secrets.lines() {
            assert!(!environment.contains(secret), "{service}: {environment}");
            looked_at += 1;
        }
    }
    assert!(looked_at > 20);
}

fn service_of(container: &Value) -> &str {
    container["Config"]["Labels"]["com.docker.compose.service"]
        .as_str()
        .unwrap()
}

//! What docker-compose.yml promises, with the images that it builds and real containers. Tests that need Compose are ignored
//! unless `--ignored` asks for them; `TEST_COMPOSE=built` takes the images that are there instead of building them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use serde_json::{Value, json};
use stack_tests::{Client, Reply};
use tokio_util::sync::CancellationToken;
use up::client::{CALLBACK, PERSON, REFRESH};
use up::demo;
use up::processes::SERVICES;
use up::tasks::in_background;

use crate::support::{EMAIL, HANGS, NAME, crowd, expire, refreshes, root, settings, until};

mod env;
mod hardening;
mod load;
mod project;
mod slow;

use project::Project;

async fn told(client: &Client) {
    let mut told = Vec::new();
    let held = demo::play(client, &mut told).await;
    assert!(held.is_ok(), "{held:?}\n{}", String::from_utf8_lossy(&told));
}

async fn person(client: &Client) -> bool {
    let answer = client.person(EMAIL).await;
    answer.is_ok_and(|answer| answer.status == 200 && answer.body == NAME)
}

/// Everything that was named in `.env.example` is of use, and nothing else can be set.
#[test]
fn env_example_names_what_docker_compose_reads() {
    let compose = fs::read_to_string(root().join("docker-compose.yml")).unwrap();
    let example = fs::read_to_string(root().join(".env.example")).unwrap();

    let read: BTreeSet<_> = compose
        .split("${")
        .skip(1)
        .map(|rest| rest.split([':', '}']).next().unwrap())
        .collect();
    let named: BTreeSet<_> = example
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| Some(line.split_once('=')?.0))
        // Compose's own.
        .filter(|name| *name != "COMPOSE_PROFILES")
        .collect();
    // Of the environment: an .env of another day must not keep old images.
    let read: BTreeSet<_> = read
        .into_iter()
        .filter(|name| !name.ends_with("_IMAGE") && *name != "PIPEKEEPER_COMMIT")
        .collect();

    assert_eq!(read, named);
}

#[test]
fn images_are_labelled_with_this_version() {
    let dockerfile = fs::read_to_string(root().join("deploy/Dockerfile")).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let label = format!("org.opencontainers.image.version={version} ");
    assert!(dockerfile.contains(&label), "{label}");
}

/// Down to the patch: what was tested is what is run.
#[test]
fn images_are_named_by_exact_versions() {
    let mut images = Vec::new();
    for file in ["docker-compose.yml", "deploy/Dockerfile"] {
        let text = fs::read_to_string(root().join(file)).unwrap();
        let named = text.split("_IMAGE").skip(1);
        let defaults = named.filter_map(|rest| rest.strip_prefix(":-").or(rest.strip_prefix('=')));
        let until_end = |text: &str| text.split(['}', '\n']).next().unwrap().to_owned();
        images.extend(defaults.map(until_end));
        let own = |line: &&str| line.trim().starts_with("image: ") && !line.contains("pipekeeper/");
        let others = text
            .lines()
            .filter(own)
            .filter(|line| !line.contains("_IMAGE"));
        assert_eq!(others.count(), 0, "{file}");
    }
    assert_eq!(images.len(), 7, "{images:?}");
    for image in images {
        let (name, tag) = image.split_once(':').unwrap();
        let version = tag.split('-').next().unwrap();
        let parts: Vec<_> = version.split('.').collect();
        let numbers = parts.iter().all(|part| part.parse::<u32>().is_ok());
        // The releases of Postgres and Debian have two parts.
        let exact = if ["postgres", "debian"].contains(&name) {
            2
        } else {
            3
        };
        assert!(numbers && parts.len() == exact, "{image}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Compose: scripts/test runs it"]
async fn demo_comes_up_without_any_configuration() {
    let project = Project::bare(&["sim"]);

    project.compose(&["up", "--detach"]);
    project.healthy().await;

    let client = project.client();
    told(&client).await;
    hardening::holds(&project);
    hardening::no_secret_is_in_an_environment(&project);
    for path in [
        REFRESH,
        "/webhook/pipedrive/refresh",
        "/metrics",
        "/readyz",
        "/openapi.json",
        "/",
    ] {
        let url = format!("{}{path}", client.data_api);
        for request in [
            client.http.get(&url),
            client.http.post(&url).json(&json!({})),
        ] {
            assert_eq!(request.send().await.unwrap().status(), 404, "{path}");
        }
    }
    let large = client
        .http
        .post(format!("{}{PERSON}", client.data_api))
        .body(vec![b' '; 200_000]);
    assert_eq!(large.send().await.unwrap().status(), 413);
    one_address_stays_one_whatever_it_calls_itself(&client).await;
}

/// `edge` says who its clients are: what they say of it counts for nothing, or no one would ever be turned away.
async fn one_address_stays_one_whatever_it_calls_itself(client: &Client) {
    // More than `login.installs_per_minute` at once.
    for attempt in 0..60 {
        let url = format!("{}{CALLBACK}?code=junk-{attempt}", client.auth_capture);
        let request = client.http.get(url).header("accept", "application/json");
        let request = request.header("x-forwarded-for", format!("192.0.2.{attempt}"));
        let answer = Reply::of(request.send().await.unwrap()).await.unwrap();
        if answer.status == 429 {
            answer.expect_problem(429, "RATE_LIMITED");
            return;
        }
        assert_eq!(answer.status, 400, "{attempt}");
    }
    panic!("nobody was turned away");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Compose: scripts/test runs it"]
async fn without_a_registration_and_a_simulator_it_says_what_is_missing() {
    let project = Project::bare(&[]);

    let ended = project.try_compose(&["up", "--detach"]);

    assert!(!ended.status.success());
    let said = project.compose(&["logs", "--no-color", "secrets"]);
    assert!(said.contains("PIPE_DRIVE_CLIENT_ID is not set"), "{said}");
    for service in SERVICES {
        for container in project.containers(Some(service)) {
            assert_eq!(
                project.inspect(&container)["State"]["Running"],
                false,
                "{service}"
            );
        }
    }
}

/// Without a certificate no one else is let in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Compose: scripts/test runs it"]
async fn an_edge_that_is_open_to_the_network_needs_a_domain() {
    let project = Project::with_env(
        &["--profile", "sim"],
        &[("EDGE_ADDRESS", "0.0.0.0"), ("PIPE_DRIVE_CLIENT_ID", "cid")],
    );

    let ended = project.try_compose(&["up", "--detach"]);

    assert!(!ended.status.success());
    let said = project.compose(&["logs", "--no-color", "secrets"]);
    for missing in [
        "PIPEKEEPER_DOMAIN is not set",
        "PIPE_DRIVE_REDIRECT_URL is not set",
        "client secret is missing",
    ] {
        assert!(said.contains(missing), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Compose: scripts/test runs it"]
async fn a_domain_is_served_over_tls() {
    let project = Project::bare(&["edge"]);
    let adapt = ["caddy", "adapt", "--config", "/etc/caddy/Caddyfile"];
    let mut arguments = vec![
        "run",
        "-T",
        "--rm",
        "--no-deps",
        "-e",
        "PIPEKEEPER_DOMAIN=crm.example.com",
        "edge",
    ];
    arguments.extend(adapt);

    let adapted: Value = serde_json::from_str(&project.compose(&arguments)).unwrap();

    let server = &adapted["apps"]["http"]["servers"]["srv0"];
    assert_eq!(server["listen"], json!([":8443"]));
    assert_eq!(
        server["routes"][0]["match"][0]["host"],
        json!(["crm.example.com"])
    );
}

/// With the `.env` that `scripts/env` makes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Compose: scripts/test runs it"]
async fn killed_refresher_and_database_come_back_and_nothing_is_lost() {
    let project = Project::with_env(
        &["--database", "postgres", "--profile", "sim"],
        &[("PIPEKEEPER_EDGE_REFRESH", "on")],
    );
    let mode = fs::metadata(project.env_file())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    project.compose(&["up", "--detach"]);
    project.healthy().await;
    let mut client = project.client();
    told(&client).await;
    hardening::holds(&project);
    hardening::no_secret_is_in_an_environment(&project);

    // The provider commits, the answer is on its way, and no one is there to take it.
    let fault = json!({"on": "token", "grant": "refresh_token", "fault": "commit_then_hang"});
    client.sim("faults", &fault).await.unwrap();
    settings(&client, json!({"access_ttl_secs": 2})).await;
    let before = client.stats().await.unwrap()["refreshes"].as_u64().unwrap();
    client.token_refresher.clone_from(&client.data_api);
    // Of a consent of its own: what was minted for a 401 waits before it is renewed for another.
    let connection = client.connect(1, 1).await.unwrap();
    let body = json!({"connectionId": connection["id"], "generation": connection["generation"]});
    let (caller, asked) = (client.clone(), body.clone());
    let waiting = in_background(async move { caller.refresh(&asked).await });
    until("the provider has committed", || async {
        client.stats().await.unwrap()["refreshes"] == before + 1
    })
    .await;
    project.crash("token-refresher").await;
    drop(waiting.await.unwrap());
    until("the refresh is done by the next process", || async {
        let answer = client.refresh(&body).await;
        answer.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    assert!(person(&client).await);

    // Tokens live for two seconds; a lost one would end the connection.
    let rotation = json!({"rotation": "single_use_with_reuse_detection"});
    settings(&client, rotation).await;
    let stop = CancellationToken::new();
    let (caller, stopped) = (client.clone(), stop.clone());
    let asking = in_background(async move {
        while !stopped.is_cancelled() {
            person(&caller).await;
        }
    });
    let some_more = async || {
        let so_far = refreshes(&client).await;
        until("tokens are refreshed", || async {
            refreshes(&client).await > so_far + 1
        })
        .await;
    };
    some_more().await;
    project.crash("postgres").await;
    project.healthy().await;
    some_more().await;
    stop.cancel();
    asking.await.unwrap();
    until("the person is found", || person(&client)).await;
    let stats = client.stats().await.unwrap();
    assert_eq!(stats["refresh_token_reuse"], 0, "{stats}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Compose: scripts/test runs it"]
async fn three_data_apis_and_two_refreshers_cost_one_refresh() {
    let project = Project::bare(&["sim"]);
    let scales = ["--scale", "data-api=3", "--scale", "token-refresher=2"];
    project.compose(&[&["up", "--detach"], &scales[..]].concat());
    project.healthy().await;
    let client = project.client();
    client.connect(1, 1).await.unwrap();
    expire(&client).await;

    let answers = crowd((0..60).map(|_| client.clone()), EMAIL).await;

    for answer in answers {
        assert_eq!(answer.expect(200).body, NAME);
    }
    assert_eq!(refreshes(&client).await, 1);
    // Requests that come at once may all go to one of them.
    for _ in 0..40 {
        assert!(person(&client).await);
    }
    for container in project.containers(Some("data-api")) {
        let address = project::address_of(&project.inspect(&container));
        let metrics = client.http.get(format!("http://{address}:9081/metrics"));
        let metrics = metrics.send().await.unwrap().text().await.unwrap();
        let asked = metrics.contains("route=\"/webhook/pipedrive/person\"");
        assert!(asked, "{container} was left out: {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Compose: scripts/test runs it"]
async fn mysql_beside_the_services_holds_the_story() {
    let project = Project::with_env(&["--database", "mysql", "--profile", "sim"], &[]);

    project.compose(&["up", "--detach"]);
    project.healthy().await;

    told(&project.client()).await;
    hardening::holds(&project);
    hardening::no_secret_is_in_an_environment(&project);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Compose: scripts/test runs it"]
async fn everything_behind_edge_restarts_one_by_one_and_no_request_fails() {
    let project = Project::bare(&["sim"]);
    project.compose(&["up", "--detach"]);
    project.healthy().await;
    let client = project.client();
    client.connect(1, 1).await.unwrap();
    let stop = CancellationToken::new();
    let load = in_background(load::run(client.clone(), stop.clone()));

    for service in SERVICES {
        restart_each(&project, service).await;
    }
    project.compose(&["up", "--detach", "--scale", "data-api=3"]);
    project.healthy().await;
    restart_each(&project, "data-api").await;

    stop.cancel();
    let tally = load.await.unwrap();
    eprintln!("{tally:?}");
    assert_eq!(tally.failures, Vec::<String>::new());
    // At up to 200 a second.
    assert!(tally.answered > 200, "{tally:?}");
}

/// Neither memory nor time runs out: who does not go on is turned away, and the others are served then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Compose: scripts/test runs it"]
async fn senders_that_do_not_go_on_bring_nothing_down() {
    let project = Project::bare(&["sim"]);
    project.compose(&["up", "--detach"]);
    project.healthy().await;
    let client = project.client();
    client.connect(1, 1).await.unwrap();
    let edge = format!("{}:8080", project.address("edge"));

    let attack =
        in_background(
            async move { tokio::time::timeout(HANGS, slow::senders(&edge, 4_000)).await },
        );
    let mut served = 0;
    while !attack.is_finished() {
        served += u32::from(person(&client).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    assert!(served > 0, "nobody else was served meanwhile");
    let senders = attack.await.unwrap().expect("each is turned away");
    assert!(senders > 2_000, "{senders}");
    until("the person is found", || person(&client)).await;
    let edge = project.inspect(&project.containers(Some("edge"))[0]);
    assert_eq!(edge["RestartCount"], 0, "{}", edge["State"]);
    assert_eq!(edge["State"]["OOMKilled"], false);
}

async fn restart_each(project: &Project, service: &str) {
    for container in project.containers(Some(service)) {
        project.docker(&["restart", "--time", "35", &container]);
        project.healthy().await;
    }
}

//! `token-refresher connections …` beside the running stack, as an operator types it.

use std::process::Stdio;

use pipekeeper_core::connection::ConnectionId;
use pipekeeper_core::store::{Backend, Store};
use pipekeeper_core::vault::Vault;
use pipekeeper_testing::{TestDatabase, TestDirectory};
use serde_json::{Value, json};
use up::client::{Client, shows_a_token};
use up::processes::{Plan, Processes, free_base_port};

use crate::support::{EMAIL, books, fault, id_of, refreshes, until};

/// A running stack, and a terminal beside it.
struct Beside {
    processes: Processes,
    client: Client,
    store: Store,
    database: TestDatabase,
    vault: Vault,
    _home: TestDirectory,
}

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    /// What it printed; it has to have gone well.
    #[track_caller]
    fn well(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        assert_eq!(self.err, "");
        self.out
    }

    /// Why it failed.
    #[track_caller]
    fn badly(self) -> String {
        assert_eq!(self.code, Some(1), "{}{}", self.out, self.err);
        assert_eq!(self.out, "");
        self.err
    }
}

impl Beside {
    async fn start(backend: Backend) -> Self {
        let database = TestDatabase::migrated(backend).await;
        let home = TestDirectory::create();
        let mut plan = Plan::new(home.path().to_owned(), free_base_port());
        plan.database_url = Some(database.url());
        let every = "token-refresher.sweep.every_secs".to_owned();
        plan.set.push((every, "1".to_owned()));
        let processes = Processes::start(plan.clone()).await.unwrap();
        Self {
            client: plan.client().unwrap(),
            processes,
            store: database.store(),
            database,
            vault: plan.vault().unwrap(),
            _home: home,
        }
    }

    /// `token-refresher connections …`. Whatever it says, it says no token.
    async fn connections(&self, arguments: &[&str]) -> Said {
        let mut command = self.processes.plan.command("token-refresher").unwrap();
        command.arg("connections").args(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = command.output().await.unwrap();
        let said = Said {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        };
        let all = format!("{}{}", said.out, said.err);
        assert!(!shows_a_token(&all), "{all}");
        for token in self.tokens().await {
            assert!(!all.contains(&token), "{all}");
        }
        said
    }

    /// Every token that is stored now.
    async fn tokens(&self) -> Vec<String> {
        let ids = self.database.lines("SELECT id AS line FROM connections");
        let mut tokens = Vec::new();
        for id in ids.unwrap() {
            let row = self.row(&id.parse().unwrap()).await;
            if row.access_token.is_wiped() {
                continue;
            }
            for token in [
                self.vault.access_token(&row).unwrap(),
                self.vault.refresh_token(&row).unwrap(),
            ] {
                tokens.push(token.expose().to_owned());
            }
        }
        tokens
    }

    async fn row(&self, id: &ConnectionId) -> pipekeeper_core::connection::Connection {
        self.store.connection_find(id).await.unwrap().unwrap()
    }
}

fn parsed(document: &str) -> Value {
    serde_json::from_str(document).unwrap()
}

pub(crate) async fn connections_are_listed_and_shown(backend: Backend) {
    let beside = Beside::start(backend).await;
    let Beside { client, .. } = &beside;
    assert_eq!(
        beside.connections(&["list"]).await.well(),
        "no connections\n"
    );
    let mut ids = Vec::new();
    for user in 1..=3 {
        let connection = client.connect(1, user).await.unwrap();
        ids.push(id_of(&connection).to_string());
    }

    let table = beside.connections(&["list"]).await.well();
    assert_eq!(table.lines().count(), 4, "{table}");
    for (line, id) in table.lines().skip(1).zip(&ids) {
        assert!(
            line.starts_with(id) && line.contains("  active  "),
            "{table}"
        );
    }

    let first = parsed(
        &beside
            .connections(&["list", "--json", "--limit", "2"])
            .await
            .well(),
    );
    let of = |page: &Value| -> Vec<Value> { page["connections"].as_array().unwrap().clone() };
    assert_eq!(of(&first).len(), 2);
    assert_eq!(of(&first)[0]["account_id"], "~pipedrive:1");
    assert_eq!(of(&first)[0]["state"], "active");
    assert_eq!(first["next_after"], ids[1].as_str());
    let rest = ["list", "--json", "--after", &ids[1]];
    let rest = parsed(&beside.connections(&rest).await.well());
    assert_eq!(of(&rest)[0]["id"], ids[2].as_str());
    assert_eq!(rest["next_after"], Value::Null);

    for (filter, lines) in [
        (&["--account", "~pipedrive:1"][..], 4),
        (&["--account", "nobody"], 1),
        (&["--state", "active", "--app", "pipedrive"], 4),
        (&["--state", "revoked"], 1),
    ] {
        let said = beside.connections(&[&["list"], filter].concat()).await;
        let table = said.well();
        assert_eq!(table.lines().count(), lines, "{filter:?} {table}");
    }
    let unknown = beside.connections(&["list", "--app", "nobody"]).await;
    assert!(unknown.badly().contains("no app `nobody`"));

    let shown = beside.connections(&["show", &ids[1]]).await.well();
    assert!(shown.contains(&ids[1]), "{shown}");
    assert!(shown.contains("\nuser_id"), "{shown}");
    let document = ["show", &ids[1], "--json"];
    let document = parsed(&beside.connections(&document).await.well());
    assert_eq!(document["connection"]["user_id"], "2");
    assert_eq!(document["refresh_log"], json!([]));
    for command in ["show", "refresh", "disconnect", "default"] {
        let said = beside.connections(&[command, "0000"]).await;
        assert_eq!(said.badly(), "no connection 0000\n");
    }
    beside.processes.stop().await.unwrap();
}

pub(crate) async fn operator_chooses_the_default_connection(backend: Backend) {
    let beside = Beside::start(backend).await;
    let Beside { client, .. } = &beside;
    let mut ids = Vec::new();
    for user in 1..=3 {
        let connection = client.connect(1, user).await.unwrap();
        ids.push(id_of(&connection).to_string());
    }
    let served = async || {
        let mut served = Vec::new();
        for body in [
            json!({"generation": 0}),
            json!({"accountId": "~pipedrive:1", "generation": 0}),
        ] {
            let said = client.refresh(&body).await.unwrap().expect(200).json();
            let id = said["connectionId"].as_str().unwrap();
            served.push(ids.iter().position(|known| known == id).unwrap());
        }
        served
    };
    assert_eq!(served().await, [0, 0]);
    // Anybody's install made it the default: that is logged, once.
    let log = beside.processes.plan.data.join("logs/auth-capture.log");
    let log = std::fs::read_to_string(log).unwrap();
    let warned: Vec<_> = log
        .lines()
        .filter(|line| line.contains("the first install became the default"))
        .collect();
    assert_eq!(warned.len(), 1, "{log}");
    assert!(
        warned[0].contains("WARN") && warned[0].contains(&ids[0]),
        "{log}"
    );

    let said = beside.connections(&["default", &ids[1]]).await.well();
    assert!(said.contains("of its app and of its account"), "{said}");
    assert_eq!(served().await, [1, 1]);
    let said = ["default", &ids[2], "--account-only"];
    let said = beside.connections(&said).await.well();
    assert!(said.contains("of its account from now on"), "{said}");
    assert_eq!(served().await, [1, 2]);
    let list = beside.connections(&["list"]).await.well();
    let default_of = |index: usize| {
        let line = list.lines().find(|line| line.starts_with(&ids[index]));
        line.unwrap()
            .split("  ")
            .map(str::trim)
            .nth(4)
            .unwrap()
            .to_owned()
    };
    assert_eq!([0, 1, 2].map(default_of), ["-", "app", "account"], "{list}");

    beside.connections(&["disconnect", &ids[0]]).await.well();
    let ended = beside.connections(&["default", &ids[0]]).await.badly();
    assert!(ended.contains("has ended"), "{ended}");
    assert_eq!(served().await, [1, 2]);
    // As after a login of somebody else to the same account.
    let given = "UPDATE default_connections SET user_id = '9'";
    beside.database.lines(given).unwrap();
    let list = beside.connections(&["list"]).await.well();
    for (whose, id) in [("app", &ids[1]), ("account ~pipedrive:1 of app", &ids[2])] {
        let gone = format!("The default connection of {whose} pipedrive is gone: {id}");
        assert!(list.contains(&gone), "{list}");
    }
    let list = parsed(&beside.connections(&["list", "--json"]).await.well());
    let gone = json!([
        {"app": "pipedrive", "connection_id": ids[1]},
        {"app": "pipedrive", "account_id": "~pipedrive:1", "connection_id": ids[2]},
    ]);
    assert_eq!(list["gone_defaults"], gone);
    beside.processes.stop().await.unwrap();
}

pub(crate) async fn operator_refreshes_like_a_caller(backend: Backend) {
    let beside = Beside::start(backend).await;
    let Beside { client, .. } = &beside;
    let connection = client.connect(1, 1).await.unwrap();
    let id = id_of(&connection);
    let refresh = ["refresh", id.as_str()];

    let said = beside.connections(&refresh).await.well();

    assert!(said.starts_with("refreshed: generation 1 → 2"), "{said}");
    assert_eq!(refreshes(client).await, 1);
    assert_eq!(beside.row(&id).await.generation, 2);
    let shown = ["show", id.as_str(), "--json"];
    let shown = parsed(&beside.connections(&shown).await.well());
    assert_eq!(shown["refresh_log"][0]["trigger_kind"], "operator");
    assert_eq!(shown["refresh_log"][0]["generation_after"], 2);

    // As after some renewals that no one needed: the next may come a minute later.
    let early = "UPDATE connections SET early_renewals = 7";
    beside.database.lines(early).unwrap();
    let why = beside.connections(&refresh).await.badly();
    assert!(
        why.starts_with("not refreshed: its token was renewed"),
        "{why}"
    );
    assert_eq!(refreshes(client).await, 1);

    beside
        .database
        .lines("UPDATE connections SET early_renewals = 0")
        .unwrap();
    let refusal = json!({"on": "token", "fault": "invalid_grant", "grant": "refresh_token"});
    fault(client, refusal).await;
    let why = beside.connections(&refresh).await.badly();
    assert!(why.contains("it is reauth_required (rejected)"), "{why}");
    assert!(why.contains("recheck"), "{why}");
    beside.processes.stop().await.unwrap();
}

pub(crate) async fn operator_disconnects_and_the_provider_is_told(backend: Backend) {
    let beside = Beside::start(backend).await;
    let Beside { client, .. } = &beside;
    let (connection, other) = (
        client.connect(1, 1).await.unwrap(),
        client.connect(2, 2).await.unwrap(),
    );
    let id = id_of(&connection);
    client
        .person_of(&connection, EMAIL)
        .await
        .unwrap()
        .expect(200);
    let disconnect = ["disconnect", id.as_str()];

    let said = beside.connections(&disconnect).await.well();

    assert!(said.starts_with("disconnected: "), "{said}");
    assert!(said.contains("The provider is told"), "{said}");
    until("the provider is told", || async {
        client.stats().await.unwrap()["revocations"] == json!({"grant": 1})
    })
    .await;
    assert_eq!(books(client, 1, 1).await["state"], "revoked");
    until("the tokens are wiped", || async {
        let row = beside.row(&id).await;
        !row.revoke_pending && row.refresh_token.is_wiped()
    })
    .await;
    let row = beside.row(&id).await;
    assert_eq!(row.state_reason.as_deref(), Some("disconnected"));
    let again = beside.connections(&disconnect).await.well();
    assert!(
        again.starts_with("nothing to do: it is revoked (disconnected)"),
        "{again}"
    );
    let why = beside.connections(&["refresh", id.as_str()]).await.badly();
    assert!(why.contains("only a new consent revives it"), "{why}");
    let revoked = ["list", "--state", "revoked", "--json"];
    let revoked = parsed(&beside.connections(&revoked).await.well());
    assert_eq!(revoked["connections"][0]["id"], id.as_str());
    assert_eq!(revoked["connections"].as_array().unwrap().len(), 1);

    // No one else's connection has ended, and data-api knows of the end soon.
    client.person_of(&other, EMAIL).await.unwrap().expect(200);
    until("data-api knows", || async {
        client.person_of(&connection, EMAIL).await.unwrap().status == 401
    })
    .await;
    assert_eq!(refreshes(client).await, 0);
    let revived = client.connect(1, 1).await.unwrap();
    assert_eq!(id_of(&revived), id);
    client.person_of(&revived, EMAIL).await.unwrap().expect(200);
    beside.processes.stop().await.unwrap();
}

//! A database server in a container that does not outlive the test process.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use testcontainers::core::error::Result as ContainerResult;
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerRequest, CopyDataSource, CopyTargetOptions, Image, ImageExt};
use testcontainers_modules::mariadb::Mariadb;
use testcontainers_modules::mysql::Mysql;
use testcontainers_modules::postgres::Postgres;
use url::Url;

use super::sql::on_own_runtime;
use super::variable;
use pipekeeper_core::store::Backend;

#[derive(Debug)]
pub(super) struct Server {
    pub(super) admin_url: String,
    /// Where other containers find it.
    pub(super) inner_host: String,
    pub(super) inner_port: u16,
    _reaper: Option<Reaper>,
}

/// What a server is started with beside its image's defaults.
#[derive(Debug, Clone, Default)]
pub(super) struct Extras {
    /// Path and contents, readable by everyone.
    pub(super) files: Vec<(&'static str, String)>,
    pub(super) arguments: Vec<&'static str>,
}

impl Extras {
    /// With these arguments, unless it has some. Many tests share a server, each with pools of its own.
    fn or_with(&self, usual: &[&'static str]) -> Self {
        let mut extras = self.clone();
        if extras.arguments.is_empty() {
            extras.arguments = usual.to_vec();
        }
        extras
    }
}

/// A running container.
pub(super) struct Started {
    pub(super) host_and_port: String,
    bridge_address: String,
    pub(super) reaper: Reaper,
}

impl Server {
    /// One that is there already. Other containers see it where this process does, or on the engine's host.
    pub(super) fn given(admin_url: String) -> Self {
        let url = Url::parse(&admin_url).expect("the test server's URL");
        let host = match url.host_str().expect("the test server's URL has a host") {
            "localhost" | "127.0.0.1" | "[::1]" => "host.docker.internal",
            host => host,
        };
        Self {
            inner_host: host.to_owned(),
            inner_port: url.port().unwrap_or(5432),
            admin_url,
            _reaper: None,
        }
    }

    pub(super) fn start(backend: Backend, extras: &Extras) -> Self {
        let port = match backend {
            Backend::Postgres => 5432,
            _ => 3306,
        };
        let started = on_own_runtime(async || match backend {
            Backend::Postgres => {
                let image = Postgres::default().with_tag("17-trixie");
                let usual = ["-c", "fsync=off", "-c", "max_connections=500"];
                start(image, &extras.or_with(&usual), port).await
            }
            Backend::Mysql => {
                let image = variable("TEST_MYSQL_IMAGE");
                let (name, tag) = image
                    .as_deref()
                    .and_then(|image| image.rsplit_once(':'))
                    .unwrap_or(("mariadb", "11.8"));
                let password = ("MYSQL_ROOT_PASSWORD", "root");
                // These servers make themselves a certificate unless they are told not to.
                let without_tls = if name.ends_with("mysql") {
                    "--tls-version="
                } else {
                    "--skip-ssl"
                };
                let extras = &extras.or_with(&[without_tls, "--max-connections=500"]);
                if name.ends_with("mysql") {
                    let image = Mysql::default().with_name(name).with_tag(tag);
                    start(image.with_env_var(password.0, password.1), extras, port).await
                } else {
                    let image = Mariadb::default().with_name(name).with_tag(tag);
                    start(image.with_env_var(password.0, password.1), extras, port).await
                }
            }
            Backend::Sqlite => unreachable!("SQLite has no server"),
        });
        let started = started.expect("TEST_BACKENDS names it, so a container engine starts it");
        let host = &started.host_and_port;
        Self {
            admin_url: match backend {
                Backend::Postgres => format!("postgres://postgres:postgres@{host}/postgres"),
                _ => format!("mysql://root:root@{host}/mysql"),
            },
            inner_host: started.bridge_address,
            inner_port: port,
            _reaper: Some(started.reaper),
        }
    }
}

pub(super) async fn start<I: Image>(
    image: impl ImageExt<I>,
    extras: &Extras,
    port: u16,
) -> ContainerResult<Started> {
    let mut request: ContainerRequest<I> = image
        .with_startup_timeout(super::START_LIMIT)
        // By its name: its address can be asked for only so.
        .with_network("bridge");
    for (path, contents) in &extras.files {
        let target = CopyTargetOptions::new(*path).with_mode(0o644);
        let contents = CopyDataSource::Data(contents.clone().into_bytes());
        request = request.with_copy_to(target, contents);
    }
    if !extras.arguments.is_empty() {
        request = request.with_cmd(extras.arguments.iter().copied());
    }
    let container = request.start().await?;
    let host = container.get_host().await?;
    let started = Started {
        host_and_port: format!("{host}:{}", container.get_host_port_ipv4(port).await?),
        bridge_address: container.get_bridge_ip_address().await?.to_string(),
        reaper: Reaper::of(container.id()),
    };
    // Its `Drop` would remove the container here, and never runs for the static that it would have to live in.
    std::mem::forget(container);
    Ok(started)
}

/// Removes a container when this is dropped, or the process ends, however it ends: the pipe to its standard input closes
/// then.
#[derive(Debug)]
pub(super) struct Reaper(#[expect(dead_code, reason = "held for its standard input")] Child);

impl Reaper {
    fn of(container_id: &str) -> Self {
        let child = Command::new("sh")
            .args([
                "-c",
                "cat; exec docker rm --force --volumes \"$0\"",
                container_id,
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A Ctrl-C in the terminal is meant for the tests alone.
            .process_group(0)
            .spawn()
            .expect("a shell");
        Self(child)
    }
}

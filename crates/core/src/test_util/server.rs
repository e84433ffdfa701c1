//! A database server in a container that does not outlive the test process.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use testcontainers::core::error::Result as ContainerResult;
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, Image, ImageExt as _};
use testcontainers_modules::mariadb::Mariadb;
use testcontainers_modules::mysql::Mysql;
use testcontainers_modules::postgres::Postgres;

use super::sql::on_own_runtime;
use super::variable;
use crate::store::Backend;

#[derive(Debug)]
pub(super) struct Server {
    pub(super) admin_url: String,
    _reaper: Option<Child>,
}

impl Server {
    pub(super) fn given(admin_url: String) -> Self {
        Self {
            admin_url,
            _reaper: None,
        }
    }

    pub(super) fn start(backend: Backend) -> Self {
        let started = on_own_runtime(async || match backend {
            Backend::Postgres => {
                let image = Postgres::default().with_tag("17-trixie");
                address(image.start().await?, 5432).await
            }
            Backend::Mysql => {
                let image = variable("TEST_MYSQL_IMAGE");
                let (name, tag) = image
                    .as_deref()
                    .and_then(|image| image.rsplit_once(':'))
                    .unwrap_or(("mariadb", "11.8"));
                let password = ("MYSQL_ROOT_PASSWORD", "root");
                if name.ends_with("mysql") {
                    let image = Mysql::default().with_name(name).with_tag(tag);
                    let image = image.with_env_var(password.0, password.1);
                    address(image.start().await?, 3306).await
                } else {
                    let image = Mariadb::default().with_name(name).with_tag(tag);
                    let image = image.with_env_var(password.0, password.1);
                    address(image.start().await?, 3306).await
                }
            }
            Backend::Sqlite => unreachable!("SQLite has no server"),
        });
        let (id, host) = started.expect("TEST_BACKENDS names it, so a container engine starts it");
        let admin_url = match backend {
            Backend::Postgres => format!("postgres://postgres:postgres@{host}/postgres"),
            _ => format!("mysql://root:root@{host}/mysql"),
        };
        Self {
            admin_url,
            _reaper: Some(reaper(&id)),
        }
    }
}

async fn address<I: Image>(
    container: ContainerAsync<I>,
    port: u16,
) -> ContainerResult<(String, String)> {
    let host = container.get_host().await?;
    let port = container.get_host_port_ipv4(port).await?;
    let id = container.id().to_owned();
    // Its `Drop` would remove the container here, and never runs for the static that it would have to live in.
    std::mem::forget(container);
    Ok((id, format!("{host}:{port}")))
}

/// Removes the container when this process ends, however it ends: the pipe to its standard input closes then.
fn reaper(container_id: &str) -> Child {
    Command::new("sh")
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
        .expect("a shell")
}

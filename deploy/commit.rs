//! Build script of every binary's crate: tells `--version` which commit this is, from the environment (images are built without
//! git) or from git.

use std::process::Command;

#[expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "how a build script is told, and tells cargo"
)]
fn main() {
    println!("cargo::rerun-if-env-changed=PIPEKEEPER_COMMIT");
    for file in ["HEAD", "refs/heads/main", "packed-refs"] {
        let path = format!("../../.git/{file}");
        if std::fs::exists(&path).unwrap_or(false) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let given = std::env::var("PIPEKEEPER_COMMIT").ok();
    let commit = given.filter(|commit| !commit.is_empty()).or_else(of_git);
    let commit = commit.as_deref().unwrap_or("unknown");
    println!("cargo::rustc-env=PIPEKEEPER_COMMIT={commit}");
}

fn of_git() -> Option<String> {
    let arguments = ["rev-parse", "--short=12", "HEAD"];
    let output = Command::new("git").args(arguments).output().ok()?;
    let commit = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| commit.trim().to_owned())
}

//! `scripts/up` as it is called; what the stack does is tested in `stack-tests`.

use std::process::Command;

#[test]
fn its_version_names_the_commit() {
    let up = Command::new(env!("CARGO_BIN_EXE_up"))
        .arg("--version")
        .output()
        .unwrap();

    let version = String::from_utf8(up.stdout).unwrap();
    let prefix = format!("scripts/up {} (", env!("CARGO_PKG_VERSION"));
    assert!(version.starts_with(&prefix), "{version}");
    assert!(version.trim_end().ends_with(')'), "{version}");
}

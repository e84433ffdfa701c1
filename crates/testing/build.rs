//! Tells the macros of `backends` which servers the tests run on.

#[expect(
    clippy::disallowed_methods,
    clippy::panic,
    reason = "how a build script is told, and tells cargo"
)]
fn main() {
    println!("cargo::rerun-if-env-changed=TEST_BACKENDS");
    println!("cargo::rustc-check-cfg=cfg(backend, values(\"sqlite\", \"postgres\", \"mysql\"))");
    let named = std::env::var("TEST_BACKENDS").unwrap_or_default();
    for backend in named
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
    {
        match backend {
            "sqlite" | "postgres" | "mysql" => println!("cargo::rustc-cfg=backend=\"{backend}\""),
            other => {
                panic!("TEST_BACKENDS names `{other}`, which is none of sqlite, postgres and mysql")
            }
        }
    }
}

//! `cargo xtask test`: everything the tests need, then every test.

use std::path::Path;

use crate::{
    run::{cargo, has, run, step},
    services::Postgres,
    tools,
};

/// Installs, starts and tests.
pub fn test(arguments: &[String]) -> anyhow::Result<()> {
    servers()?;
    tools::debian(&[("python3-venv", &has_venv), ("npm", &|| has("npm")), ("openssl", &|| has("openssl"))])?;
    let envoy = tools::envoy()?;
    let venv = tools::sdk_python()?;
    let node_modules = tools::sdk_node()?;
    let postgres = Postgres::start()?;
    step("Building");
    // The end-to-end tests run these as programs.
    run(cargo().args(["build", "--package", "nullspend-cli", "--package", "nullspend-e2e", "--bins"]))?;
    step("Testing");
    run(cargo()
        .args(["test", "--workspace"])
        .args(arguments)
        .env("NULLSPEND_ENVOY", &envoy)
        .env("NULLSPEND_TEST_VENV", &venv)
        .env("NULLSPEND_TEST_NODE_MODULES", &node_modules)
        .env("NULLSPEND_TEST_POSTGRES", postgres.url()))
}

/// The servers that the product stands on.
pub fn servers() -> anyhow::Result<()> {
    tools::debian(&[
        ("postgresql", &|| Postgres::programs().is_some()),
        ("redis-server", &|| has("redis-server")),
        ("faketime", &|| has("faketime")),
        ("libtcmalloc-minimal4", &|| {
            Path::new("/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4").exists()
        }),
        ("curl", &|| has("curl")),
    ])
}

fn has_venv() -> bool {
    let ensure = std::process::Command::new("python3").args(["-c", "import ensurepip, venv"]).output();
    ensure.is_ok_and(|output| output.status.success())
}

//! `cargo xtask valkey`: what is tested on Redis, on Valkey.

use anyhow::Context as _;

use crate::{
    run::{cargo, has, run, step},
    services::Postgres,
    test, tools,
};

/// The variable by which tests find another server program than redis-server.
const SERVER: &str = "NULLSPEND_TEST_REDIS_SERVER";

/// Runs the ledger's suites and the end-to-end tests of clusters.
pub fn valkey() -> anyhow::Result<()> {
    test::servers()?;
    tools::debian(&[("valkey-server", &|| has("valkey-server")), ("openssl", &|| has("openssl"))])
        .context("Valkey is in Debian from 13 on, and in the backports of 12")?;
    let envoy = tools::envoy()?;
    let postgres = Postgres::start()?;
    step("Building");
    run(cargo().args(["build", "--package", "nullspend-cli", "--package", "nullspend-e2e", "--bins"]))?;
    step("Testing the ledger");
    let suites = ["redis", "redis_loss", "redis_places"].map(|suite| ["--test", suite]).concat();
    run(cargo().args(["test", "--package", "nullspend-ledger"]).args(suites).env(SERVER, "valkey-server"))?;
    step("Testing clusters");
    run(cargo()
        .args(["test", "--package", "nullspend-e2e", "--test", "e2e", "--", "cluster"])
        .env(SERVER, "valkey-server")
        .env("NULLSPEND_ENVOY", &envoy)
        .env("NULLSPEND_TEST_POSTGRES", postgres.url()))
}

//! `cargo xtask fault`: the fault suite at its full size.

use crate::{
    run::{cargo, run, step},
    services::Postgres,
    test, tools,
};

/// Runs all scenarios, or those whose name contains one of the words.
pub fn fault(names: &[String]) -> anyhow::Result<()> {
    test::servers()?;
    let envoy = tools::envoy()?;
    let postgres = Postgres::start()?;
    step("Building");
    run(cargo().args(["build", "--package", "nullspend-cli", "--package", "nullspend-e2e", "--bins"]))?;
    step("Running the fault suite");
    run(cargo()
        .args(["run", "--quiet", "--package", "nullspend-e2e", "--bin", "fault", "--"])
        .args(names)
        .env("NULLSPEND_ENVOY", &envoy)
        .env("NULLSPEND_TEST_POSTGRES", postgres.url()))
}

//! `cargo xtask bench`: the three arms in one run; only ratios of one run mean anything on a shared machine.

use std::process::Command;

use crate::{
    run::{cargo, run, step, target},
    tools,
};

/// Builds with optimisations and measures.
pub fn bench(seconds: u64) -> anyhow::Result<()> {
    let envoy = tools::envoy()?;
    step("Building with optimisations");
    run(cargo().args([
        "build",
        "--release",
        "--package",
        "nullspend-cli",
        "--package",
        "nullspend-e2e",
        "--bins",
    ]))?;
    step("Measuring");
    run(Command::new(target().join("release/bench"))
        .args(["--seconds", &seconds.to_string()])
        .env("NULLSPEND_ENVOY", envoy))
}

//! `cargo xtask bench`: the four arms in one run; only ratios of one run mean anything on a shared machine.

use std::process::Command;

use crate::{
    run::{cargo, run, step, target},
    tools,
};

/// A part of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Section {
    /// The four arms; needs redis-server.
    Product,
    /// How soon a freeze stops agents on every data plane; needs redis-server.
    Freeze,
    /// Bounds over costs of the published prompts; takes no time to measure.
    Tightness,
}

/// How often something is frozen and lifted.
const FREEZES: u64 = 100;

/// Runs one section, or all.
pub fn bench(only: Option<Section>, seconds: u64) -> anyhow::Result<()> {
    if only.is_none_or(|section| section == Section::Tightness) {
        step("Bounds over costs");
        run(cargo().args(["run", "--quiet", "--package", "nullspend-core", "--example", "tightness"]))?;
    }
    if only.is_none_or(|section| section == Section::Product) {
        measure("--seconds", seconds)?;
    }
    if only.is_none_or(|section| section == Section::Freeze) {
        measure("--freezes", FREEZES)?;
    }
    Ok(())
}

/// Builds with optimisations and measures what the argument says.
fn measure(what: &str, amount: u64) -> anyhow::Result<()> {
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
        .args([what, &amount.to_string()])
        .env("NULLSPEND_ENVOY", envoy))
}

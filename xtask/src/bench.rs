//! `cargo xtask bench`: the three arms in one run; only ratios of one run mean anything on a shared machine.

use std::process::Command;

use crate::{
    run::{cargo, run, step, target},
    tools,
};

/// A part of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Section {
    /// The three arms.
    Product,
    /// Bounds over costs of the published prompts; takes no time to measure.
    Tightness,
}

/// Runs one section, or all.
pub fn bench(only: Option<Section>, seconds: u64) -> anyhow::Result<()> {
    if only != Some(Section::Product) {
        step("Bounds over costs");
        run(cargo().args(["run", "--quiet", "--package", "nullspend-core", "--example", "tightness"]))?;
    }
    if only != Some(Section::Tightness) {
        product(seconds)?;
    }
    Ok(())
}

/// Builds with optimisations and measures.
fn product(seconds: u64) -> anyhow::Result<()> {
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

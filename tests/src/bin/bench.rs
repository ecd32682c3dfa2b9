//! What the product costs: bare Envoy, our Envoy with an ext_proc that does nothing, the whole product, and the same with
//! its ledger on Redis, under the same loads; or how soon a freeze stops agents everywhere. Build with `--release` first; `cargo xtask bench` does, and runs this.

use std::{error::Error, time::Duration};

use clap::Parser;
use nullspend_e2e::bench::{Settings, freeze, run};

/// Measures the four arms and prints the ratios.
#[derive(Debug, Parser)]
struct Arguments {
    /// Measured seconds of each arm in each scenario, in five rounds, each after a warm-up of a quarter of it.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Freeze and lift this often instead.
    #[arg(long)]
    freezes: Option<usize>,
    /// Also write the figures as JSON to this file.
    #[arg(long)]
    json: Option<std::path::PathBuf>,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    if let Some(rounds) = arguments.freezes {
        let figures = freeze::run(rounds).await?;
        println!("{}", figures.as_text());
        return write(arguments.json, &figures);
    }
    let figures = run(Settings { measured: Duration::from_secs(arguments.seconds) }).await?;
    println!("{}", figures.as_table());
    write(arguments.json, &figures)
}

/// Keeps the figures, where a file is named.
fn write(path: Option<std::path::PathBuf>, figures: &impl serde::Serialize) -> Result<(), Box<dyn Error>> {
    if let Some(path) = path {
        std::fs::write(path, serde_json::to_vec_pretty(figures)?)?;
    }
    Ok(())
}

//! Developer tasks: `cargo xtask up`, `test`, `ci`, `bench`, `fault`, `fuzz`, `mutants`, `valkey`, `tidy`, `openapi`.
//! The only runner of this repository; CI runs nothing else.

mod bench;
mod ci;
mod fault;
mod fuzz;
mod mutants;
mod openapi;
mod run;
mod services;
mod test;
mod tidy;
mod tools;
mod up;
mod valkey;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Developer tasks of NullSpend", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Gets Envoy, builds, and runs the product on this machine; prints what to do next.
    Up {
        /// Runs against a local fake provider and shows a tracked and a denied call; needs no provider key.
        #[arg(long)]
        demo: bool,
        /// Builds with optimisations (slower to build, faster to serve).
        #[arg(long)]
        release: bool,
    },
    /// Installs and starts what the tests need, then runs every test.
    Test {
        /// Passed on to `cargo test`, e.g. a test's name.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Everything a change must pass: fmt, clippy, deny, buf, tidy, openapi, test.
    Ci,
    /// Measures bare Envoy, our Envoy with a no-op, and the product on either ledger, in one run; how soon a freeze works;
    /// and how close bounds are to costs.
    Bench {
        /// Only this section.
        #[arg(long)]
        only: Option<bench::Section>,
        /// Measured seconds of each arm in each scenario, in five rounds.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Kills, hangs, empties and fills what the product depends on, under load, and holds its books against the bill.
    Fault {
        /// Only scenarios whose name contains one of these.
        names: Vec<String>,
    },
    /// Fuzzes what reads other people's bytes; needs a nightly toolchain.
    Fuzz {
        /// Minutes, shared by all targets.
        #[arg(long, default_value_t = 30)]
        minutes: u64,
    },
    /// Makes the ledger's law wrong in named ways; each must be noticed by its tests.
    Mutants,
    /// Runs what is tested on Redis on Valkey instead.
    Valkey,
    /// Checks the rules that no compiler checks: dependency edges, file lengths, clocks, migrations.
    Tidy,
    /// Writes docs/reference/openapi.json from the protos.
    Openapi {
        /// Fails if the committed document is not what the protos say.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Up { demo, release } => up::up(demo, release),
        Task::Test { arguments } => test::test(&arguments),
        Task::Ci => ci::ci(),
        Task::Bench { only, seconds } => bench::bench(only, seconds),
        Task::Fault { names } => fault::fault(&names),
        Task::Fuzz { minutes } => fuzz::fuzz(minutes),
        Task::Mutants => mutants::mutants(),
        Task::Valkey => valkey::valkey(),
        Task::Tidy => tidy::tidy(),
        Task::Openapi { check } => openapi::openapi(check),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

//! The nullspend program: the only place that knows which ledger and which database were chosen.

mod address;
mod check;
mod config;
mod control_plane;
mod doctor;
mod envoy;
mod ext_proc;
mod ledger;
mod paths;
mod planes;
mod replay;
mod signals;
mod up;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// A call makes many small allocations, on threads that hand them to each other: with the system's allocator it took some
/// 5 % more processor time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The FinOps layer for AI agents: sees every dollar, stops it before it is spent.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const COST_HELP: &str = r#"Each line of standard input is one of
  {"id", "provider", "api", "model", "at", "usage", "request", "response", "pricing_override", "cost_policy"}
  {"id", "provider", "api", "model", "at", "sse_base64"}
and each answer, in the same order,
  {"id", "cost_pico", "cost_nano", "cost_microdollars_half_up", "cost_microdollars_ceil", "breakdown_pico", "flags",
   "usage_state", "terminal", "price": {"id", "version"}}
with null costs where there is none, "lower_bound_cost" where only part of the usage came, or {"id", "error"}.
docs/reference/cost-and-bound.md says what each member means."#;

const BOUND_HELP: &str = r#"Each line of standard input is {"id", "provider", "api", "body"}, where body is the request's JSON or a string that
holds it, and each answer, in the same order, {"id", "input_tokens_bound", "output_tokens_bound", "cost_nano_bound"},
with nulls and an "error" where there is no bound. docs/reference/cost-and-bound.md says more."#;

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs everything on this machine: control plane, data plane, and Envoy as the one public entrance.
    Up(Settings),
    /// Runs the control plane alone: gRPC, REST, and the service data planes follow. Needs Redis.
    ControlPlane(Settings),
    /// Runs one data plane alone, for an Envoy beside it. Needs Redis and a control plane.
    ExtProc(Settings),
    /// Prints the configuration of an Envoy that stands before separate planes.
    EnvoyConfig(Settings),
    /// Says whether the configuration can be used, and what is in force (secrets hidden).
    CheckConfig(Settings),
    /// Looks at this machine: Envoy, data directory, port, database, certificates.
    Doctor(Settings),
    /// Creates or upgrades the database's tables, and nothing else.
    Migrate(Settings),
    /// Looks after the ledger.
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// Prices recorded usage: a JSON line in, a JSON line out.
    #[command(after_long_help = COST_HELP)]
    Cost,
    /// Bounds what requests can cost at most: a JSON line in, a JSON line out.
    #[command(after_long_help = BOUND_HELP)]
    Bound,
    /// Prints the OpenAPI document of the REST API.
    Openapi,
}

#[derive(Debug, Subcommand)]
enum LedgerCommand {
    /// Makes this machine the owner of the database's in-process ledger, in place of one that is gone for good.
    TakeOver {
        #[command(flatten)]
        settings: Settings,
        /// Confirms that cost in the old node's spool may be lost.
        #[arg(long)]
        yes: bool,
    },
    /// Compares the ledger in Redis with the database, window by window. Fails when they differ.
    Verify(Settings),
    /// Makes the books in Redis again from the database and the data planes.
    Rebuild {
        #[command(flatten)]
        settings: Settings,
        /// A data plane that is gone for good, by its id. Repeat it for more.
        #[arg(long, value_name = "ID")]
        without: Vec<String>,
        /// Confirms that calls are refused meanwhile.
        #[arg(long)]
        yes: bool,
    },
}

/// Settings; `config.default.toml` explains each, `NULLSPEND_*` variables override the file, these flags override both.
#[derive(Args, Clone, Debug, Default)]
struct Settings {
    /// Configuration file; names only what differs from the defaults.
    #[arg(long, env = "NULLSPEND_CONFIG")]
    config: Option<PathBuf>,
    /// Address and port of the ingress, e.g. 127.0.0.1:8080 [NULLSPEND_LISTEN].
    #[arg(long)]
    listen: Option<String>,
    /// Where database, spool, logs and sockets live [NULLSPEND_DATA_DIR].
    #[arg(long)]
    data_dir: Option<String>,
    /// What to log on stderr, e.g. debug [NULLSPEND_LOG].
    #[arg(long)]
    log: Option<String>,
}

impl Settings {
    fn load(&self) -> Result<config::Config, config::ConfigError> {
        let flag = |path, flag, value: &Option<String>| value.clone().map(|value| (path, flag, value));
        let flags = [
            flag("listen", "--listen", &self.listen),
            flag("data_dir", "--data-dir", &self.data_dir),
            flag("log", "--log", &self.log),
        ];
        config::load(&config::Sources {
            file: self.config.as_deref(),
            variable: &|name| std::env::var(name).ok(),
            flags: flags.into_iter().flatten().collect(),
        })
    }
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            // The whole chain, each cause once: what was done, then why it failed.
            eprintln!("nullspend: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Up(settings) => runtime_beside_envoy()?.block_on(up::run(server_config(&settings)?))?,
        Command::ControlPlane(settings) => {
            runtime()?.block_on(control_plane::run(server_config(&settings)?))?;
        }
        Command::ExtProc(settings) => runtime()?.block_on(ext_proc::run(server_config(&settings)?))?,
        Command::EnvoyConfig(settings) => print!("{}", envoy::bootstrap::separate(&settings.load()?)?),
        Command::CheckConfig(settings) => {
            let config = settings.load()?;
            for name in unknown_variables()? {
                println!("warning: {name} is set and is no setting; config.default.toml lists every one");
            }
            print!("{}", check::describe(&config));
        }
        Command::Doctor(settings) => {
            let config = settings.load()?;
            if !runtime()?.block_on(doctor::run(&config)) {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Migrate(settings) => runtime()?.block_on(up::migrate(&settings.load()?))?,
        Command::Ledger(LedgerCommand::TakeOver { settings, yes }) => {
            runtime()?.block_on(ledger::take_over(&settings.load()?, yes))?;
        }
        Command::Ledger(LedgerCommand::Verify(settings)) => {
            if !runtime()?.block_on(ledger::verify(&settings.load()?))? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Ledger(LedgerCommand::Rebuild { settings, without, yes }) => {
            runtime()?.block_on(ledger::rebuild(&settings.load()?, &without, yes))?;
        }
        Command::Cost => replay::run(replay::Replay::Cost)?,
        Command::Bound => replay::run(replay::Replay::Bound)?,
        Command::Openapi => println!(
            "{}",
            nullspend_control_plane::openapi::openapi_json().context("derive the OpenAPI document")?
        ),
    }
    Ok(ExitCode::SUCCESS)
}

/// The configuration of a command that serves, with its log begun.
fn server_config(settings: &Settings) -> anyhow::Result<config::Config> {
    let config = settings.load()?;
    log_to_stderr(&config.log)?;
    for name in unknown_variables()? {
        tracing::warn!("{name} is set and is no setting; config.default.toml lists every one");
    }
    Ok(config)
}

/// Variables that look like settings and are none: a typo there would otherwise go unnoticed.
fn unknown_variables() -> Result<Vec<String>, config::ConfigError> {
    let present = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    Ok(config::layers::unknown_variables(&config::layers::defaults()?, present))
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")
}

/// Beside an Envoy that has the other half of the cores: more threads would only wake each other.
fn runtime_beside_envoy() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(config::half_of_cores()).enable_all().build().context("start the runtime")
}

/// Events never hold credentials; keys are printed on stdout once, by `up` alone.
fn log_to_stderr(directives: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(directives)
        .with_context(|| format!("`log` is {directives:?}; write a level such as info, or directives"))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    Ok(())
}

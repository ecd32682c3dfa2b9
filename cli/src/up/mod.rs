//! `nullspend up`: control plane and data plane in this process, Envoy as a supervised child.
//!
//! The order of the start is design §5's: what the last run left in the spool reaches the store before the ledger is
//! loaded from it, and nothing is served before the ledger is.

mod access_log;
pub mod banner;
pub mod limits;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use nullspend_control_plane::{ControlPlane, app::Bootstrap};
use nullspend_core::{clock::Clock, id::Ids};
use nullspend_ext_proc::DataPlane;
use secrecy::SecretString;

use crate::{
    address::Address,
    config::Config,
    envoy::{
        admin::Admin,
        binary,
        bootstrap::Bootstrap as EnvoyBootstrap,
        supervisor::{Launch, State, Supervisor, end_survivor},
    },
    paths::Paths,
    planes::{self, POLL, Parts, Serving, database_url},
    signals::StopSignals,
};

/// How long the control plane may take to store what the last run left in the spool.
const RECOVERY: Duration = Duration::from_secs(120);
/// How long the first policy may take; both planes are in this process.
const FIRST_POLICY: Duration = Duration::from_secs(30);
/// How long Envoy may take until it serves.
const ENVOY_READY: Duration = Duration::from_secs(30);

/// Runs until SIGTERM or SIGINT, then drains.
pub async fn run(mut config: Config) -> anyhow::Result<()> {
    let mut stop_signals = StopSignals::listen()?;
    limits::raise_open_files();
    let envoy = binary::find(config.envoy.binary.as_deref())?;
    let paths = Paths::prepare(&config.data_dir)?;
    let _lock = paths.lock()?;
    end_survivor(&paths.envoy_pid(), &paths.envoy_config()).context("end the Envoy of the last run")?;
    // Gone until requests are served: whoever waits for it must not find the last run's.
    let _ = fs::remove_file(paths.ingress());
    let admin = Admin::at(paths.socket("envoy"));
    let starting = start(&mut config, &paths, envoy.path, &admin);
    let (mut running, supervisor) = tokio::select! {
        started = starting => started?,
        // Nothing was served yet; what was begun ends with this process, Envoy included.
        () = stop_signals.next() => return Ok(()),
    };
    banner::announce(&config, &paths, running.first_start.take())?;
    let access_log = paths.access_log();
    let failed = tokio::select! {
        () = stop_signals.next() => None,
        error = running.serving.failed() => Some(error),
        () = access_log::rotate(&access_log, &admin) => None,
    };
    if failed.is_none() {
        tokio::select! {
            () = drain(&config, &running, &admin) => {}
            () = stop_signals.next() => tracing::warn!("asked twice to end: what is in flight is cut"),
        }
    }
    supervisor.stop().await;
    let _ = fs::remove_file(paths.ingress());
    running.stop().await;
    failed.map_or(Ok(()), Err)
}

async fn start(
    config: &mut Config,
    paths: &Paths,
    envoy: PathBuf,
    admin: &Admin,
) -> anyhow::Result<(Running, Supervisor)> {
    let running = Running::start(config, paths).await?;
    write_bootstrap(config, paths)?;
    let supervisor = start_envoy(config, paths, envoy, admin, &running.clock).await?;
    config.listen.set_port(admin.ingress_port().await.context("ask Envoy for its port")?);
    // Port 0 has become a real one; an Envoy that must be started again takes the same.
    write_bootstrap(config, paths)?;
    Ok((running, supervisor))
}

/// Opens and migrates the database, and closes it again.
pub async fn migrate(config: &Config) -> anyhow::Result<()> {
    let paths = Paths::prepare(&config.data_dir)?;
    let _lock = paths.lock()?;
    open_control_plane(&database_url(config, &paths)).await?.close().await;
    println!("the database is up to date");
    Ok(())
}

/// A control plane that serves nothing, for `migrate` and `ledger take-over`.
pub async fn open_control_plane(url: &SecretString) -> anyhow::Result<Arc<ControlPlane>> {
    planes::control_plane(url, None, None, Parts::in_process()).await
}

/// Both planes, serving on their sockets.
struct Running {
    clock: Arc<dyn Clock>,
    control_plane: Arc<ControlPlane>,
    data_plane: Arc<DataPlane>,
    first_start: Option<Bootstrap>,
    serving: Serving,
}

impl Running {
    async fn start(config: &Config, paths: &Paths) -> anyhow::Result<Self> {
        let parts = Parts::of(config)?;
        let clock = Arc::clone(&parts.clock);
        let url = database_url(config, paths);
        let control_plane = planes::control_plane(
            &url,
            config.catalogue_file.clone(),
            config.api_calls_per_minute,
            parts.clone(),
        )
        .await?;
        control_plane.claim_node(&node_id(&paths.data_dir, parts.ids.as_ref())?).await?;
        let first_start = control_plane.bootstrap(config.bootstrap_key.clone()).await?;
        control_plane.load_catalogue().await?;

        let socket = |name| Address::Unix(paths.socket(name));
        let mut serving = Serving::default();
        serving.internal(&control_plane, &socket("internal"), None).await?;
        let data_plane = planes::data_plane(config, &paths.spool(), parts, &socket("internal"))?;
        if config.redis_url.is_some() {
            // A ledger that outlived the last run hears of its costs; a lost one is made again meanwhile.
            data_plane.resume().context("resume the last run's calls")?;
            serving.follow_ledger(&control_plane).await;
        } else {
            data_plane.recover(RECOVERY).await.context("recover the last run's calls")?;
            control_plane.load_ledger().await.context("load the ledger from the database")?;
        }
        if !data_plane.wait_for_policy(FIRST_POLICY).await {
            bail!("the data plane received no policy within {FIRST_POLICY:?}");
        }
        let (api, admin) = (socket("control-plane"), socket("control-plane-admin"));
        serving.control_plane(&control_plane, &api, &admin).await?;
        serving.data_plane(&data_plane, &socket("ext-proc"), &socket("ext-proc-admin")).await?;
        Ok(Self { clock, control_plane, data_plane, first_start, serving })
    }

    /// Ends everything in order: requests, settlements, reports, then what they needed.
    async fn stop(mut self) {
        planes::stop_data_plane(&self.data_plane, &self.serving).await;
        self.serving.stop_internal.cancel();
        self.serving.ended().await;
        self.control_plane.close().await;
    }
}

/// Who this node is to the database: kept in the data directory, so that another machine is told apart.
pub fn node_id(data_dir: &Path, ids: &dyn Ids) -> anyhow::Result<String> {
    let path = data_dir.join("node-id");
    match fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => bail!("{} is empty; remove it, then run `nullspend ledger take-over`", path.display()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        // A new id would only be refused by the database.
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    }
    let id = ids.v4().hyphenated().to_string();
    let draft = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::create(&draft)?;
        writeln!(file, "{id}")?;
        file.sync_all()?;
        fs::rename(&draft, &path)
    };
    write().with_context(|| format!("write {}", path.display()))?;
    Ok(id)
}

fn write_bootstrap(config: &Config, paths: &Paths) -> anyhow::Result<()> {
    let bootstrap = EnvoyBootstrap {
        ext_proc: Address::Unix(paths.socket("ext-proc")),
        control_plane: Address::Unix(paths.socket("control-plane")),
        ..EnvoyBootstrap::of(config, paths)
    };
    let file = paths.envoy_config();
    fs::write(&file, bootstrap.render()?).with_context(|| format!("write {}", file.display()))
}

async fn start_envoy(
    config: &Config,
    paths: &Paths,
    binary: PathBuf,
    admin: &Admin,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Supervisor> {
    let launch = Launch {
        binary,
        bootstrap: paths.envoy_config(),
        pid_file: paths.envoy_pid(),
        concurrency: config.envoy.concurrency,
    };
    let supervisor = Supervisor::start(launch, Arc::clone(clock)).context("start Envoy")?;
    let mut state = supervisor.state();
    let died = state.wait_for(|state| matches!(state, State::Died { .. }));
    let ready = async {
        while !admin.is_ready().await {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::select! {
        waited = tokio::time::timeout(ENVOY_READY, ready) => {
            waited.with_context(|| format!("Envoy was not ready within {ENVOY_READY:?}"))?;
        }
        Ok(state) = died => {
            let State::Died { reason } = state.clone() else { bail!("Envoy ended") };
            bail!("Envoy does not start: {reason}");
        }
    }
    Ok(supervisor)
}

/// Sends clients elsewhere while the streams in flight go on to their end, for as long as the grace allows.
async fn drain(config: &Config, running: &Running, admin: &Admin) {
    tracing::info!(in_flight = running.data_plane.in_flight(), grace = ?config.shutdown_grace, "draining");
    if let Err(error) = admin.drain_gracefully().await {
        tracing::warn!(%error, "Envoy could not be asked to drain");
    }
    if let Err(error) = admin.close_listeners().await {
        tracing::warn!(%error, "Envoy could not be asked to stop listening");
    }
    let idle = async {
        // An Envoy that does not answer has no requests any more.
        while running.data_plane.in_flight() > 0
            || admin.requests_in_flight().await.is_ok_and(|count| count > 0)
        {
            tokio::time::sleep(POLL).await;
        }
    };
    if tokio::time::timeout(config.shutdown_grace, idle).await.is_err() {
        tracing::warn!(in_flight = running.data_plane.in_flight(), "the grace is over; the rest is cut");
    }
}

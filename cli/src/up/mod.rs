//! `nullspend up`: control plane and data plane in this process, Envoy as a supervised child.
//!
//! The order of the start is design §5's: what the last run left in the spool reaches the store before the ledger is
//! loaded from it, and nothing is served before the ledger is.

mod access_log;
mod banner;
mod limits;
mod sockets;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use nullspend_control_plane::{ControlPlane, app::Bootstrap};
use nullspend_core::{
    clock::{Clock, SystemClock},
    exchange::{Settings, upstream::Upstreams},
    id::{Ids, RandomIds},
    ledger::Ledger,
    price::Catalogue,
};
use nullspend_ext_proc::{DataPlane, lease::LeaseConfig, report::ReportConfig, spool};
use nullspend_ledger::MemoryLedger;
use secrecy::SecretString;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, Fsync},
    envoy::{
        admin::Admin,
        binary,
        bootstrap::Bootstrap as EnvoyBootstrap,
        supervisor::{Launch, State, Supervisor, end_survivor},
    },
    paths::Paths,
};

/// How long the control plane may take to store what the last run left in the spool.
const RECOVERY: Duration = Duration::from_secs(120);
/// How long the first policy may take; both planes are in this process.
const FIRST_POLICY: Duration = Duration::from_secs(30);
/// How long Envoy may take until it serves.
const ENVOY_READY: Duration = Duration::from_secs(30);
/// How long the last events may take to the store at shutdown; what is left waits in the spool.
const LAST_FLUSH: Duration = Duration::from_secs(10);
/// How long settlements of cut requests may take once Envoy is gone.
const SETTLE_AFTER_CUT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

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
        ended = running.tasks.join_next() => Some(ended),
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
    match failed {
        None => Ok(()),
        Some(Some(Ok(Err(error)))) => Err(error),
        Some(other) => bail!("a part of the program ended by itself: {other:?}"),
    }
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

/// Makes this data directory's node the owner of the database's in-process ledger, when the operator has confirmed it.
pub async fn take_over(config: &Config, confirmed: bool) -> anyhow::Result<()> {
    if !confirmed {
        bail!(
            "the spool of the node that owns this database may hold cost that was not reported yet; start that node \
             once more if it can still run. If it is gone for good, repeat with --yes"
        );
    }
    let paths = Paths::prepare(&config.data_dir)?;
    let _lock = paths.lock()?;
    let node = node_id(&paths.data_dir, &RandomIds)?;
    let control_plane = open_control_plane(&database_url(config, &paths)).await?;
    let before = control_plane.take_over_node(&node).await?;
    control_plane.close().await;
    println!(
        "the database belonged to node {before} and now belongs to node {node} of {}",
        paths.data_dir.display()
    );
    Ok(())
}

/// A control plane that serves nothing, for `migrate` and `doctor`.
pub async fn open_control_plane(url: &SecretString) -> anyhow::Result<Arc<ControlPlane>> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::new(Arc::clone(&clock)));
    build_control_plane(url, ledger, clock, Arc::new(RandomIds)).await
}

async fn build_control_plane(
    url: &SecretString,
    ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
) -> anyhow::Result<Arc<ControlPlane>> {
    let config = nullspend_control_plane::Config { database_url: url.clone() };
    let deps = nullspend_control_plane::Deps { ledger, clock, ids };
    ControlPlane::build(config, deps).await.context("start the control plane")
}

/// The configured database, else SQLite in the data directory.
pub fn database_url(config: &Config, paths: &Paths) -> SecretString {
    let default = || SecretString::from(format!("sqlite:{}", paths.database().display()));
    config.database_url.clone().unwrap_or_else(default)
}

struct StopSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl StopSignals {
    fn listen() -> anyhow::Result<Self> {
        let terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        Ok(Self { terminate, interrupt })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Both planes, serving on their sockets.
struct Running {
    clock: Arc<dyn Clock>,
    control_plane: Arc<ControlPlane>,
    data_plane: Arc<DataPlane>,
    first_start: Option<Bootstrap>,
    tasks: JoinSet<anyhow::Result<()>>,
    /// Ends what serves clients and Envoy.
    stop_serving: CancellationToken,
    /// Ends what the data plane itself still needs: the internal listener.
    stop_internal: CancellationToken,
}

impl Running {
    async fn start(config: &Config, paths: &Paths) -> anyhow::Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let ids: Arc<dyn Ids> = Arc::new(RandomIds);
        let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::new(Arc::clone(&clock)));
        let url = database_url(config, paths);
        let control_plane =
            build_control_plane(&url, Arc::clone(&ledger), Arc::clone(&clock), Arc::clone(&ids)).await?;
        control_plane.claim_node(&node_id(&paths.data_dir, ids.as_ref())?).await?;
        let first_start = control_plane.bootstrap(config.bootstrap_key.clone()).await?;

        let (stop_serving, stop_internal) = (CancellationToken::new(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        let internal = sockets::bind(&paths.socket("internal"))?;
        let (plane, stop) = (Arc::clone(&control_plane), stop_internal.clone());
        tasks.spawn(async move { plane.serve_internal(internal, stop).await.context("serve data planes") });

        let channel = sockets::channel(paths.socket("internal"));
        let deps = nullspend_ext_proc::Deps {
            ledger,
            clock: Arc::clone(&clock),
            ids,
            catalogue: Catalogue::shipped(),
            control_plane: channel,
        };
        let data_plane =
            DataPlane::build(data_plane_config(config, paths), deps).context("start the data plane")?;
        data_plane.recover(RECOVERY).await.context("recover the last run's calls")?;
        control_plane.load_ledger().await.context("load the ledger from the database")?;
        if !data_plane.wait_for_policy(FIRST_POLICY).await {
            bail!("the data plane received no policy within {FIRST_POLICY:?}");
        }
        let mut running =
            Self { clock, control_plane, data_plane, first_start, tasks, stop_serving, stop_internal };
        running.serve(paths)?;
        Ok(running)
    }

    fn serve(&mut self, paths: &Paths) -> anyhow::Result<()> {
        let public = sockets::bind(&paths.socket("control-plane"))?;
        let control_admin = sockets::bind(&paths.socket("control-plane-admin"))?;
        let ext_proc = sockets::bind(&paths.socket("ext-proc"))?;
        let data_admin = sockets::bind(&paths.socket("ext-proc-admin"))?;
        let (plane, stop) = (Arc::clone(&self.control_plane), self.stop_serving.clone());
        self.tasks.spawn(async move { plane.serve_public(public, stop).await.context("serve the API") });
        let (plane, stop) = (Arc::clone(&self.control_plane), self.stop_serving.clone());
        self.tasks
            .spawn(async move { plane.serve_admin(control_admin, stop).await.context("serve metrics") });
        let (plane, stop) = (Arc::clone(&self.data_plane), self.stop_serving.clone());
        self.tasks.spawn(async move { plane.serve(ext_proc, data_admin, stop).await.context("serve Envoy") });
        Ok(())
    }

    /// Ends everything in order: requests, settlements, reports, then what they needed.
    async fn stop(mut self) {
        wait_until(SETTLE_AFTER_CUT, || self.data_plane.in_flight() == 0).await;
        if !self.data_plane.flush(LAST_FLUSH).await {
            tracing::warn!("some events are not stored yet; they wait in the spool for the next start");
        }
        self.stop_serving.cancel();
        self.data_plane.stop().await;
        self.stop_internal.cancel();
        let ended =
            tokio::time::timeout(LAST_FLUSH, async { while self.tasks.join_next().await.is_some() {} });
        if ended.await.is_err() {
            tracing::warn!("a listener did not end in time");
        }
        self.control_plane.close().await;
    }
}

fn data_plane_config(config: &Config, paths: &Paths) -> nullspend_ext_proc::Config {
    let fsync = match config.spool.fsync {
        Fsync::Always => spool::Fsync::Always,
        Fsync::Never => spool::Fsync::Never,
        Fsync::Interval(every) => {
            spool::Fsync::Interval(u64::try_from(every.as_millis()).unwrap_or(u64::MAX))
        }
    };
    nullspend_ext_proc::Config {
        settings: Settings {
            upstreams: Upstreams(config.upstreams.clone()),
            lease_ms: i64::try_from(config.lease_ms).unwrap_or(i64::MAX),
            max_body_bytes: config.max_body_bytes as usize,
        },
        spool_dir: paths.spool(),
        spool: spool::SpoolConfig { max_bytes: config.spool.max_bytes, fsync, ..Default::default() },
        report: ReportConfig::default(),
        lease: LeaseConfig { lease: Duration::from_millis(config.lease_ms), ..Default::default() },
        max_bodies_in_flight_bytes: config.max_bodies_in_flight_bytes,
        policy_max_age: None,
    }
}

/// Who this node is to the database: kept in the data directory, so that another machine is told apart.
fn node_id(data_dir: &Path, ids: &dyn Ids) -> anyhow::Result<String> {
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
        listen: config.listen,
        max_body_bytes: config.max_body_bytes,
        max_bodies_in_flight_bytes: config.max_bodies_in_flight_bytes,
        max_connections: config.envoy.max_connections,
        access_log: config.envoy.access_log,
        access_log_file: &paths.access_log(),
        admin_socket: &paths.socket("envoy"),
        ext_proc_socket: &paths.socket("ext-proc"),
        control_plane_socket: &paths.socket("control-plane"),
        ca_file: &config.envoy.ca_file,
        upstreams: &config.upstreams,
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

async fn wait_until(deadline: Duration, met: impl Fn() -> bool) -> bool {
    let polling = async {
        while !met() {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(deadline, polling).await.is_ok()
}

//! Both planes as this program builds and serves them, together (`up`) or each in a process of its own.

use std::{
    fs,
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use nullspend_control_plane::{ControlPlane, JoinCheck};
use nullspend_core::{
    clock::{Clock, SystemClock},
    exchange::{Settings, upstream::Upstreams},
    id::{Ids, RandomIds},
    ledger::Ledger,
    loops::Fingerprints,
};
use nullspend_ext_proc::{
    DataPlane, Join, Listener, lease::LeaseConfig, patient, report::ReportConfig, spool,
};
use nullspend_ledger::{MemoryLedger, RedisConfig, RedisLedger};
use secrecy::SecretString;
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;

use crate::{
    address::{self, Address},
    config::{Config, Fsync},
    paths::Paths,
};

/// How often a state that must be reached is looked at.
pub const POLL: Duration = Duration::from_millis(20);
/// How long the last events may take to the store at shutdown; what is left waits in the spool.
pub const LAST_FLUSH: Duration = Duration::from_secs(10);
/// How long settlements of cut requests may take once nothing new comes.
pub const SETTLE_AFTER_CUT: Duration = Duration::from_secs(5);

/// What both planes are made of.
#[derive(Clone)]
pub struct Parts {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// New ids.
    pub ids: Arc<dyn Ids>,
    /// The one ledger.
    pub ledger: Arc<dyn Ledger>,
}

impl Parts {
    /// With the configured ledger.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn of(config: &Config) -> anyhow::Result<Self> {
        let Some(url) = &config.redis_url else { return Ok(Self::in_process()) };
        let parts = Self::in_process();
        let read = |path: &PathBuf| {
            fs::read(path).with_context(|| format!("redis_ca_file {} cannot be read", path.display()))
        };
        let authorities = config.redis_ca_file.as_ref().map(read).transpose()?;
        let redis = RedisConfig { authorities, ..RedisConfig::new(url.clone()) };
        let ledger = RedisLedger::new(&redis, Arc::clone(&parts.clock))?;
        Ok(Self { ledger: Arc::new(ledger), ..parts })
    }

    /// With the ledger of this process.
    #[must_use]
    pub fn in_process() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::new(Arc::clone(&clock)));
        Self { clock, ids: Arc::new(RandomIds), ledger }
    }
}

/// The configured database, else SQLite in the data directory.
pub fn database_url(config: &Config, paths: &Paths) -> SecretString {
    let default = || SecretString::from(format!("sqlite:{}", paths.database().display()));
    config.database_url.clone().unwrap_or_else(default)
}

/// Opens and migrates the database behind a control plane, whose prices are those of `catalogue_file`, if there is one.
pub async fn control_plane(
    url: &SecretString,
    catalogue_file: Option<PathBuf>,
    api_calls_per_minute: Option<NonZeroU32>,
    parts: Parts,
) -> anyhow::Result<Arc<ControlPlane>> {
    let config =
        nullspend_control_plane::Config { database_url: url.clone(), catalogue_file, api_calls_per_minute };
    let Parts { clock, ids, ledger } = parts;
    let deps = nullspend_control_plane::Deps { ledger, clock, ids };
    ControlPlane::build(config, deps).await.context("start the control plane")
}

/// Opens the spool behind a data plane that follows the control plane at `control_plane`.
pub fn data_plane(
    config: &Config,
    spool_dir: &Path,
    parts: Parts,
    control_plane: &Address,
) -> anyhow::Result<Arc<DataPlane>> {
    let Parts { clock, ids, ledger } = parts;
    let join = match &config.join_token {
        None => Join::default(),
        Some(token) => {
            Join::with(token).context("internal.join_token has characters that no header may have")?
        }
    };
    let deps =
        nullspend_ext_proc::Deps { ledger, clock, ids, control_plane: join.over(control_plane.channel()?) };
    DataPlane::build(data_plane_config(config, spool_dir), deps).context("start the data plane")
}

fn data_plane_config(config: &Config, spool_dir: &Path) -> nullspend_ext_proc::Config {
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
            fingerprints: Fingerprints::default(),
        },
        spool_dir: spool_dir.to_owned(),
        spool: spool::SpoolConfig { max_bytes: config.spool.max_bytes, fsync, ..Default::default() },
        report: ReportConfig::default(),
        lease: LeaseConfig { lease: Duration::from_millis(config.lease_ms), ..Default::default() },
        max_bodies_in_flight_bytes: config.max_bodies_in_flight_bytes,
        rate_limits: config.rate_limits,
        policy_max_age: None,
    }
}

/// The tasks that serve, and what ends them.
#[derive(Default)]
pub struct Serving {
    /// None ends before it is told to; when one does, the program cannot go on.
    pub tasks: JoinSet<anyhow::Result<()>>,
    /// Ends what serves clients and Envoy.
    pub stop: CancellationToken,
    /// Ends what data planes themselves still need: the internal listener.
    pub stop_internal: CancellationToken,
}

/// Calls a method of the control plane with either kind of listener.
macro_rules! with_listener {
    ($listener:expr, |$bound:ident| $serve:expr) => {
        match $listener {
            Listener::Unix($bound) => $serve,
            Listener::Tcp(tcp) => {
                let $bound = address::prompt(tcp);
                $serve
            }
        }
    };
}

impl Serving {
    /// Serves data planes.
    pub async fn internal(
        &mut self,
        plane: &Arc<ControlPlane>,
        at: &Address,
        join_token: Option<&SecretString>,
    ) -> anyhow::Result<()> {
        let (listener, plane, stop) = (at.bind().await?, Arc::clone(plane), self.stop_internal.clone());
        let join = join_token.map(JoinCheck::token).unwrap_or_default();
        self.tasks.spawn(async move {
            let served = match listener {
                Listener::Unix(bound) => {
                    plane.serve_internal(patient(UnixListenerStream::new(bound)), join, stop).await
                }
                Listener::Tcp(bound) => {
                    let bound = TcpIncoming::from(bound).with_nodelay(Some(true));
                    plane.serve_internal(patient(bound), join, stop).await
                }
            };
            served.context("serve data planes")
        });
        Ok(())
    }

    /// Watches a ledger that outlives this process. It is looked at once before anything is served.
    pub async fn follow_ledger(&mut self, plane: &Arc<ControlPlane>) {
        match plane.look_at_ledger().await {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!("some books of the ledger wait for data planes; their calls are refused");
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the ledger cannot be seen yet");
            }
        }
        let (plane, stop) = (Arc::clone(plane), self.stop.clone());
        self.tasks.spawn(async move {
            plane.follow_ledger(stop).await;
            Ok(())
        });
    }

    /// Compares the ledger with the database now and then.
    fn watch_drift(&mut self, plane: &Arc<ControlPlane>) {
        let (plane, stop) = (Arc::clone(plane), self.stop.clone());
        self.tasks.spawn(async move {
            plane.watch_drift(stop).await;
            Ok(())
        });
    }

    /// Serves the API on `api` and the control plane's metrics on `admin`, and watches the ledger for drift.
    pub async fn control_plane(
        &mut self,
        plane: &Arc<ControlPlane>,
        api: &Address,
        admin: &Address,
    ) -> anyhow::Result<()> {
        let (api, admin) = (api.bind().await?, admin.bind().await?);
        self.watch_drift(plane);
        let (plane, stop) = (Arc::clone(plane), self.stop.clone());
        let (same, stopped) = (Arc::clone(&plane), stop.clone());
        self.tasks.spawn(async move {
            with_listener!(api, |bound| plane.serve_public(bound, stop).await).context("serve the API")
        });
        self.tasks.spawn(async move {
            with_listener!(admin, |bound| same.serve_admin(bound, stopped).await).context("serve metrics")
        });
        Ok(())
    }

    /// Serves Envoy on `ext_proc` and the data plane's metrics on `admin`.
    pub async fn data_plane(
        &mut self,
        plane: &Arc<DataPlane>,
        ext_proc: &Address,
        admin: &Address,
    ) -> anyhow::Result<()> {
        let (ext_proc, admin) = (ext_proc.bind().await?, admin.bind().await?);
        let (plane, stop) = (Arc::clone(plane), self.stop.clone());
        self.tasks.spawn(async move { plane.serve(ext_proc, admin, stop).await.context("serve Envoy") });
        Ok(())
    }

    /// The first task that ended, as the reason why the program must.
    pub async fn failed(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok(Err(error))) => error,
            other => anyhow::anyhow!("a part of the program ended by itself: {other:?}"),
        }
    }

    /// Waits until every listener has ended, for a while.
    pub async fn ended(&mut self) {
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_FLUSH, ended).await.is_err() {
            tracing::warn!("a listener did not end in time");
        }
    }
}

/// Ends a data plane in order: settlements, reports, then its listeners and tasks.
pub async fn stop_data_plane(plane: &DataPlane, serving: &Serving) {
    wait_until(SETTLE_AFTER_CUT, || plane.in_flight() == 0).await;
    // Nothing new comes after this, so that nothing is under way once it leaves.
    serving.stop.cancel();
    wait_until(SETTLE_AFTER_CUT, || plane.in_flight() == 0).await;
    if !plane.flush(LAST_FLUSH).await {
        tracing::warn!("some events are not stored yet; they wait in the spool for the next start");
    }
    plane.leave().await;
    plane.stop().await;
}

/// Looks until `met`; false when the deadline came first.
pub async fn wait_until(deadline: Duration, met: impl Fn() -> bool) -> bool {
    let polling = async {
        while !met() {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(deadline, polling).await.is_ok()
}

/// Refuses what needs a ledger that several processes can reach.
pub fn shared_ledger(config: &Config, what: &str) -> anyhow::Result<Parts> {
    if config.redis_url.is_none() {
        bail!(
            "`nullspend {what}` is one process of several, and they share one ledger: set redis_url \
             (NULLSPEND_REDIS_URL), or run everything in one process with `nullspend up`"
        );
    }
    Parts::of(config)
}

//! The data plane put together: built, recovered, served, drained.

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::ExternalProcessorServer;
use nullspend_core::{
    attempt::AttemptStub,
    clock::Clock,
    exchange::{Answered, Moment, Opening, Reserving, Settings},
    id::{BudgetId, Ids},
    ledger::{Balance, ExtendOutcome, Ledger, LedgerUnavailable, Reserve, ReserveOutcome, Silence},
    money::Nanos,
    policy::Policy,
    tokenizer,
};
use tokio::sync::Semaphore;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::{Server, server::TcpIncoming};

use crate::{
    admin,
    bodies::Bodies,
    convert,
    credit::Credit,
    deciding::Deciding,
    guards::{Guards, RateLimits},
    health::Readiness,
    join::ControlPlane,
    lease::{LeaseConfig, Leases},
    listener::{Listener, patient},
    metrics::{Metrics, Observed},
    report::{self, Denials, ReportConfig, Reporter},
    server::ExtProcService,
    settle::Settlement,
    spool::{Replay, Spool, SpoolConfig, SpoolError},
    unpriced::Fate,
    watch::PolicyWatch,
};

/// How long a reserve may take before the request is answered 503 `budget_unavailable`: well under Envoy's time-out.
const LEDGER_WAIT: Duration = Duration::from_millis(250);
/// How often an extension is asked for before its stream is ended.
const EXTEND_TRIES: usize = 3;
/// How long the control plane may take to hear of an end.
pub(crate) const LEAVE_WAIT: Duration = Duration::from_secs(2);
/// How long a stale policy is waited for.
const POLICY_WAIT: Duration = Duration::from_secs(1);
/// Texts counted at once, each up to 50 ms of a core.
const COUNTS_AT_ONCE: usize = 2;
/// Denial records for each key and minute.
const DENIALS_PER_MINUTE: u32 = 60;
/// Windows of the HTTP/2 connection from Envoy: a 32 MiB body should not wait for many round trips.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// Every request is a stream, and every client that leaves resets one: neither may end the connection.
const STREAMS_MAX: u32 = 1 << 20;

/// What a data plane is configured with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Upstreams, lease, body limit.
    pub settings: Settings,
    /// Where the spool lives.
    pub spool_dir: PathBuf,
    /// How the spool writes.
    pub spool: SpoolConfig,
    /// How records are reported.
    pub report: ReportConfig,
    /// How long holds live without renewal, and how often others are swept.
    pub lease: LeaseConfig,
    /// Request bodies held at once, in bytes.
    pub max_bodies_in_flight_bytes: usize,
    /// How many calls may come.
    pub rate_limits: RateLimits,
    /// Refuse to run on policy older than this; `None` runs on (design law 7).
    pub policy_max_age: Option<Duration>,
}

/// What a data plane is given.
pub struct Deps {
    /// The ledger.
    pub ledger: Arc<dyn Ledger>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Identifiers.
    pub ids: Arc<dyn Ids>,
    /// The control plane's internal listener.
    pub control_plane: ControlPlane,
}

impl fmt::Debug for Deps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deps").finish_non_exhaustive()
    }
}

/// A data plane that cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The spool cannot be opened.
    #[error("open the spool")]
    Spool(#[source] SpoolError),
}

/// A listener that failed for good.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Envoy's.
    #[error("serve ext_proc")]
    ExtProc(#[source] tonic::transport::Error),
}

/// One data plane.
pub struct DataPlane {
    pub(crate) settings: Settings,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn Ids>,
    pub(crate) spool: Arc<Spool>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) bodies: Arc<Bodies>,
    /// Turns at counting texts.
    pub(crate) counting: Semaphore,
    pub(crate) deciding: Deciding,
    pub(crate) credit: Credit,
    pub(crate) control_plane: ControlPlane,
    denials: Denials,
    pub(crate) guards: Guards,
    pub(crate) watch: Arc<PolicyWatch>,
    policy_max_age: Option<Duration>,
    in_flight: AtomicUsize,
    /// What the last run left behind, until [`DataPlane::recover`] or [`DataPlane::resume`].
    pub(crate) replay: Mutex<Replay>,
    /// Reporter, policy watch and leases: they outlive the last request.
    pub(crate) background: TaskTracker,
    pub(crate) stop_background: CancellationToken,
}

impl fmt::Debug for DataPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataPlane").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

/// What came of a reserve.
pub(crate) enum Asked {
    /// The ledger's answer.
    Ledger(Result<ReserveOutcome, LedgerUnavailable>),
    /// It did not answer, and the call's cost was taken out of its budgets' credit.
    OnCredit,
}

/// What came of an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extension {
    /// It is held.
    Held,
    /// This budget has not so much left.
    Denied(Option<BudgetId>),
    /// The hold is gone, or the ledger does not say.
    Unavailable,
}

/// Counts a request, or its settlement, from beginning to end.
pub(crate) struct Entered(Arc<DataPlane>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl DataPlane {
    /// Opens the spool, loads the last policy and starts the background tasks. Blocking for as long as the disk is.
    ///
    /// # Errors
    /// [`BuildError`] names the part that failed.
    pub fn build(config: Config, deps: Deps) -> Result<Arc<Self>, BuildError> {
        let (spool, replay) =
            Spool::open(&config.spool_dir, config.spool, deps.ids.as_ref()).map_err(BuildError::Spool)?;
        let metrics = Arc::new(Metrics::new());
        let watch = PolicyWatch::load(&spool, Arc::clone(&deps.clock), Arc::clone(&metrics));
        let leases = Leases::new(
            Arc::clone(&deps.ledger),
            Arc::clone(&spool),
            Arc::clone(&deps.clock),
            Arc::clone(&metrics),
            config.lease,
        );
        let reporter = Reporter::new(
            Arc::clone(&spool),
            deps.control_plane.clone(),
            config.report,
            Arc::clone(&metrics),
        );
        let background = TaskTracker::new();
        let stop = CancellationToken::new();
        background.spawn(reporter.run(stop.clone()));
        background.spawn(Arc::clone(&watch).run(deps.control_plane.clone(), stop.clone()));
        background.spawn(Arc::clone(&leases).run(stop.clone()));
        let plane = Arc::new(Self {
            settings: config.settings,
            ledger: deps.ledger,
            clock: deps.clock,
            ids: deps.ids,
            spool,
            leases,
            metrics,
            bodies: Bodies::new(config.max_bodies_in_flight_bytes),
            counting: Semaphore::new(COUNTS_AT_ONCE),
            deciding: Deciding::default(),
            credit: Credit::of(&replay),
            control_plane: deps.control_plane.clone(),
            denials: Denials::new(DENIALS_PER_MINUTE),
            guards: Guards::new(config.rate_limits),
            watch,
            policy_max_age: config.policy_max_age,
            in_flight: AtomicUsize::new(0),
            replay: Mutex::new(replay),
            background,
            stop_background: stop.clone(),
        });
        let delivering = Arc::clone(&plane).deliver(deps.control_plane);
        plane.background.spawn(async move { stop.run_until_cancelled(delivering).await });
        plane.background.close();
        // Now, and not when the first stream breaks, whose thread it would keep.
        tokio::task::spawn_blocking(tokenizer::load);
        Ok(plane)
    }

    /// Waits until a policy is in force.
    pub async fn wait_for_policy(&self, timeout: Duration) -> bool {
        self.watch.wait_until(|_| true, timeout).await
    }

    /// Serves Envoy on `ext_proc` and `/metrics` on `admin` until `stop`, then until the last request has ended.
    ///
    /// # Errors
    /// When Envoy's listener fails for good.
    pub async fn serve(
        self: &Arc<Self>,
        ext_proc: Listener,
        admin: Listener,
        stop: CancellationToken,
    ) -> Result<(), ServeError> {
        // Request bodies come whole, response bodies in Envoy's pieces.
        let max_message = self.settings.max_body_bytes.max(8 << 20).saturating_add(1 << 20);
        let service = ExternalProcessorServer::new(ExtProcService(Arc::clone(self)))
            .max_decoding_message_size(max_message)
            .max_encoding_message_size(max_message);
        let serving = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(STREAMS_MAX)
            .http2_max_pending_accept_reset_streams(Some(STREAMS_MAX as usize))
            .http2_max_local_error_reset_streams(Some(STREAMS_MAX as usize))
            .add_service(service);
        let stopped = stop.clone().cancelled_owned();
        let serving = async {
            match ext_proc {
                Listener::Unix(unix) => {
                    serving
                        .serve_with_incoming_shutdown(patient(UnixListenerStream::new(unix)), stopped)
                        .await
                }
                Listener::Tcp(tcp) => {
                    let prompt = TcpIncoming::from(tcp).with_nodelay(Some(true));
                    serving.serve_with_incoming_shutdown(patient(prompt), stopped).await
                }
            }
        };
        let metrics = admin::serve(admin, Arc::clone(self), stop);
        let (served, ()) = tokio::join!(serving, metrics);
        served.map_err(ServeError::ExtProc)
    }

    /// Waits until everything spooled so far is stored; false when `deadline` came first.
    pub async fn flush(&self, deadline: Duration) -> bool {
        report::flush(&self.spool, deadline).await
    }

    /// Ends the background tasks. Call it after [`DataPlane::flush`].
    pub async fn stop(&self) {
        self.stop_background.cancel();
        self.background.wait().await;
        if let Err(cause) = self.spool.tidy() {
            tracing::warn!(%cause, "the spool could not be tidied");
        }
    }

    /// The text of a metrics scrape.
    pub(crate) async fn scrape(&self) -> String {
        let holds = tokio::time::timeout(LEDGER_WAIT, self.ledger.open_holds()).await;
        let policy = self.watch.current();
        self.metrics.encode(&Observed {
            spool: self.spool.stats(),
            holds: holds.ok().and_then(Result::ok),
            policy_age_ms: self.watch.age_ms(),
            policy_revision: policy.revision,
            policy_bad_rows: self.watch.bad_rows(),
            policy_connected: self.watch.connected(),
            now_ms: self.clock.now_ms(),
        })
    }

    /// Both clocks.
    pub(crate) fn now(&self) -> Moment {
        Moment { ms: self.clock.now_ms(), us: self.clock.monotonic_us() }
    }

    /// Counts a request, or its settlement, in.
    pub(crate) fn enter(self: &Arc<Self>) -> Entered {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Entered(Arc::clone(self))
    }

    /// Who it is to the control plane: kept in the spool's directory.
    #[must_use]
    pub fn id(&self) -> &str {
        self.spool.dataplane_id()
    }

    /// Requests between their headers and their settlement.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The policy in force; `None` before the first, or when it is older than the operator allows.
    pub(crate) fn policy(&self) -> Option<Arc<Policy>> {
        let too_old = |max: Duration| {
            self.watch.age_ms().is_none_or(|age| u128::from(age.unsigned_abs()) > max.as_millis())
        };
        if !self.watch.ready() || self.policy_max_age.is_some_and(too_old) {
            return None;
        }
        Some(self.watch.current())
    }

    /// The refusal of a call whose key was revoked, or that was frozen, since it came: once that is confirmed to whoever
    /// did it, nothing of it leaves any more.
    pub(crate) fn refused(&self, opening: &Opening) -> Option<Box<Answered>> {
        opening.refused(self.policy()?.as_ref(), self.now())
    }

    /// The policy once it has reached `revision`, or what there is when it does not in time.
    pub(crate) async fn policy_at(&self, revision: u64) -> Option<Arc<Policy>> {
        self.watch.wait_for(revision, POLICY_WAIT).await;
        self.policy()
    }

    /// Takes the bound out of the budgets, in bounded time; out of their credit when the ledger does not answer.
    pub(crate) async fn reserve(self: &Arc<Self>, reserving: &Reserving) -> Asked {
        let reserve = reserving.reserve(self.settings.lease_ms, convert::stub_bytes);
        let sent = self.credit.sending();
        let waited = tokio::time::timeout(LEDGER_WAIT, self.ledger.reserve(&reserve)).await;
        let outcome = waited.unwrap_or_else(|_| {
            Err(LedgerUnavailable::unanswered(format!("no answer within {LEDGER_WAIT:?}")))
        });
        match &outcome {
            Ok(ReserveOutcome::Reserved { .. }) => {
                self.credit.granted(sent, reserve.scopes.iter().map(|scope| scope.counter.budget));
            }
            Ok(_) => {}
            Err(unavailable) => {
                self.metrics.ledger_failures.inc();
                let (whole, credits) = reserving.credit();
                if self.may_use_credit(&reserve, unavailable.silence)
                    && self.credit.take(reserve.hold, whole, &credits)
                {
                    self.metrics.calls_on_credit.inc();
                    return Asked::OnCredit;
                }
                if unavailable.silence == Silence::Unanswered {
                    self.give_up(reserve);
                }
            }
        }
        Asked::Ledger(outcome)
    }

    /// Only a ledger that is away gives credit: not one that refuses, nor one whose books are made again, which must know
    /// of everything that passes meanwhile.
    fn may_use_credit(&self, reserve: &Reserve, silence: Silence) -> bool {
        let rebuilt = || self.watch.rebuilds().borrow().iter().any(|one| one.org_id == reserve.org.bare());
        matches!(silence, Silence::NotAsked | Silence::Unanswered) && !rebuilt()
    }

    /// Takes more out of the budgets for a call under way, in bounded time.
    pub(crate) async fn extend(&self, stub: &AttemptStub, add: Nanos) -> Extension {
        for _ in 0..EXTEND_TRIES {
            let number = self.leases.next_number();
            let holds = [stub.attempt];
            let asked = self.ledger.extend(stub.org, &holds, number, self.settings.lease_ms, add);
            match tokio::time::timeout(LEDGER_WAIT, asked).await {
                Ok(Ok(outcomes)) => match outcomes.first() {
                    Some(ExtendOutcome::Extended) => return Extension::Held,
                    Some(ExtendOutcome::Denied { scope }) => {
                        return Extension::Denied(
                            stub.charges.get(*scope).map(|charge| charge.counter.budget),
                        );
                    }
                    // A renewal with a later number was quicker, so this one did nothing.
                    Some(ExtendOutcome::AlreadyDone) => {}
                    Some(ExtendOutcome::Lapsed | ExtendOutcome::Unknown | ExtendOutcome::Invalid(_))
                    | None => {
                        return Extension::Unavailable;
                    }
                },
                // Whether it was carried out is not known: more may be held than is counted on, never less.
                Ok(Err(_)) | Err(_) => drop(self.metrics.ledger_failures.inc()),
            }
        }
        Extension::Unavailable
    }

    /// What an attempt's budgets have left now; empty when it touches none, or the ledger does not say in time.
    pub(crate) async fn balances(&self, stub: &AttemptStub) -> Vec<Balance> {
        let counters: Vec<_> = stub.charges.iter().map(|charge| charge.counter).collect();
        if counters.is_empty() {
            return Vec::new();
        }
        let asked = self.ledger.balances(stub.org, &counters);
        tokio::time::timeout(LEDGER_WAIT, asked).await.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Gives a hold back whose request was not forwarded.
    pub(crate) fn release(self: &Arc<Self>, opening: &Opening) {
        let stub = convert::stub(&opening.stub);
        self.take_back(Settlement::of(&opening.stub, Nanos::ZERO), stub);
    }

    /// Counts an answer of our own and keeps its denial.
    pub(crate) fn answered(&self, answered: &Answered) {
        if !answered.answer.code.is_empty() {
            self.metrics.denial(answered.answer.code);
        }
        let Some(denial) = &answered.denial else { return };
        if denial.code == "invalid_model" {
            self.metrics.unpriced.call(&denial.provider, &denial.model, Fate::Refused, denial.at_ms);
        }
        let Some(suppressed) = self.denials.admit(denial.key, denial.at_ms) else {
            self.metrics.denials_suppressed.inc();
            return;
        };
        // Best effort by design: a denial moves no money.
        if self.spool.append(&convert::denied(denial, suppressed)).is_err() {
            self.metrics.spool_refusals.inc();
        }
    }

    /// What keeps this data plane from deciding calls and recording them. The ledger is not asked: another data plane would
    /// have no other, and without it calls are answered too (on credit, or with `budget_unavailable`).
    pub(crate) fn readiness(&self) -> Readiness {
        let mut missing = Vec::new();
        if self.policy().is_none() {
            missing.push(("policy", "no policy in force from the control plane".to_owned()));
        }
        if let Some(why) = self.spool.refuses() {
            missing.push(("spool", why));
        }
        Readiness { missing }
    }
}

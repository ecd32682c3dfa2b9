//! Keeps the leases of open holds alive, and writes the events of those that ran out (design law 2).

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nullspend_core::{
    attempt::Measurement,
    clock::Clock,
    id::{AttemptId, OrgId},
    ledger::{ExtendOutcome, LapsedHold, Ledger},
    money::Nanos,
};
use nullspend_proto::internal::{AttemptStub, Closed, SpoolRecord, spool_record::Kind};
use prost::Message as _;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::Metrics,
    spool::{Spool, SpoolError, lapsed},
    surely::strip_texts,
};

/// Holds renewed by one ledger call.
const RENEWED_AT_ONCE: usize = 500;

/// How long holds live.
#[derive(Clone, Copy, Debug)]
pub struct LeaseConfig {
    /// A hold that is not renewed for this long is charged in full.
    pub lease: Duration,
    /// How often ours are renewed and those that ran out are looked for, or every third of a lease where that is shorter.
    pub sweep_every: Duration,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self { lease: Duration::from_secs(30), sweep_every: Duration::from_secs(2) }
    }
}

/// The open holds of this data plane.
pub struct Leases {
    ledger: Arc<dyn Ledger>,
    spool: Arc<Spool>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    config: LeaseConfig,
    holds: Mutex<HashMap<AttemptId, Open>>,
    number: AtomicU64,
    /// Events of swept holds that the spool could not take yet. Locked from a sweep's call until its events are written:
    /// they are nowhere else.
    unwritten: tokio::sync::Mutex<VecDeque<Closed>>,
}

struct Open {
    org: OrgId,
    /// It lapsed or vanished meanwhile: settling it will say so.
    lost: bool,
}

/// A hold that is renewed for as long as this value lives. Drop it after the hold was settled.
#[must_use = "dropping it lets the hold lapse"]
pub struct Lease {
    leases: Arc<Leases>,
    hold: AttemptId,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.holds().remove(&self.hold);
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("hold", &self.hold).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Leases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leases").field("open", &self.open()).finish_non_exhaustive()
    }
}

impl Leases {
    /// No holds yet.
    #[must_use]
    pub fn new(
        ledger: Arc<dyn Ledger>,
        spool: Arc<Spool>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        config: LeaseConfig,
    ) -> Arc<Self> {
        Arc::new(Self {
            ledger,
            spool,
            clock,
            metrics,
            config,
            holds: Mutex::default(),
            number: AtomicU64::new(0),
            unwritten: tokio::sync::Mutex::default(),
        })
    }

    /// The lease to reserve with, in milliseconds.
    #[must_use]
    pub fn lease_ms(&self) -> i64 {
        i64::try_from(self.config.lease.as_millis()).unwrap_or(i64::MAX)
    }

    /// Renews `hold` from now on. Call it once the hold is reserved.
    pub fn keep(self: &Arc<Self>, org: OrgId, hold: AttemptId) -> Lease {
        self.holds().insert(hold, Open { org, lost: false });
        Lease { leases: Arc::clone(self), hold }
    }

    /// The next extension number: rising over all holds of this process, so for each of them too.
    pub fn next_number(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Holds being renewed.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.holds().len() as u64
    }

    /// Renews and sweeps until `shutdown`. Keep it running until the last request has ended.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        // A short lease is renewed often enough to outlive two renewals that fail.
        let mut round = tokio::time::interval(self.config.sweep_every.min(self.config.lease / 3));
        // After a pause (a suspended machine) one renewal does; a burst of them would only load the ledger.
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(round.tick()).await.is_some() {
            // Leases run on the wall clock: after a step or a sleep of the machine all look over, and ours are not.
            self.renew_all().await;
            self.sweep().await;
        }
    }

    /// Renews every open hold once.
    pub async fn renew_all(&self) {
        let mut by_org: HashMap<OrgId, Vec<AttemptId>> = HashMap::new();
        for (hold, open) in self.holds().iter() {
            if !open.lost {
                by_org.entry(open.org).or_default().push(*hold);
            }
        }
        for (org, holds) in by_org {
            for some in holds.chunks(RENEWED_AT_ONCE) {
                self.renew(org, some).await;
            }
        }
    }

    async fn renew(&self, org: OrgId, holds: &[AttemptId]) {
        let number = self.next_number();
        let outcomes = match self.ledger.extend(org, holds, number, self.lease_ms(), Nanos::ZERO).await {
            Ok(outcomes) => outcomes,
            Err(error) => {
                // The next round comes well before the lease ends.
                self.metrics.ledger_failures.inc();
                tracing::warn!(error = %error, holds = holds.len(), "leases could not be renewed");
                return;
            }
        };
        for (hold, outcome) in holds.iter().zip(outcomes) {
            match outcome {
                ExtendOutcome::Extended | ExtendOutcome::AlreadyDone | ExtendOutcome::Denied { .. } => {}
                ExtendOutcome::Lapsed | ExtendOutcome::Unknown => self.mark_lost(*hold),
                ExtendOutcome::Invalid(misuse) => {
                    tracing::error!(attempt = %hold, error = %misuse, "a lease could not be renewed");
                }
            }
        }
    }

    /// A request that ended meanwhile has no lease left to lose.
    fn mark_lost(&self, hold: AttemptId) {
        if let Some(open) = self.holds().get_mut(&hold)
            && !std::mem::replace(&mut open.lost, true)
        {
            self.metrics.leases_lost.inc();
            tracing::error!(attempt = %hold, "an open hold lapsed under its owner");
        }
    }

    /// Ends holds whose lease ran out and writes their events. None is ended while the spool does not take the last ones'.
    pub async fn sweep(&self) {
        let mut unwritten = self.unwritten.lock().await;
        if self.write(&mut unwritten).is_err() {
            return;
        }
        match self.ledger.sweep().await {
            Ok(swept) => unwritten.extend(swept.into_iter().filter_map(|hold| self.swept(hold))),
            Err(error) => {
                self.metrics.ledger_failures.inc();
                tracing::warn!(error = %error, "holds could not be swept");
            }
        }
        // What is refused is tried again on the next round.
        let _ = self.write(&mut unwritten);
    }

    fn swept(&self, hold: LapsedHold) -> Option<Closed> {
        self.mark_lost(hold.hold);
        match AttemptStub::decode(hold.stub) {
            Ok(stub) if !stub.attempt_id.is_empty() => {
                self.metrics.event(Measurement::Lapsed, stub.unpriced);
                let mut event = lapsed(stub, self.clock.now_ms());
                (event.cost_nanos, event.swept) = (hold.amount.0, true);
                Some(event)
            }
            Ok(_) | Err(_) => {
                tracing::error!(attempt = %hold.hold, "a swept hold has no readable stub: its event cannot be written");
                None
            }
        }
    }

    /// Waits for a sweep that is on its way, and appends what it left. None begins while the answer is kept.
    ///
    /// # Errors
    /// The spool refuses some of it.
    pub(crate) async fn write_events(
        &self,
    ) -> Result<tokio::sync::MutexGuard<'_, VecDeque<Closed>>, SpoolError> {
        let mut unwritten = self.unwritten.lock().await;
        self.write(&mut unwritten)?;
        Ok(unwritten)
    }

    fn write(&self, unwritten: &mut VecDeque<Closed>) -> Result<(), SpoolError> {
        while let Some(event) = unwritten.front_mut() {
            let mut record = SpoolRecord { kind: Some(Kind::Closed(event.clone())) };
            match self.spool.append(&record) {
                Ok(_) => {}
                Err(SpoolError::Record { .. }) if strip_texts(&mut record) => {
                    if let Some(Kind::Closed(plain)) = record.kind {
                        *event = plain;
                    }
                    continue;
                }
                Err(error @ SpoolError::Record { .. }) => {
                    tracing::error!(error = %error, "the event of a lapsed hold can never be written");
                }
                Err(error) => {
                    self.metrics.spool_refusals.inc();
                    tracing::error!(error = %error, waiting = unwritten.len(), "events of lapsed holds cannot be written yet");
                    return Err(error);
                }
            }
            unwritten.pop_front();
        }
        Ok(())
    }

    fn holds(&self) -> MutexGuard<'_, HashMap<AttemptId, Open>> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;

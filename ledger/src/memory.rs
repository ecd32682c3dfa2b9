//! The ledger of a single process: the law itself, one state for each organisation, each behind its own lock.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, RwLock},
};

use async_trait::async_trait;
use nullspend_core::{
    clock::Clock,
    id::{AttemptId, OrgId},
    ledger::{
        Balance, Charge, ChargeOutcome, CounterKey, ExtendOutcome, LapsedHold, Ledger, LedgerUnavailable,
        LimitChange, OpenHolds, Reserve, ReserveOutcome, Restored, SessionSpend, SettleOutcome, Silence,
        law::State,
    },
    money::Nanos,
};

/// Organisations that meet in one shard share a lock only while one of them is looked up.
const SHARDS: usize = 64;

type Shard = RwLock<HashMap<OrgId, Arc<Mutex<State>>>>;

/// The in-process ledger. Empty when made: [`Ledger::load`] it from the store before the first decision.
///
/// No lock is held across an await, and operations of different organisations never wait for each other.
#[derive(Debug)]
pub struct MemoryLedger {
    clock: Arc<dyn Clock>,
    hasher: RandomState,
    shards: Box<[Shard]>,
}

impl MemoryLedger {
    /// A ledger that knows nothing, on the given clock.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        Self { clock, hasher: RandomState::new(), shards }
    }

    fn shard(&self, org: OrgId) -> &Shard {
        let hash = self.hasher.hash_one(org);
        let index = usize::try_from(hash % SHARDS as u64).unwrap_or(0);
        &self.shards[index]
    }

    /// Runs one operation on an organisation's state.
    fn with<T>(
        &self,
        org: OrgId,
        operation: impl FnOnce(&mut State, i64) -> T,
    ) -> Result<T, LedgerUnavailable> {
        let shard = self.shard(org);
        let known = shard.read().map_err(|_| poisoned())?.get(&org).cloned();
        let state = match known {
            Some(state) => state,
            None => {
                let mut orgs = shard.write().map_err(|_| poisoned())?;
                Arc::clone(orgs.entry(org).or_insert_with(|| Arc::new(Mutex::new(State::new(org)))))
            }
        };
        // The clock is read under the lock, so that operations see time in the order they run.
        let mut state = lock(&state)?;
        Ok(operation(&mut state, self.clock.now_ms()))
    }

    /// Every organisation's state, collected so that no shard is locked while they are visited.
    fn states(&self) -> Result<Vec<Arc<Mutex<State>>>, LedgerUnavailable> {
        let mut states = Vec::new();
        for shard in &self.shards {
            states.extend(shard.read().map_err(|_| poisoned())?.values().cloned());
        }
        Ok(states)
    }

    /// Checks the law's invariants of every organisation. Slow: for tests.
    ///
    /// # Errors
    /// The sentence that is not true.
    pub fn invariants(&self) -> Result<(), String> {
        for state in self.states().map_err(|e| e.to_string())? {
            lock(&state).map_err(|e| e.to_string())?.invariants()?;
        }
        Ok(())
    }
}

fn lock(state: &Mutex<State>) -> Result<MutexGuard<'_, State>, LedgerUnavailable> {
    state.lock().map_err(|_| poisoned())
}

/// A panic inside the law may have left money half moved: deny rather than guess (fail closed).
fn poisoned() -> LedgerUnavailable {
    let cause = "an operation on this organisation's ledger panicked; restart to rebuild it".to_owned();
    LedgerUnavailable { silence: Silence::Unanswered, cause }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn reserve(&self, reserve: &Reserve) -> Result<ReserveOutcome, LedgerUnavailable> {
        self.with(reserve.org, |state, now_ms| state.reserve(now_ms, reserve))
    }

    async fn extend(
        &self,
        org: OrgId,
        holds: &[AttemptId],
        number: u64,
        lease_ms: i64,
        add: Nanos,
    ) -> Result<Vec<ExtendOutcome>, LedgerUnavailable> {
        self.with(org, |state, now_ms| state.extend(now_ms, holds, number, lease_ms, add))
    }

    async fn settle(
        &self,
        org: OrgId,
        hold: AttemptId,
        actual: Nanos,
    ) -> Result<SettleOutcome, LedgerUnavailable> {
        self.with(org, |state, now_ms| state.settle(now_ms, hold, actual))
    }

    async fn charge(&self, charge: &Charge) -> Result<ChargeOutcome, LedgerUnavailable> {
        self.with(charge.org, |state, now_ms| state.charge(now_ms, charge))
    }

    async fn balances(&self, org: OrgId, counters: &[CounterKey]) -> Result<Vec<Balance>, LedgerUnavailable> {
        self.with(org, |state, _| state.balances(counters))
    }

    async fn apply_limits(&self, org: OrgId, changes: &[LimitChange]) -> Result<(), LedgerUnavailable> {
        self.with(org, |state, _| state.apply_limits(changes))
    }

    async fn sweep(&self) -> Result<Vec<LapsedHold>, LedgerUnavailable> {
        let mut lapsed = Vec::new();
        for state in self.states()? {
            // An error would lose what other organisations' sweeps returned; a poisoned one says so to its callers.
            if let Ok(mut state) = lock(&state) {
                lapsed.extend(state.sweep(self.clock.now_ms()));
            }
        }
        Ok(lapsed)
    }

    async fn load(&self, org: OrgId, settled: &[(CounterKey, Nanos)]) -> Result<(), LedgerUnavailable> {
        self.with(org, |state, _| state.load(settled))
    }

    async fn load_sessions(&self, org: OrgId, sessions: &[SessionSpend]) -> Result<(), LedgerUnavailable> {
        self.with(org, |state, _| state.load_sessions(sessions))
    }

    /// These books are lost with their process, so whoever asks is at its start.
    async fn begin_rebuild(&self, _: OrgId) -> Result<bool, LedgerUnavailable> {
        Ok(true)
    }

    async fn restore(&self, reserve: &Reserve, as_a: Restored) -> Result<ReserveOutcome, LedgerUnavailable> {
        self.with(reserve.org, |state, now_ms| state.restore(now_ms, reserve, as_a))
    }

    async fn restore_done(&self, org: OrgId, ids: &[AttemptId]) -> Result<(), LedgerUnavailable> {
        self.with(org, |state, now_ms| state.restore_done(now_ms, ids))
    }

    async fn finish_rebuild(&self, _: OrgId) -> Result<(), LedgerUnavailable> {
        Ok(())
    }

    async fn is_lost(&self, _: OrgId) -> Result<bool, LedgerUnavailable> {
        Ok(false)
    }

    async fn give_up(&self, _: OrgId) -> Result<(), LedgerUnavailable> {
        let cause = "the ledger of one process is rebuilt by restarting it".to_owned();
        Err(LedgerUnavailable { silence: Silence::NotAsked, cause })
    }

    async fn open_holds(&self) -> Result<OpenHolds, LedgerUnavailable> {
        let mut all = OpenHolds::default();
        for state in self.states()? {
            let of = lock(&state)?.open_holds(self.clock.now_ms());
            all.count += of.count;
            all.oldest_ms = all.oldest_ms.max(of.oldest_ms);
            all.held = all.held + of.held;
        }
        Ok(all)
    }
}

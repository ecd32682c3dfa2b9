//! What really happened, which no part of the system can see: what providers billed, and what must follow from it.

use std::collections::{BTreeMap, BTreeSet};

use nullspend_core::{
    attempt::BudgetCharge,
    id::{AttemptId, BudgetId},
    ledger::{CounterKey, ReserveOutcome, Scope},
    money::Nanos,
    policy::Enforcement,
};
use uuid::Uuid;

use super::{
    spool::Stub,
    store::{Event, Store},
};

pub fn budget(n: u128) -> BudgetId {
    BudgetId(Uuid::from_u128(n))
}

/// How often each thing was met.
#[derive(Default)]
pub struct Met(pub BTreeMap<&'static str, u64>);

impl Met {
    pub fn note(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }
}

/// A call that left.
struct Call {
    charges: Vec<BudgetCharge>,
    /// The most it may spend, as far as bytes may pass.
    bound: i64,
    /// What the provider bills.
    billed: Option<i64>,
    /// Its data plane saw its end.
    seen: bool,
}

#[derive(Default)]
pub struct Ghost {
    calls: BTreeMap<AttemptId, Call>,
    /// Calls that were refused and whose reserve is taken back: they cost nothing.
    taken_back: BTreeSet<AttemptId>,
    /// The highest limit that ever was in force.
    most: BTreeMap<BudgetId, i64>,
    strict: BTreeSet<BudgetId>,
    /// What is spent and may yet be, and the part that nobody could refuse.
    exposed: BTreeMap<CounterKey, (i64, i64)>,
    elsewhere: BTreeMap<AttemptId, i64>,
    /// Calls whose data plane died while it took their reserve back: the ledger may know that they cost nothing while
    /// their event is still a lapse.
    pub orphans: BTreeSet<AttemptId>,
    pub broken: Option<String>,
    pub met: Met,
}

impl Ghost {
    fn claim(&mut self, truth: bool, otherwise: impl FnOnce() -> String) {
        if !truth && self.broken.is_none() {
            self.broken = Some(otherwise());
        }
    }

    pub fn limited(&mut self, n: u128, enforcement: Enforcement, limit: i64) {
        let most = self.most.entry(budget(n)).or_default();
        *most = limit.max(*most);
        if enforcement == Enforcement::StrictBlock {
            self.strict.insert(budget(n));
        }
    }

    /// The ledger answered a reserve: at that instant no strict window may be over its limit.
    pub fn granted(&mut self, scopes: &[Scope], outcome: &ReserveOutcome) {
        let ReserveOutcome::Reserved { balances, .. } = outcome else { return };
        for (scope, balance) in scopes.iter().zip(balances) {
            let strict = scope.enforcement == Enforcement::StrictBlock;
            self.claim(!strict || balance.remaining() >= Nanos::ZERO, || {
                format!("granted beyond a strict limit: {scope:?} has {balance:?}")
            });
        }
    }

    /// Bytes may pass that cost at most so much.
    pub fn forwarded(&mut self, stub: &Stub) {
        let id = stub.attempt;
        let known = self.calls.remove(&id).map_or(0, |call| call.bound);
        let call = Call { charges: stub.charges.clone(), bound: stub.held, billed: None, seen: false };
        self.expose(&call.charges.clone(), stub.held - known, 0);
        self.calls.insert(id, call);
        for charge in &stub.charges {
            let (exposed, excused) = self.exposed[&charge.counter];
            let most = self.most.get(&charge.counter.budget).copied().unwrap_or(0);
            let strict = self.strict.contains(&charge.counter.budget);
            self.claim(!strict || exposed - excused <= most, || {
                format!(
                    "call {id:?} may bring {:?} to {exposed}; its limit was never above {most} and {excused} were not \
                     refusable",
                    charge.counter
                )
            });
        }
    }

    /// The provider is done with a call.
    pub fn billed(&mut self, id: AttemptId, cost: i64, seen: bool) {
        let Some(call) = self.calls.get_mut(&id).filter(|call| call.billed.is_none()) else { return };
        (call.billed, call.seen) = (Some(cost), seen);
        let (charges, more) = (call.charges.clone(), cost - call.bound);
        self.expose(&charges, more, more.max(0));
    }

    pub fn spent_elsewhere(&mut self, id: AttemptId, charges: &[BudgetCharge], cost: i64) {
        self.elsewhere.insert(id, cost);
        self.expose(charges, cost, cost);
    }

    pub fn taken_back(&mut self, id: AttemptId) {
        self.taken_back.insert(id);
    }

    pub fn was_taken_back(&self, id: AttemptId) -> bool {
        self.taken_back.contains(&id)
    }

    fn expose(&mut self, charges: &[BudgetCharge], exposed: i64, excused: i64) {
        for charge in charges {
            let entry = self.exposed.entry(charge.counter).or_default();
            entry.0 += exposed;
            entry.1 += excused;
        }
    }

    /// By how much the store may be above the ledger in a window.
    pub fn slack(&self, store: &Store, counter: CounterKey) -> i64 {
        let orphaned = self.orphans.iter().filter_map(|id| store.events.get(id)).filter(|event| event.lapsed);
        let charged = |event: &&Event| event.charges.iter().any(|charge| charge.counter == counter);
        orphaned.filter(charged).map(|event| event.cost).sum()
    }

    /// Once nothing moves any more: one event for each call that left, exact where its end was seen, and nothing else.
    pub fn at_rest(&mut self, store: &Store) {
        let mut wrong = Vec::new();
        for (id, call) in &self.calls {
            let billed = call.billed.unwrap_or(call.bound);
            match store.events.get(id) {
                None => wrong.push(format!("call {id:?} left and has no event")),
                Some(event) if call.seen && (event.lapsed || event.cost != billed) => {
                    wrong.push(format!("call {id:?} was billed {billed}, its event is {event:?}"));
                }
                Some(event) if event.cost < billed => {
                    wrong.push(format!("call {id:?} was billed {billed} unseen, its event is {event:?}"));
                }
                Some(_) => {}
            }
        }
        for (id, event) in &store.events {
            let Event { cost, lapsed, .. } = event;
            let fine = if let Some(spent) = self.elsewhere.get(id) {
                cost == spent
            } else if self.taken_back.contains(id) {
                *cost == 0 && !lapsed
            } else {
                self.calls.contains_key(id) || *lapsed || *cost == 0
            };
            if !fine {
                wrong.push(format!("{id:?} never left, its event is {event:?}"));
            }
        }
        for (counter, settled) in &store.windows {
            let charged = |event: &&Event| event.charges.iter().any(|charge| charge.counter == *counter);
            let sum: i64 = store.events.values().filter(charged).map(|event| event.cost).sum();
            if sum != *settled {
                wrong.push(format!("{counter:?} has {settled}, its events sum to {sum}"));
            }
        }
        self.claim(wrong.is_empty(), || wrong.join("\n"));
    }
}

//! What the law knows of budgets: the limit in force, and the counters of their windows.

use std::collections::HashMap;

use super::{Balance, CounterKey, LimitChange, Scope, by_id::ById};
use crate::{
    id::BudgetId,
    money::{MAX_TOTAL_NANOS, Nanos},
    policy::Enforcement,
};

/// The budgets of one organisation.
#[derive(Clone, Debug, Default)]
pub(super) struct Books {
    budgets: HashMap<BudgetId, Budget, ById>,
}

/// One budget: its limit, and a counter for each of its windows that is still of use.
#[derive(Clone, Debug)]
struct Budget {
    /// Of the limit; the highest one seen.
    revision: u64,
    limit: Limit,
    enforcement: Enforcement,
    /// Generation and start of the latest window that a reserve was made in. Those before it have ended.
    latest: (u32, i64),
    /// Few: one for each window, and windows that ended are dropped.
    counters: Vec<Counter>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    /// Nobody told yet: the budget is known by its spend only.
    Unknown,
    Of(Nanos),
    Deleted,
}

/// Money of one window.
#[derive(Clone, Debug)]
pub(super) struct Counter {
    generation: u32,
    start_ms: i64,
    end_ms: Option<i64>,
    /// Spent; 0 to [`MAX_TOTAL_NANOS`].
    pub(super) settled: Nanos,
    /// Sum of the open holds that name it. Exact, since releasing takes out what holding put in.
    pub(super) held: i128,
    /// Open and lapsed holds that name it: it is kept for them, however long ago its window ended.
    pub(super) named_by: u32,
}

impl Counter {
    /// Takes `amount` for a hold that names this counter from now on.
    pub(super) fn hold(&mut self, amount: Nanos) {
        self.named_by += 1;
        self.held += i128::from(amount.0);
    }

    /// Takes more for a hold that names this counter already.
    pub(super) fn hold_more(&mut self, add: Nanos) {
        self.held += i128::from(add.0);
    }

    /// Ends a hold, charging what the call really cost.
    pub(super) fn settle(&mut self, held: Nanos, actual: Nanos) {
        self.lapse(held, actual);
        self.named_by -= 1;
    }

    /// Ends a hold whose owner is silent, charging an amount that may be corrected later.
    pub(super) fn lapse(&mut self, held: Nanos, charged: Nanos) {
        self.held -= i128::from(held.0);
        debug_assert!(self.held >= 0, "more released than held");
        self.spend(charged);
    }

    /// Replaces what a lapse charged by the truth.
    pub(super) fn correct(&mut self, charged: Nanos, actual: Nanos) {
        self.settled = (self.settled - charged).max(Nanos::ZERO);
        self.spend(actual);
        self.named_by -= 1;
    }

    /// Records spend. Totals saturate (design law 5).
    pub(super) fn spend(&mut self, actual: Nanos) {
        self.settled = self.settled + actual;
    }

    fn committed(&self) -> i128 {
        i128::from(self.settled.0) + self.held
    }
}

impl Budget {
    fn unknown() -> Self {
        Self {
            revision: 0,
            limit: Limit::Unknown,
            enforcement: Enforcement::StrictBlock,
            latest: (0, i64::MIN),
            counters: Vec::new(),
        }
    }

    fn counter(&self, key: &CounterKey) -> Option<&Counter> {
        self.counters.iter().find(|c| c.start_ms == key.window_start_ms && c.generation == key.generation)
    }

    fn counter_mut(&mut self, key: &CounterKey) -> Option<&mut Counter> {
        self.counters.iter_mut().find(|c| c.start_ms == key.window_start_ms && c.generation == key.generation)
    }

    /// Whether the ledger knows a later limit than the scope brings, or that the budget is gone.
    fn is_ahead_of(&self, scope: &Scope) -> bool {
        match self.limit {
            Limit::Unknown => false,
            Limit::Of(_) => self.revision > scope.revision,
            Limit::Deleted => self.revision >= scope.revision,
        }
    }

    /// Takes over a scope's limit when it is the latest.
    fn learn(&mut self, scope: &Scope) {
        if self.is_ahead_of(scope) {
            return;
        }
        if self.limit == Limit::Unknown || scope.revision > self.revision {
            self.revision = scope.revision;
            self.limit = Limit::Of(scope.limit);
        }
        self.enforcement = scope.enforcement;
    }

    /// What a counter has left for `add`: `committed + add <= limit`, exactly equal included.
    fn fits(&self, counter: Option<&Counter>, add: Nanos) -> bool {
        let committed = counter.map_or(0, Counter::committed) + i128::from(add.0);
        match self.limit {
            Limit::Of(limit) => committed <= i128::from(limit.0),
            Limit::Unknown | Limit::Deleted => true,
        }
    }

    fn balance(&self, counter: Option<&Counter>) -> Balance {
        let limit = match self.limit {
            Limit::Of(limit) => limit,
            Limit::Unknown | Limit::Deleted => Nanos::ZERO,
        };
        let held = counter.map_or(0, |c| c.held.min(i128::from(MAX_TOTAL_NANOS)));
        Balance {
            limit,
            settled: counter.map_or(Nanos::ZERO, |c| c.settled),
            held: Nanos(i64::try_from(held).unwrap_or(MAX_TOTAL_NANOS)),
        }
    }
}

impl Books {
    /// The revision of the ledger's limit, when the scope's is too old to decide by.
    pub(super) fn later_revision(&self, scope: &Scope) -> Option<u64> {
        let budget = self.budgets.get(&scope.counter.budget)?;
        budget.is_ahead_of(scope).then_some(budget.revision)
    }

    /// Learns a reserve's scope, which the ledger's clock says is the budget's window now. Answers its balance, and
    /// whether `amount` fits the limit.
    pub(super) fn look_at(&mut self, scope: &Scope, amount: Nanos) -> (Balance, bool) {
        let key = &scope.counter;
        let budget = self.budgets.entry(key.budget).or_insert_with(Budget::unknown);
        budget.learn(scope);
        budget.latest = budget.latest.max((key.generation, key.window_start_ms));
        let counter = budget.counter(key);
        (budget.balance(counter), budget.fits(counter, amount))
    }

    /// The counter of a scope, made if need be. Learns the scope's limit.
    pub(super) fn open(&mut self, scope: &Scope) -> &mut Counter {
        let key = &scope.counter;
        let budget = self.budgets.entry(key.budget).or_insert_with(Budget::unknown);
        budget.learn(scope);
        let place = budget
            .counters
            .iter()
            .position(|c| c.start_ms == key.window_start_ms && c.generation == key.generation)
            .unwrap_or_else(|| {
                budget.counters.push(Counter::new(key));
                budget.counters.len() - 1
            });
        let counter = &mut budget.counters[place];
        counter.end_ms = scope.window_end_ms;
        counter
    }

    /// A counter that exists.
    pub(super) fn counter_mut(&mut self, key: &CounterKey) -> Option<&mut Counter> {
        self.budgets.get_mut(&key.budget)?.counter_mut(key)
    }

    /// Whether a hold that names a counter may take `add` more: only a strict limit says no.
    pub(super) fn allows_more(&self, key: &CounterKey, add: Nanos) -> bool {
        let Some(budget) = self.budgets.get(&key.budget) else { return true };
        budget.enforcement != Enforcement::StrictBlock || budget.fits(budget.counter(key), add)
    }

    pub(super) fn balance(&self, key: &CounterKey) -> Balance {
        match self.budgets.get(&key.budget) {
            Some(budget) => budget.balance(budget.counter(key)),
            None => Budget::unknown().balance(None),
        }
    }

    pub(super) fn apply(&mut self, change: &LimitChange) {
        let budget = self.budgets.entry(change.budget).or_insert_with(Budget::unknown);
        if budget.limit == Limit::Unknown || change.revision > budget.revision {
            budget.revision = change.revision;
            budget.limit = change.limit.map_or(Limit::Deleted, Limit::Of);
        }
    }

    /// Sets what the store says was spent.
    pub(super) fn load(&mut self, key: &CounterKey, settled: Nanos) {
        let budget = self.budgets.entry(key.budget).or_insert_with(Budget::unknown);
        if budget.counter(key).is_none() {
            budget.counters.push(Counter::new(key));
        }
        if let Some(counter) = budget.counter_mut(key) {
            counter.settled = Nanos(settled.0.clamp(0, MAX_TOTAL_NANOS));
        }
    }

    /// Drops counters that can bind nothing any more: their window ended, or their budget or generation is gone, and
    /// no hold names them. The store has what was settled. Limits are kept, so that an old revision stays old.
    pub(super) fn drop_ended(&mut self, now_ms: i64) {
        for budget in self.budgets.values_mut() {
            let (latest, deleted) = (budget.latest, budget.limit == Limit::Deleted);
            budget.counters.retain(|c| {
                let ended = c.end_ms.is_some_and(|end| end <= now_ms) || (c.generation, c.start_ms) < latest;
                c.named_by > 0 || !(ended || deleted)
            });
        }
    }

    /// Every counter there is.
    pub(super) fn counters(&self) -> impl Iterator<Item = (CounterKey, &Counter)> {
        self.budgets.iter().flat_map(|(budget, of)| {
            of.counters.iter().map(|c| {
                let key =
                    CounterKey { budget: *budget, generation: c.generation, window_start_ms: c.start_ms };
                (key, c)
            })
        })
    }
}

impl Counter {
    fn new(key: &CounterKey) -> Self {
        Self {
            generation: key.generation,
            start_ms: key.window_start_ms,
            end_ms: None,
            settled: Nanos::ZERO,
            held: 0,
            named_by: 0,
        }
    }
}

//! What the law knows of budgets: the limit in force, and the counters of their windows.

use std::{collections::HashMap, sync::Arc};

use super::{
    Balance, CounterKey, LimitChange, Limits, Reserve, Scope, SessionSpend,
    by_id::ById,
    counter::Counter,
    rate::{Rate, TooFast},
    session::Sessions,
};
use crate::{id::BudgetId, money::Nanos, policy::Enforcement};

/// Sessions that one sweep looks at: nothing else of the organisation is decided meanwhile.
const SESSIONS_LOOKED_AT: usize = 4_000;

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
    /// These three as last heard, for extensions.
    enforcement: Enforcement,
    session_limit: Option<Nanos>,
    finalization_reserve: Nanos,
    /// Generation and start of the latest window that a reserve was made in. Those before it have ended.
    latest: (u32, i64),
    /// Few: one for each window, and windows that ended are dropped.
    slots: Vec<Slot>,
    /// Only of calls whose scope limited sessions.
    sessions: Sessions,
    /// Only when a scope limited it.
    rate: Option<Box<Rate>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    /// Nobody told yet: the budget is known by its spend only.
    Unknown,
    Of(Nanos),
    Deleted,
}

/// One window's counter.
#[derive(Clone, Debug)]
struct Slot {
    generation: u32,
    start_ms: i64,
    end_ms: Option<i64>,
    counter: Counter,
}

/// What a hold has taken from one scope: the window's counter always, the others when the scope limited them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) counter: CounterKey,
    pub(super) of_session: bool,
    pub(super) of_rate: bool,
}

/// The call that spends: what the counters beside the window's go by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spender<'a> {
    pub(super) session: Option<&'a Arc<str>>,
    /// When its hold was taken.
    pub(super) since_ms: i64,
    pub(super) now_ms: i64,
}

impl Budget {
    fn unknown() -> Self {
        Self {
            revision: 0,
            limit: Limit::Unknown,
            enforcement: Enforcement::StrictBlock,
            session_limit: None,
            finalization_reserve: Nanos::ZERO,
            latest: (0, i64::MIN),
            slots: Vec::new(),
            sessions: Sessions::default(),
            rate: None,
        }
    }

    fn place(&self, key: &CounterKey) -> Option<usize> {
        self.slots.iter().position(|s| s.start_ms == key.window_start_ms && s.generation == key.generation)
    }

    fn counter(&self, key: &CounterKey) -> Option<&Counter> {
        self.place(key).map(|place| &self.slots[place].counter)
    }

    /// The slot of a counter, made if need be.
    fn slot(&mut self, key: &CounterKey) -> &mut Slot {
        let place = self.place(key).unwrap_or_else(|| {
            self.slots.push(Slot::new(key));
            self.slots.len() - 1
        });
        &mut self.slots[place]
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
        self.session_limit = scope.session_limit;
        self.finalization_reserve = scope.finalization_reserve;
    }

    /// Takes over limits, or the deletion.
    fn set(&mut self, limits: Option<Limits>) {
        let Some(limits) = limits else {
            self.limit = Limit::Deleted;
            return;
        };
        self.limit = Limit::Of(limits.limit);
        self.enforcement = limits.enforcement;
        self.session_limit = limits.session_limit;
        self.finalization_reserve = limits.finalization_reserve;
    }

    /// Whether a counter has `add` left: `committed + add <= limit`, exactly equal included. What a strict limit keeps
    /// back is left to finalizing calls only.
    fn fits(&self, counter: Option<&Counter>, add: Nanos, finalize: bool) -> bool {
        let kept_back = match self.enforcement {
            Enforcement::StrictBlock if !finalize => self.finalization_reserve,
            _ => Nanos::ZERO,
        };
        let wanted = counter.map_or(0, Counter::committed) + i128::from(add.0) + i128::from(kept_back.0);
        match self.limit {
            Limit::Of(limit) => wanted <= i128::from(limit.0),
            Limit::Unknown | Limit::Deleted => true,
        }
    }

    fn balance(&self, counter: Option<&Counter>) -> Balance {
        let limit = match self.limit {
            Limit::Of(limit) => limit,
            Limit::Unknown | Limit::Deleted => Nanos::ZERO,
        };
        Balance {
            limit,
            settled: counter.map_or(Nanos::ZERO, |c| c.settled),
            held: counter.map_or(Nanos::ZERO, Counter::held_nanos),
        }
    }

    /// Changes every counter that a hold has taken from.
    fn each(&mut self, taken: &Taken, by: Spender<'_>, change: impl Fn(&mut Counter)) {
        if let Some(place) = self.place(&taken.counter) {
            change(&mut self.slots[place].counter);
        }
        if let Some(session) = by.session.filter(|_| taken.of_session) {
            change(self.sessions.touch(taken.counter.generation, session, by.now_ms));
        }
    }

    /// Changes what a hold counts towards the rate.
    fn correct_rate(&mut self, taken: &Taken, by: Spender<'_>, change: Nanos) {
        if let Some(rate) = self.rate.as_mut().filter(|_| taken.of_rate) {
            rate.correct(taken.counter.generation, by.since_ms, change);
        }
    }

    /// The rate at `now_ms`, when the scope limits it.
    fn rate(&mut self, scope: &Scope, now_ms: i64) -> Option<&mut Rate> {
        let velocity = scope.velocity.as_ref()?;
        let generation = scope.counter.generation;
        let rate =
            self.rate.get_or_insert_with(|| Box::new(Rate::new(generation, velocity.window_ms, now_ms)));
        rate.roll(generation, velocity, now_ms);
        Some(rate)
    }
}

impl Books {
    /// The revision of the ledger's limit, when the scope's is too old to decide by.
    pub(super) fn later_revision(&self, scope: &Scope) -> Option<u64> {
        let budget = self.budgets.get(&scope.counter.budget)?;
        budget.is_ahead_of(scope).then_some(budget.revision)
    }

    fn known(&mut self, scope: &Scope) -> &mut Budget {
        let budget = self.budgets.entry(scope.counter.budget).or_insert_with(Budget::unknown);
        budget.learn(scope);
        budget
    }

    /// Learns a reserve's scope. Answers its balance, and whether the amount fits the limit. A window that has not begun, of
    /// a hold put back that was taken by a clock which ran ahead, makes no present one old.
    pub(super) fn look_at(&mut self, scope: &Scope, reserve: &Reserve, now_ms: i64) -> (Balance, bool) {
        let budget = self.known(scope);
        if scope.counter.window_start_ms <= now_ms {
            budget.latest = budget.latest.max((scope.counter.generation, scope.counter.window_start_ms));
        }
        let counter = budget.counter(&scope.counter);
        (budget.balance(counter), budget.fits(counter, reserve.amount, reserve.finalize))
    }

    /// What a session has spent and holds, when the amount does not fit its limit.
    pub(super) fn session_over(&self, scope: &Scope, reserve: &Reserve, now_ms: i64) -> Option<Nanos> {
        let (limit, session) = (scope.session_limit?, reserve.session.as_ref()?);
        let budget = self.budgets.get(&scope.counter.budget)?;
        let counter = budget.sessions.get(scope.counter.generation, session, now_ms);
        let committed = counter.map_or(0, Counter::committed);
        let over = committed + i128::from(reserve.amount.0) > i128::from(limit.0);
        over.then(|| counter.map_or(Nanos::ZERO, Counter::committed_nanos))
    }

    /// Asks a scope's breaker, which trips when it says no.
    pub(super) fn too_fast(&mut self, scope: &Scope, amount: Nanos, now_ms: i64) -> Option<TooFast> {
        let velocity = scope.velocity.as_ref()?;
        self.known(scope).rate(scope, now_ms)?.admit(velocity, amount, now_ms).err()
    }

    /// Takes `amount` from a scope, for a hold that names it from now on.
    pub(super) fn hold(&mut self, scope: &Scope, by: Spender<'_>, amount: Nanos) -> Taken {
        let budget = self.known(scope);
        let of_session = scope.session_limit.is_some() && by.session.is_some();
        let taken = Taken { counter: scope.counter, of_session, of_rate: scope.velocity.is_some() };
        budget.slot(&scope.counter).end_ms = scope.window_end_ms;
        budget.each(&taken, by, |counter| counter.hold(amount));
        if let Some(rate) = budget.rate(scope, by.now_ms) {
            rate.count(amount);
        }
        taken
    }

    /// Takes more for a hold.
    pub(super) fn hold_more(&mut self, taken: &Taken, by: Spender<'_>, add: Nanos) {
        let Some(budget) = self.budgets.get_mut(&taken.counter.budget) else { return };
        budget.each(taken, by, |counter| counter.hold_more(add));
        budget.correct_rate(taken, by, add);
    }

    /// Replaces what a hold has taken by the cost.
    pub(super) fn settle(&mut self, taken: &Taken, by: Spender<'_>, held: Nanos, actual: Nanos) {
        let Some(budget) = self.budgets.get_mut(&taken.counter.budget) else { return };
        budget.each(taken, by, |counter| counter.settle(held, actual));
        budget.correct_rate(taken, by, actual - held);
    }

    /// Charges what a hold has taken.
    pub(super) fn lapse(&mut self, taken: &Taken, by: Spender<'_>, held: Nanos) {
        let Some(budget) = self.budgets.get_mut(&taken.counter.budget) else { return };
        budget.each(taken, by, |counter| counter.lapse(held, held));
    }

    /// Replaces what a lapse charged by the cost.
    pub(super) fn correct(&mut self, taken: &Taken, by: Spender<'_>, charged: Nanos, actual: Nanos) {
        let Some(budget) = self.budgets.get_mut(&taken.counter.budget) else { return };
        budget.each(taken, by, |counter| counter.correct(charged, actual));
        budget.correct_rate(taken, by, actual - charged);
    }

    /// A lapse stays as it was charged, and names its counters no more.
    pub(super) fn unname(&mut self, taken: &Taken, by: Spender<'_>) {
        let Some(budget) = self.budgets.get_mut(&taken.counter.budget) else { return };
        budget.each(taken, by, |counter| counter.named_by -= 1);
    }

    /// Records spend that no hold was taken for. What is taken back was spent earlier, so that a rate, which looks at
    /// the present, does not count it.
    pub(super) fn spend(&mut self, scope: &Scope, by: Spender<'_>, actual: Nanos) {
        let budget = self.known(scope);
        let slot = budget.slot(&scope.counter);
        slot.end_ms = scope.window_end_ms;
        slot.counter.spend(actual);
        if let (Some(session), Some(_)) = (by.session, scope.session_limit) {
            budget.sessions.touch(scope.counter.generation, session, by.now_ms).spend(actual);
        }
        if let Some(rate) = budget.rate(scope, by.now_ms) {
            rate.count(actual.max(Nanos::ZERO));
        }
    }

    /// Whether a hold may take `add` more: only a strict limit and a session's say no.
    pub(super) fn allows_more(&self, taken: &Taken, by: Spender<'_>, finalize: bool, add: Nanos) -> bool {
        let Some(budget) = self.budgets.get(&taken.counter.budget) else { return true };
        let strict = budget.enforcement == Enforcement::StrictBlock;
        if strict && !budget.fits(budget.counter(&taken.counter), add, finalize) {
            return false;
        }
        let session = by.session.filter(|_| taken.of_session && budget.limit != Limit::Deleted);
        let (Some(session), Some(limit)) = (session, budget.session_limit) else { return true };
        let counter = budget.sessions.get(taken.counter.generation, session, by.now_ms);
        counter.map_or(0, Counter::committed) + i128::from(add.0) <= i128::from(limit.0)
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
            budget.set(change.limits);
        }
    }

    /// Sets what the store says was spent.
    pub(super) fn load(&mut self, key: &CounterKey, settled: Nanos) {
        let budget = self.budgets.entry(key.budget).or_insert_with(Budget::unknown);
        budget.slot(key).counter.load(settled);
    }

    /// Sets what the store says a session has spent.
    pub(super) fn load_session(&mut self, spend: &SessionSpend) {
        let budget = self.budgets.entry(spend.budget).or_insert_with(Budget::unknown);
        budget.sessions.load(spend.generation, &spend.session, spend.settled, spend.last_used_ms);
    }

    /// Drops counters that can bind nothing any more: their window ended, or their budget or generation is gone, or the
    /// session is over, and no hold names them. The store has what was settled. Limits are kept, so that an old revision
    /// stays old.
    pub(super) fn drop_ended(&mut self, now_ms: i64) {
        let mut sessions = SESSIONS_LOOKED_AT;
        for budget in self.budgets.values_mut() {
            let (latest, deleted) = (budget.latest, budget.limit == Limit::Deleted);
            budget.slots.retain(|s| {
                let ended = s.end_ms.is_some_and(|end| end <= now_ms) || (s.generation, s.start_ms) < latest;
                s.counter.named_by > 0 || !(ended || deleted)
            });
            budget.sessions.drop_over(now_ms, &mut sessions);
        }
    }

    /// Every window's counter there is.
    pub(super) fn counters(&self) -> impl Iterator<Item = (CounterKey, &Counter)> {
        self.budgets.iter().flat_map(|(budget, of)| {
            of.slots.iter().map(|s| {
                let key =
                    CounterKey { budget: *budget, generation: s.generation, window_start_ms: s.start_ms };
                (key, &s.counter)
            })
        })
    }

    /// Every session's counter there is.
    pub(super) fn sessions(&self) -> impl Iterator<Item = (SessionKey<'_>, &Counter)> {
        self.budgets.iter().flat_map(|(budget, of)| {
            of.sessions.all().map(|(generation, id, counter)| ((*budget, generation, &**id), counter))
        })
    }
}

/// Budget, generation and id.
pub(super) type SessionKey<'a> = (BudgetId, u32, &'a str);

impl Slot {
    fn new(key: &CounterKey) -> Self {
        Self {
            generation: key.generation,
            start_ms: key.window_start_ms,
            end_ms: None,
            counter: Counter::default(),
        }
    }
}

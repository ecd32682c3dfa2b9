//! The law of the ledger: what every operation does to the budgets of one organisation (design §6).
//!
//! Pure: time is passed in, nothing is awaited, nothing fails. The in-memory ledger is this state behind a lock, and
//! every other ledger is tested against it.

use std::collections::HashMap;

use bytes::Bytes;

use super::{
    Balance, Charge, ChargeOutcome, CounterKey, ExtendOutcome, LapsedHold, LimitChange, Misuse, OpenHolds,
    Reserve, ReserveOutcome, Restored, Scope, SessionSpend, SettleOutcome, Why,
    books::{Books, SessionKey, Spender},
    by_id::ById,
    counter::Counter,
    misuse::{check_amount, check_lease},
    rate::TooFast,
    remembered::{Done, Lapse, Lapses, Took},
};
use crate::{
    id::{AttemptId, OrgId},
    money::{MAX_EVENT, MAX_TOTAL_NANOS, Nanos},
    policy::Enforcement,
};

/// The ledger of one organisation.
#[derive(Clone, Debug)]
pub struct State {
    org: OrgId,
    /// The latest time ever passed in: time never moves backwards.
    now_ms: i64,
    books: Books,
    open: HashMap<AttemptId, Hold, ById>,
    lapses: Lapses,
    done: Done,
}

#[derive(Clone, Debug)]
struct Hold {
    took: Took,
    finalize: bool,
    amount: Nanos,
    /// The hold may be swept from here on; until it is, it can still be extended and settled.
    lease_end_ms: i64,
    /// Number of the last extension applied.
    extension: u64,
    stub: Bytes,
}

impl State {
    /// An organisation of which nothing is known yet.
    #[must_use]
    pub fn new(org: OrgId) -> Self {
        Self {
            org,
            now_ms: i64::MIN,
            books: Books::default(),
            open: HashMap::default(),
            lapses: Lapses::default(),
            done: Done::default(),
        }
    }

    /// Moves the ledger's clock, forwards only.
    fn tick(&mut self, now_ms: i64) {
        self.now_ms = self.now_ms.max(now_ms);
        self.done.forget_old(self.now_ms);
    }

    /// Holds the amount in every scope or in none. See [`super::Ledger::reserve`].
    ///
    /// Refusals are looked for in this order: misuse, id known, stale policy, wrong window, sessions, rates, budgets. A
    /// call that gets as far as the sessions teaches the ledger its limits even when it is denied; else a denial changes
    /// nothing but the breaker that it trips.
    pub fn reserve(&mut self, now_ms: i64, reserve: &Reserve) -> ReserveOutcome {
        self.tick(now_ms);
        if let Err(misuse) = reserve.check() {
            return ReserveOutcome::Invalid(misuse);
        }
        if self.knows(&reserve.hold) {
            return ReserveOutcome::AlreadyDone;
        }
        for (scope, named) in reserve.scopes.iter().enumerate() {
            if let Some(revision) = self.books.later_revision(named) {
                return ReserveOutcome::StalePolicy { scope, revision };
            }
        }
        if !reserve.scopes.iter().all(|scope| is_current(scope, self.now_ms)) {
            return ReserveOutcome::WrongWindow { now_ms: self.now_ms };
        }
        let mut balances = Vec::with_capacity(reserve.scopes.len());
        let mut exceeded = Vec::new();
        let mut denied_by = None;
        for (index, scope) in reserve.scopes.iter().enumerate() {
            let (balance, fits) = self.books.look_at(scope, reserve, self.now_ms);
            balances.push(balance);
            match scope.enforcement {
                Enforcement::StrictBlock if !fits && denied_by.is_none() => denied_by = Some(index),
                Enforcement::SoftBlock if !fits => exceeded.push(index),
                _ => {}
            }
        }
        if let Some((scope, why, retry_after_ms)) =
            self.over_session(reserve).or_else(|| self.too_fast(reserve))
        {
            return ReserveOutcome::Denied { scope, why, balances, retry_after_ms };
        }
        if let Some(scope) = denied_by {
            let retry_after_ms = reserve.scopes[scope].window_end_ms.map(|end| end - self.now_ms);
            return ReserveOutcome::Denied { scope, why: Why::Budget, balances, retry_after_ms };
        }
        self.hold(reserve, &mut balances);
        ReserveOutcome::Reserved { balances, exceeded }
    }

    /// The first scope whose session limit the call would pass.
    fn over_session(&self, reserve: &Reserve) -> Option<(usize, Why, Option<i64>)> {
        let over = |scope| self.books.session_over(scope, reserve, self.now_ms);
        let first = |(index, scope)| over(scope).map(|spend| (index, Why::Session { spend }, None));
        reserve.scopes.iter().enumerate().find_map(first)
    }

    /// The first scope whose breaker stops the call. Scopes after it are not asked.
    fn too_fast(&mut self, reserve: &Reserve) -> Option<(usize, Why, Option<i64>)> {
        for (index, scope) in reserve.scopes.iter().enumerate() {
            if let Some(TooFast { rate, retry_after_ms }) =
                self.books.too_fast(scope, reserve.amount, self.now_ms)
            {
                return Some((index, Why::Velocity { rate }, Some(retry_after_ms)));
            }
        }
        None
    }

    /// Puts back what an owner still holds, or what lapsed under it, whatever limits and windows say. See
    /// [`super::Ledger::restore`].
    pub fn restore(&mut self, now_ms: i64, reserve: &Reserve, as_a: Restored) -> ReserveOutcome {
        self.tick(now_ms);
        if let Err(misuse) = reserve.check() {
            return ReserveOutcome::Invalid(misuse);
        }
        if self.knows(&reserve.hold) {
            return ReserveOutcome::AlreadyDone;
        }
        let now_ms = self.now_ms;
        let looked_at = reserve.scopes.iter().map(|scope| self.books.look_at(scope, reserve, now_ms).0);
        let mut balances: Vec<_> = looked_at.collect();
        match as_a {
            Restored::Held => self.hold(reserve, &mut balances),
            Restored::Lapsed => self.lapse_again(reserve),
        }
        ReserveOutcome::Reserved { balances, exceeded: Vec::new() }
    }

    /// Remembers a lapse whose amount the counters have.
    fn lapse_again(&mut self, reserve: &Reserve) {
        let took = self.took(reserve, Nanos::ZERO);
        self.lapses.insert(reserve.hold, Lapse { took, charged: reserve.amount, at_ms: self.now_ms });
    }

    /// Remembers ids whose cost the counters have. See [`super::Ledger::restore_done`].
    pub fn restore_done(&mut self, now_ms: i64, ids: &[AttemptId]) {
        self.tick(now_ms);
        for id in ids {
            if !self.knows(id) {
                self.done.insert(*id, self.now_ms);
            }
        }
    }

    /// Holds what was found to fit, and brings the balances up to date.
    fn hold(&mut self, reserve: &Reserve, balances: &mut [Balance]) {
        let took = self.took(reserve, reserve.amount);
        for balance in balances {
            balance.held = balance.held + reserve.amount;
        }
        let hold = Hold {
            took,
            finalize: reserve.finalize,
            amount: reserve.amount,
            lease_end_ms: self.now_ms.saturating_add(reserve.lease_ms),
            extension: 0,
            stub: reserve.stub.clone(),
        };
        self.open.insert(reserve.hold, hold);
    }

    /// Takes an amount out of every scope of a call.
    fn took(&mut self, reserve: &Reserve, amount: Nanos) -> Took {
        let now_ms = self.now_ms;
        let by = Spender { session: reserve.session.as_ref(), since_ms: now_ms, now_ms };
        let from = reserve.scopes.iter().map(|scope| self.books.hold(scope, by, amount));
        Took { from: from.collect(), session: reserve.session.clone(), since_ms: now_ms }
    }

    /// Renews leases and holds `add` more for each. See [`super::Ledger::extend`].
    pub fn extend(
        &mut self,
        now_ms: i64,
        holds: &[AttemptId],
        number: u64,
        lease_ms: i64,
        add: Nanos,
    ) -> Vec<ExtendOutcome> {
        self.tick(now_ms);
        if let Err(misuse) = check_amount(add).and_then(|()| check_lease(lease_ms)) {
            return vec![ExtendOutcome::Invalid(misuse); holds.len()];
        }
        holds.iter().map(|hold| self.extend_one(*hold, number, lease_ms, add)).collect()
    }

    fn extend_one(&mut self, id: AttemptId, number: u64, lease_ms: i64, add: Nanos) -> ExtendOutcome {
        let Some(hold) = self.open.get_mut(&id) else {
            return if self.lapses.ids.contains_key(&id) {
                ExtendOutcome::Lapsed
            } else if self.done.ids.contains(&id) {
                ExtendOutcome::AlreadyDone
            } else {
                ExtendOutcome::Unknown
            };
        };
        if number <= hold.extension {
            return ExtendOutcome::AlreadyDone;
        }
        if hold.amount + add > MAX_EVENT {
            return ExtendOutcome::Invalid(Misuse::AmountOutOfRange);
        }
        hold.lease_end_ms = self.now_ms.saturating_add(lease_ms);
        // A renewal that takes nothing asks no budget: a lowered limit must not end calls under way.
        if add > Nanos::ZERO {
            let by = hold.took.by(self.now_ms);
            let full = |taken| !self.books.allows_more(taken, by, hold.finalize, add);
            if let Some(scope) = hold.took.from.iter().position(full) {
                return ExtendOutcome::Denied { scope };
            }
            for taken in &hold.took.from {
                self.books.hold_more(taken, by, add);
            }
            hold.amount = hold.amount + add;
        }
        hold.extension = number;
        ExtendOutcome::Extended
    }

    /// Replaces a hold by the cost. See [`super::Ledger::settle`].
    pub fn settle(&mut self, now_ms: i64, id: AttemptId, actual: Nanos) -> SettleOutcome {
        self.tick(now_ms);
        if let Err(misuse) = check_amount(actual) {
            return SettleOutcome::Invalid(misuse);
        }
        match (self.end(id, actual), self.done.lapsed.get(&id)) {
            (SettleOutcome::AlreadyDone, Some(charged)) => SettleOutcome::Lapsed { charged: *charged },
            (outcome, _) => outcome,
        }
    }

    /// Ends the hold of that id, open or lapsed.
    fn end(&mut self, id: AttemptId, actual: Nanos) -> SettleOutcome {
        if let Some(hold) = self.open.remove(&id) {
            for taken in &hold.took.from {
                self.books.settle(taken, hold.took.by(self.now_ms), hold.amount, actual);
            }
            self.done.insert(id, self.now_ms);
            return SettleOutcome::Settled { over_by: (actual - hold.amount).max(Nanos::ZERO) };
        }
        if let Some(lapse) = self.lapses.ids.remove(&id) {
            for taken in &lapse.took.from {
                self.books.correct(taken, lapse.took.by(self.now_ms), lapse.charged, actual);
            }
            self.done.insert(id, self.now_ms);
            self.done.lapsed.insert(id, lapse.charged);
            return SettleOutcome::Lapsed { charged: lapse.charged };
        }
        if self.done.ids.contains(&id) { SettleOutcome::AlreadyDone } else { SettleOutcome::Unknown }
    }

    /// Records spend that happened elsewhere, or takes some back, whatever limits and windows say. See
    /// [`super::Ledger::charge`].
    ///
    /// Of a window that ended and that no hold names, the ledger may have forgotten earlier spend: there, balances
    /// are the store's to tell.
    pub fn charge(&mut self, now_ms: i64, charge: &Charge) -> ChargeOutcome {
        self.tick(now_ms);
        if let Err(misuse) = charge.check() {
            return ChargeOutcome::Invalid(misuse);
        }
        let takes_back = charge.actual < Nanos::ZERO;
        if takes_back && (self.open.contains_key(&charge.id) || self.lapses.ids.contains_key(&charge.id)) {
            // What a call cost is never less than nothing: a difference has an id of its own.
            return ChargeOutcome::Invalid(Misuse::AmountOutOfRange);
        }
        match self.end(charge.id, charge.actual) {
            SettleOutcome::AlreadyDone => return ChargeOutcome::AlreadyDone,
            SettleOutcome::Settled { .. } | SettleOutcome::Lapsed { .. } | SettleOutcome::Invalid(_) => {}
            SettleOutcome::Unknown => {
                let now_ms = self.now_ms;
                let by = Spender { session: charge.session.as_ref(), since_ms: now_ms, now_ms };
                for scope in &charge.scopes {
                    self.books.spend(scope, by, charge.actual);
                }
                self.done.insert(charge.id, self.now_ms);
            }
        }
        let balances = charge.scopes.iter().map(|scope| self.books.balance(&scope.counter)).collect();
        ChargeOutcome::Charged { balances }
    }

    /// State of counters. See [`super::Ledger::balances`].
    #[must_use]
    pub fn balances(&self, counters: &[CounterKey]) -> Vec<Balance> {
        counters.iter().map(|counter| self.books.balance(counter)).collect()
    }

    /// Sets limits and deletions; older ones than known change nothing. See [`super::Ledger::apply_limits`].
    pub fn apply_limits(&mut self, changes: &[LimitChange]) {
        for change in changes {
            self.books.apply(change);
        }
    }

    /// Ends holds whose lease ran out, by id, gives up lapses that nobody corrects, and drops counters that nothing needs.
    /// See [`super::Ledger::sweep`].
    pub fn sweep(&mut self, now_ms: i64) -> Vec<LapsedHold> {
        self.tick(now_ms);
        let now_ms = self.now_ms;
        let mut lapsed: Vec<LapsedHold> = Vec::new();
        for (id, hold) in self.open.extract_if(|_, hold| hold.lease_end_ms <= now_ms) {
            for taken in &hold.took.from {
                self.books.lapse(taken, hold.took.by(now_ms), hold.amount);
            }
            self.lapses.insert(id, Lapse { took: hold.took, charged: hold.amount, at_ms: now_ms });
            lapsed.push(LapsedHold { hold: id, org: self.org, amount: hold.amount, stub: hold.stub });
        }
        lapsed.sort_by_key(|lapse| lapse.hold);
        while let Some(Lapse { took, .. }) = self.lapses.pop_old(now_ms) {
            for taken in &took.from {
                self.books.unname(taken, took.by(now_ms));
            }
        }
        self.books.drop_ended(now_ms);
        lapsed
    }

    /// Sets the settled side of counters from the store. See [`super::Ledger::load`].
    pub fn load(&mut self, settled: &[(CounterKey, Nanos)]) {
        for (counter, nanos) in settled {
            self.books.load(counter, *nanos);
        }
    }

    /// Sets the settled side of sessions from the store. See [`super::Ledger::load_sessions`].
    pub fn load_sessions(&mut self, sessions: &[SessionSpend]) {
        for spend in sessions {
            self.books.load_session(spend);
        }
    }

    /// Open holds, those with an expired lease included until they are swept.
    #[must_use]
    pub fn open_holds(&self, now_ms: i64) -> OpenHolds {
        let oldest = self.open.values().map(|hold| hold.took.since_ms).min();
        OpenHolds {
            count: self.open.len() as u64,
            oldest_ms: oldest.map_or(0, |since| self.now_ms.max(now_ms).saturating_sub(since)),
            held: self.open.values().map(|hold| hold.amount).sum(),
        }
    }

    fn knows(&self, id: &AttemptId) -> bool {
        self.open.contains_key(id) || self.lapses.ids.contains_key(id) || self.done.ids.contains(id)
    }

    /// What holds of every state the law can reach. Slow: for tests.
    ///
    /// # Errors
    /// The sentence that is not true.
    pub fn invariants(&self) -> Result<(), String> {
        let mut windows = Named::default();
        let mut sessions = Named::<SessionKey<'_>>::default();
        let open = self.open.values().map(|hold| (&hold.took, hold.amount));
        for (took, amount) in open.chain(self.lapses.ids.values().map(|lapse| (&lapse.took, Nanos::ZERO))) {
            for taken in &took.from {
                windows.add(taken.counter, amount);
                if let Some(session) = took.session.as_deref().filter(|_| taken.of_session) {
                    sessions.add((taken.counter.budget, taken.counter.generation, session), amount);
                }
            }
        }
        windows.equal(self.books.counters())?;
        sessions.equal(self.books.sessions())?;
        let twice = self.open.keys().any(|id| self.lapses.ids.contains_key(id) || self.done.ids.contains(id))
            || self.lapses.ids.keys().any(|id| self.done.ids.contains(id));
        if twice {
            return Err("an id is in two states at once".to_owned());
        }
        if self.done.ids.len() != self.done.order.len() {
            return Err("ids done and their order differ".to_owned());
        }
        if !self.done.lapsed.keys().all(|id| self.done.ids.contains(id)) {
            return Err("a corrected lapse is not remembered as done".to_owned());
        }
        Ok(())
    }
}

/// What holds say of the counters they name: the sum of the open ones, and how many there are.
struct Named<K>(HashMap<K, (i128, u32)>);

impl<K> Default for Named<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + std::hash::Hash + std::fmt::Debug> Named<K> {
    fn add(&mut self, key: K, held: Nanos) {
        let (sum, names) = self.0.entry(key).or_default();
        *sum += i128::from(held.0);
        *names += 1;
    }

    /// That the counters say the same.
    fn equal<'a>(mut self, counters: impl Iterator<Item = (K, &'a Counter)>) -> Result<(), String> {
        for (key, counter) in counters {
            let (sum, names) = self.0.remove(&key).unwrap_or_default();
            if counter.held != sum {
                return Err(format!("{key:?} has {} held, its open holds sum to {sum}", counter.held));
            }
            if counter.named_by != names {
                return Err(format!("{key:?} counts {} holds, {names} name it", counter.named_by));
            }
            if !(0..=MAX_TOTAL_NANOS).contains(&counter.settled.0) {
                return Err(format!("{key:?} has settled {}", counter.settled.0));
            }
        }
        match self.0.keys().next() {
            Some(lost) => Err(format!("a hold names {lost:?}, which is gone")),
            None => Ok(()),
        }
    }
}

fn is_current(scope: &Scope, now_ms: i64) -> bool {
    scope.counter.window_start_ms <= now_ms && scope.window_end_ms.is_none_or(|end| now_ms < end)
}

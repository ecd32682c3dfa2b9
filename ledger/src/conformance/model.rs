//! Random commands, the same ones for the ledger under test and for the pure law, whose answers must be equal.
//!
//! Amounts aim at what is left, times at the ends of windows and leases, ids at those used lately. A run is repeated
//! exactly by its seed, which a failure prints with the commands that led there.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use nullspend_core::{
    clock::Clock,
    id::{AttemptId, OrgId},
    ledger::{
        Balance, Charge, ChargeOutcome, CounterKey, LAPSE_KEPT_MS, Ledger, LedgerUnavailable, LimitChange,
        Limits, Reserve, ReserveOutcome, Restored, Scope, law::State,
    },
    money::Nanos,
    policy::Enforcement,
};

use super::{
    command::{Answer, Command, ask_ledger, in_order},
    rule::{Beside, Rule, any_enforcement},
    world::{World, budget, id, org, seeded::Random},
};
use crate::faulty::Faulty;

/// Steps of one seed: long enough for windows to pass, short enough to read.
const STEPS: u64 = 500;
const ORGS: u128 = 2;
const BUDGETS: u128 = 5;
/// One call in so many goes wrong in a run with faults.
const FAULTY_ONE_IN: u64 = 3;

/// Seeds that failed once; a failure asks for its seed to be added.
fn kept_seeds() -> impl Iterator<Item = u64> {
    let lines = include_str!("seeds.txt").lines();
    lines.filter_map(|line| line.split('#').next()?.trim().parse().ok())
}

/// Seeds and their numbers of steps: those that failed once, then so many steps in all, or `NULLSPEND_MODEL_STEPS`, from `NULLSPEND_MODEL_SEED`.
#[must_use]
pub fn runs(steps: u64) -> Vec<(u64, u64)> {
    let number = |name, default| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let first: u64 = number("NULLSPEND_MODEL_SEED", 0);
    let steps: u64 = number("NULLSPEND_MODEL_STEPS", steps);
    kept_seeds().chain(first..first + steps.div_ceil(STEPS)).map(|seed| (seed, STEPS)).collect()
}

/// Runs one seed; the ledger must answer as the law does.
pub async fn run(world: &World, seed: u64, steps: u64) {
    Model::new(seed).drive(world, &*world.ledger, false, steps).await;
}

/// Runs one seed with calls that are lost or made twice, each repeated until it is answered; afterwards the ledger
/// must be where the law is after making each call once.
pub async fn run_with_faults(world: &World, seed: u64, steps: u64) {
    let faulty = Faulty::new(Arc::clone(&world.ledger), seed, FAULTY_ONE_IN);
    Model::new(seed).drive(world, &faulty, true, steps).await;
    assert!(faulty.faults() > steps / FAULTY_ONE_IN / 2, "only {} faults", faulty.faults());
}

struct Model {
    seed: u64,
    random: Random,
    states: HashMap<OrgId, State>,
    rules: HashMap<(OrgId, u128), Rule>,
    next_id: u128,
    /// Ids used lately, with the amount and the counters of their hold.
    used: VecDeque<(OrgId, AttemptId, i64)>,
    /// Counters of holds that were granted and not settled since.
    named: HashMap<(OrgId, AttemptId), Vec<CounterKey>>,
    /// The latest commands: their number, when, and what.
    trail: VecDeque<(u64, i64, Command)>,
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut random = Random::seeded(seed);
        let mut rules = HashMap::new();
        for o in 1..=ORGS {
            for n in 1..=BUDGETS {
                let rule = Rule {
                    window_ms: *random.pick(&[None, Some(5_000), Some(20_000)]),
                    generation: 0,
                    limit: random.between(0, 2_000),
                    revision: 10,
                    enforcement: any_enforcement(&mut random),
                    beside: Beside::any(&mut random),
                    deleted: false,
                };
                rules.insert((org(o), n), rule);
            }
        }
        Self {
            seed,
            random,
            states: (1..=ORGS).map(|o| (org(o), State::new(org(o)))).collect(),
            rules,
            next_id: 1,
            used: VecDeque::new(),
            named: HashMap::new(),
            trail: VecDeque::new(),
        }
    }

    async fn drive(mut self, world: &World, ledger: &(impl Ledger + ?Sized), faults: bool, steps: u64) {
        self.load(ledger, faults).await;
        for step in 0..steps {
            let command = self.next_command(world.clock.now_ms());
            self.trail.push_back((step, world.clock.now_ms(), command.clone()));
            if self.trail.len() > 40 {
                self.trail.pop_front();
            }
            if let Command::MoveClock { by_ms } = command {
                world.clock.advance_ms(by_ms);
            }
            let expected = self.ask_law(&command, world.clock.now_ms());
            let (actual, repeated) = self.until_answered(faults, || ask_ledger(ledger, &command)).await;
            let same = actual == expected || (repeated && actual.may_repeat(&expected));
            self.check(same, || format!("the law says {expected:?}, the ledger {actual:?}"));
            self.note(&command, &expected);
            self.compare(world, &command).await;
        }
    }

    /// Starts from a store in which something was spent already.
    async fn load(&mut self, ledger: &(impl Ledger + ?Sized), faults: bool) {
        for o in 1..=ORGS {
            let mut settled = Vec::new();
            for n in 1..=BUDGETS {
                let counter = self.scope(org(o), n, 0).counter;
                settled.push((counter, Nanos(self.random.between(0, 300))));
            }
            self.state(org(o)).load(&settled);
            self.until_answered(faults, || ledger.load(org(o), &settled)).await;
        }
    }

    /// The answer, and whether it took more than one try.
    async fn until_answered<T, C>(&self, faults: bool, call: impl Fn() -> C) -> (T, bool)
    where
        C: Future<Output = Result<T, LedgerUnavailable>>,
    {
        let mut repeated = false;
        loop {
            match call().await {
                Ok(answer) => return (answer, repeated),
                Err(error) => self.check(faults, || error.to_string()),
            }
            repeated = true;
        }
    }

    fn check(&self, truth: bool, what: impl FnOnce() -> String) {
        let line = |(step, at, command): &(u64, i64, Command)| format!("{step} at {at}: {command:?}");
        let trail = || self.trail.iter().map(line).collect::<Vec<_>>().join("\n  ");
        assert!(
            truth,
            "{}\nrepeat with NULLSPEND_MODEL_SEED={} NULLSPEND_MODEL_STEPS={STEPS}, and keep the seed in \
             ledger/src/conformance/seeds.txt\n  {}",
            what(),
            self.seed,
            trail()
        );
    }

    fn state(&mut self, org: OrgId) -> &mut State {
        self.states.entry(org).or_insert_with(|| State::new(org))
    }

    fn ask_law(&mut self, command: &Command, now_ms: i64) -> Answer {
        match command {
            Command::Reserve(reserve) => Answer::Reserve(self.state(reserve.org).reserve(now_ms, reserve)),
            Command::Extend { org, holds, number, lease_ms, add } => {
                Answer::Extend(self.state(*org).extend(now_ms, holds, *number, *lease_ms, *add))
            }
            Command::Settle { org, hold, actual } => {
                Answer::Settle(self.state(*org).settle(now_ms, *hold, *actual))
            }
            Command::Charge(charge) => Answer::Charge(self.state(charge.org).charge(now_ms, charge)),
            Command::ApplyLimits { org, changes } => {
                self.state(*org).apply_limits(changes);
                Answer::Done
            }
            Command::Restore(reserve, as_a) => {
                Answer::Reserve(self.state(reserve.org).restore(now_ms, reserve, *as_a))
            }
            Command::RestoreDone { org, ids } => {
                self.state(*org).restore_done(now_ms, ids);
                Answer::Done
            }
            Command::Sweep => {
                let lapsed = self.states.values_mut().flat_map(|state| state.sweep(now_ms)).collect();
                Answer::Sweep(in_order(lapsed))
            }
            Command::MoveClock { .. } => Answer::Done,
        }
    }

    /// Remembers what later commands can aim at.
    fn note(&mut self, command: &Command, answer: &Answer) {
        match (command, answer) {
            (Command::Reserve(reserve), Answer::Reserve(ReserveOutcome::Reserved { balances, .. })) => {
                self.used.push_back((reserve.org, reserve.hold, reserve.amount.0));
                let counters = reserve.scopes.iter().map(|scope| scope.counter).collect();
                self.named.insert((reserve.org, reserve.hold), counters);
                let over = reserve.scopes.iter().zip(balances).any(|(scope, balance)| {
                    scope.enforcement == Enforcement::StrictBlock && balance.remaining() < Nanos::ZERO
                });
                self.check(!over, || "a strict limit was passed".to_owned());
            }
            (Command::Restore(reserve, _), Answer::Reserve(ReserveOutcome::Reserved { .. })) => {
                self.used.push_back((reserve.org, reserve.hold, reserve.amount.0));
                let counters = reserve.scopes.iter().map(|scope| scope.counter).collect();
                self.named.insert((reserve.org, reserve.hold), counters);
            }
            (Command::RestoreDone { org, ids }, _) => {
                self.used.extend(ids.iter().map(|id| (*org, *id, 10)));
            }
            (Command::Settle { org, hold, .. }, _) => drop(self.named.remove(&(*org, *hold))),
            (Command::Charge(charge), _) => {
                self.used.push_back((charge.org, charge.id, charge.actual.0.max(0)));
                if !matches!(answer, Answer::Charge(ChargeOutcome::Invalid(_))) {
                    self.named.remove(&(charge.org, charge.id));
                }
            }
            _ => {}
        }
        while self.used.len() > 12 {
            self.used.pop_front();
        }
    }

    /// Compares every counter that the command may have changed and that can still bind, and what is open.
    async fn compare(&mut self, world: &World, command: &Command) {
        let now_ms = world.clock.now_ms();
        let only = match command {
            Command::Reserve(Reserve { org, .. })
            | Command::Restore(Reserve { org, .. }, _)
            | Command::RestoreDone { org, .. }
            | Command::Charge(Charge { org, .. })
            | Command::Extend { org, .. }
            | Command::Settle { org, .. }
            | Command::ApplyLimits { org, .. } => Some(*org),
            Command::Sweep => None,
            Command::MoveClock { .. } => return,
        };
        for o in (1..=ORGS).map(org).filter(|org| only.is_none_or(|only| only == *org)) {
            let mut counters: Vec<CounterKey> = self
                .named
                .iter()
                .filter(|((of, _), _)| *of == o)
                .flat_map(|(_, named)| named.clone())
                .collect();
            for n in 1..=BUDGETS {
                if !self.rules[&(o, n)].deleted {
                    counters.push(self.scope(o, n, now_ms).counter);
                }
            }
            let expected: Vec<Balance> = self.states[&o].balances(&counters);
            let actual = world.ledger.balances(o, &counters).await;
            let same = actual.as_ref().is_ok_and(|actual| *actual == expected);
            self.check(same, || format!("{counters:?}: the law has {expected:?}, the ledger {actual:?}"));
            let sound = self.states[&o].invariants();
            self.check(sound.is_ok(), || format!("{sound:?}"));
        }
        if only.is_some() {
            return;
        }
        let open: u64 = self.states.values().map(|state| state.open_holds(now_ms).count).sum();
        let actual = world.ledger.open_holds().await;
        let same = actual.as_ref().is_ok_and(|actual| actual.count == open);
        self.check(same, || format!("after {command:?} the law has {open} holds, the ledger {actual:?}"));
    }

    fn scope(&self, org: OrgId, n: u128, now_ms: i64) -> Scope {
        let rule = &self.rules[&(org, n)];
        let start_ms = rule.window_ms.map_or(0, |length| now_ms.div_euclid(length) * length);
        Scope {
            counter: CounterKey { budget: budget(n), generation: rule.generation, window_start_ms: start_ms },
            window_end_ms: rule.window_ms.map(|length| start_ms + length),
            limit: Nanos(rule.limit),
            revision: rule.revision,
            enforcement: rule.enforcement,
            session_limit: rule.beside.session_limit,
            velocity: rule.beside.velocity,
            finalization_reserve: rule.beside.finalization_reserve,
        }
    }

    /// Scopes of some budgets, in any order; now and then of an old policy or of another window.
    fn scopes(&mut self, org: OrgId, now_ms: i64, correct: bool) -> Vec<Scope> {
        let mut left: Vec<u128> = (1..=BUDGETS).collect();
        let mut scopes = Vec::new();
        for _ in 0..self.random.below(5) {
            let n = *self.random.pick(&left);
            left.retain(|other| *other != n);
            if correct && self.rules[&(org, n)].deleted {
                continue;
            }
            let mut scope = self.scope(org, n, now_ms);
            if self.random.chance(25) {
                scope.revision -= 1;
            }
            if !correct && self.random.chance(60) {
                scope = self.scope(org, n, now_ms + scope.window_end_ms.unwrap_or(0));
            }
            scopes.push(scope);
        }
        scopes
    }

    /// Around what one of the scopes has left, or anything small.
    fn amount(&mut self, org: OrgId, scopes: &[Scope]) -> Nanos {
        if scopes.is_empty() || self.random.chance(3) {
            return Nanos(self.random.between(0, 60));
        }
        let balance = self.states[&org].balances(&[self.random.pick(scopes).counter])[0];
        Nanos((balance.remaining().0 + self.random.between(-1, 1)).max(0))
    }

    /// An id used lately, or a new one.
    fn some_id(&mut self) -> (OrgId, AttemptId, i64) {
        if self.used.is_empty() || self.random.chance(10) {
            return (self.some_org(), self.new_id(), 10);
        }
        let index = usize::try_from(self.random.below(self.used.len() as u64)).unwrap_or(0);
        self.used[index]
    }

    fn new_id(&mut self) -> AttemptId {
        self.next_id += 1;
        id(self.next_id)
    }

    fn some_org(&mut self) -> OrgId {
        org(u128::from(self.random.below(2)) % ORGS + 1)
    }

    fn next_command(&mut self, now_ms: i64) -> Command {
        match self.random.below(100) {
            0..40 => self.reserve(now_ms),
            40..55 => {
                let (org, hold, amount) = self.some_id();
                let over = if self.random.chance(6) { amount + 50 } else { amount };
                Command::Settle { org, hold, actual: Nanos(self.random.between(0, over)) }
            }
            55..65 => {
                let (org, first, _) = self.some_id();
                let others = self.used.iter().filter(|used| used.0 == org).map(|used| used.1).take(3);
                let holds = std::iter::once(first).chain(others.filter(|other| *other != first)).collect();
                let add = if self.random.chance(2) { 0 } else { self.random.between(0, 100) };
                let number = self.random.below(8);
                Command::Extend {
                    org,
                    holds,
                    number,
                    lease_ms: self.random.between(1, 2_000),
                    add: Nanos(add),
                }
            }
            65..71 => {
                let (org, id) = if self.random.chance(4) {
                    pair(self.some_id())
                } else {
                    (self.some_org(), self.new_id())
                };
                let scopes = self.scopes(org, now_ms, true);
                Command::Charge(Charge {
                    id,
                    org,
                    scopes,
                    session: self.some_session(),
                    actual: Nanos(self.random.between(-40, 80)),
                })
            }
            71..78 => self.change_rule(),
            78..83 => Command::Sweep,
            83..86 => self.put_back(now_ms),
            _ => self.move_clock(now_ms),
        }
    }

    fn some_session(&mut self) -> Option<Arc<str>> {
        self.random.pick(&[None, Some("a"), Some("b")]).map(Arc::from)
    }

    fn reserve(&mut self, now_ms: i64) -> Command {
        let (org, hold) =
            if self.random.chance(12) { pair(self.some_id()) } else { (self.some_org(), self.new_id()) };
        let scopes = self.scopes(org, now_ms, false);
        let amount = self.amount(org, &scopes);
        let lease_ms = self.random.between(1, 2_000);
        Command::Reserve(Reserve {
            hold,
            org,
            scopes,
            session: self.some_session(),
            finalize: self.random.chance(5),
            amount,
            lease_ms,
            stub: vec![1, 2, 3].into(),
        })
    }

    /// What a rebuild does, in the middle of everything: a hold or a lapse with any id, or ids that are done.
    fn put_back(&mut self, now_ms: i64) -> Command {
        let Command::Reserve(mut reserve) = self.reserve(now_ms) else { return Command::Sweep };
        let id = (reserve.org, reserve.hold);
        // Nobody tells of an id that is under way that it is done.
        if self.random.chance(3) && !self.named.contains_key(&id) {
            return Command::RestoreDone { org: reserve.org, ids: vec![reserve.hold] };
        }
        reserve.amount = Nanos(self.random.between(0, 200));
        let as_a = *self.random.pick(&[Restored::Held, Restored::Lapsed]);
        Command::Restore(reserve, as_a)
    }

    /// A new revision, which the ledger hears of now or by the next reserve; or an old one that comes late.
    fn change_rule(&mut self) -> Command {
        let (org, n) = (self.some_org(), u128::from(self.random.below(5)) % BUDGETS + 1);
        let Some(rule) = self.rules.get_mut(&(org, n)) else { return Command::Sweep };
        if self.random.chance(4) {
            let revision = rule.revision - 2 + self.random.below(3);
            let limits = Some(Limits::strict(Nanos(7)));
            let change = LimitChange { budget: budget(n), revision, limits };
            return Command::ApplyLimits { org, changes: vec![change] };
        }
        rule.revision += 1;
        rule.limit = self.random.between(0, 2_000);
        if self.random.chance(4) {
            rule.enforcement = any_enforcement(&mut self.random);
        }
        // A deleted budget does not come back as the same one.
        if rule.deleted || self.random.chance(8) {
            rule.generation += 1;
        }
        if self.random.chance(4) {
            rule.beside = Beside::any(&mut self.random);
        }
        rule.deleted = self.random.chance(8);
        let limits = (!rule.deleted).then(|| rule.limits());
        if !rule.deleted && self.random.chance(2) {
            return Command::Sweep;
        }
        let change = LimitChange { budget: budget(n), revision: rule.revision, limits };
        Command::ApplyLimits { org, changes: vec![change] }
    }

    fn move_clock(&mut self, now_ms: i64) -> Command {
        let to_next_window = 5_000 - now_ms.rem_euclid(5_000);
        let by_ms = match self.random.below(100) {
            0..70 => self.random.between(0, 600),
            70..80 => to_next_window + self.random.between(-1, 0),
            80..90 => -self.random.between(0, 2_000).min(now_ms),
            90..98 => self.random.between(0, 10_000),
            98 => 2 * 3_600_000,
            _ if self.random.chance(4) => LAPSE_KEPT_MS - 1_000,
            _ => 25 * 3_600_000,
        };
        Command::MoveClock { by_ms }
    }
}

fn pair(used: (OrgId, AttemptId, i64)) -> (OrgId, AttemptId) {
    (used.0, used.1)
}

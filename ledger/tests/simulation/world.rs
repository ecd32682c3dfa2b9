//! One run: everything put together, driven at random by a seed, then brought to rest and looked at.

use std::sync::Arc;

use nullspend_core::{
    attempt::BudgetCharge,
    clock::{Clock, ManualClock},
    id::AttemptId,
    ledger::{Charge, ReserveOutcome},
    money::Nanos,
    policy::Enforcement,
};
use nullspend_ledger::conformance::Random;
use uuid::Uuid;

use super::{
    control::Control,
    ghost::Ghost,
    network::{Net, Packet},
    number,
    plane::{Cx, Life, Plane},
    server::{Ask, ORG, Part, Server, Told},
    spool::{Closed, Stub},
    store::{Rule, Store},
};

/// Steps of one run.
const STEPS: u64 = 260;
/// Steps within which everything must come to rest.
const REST_STEPS: u64 = 20_000;
/// What a failure shows.
const TRAIL: usize = 40;

pub fn attempt(n: u128) -> AttemptId {
    AttemptId(Uuid::from_u128(n))
}

/// Something that is wrong on purpose, and must be noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    ForwardsBeforeOpened,
    SettlesBeforeClosed,
    SettlesOnce,
    DoesNotGiveUp,
    LeavesTheLapse,
    DeliversUndrained,
    DeliversUndecided,
    WaitsForNobody,
    HoldsWhatIsRecorded,
    ForgetsLapses,
    AddsTheTruthToTheLapse,
    AcknowledgesUnstored,
    TakesSweptForSettled,
}

impl Flaw {
    pub const ALL: [Self; 13] = [
        Self::ForwardsBeforeOpened,
        Self::SettlesBeforeClosed,
        Self::SettlesOnce,
        Self::DoesNotGiveUp,
        Self::LeavesTheLapse,
        Self::DeliversUndrained,
        Self::DeliversUndecided,
        Self::WaitsForNobody,
        Self::HoldsWhatIsRecorded,
        Self::ForgetsLapses,
        Self::AddsTheTruthToTheLapse,
        Self::AcknowledgesUnstored,
        Self::TakesSweptForSettled,
    ];
}

/// One process with the ledger in it, or several around a ledger of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Alone,
    Cluster,
}

pub struct World {
    seed: u64,
    layout: Layout,
    clock: Arc<ManualClock>,
    latest_ms: i64,
    server: Server,
    store: Store,
    planes: Vec<Plane>,
    controls: [Control; 2],
    cx: Cx,
    trail: Vec<String>,
}

impl World {
    pub fn new(seed: u64, flaw: Option<Flaw>) -> Self {
        let mut random = Random::seeded(seed);
        let clock = Arc::new(ManualClock::at(1_000_000));
        let mut ghost = Ghost::default();
        let rules: Vec<Rule> = (1..=3)
            .map(|n| {
                let enforcement =
                    if random.chance(5) { Enforcement::SoftBlock } else { Enforcement::StrictBlock };
                let limit = random.between(50, 500);
                ghost.limited(n, enforcement, limit);
                let window_ms = *random.pick(&[None, None, Some(5_000), Some(20_000)]);
                Rule { n, window_ms, generation: 0, limit, revision: 1, enforcement }
            })
            .collect();
        let layout = if random.chance(5) { Layout::Alone } else { Layout::Cluster };
        let planes = if layout == Layout::Alone { 1 } else { 2 + random.below(3) };
        let planes = (0..planes).map(|plane| {
            let skew_ms = random.between(-20, 20);
            Plane::new(usize::try_from(plane).unwrap(), skew_ms, rules.clone())
        });
        let planes: Vec<Plane> = planes.collect();
        let known = planes.iter().map(|plane| plane.who.plane).collect();
        let store = Store { rules, known, ..Store::default() };
        let now_ms = clock.now_ms();
        Self {
            seed,
            layout,
            server: Server::new(clock.clone()),
            clock,
            latest_ms: now_ms,
            store,
            planes,
            controls: Default::default(),
            cx: Cx { random, net: Net::new(), ghost, now_ms, flaw, next_id: 0 },
            trail: Vec::new(),
        }
    }

    pub fn met(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.cx.ghost.met.0.iter().map(|(what, times)| (*what, *times))
    }

    /// Runs to the end, or to the first sentence that is not true.
    pub fn run(&mut self) -> Result<(), String> {
        for step in 0..STEPS {
            self.random_step(step);
            self.look()?;
        }
        self.rest()?;
        self.at_rest();
        self.look()
    }

    fn look(&mut self) -> Result<(), String> {
        if let Err(untrue) = self.server.invariants() {
            self.cx.ghost.broken.get_or_insert(untrue);
        }
        match &self.cx.ghost.broken {
            None => Ok(()),
            Some(what) => Err(self.tell(&shorten(what))),
        }
    }

    /// The sentence, what led there, and how to see it again: the last steps, and all that name what the sentence names.
    fn tell(&self, what: &str) -> String {
        let seed = self.seed;
        let named: Vec<&str> = what.split_whitespace().filter(|word| word.starts_with('#')).collect();
        // One run alone shows everything.
        let most = if number("NULLSPEND_SIM_SEEDS", 0) == 1 { usize::MAX } else { TRAIL };
        let first = self.trail.len().saturating_sub(most);
        let mut told = format!(
            "{what}\nrepeat with NULLSPEND_SIM_SEED={seed} NULLSPEND_SIM_SEEDS=1, and keep the seed in seeds.txt"
        );
        for (at, line) in self.trail.iter().enumerate() {
            let line = shorten(line);
            let names = |name: &&str| line.contains(*name);
            if at >= first || named.iter().any(names) {
                told.push_str(&format!("\n  {line}"));
            }
        }
        told
    }

    fn note(&mut self, what: String) {
        self.trail.push(what);
    }

    fn any_plane(&mut self) -> usize {
        usize::try_from(self.cx.random.below(self.planes.len() as u64)).unwrap()
    }

    fn random_step(&mut self, step: u64) {
        self.cx.now_ms = self.clock.now_ms();
        let p = self.any_plane();
        let runs = self.planes[p].runs();
        let what = match self.cx.random.below(200) {
            0..68 => return self.arrives(),
            68..88 if runs => {
                self.planes[p].begin(&mut self.cx);
                "a request comes to"
            }
            88..135 if runs => {
                self.planes[p].go_on(&mut self.cx);
                "a call goes on in"
            }
            135..165 if runs => {
                self.planes[p].upkeep(&mut self.cx, &mut self.store);
                "upkeep of"
            }
            165..175 => return self.control(),
            175..183 => return self.move_clock(),
            183..187 => return self.change_rule(),
            187..189 => return self.spend_elsewhere(),
            189..198 => return self.fault(p),
            198 if runs && self.layout == Layout::Cluster => {
                let Self { planes, cx, store, .. } = self;
                planes[p].leave(cx, store);
                "the end of"
            }
            _ => return,
        };
        self.note(format!("{step}: {what} data plane {p}"));
    }

    fn arrives(&mut self) {
        let Some(packet) = self.cx.net.arrives(&mut self.cx.random) else { return };
        self.note(format!("arrives: {packet:?}"));
        let Self { planes, cx, store, server, .. } = self;
        match packet {
            Packet::Ask { from, call, ask } => {
                let told = server.ask(&ask);
                if let (Ask::Reserve(reserve), Told::Reserve(outcome)) = (&ask, &told) {
                    cx.ghost.granted(&reserve.scopes, outcome);
                    let given_up =
                        |plane: &Plane| plane.calls.get(&reserve.hold).is_some_and(|call| call.given_up);
                    let taken_back = cx.ghost.was_taken_back(reserve.hold) || planes.iter().any(given_up);
                    if taken_back && *outcome == ReserveOutcome::AlreadyDone {
                        cx.ghost.met.note("a reserve arrived after it was given up");
                    }
                }
                cx.net.send(Packet::Told { to: from, call, told });
            }
            Packet::Report { from, call, ends, last } => {
                if !(cx.is(Flaw::AcknowledgesUnstored) && cx.random.chance(4)) {
                    let adds = cx.is(Flaw::AddsTheTruthToTheLapse);
                    store.ingest(&ends, adds, &mut cx.ghost.met);
                }
                cx.net.send(Packet::Acked { to: from, call, last });
            }
            Packet::Deliver { from, rebuild, attempts } => {
                let kept = store.keep_delivery(rebuild, from.plane, attempts);
                cx.net.send(Packet::Delivered { to: from, rebuild, kept });
            }
            Packet::Told { to, call, told } => {
                let plane = &mut planes[to.plane];
                if plane.who == to && plane.runs() {
                    plane.told(cx, call, told);
                }
            }
            Packet::Acked { to, call, last } => {
                let plane = &mut planes[to.plane];
                if plane.who == to && plane.runs() {
                    plane.acked(call, last);
                }
            }
            Packet::Delivered { to, rebuild, kept } => {
                let plane = &mut planes[to.plane];
                if plane.who == to && plane.runs() {
                    plane.delivered(rebuild, kept);
                }
            }
        }
    }

    fn control(&mut self) {
        if self.layout == Layout::Alone {
            return;
        }
        for _ in 0..3 {
            self.control_step();
        }
    }

    fn control_step(&mut self) {
        // At rest one seldom looks, or each would take over from the other for ever.
        let which = usize::from(self.cx.random.chance(if self.cx.net.faulty { 2 } else { 40 }));
        if self.cx.net.faulty && self.cx.random.chance(25) {
            self.controls[which].die();
        }
        self.controls[which].go_on(&mut self.cx, &mut self.server, &mut self.store);
        self.note(format!("control plane {which} looks at the books"));
    }

    fn move_clock(&mut self) {
        let now_ms = self.clock.now_ms();
        let by_ms = match self.cx.random.below(10) {
            0 => 5_000 - now_ms.rem_euclid(5_000) + self.cx.random.between(-1, 0),
            1 => -self.cx.random.between(0, 1_500),
            2 | 3 => self.cx.random.between(1_000, 6_000),
            _ => self.cx.random.between(0, 800),
        };
        self.clock.advance_ms(by_ms);
        self.latest_ms = self.latest_ms.max(self.clock.now_ms());
        self.note(format!("the clock moves by {by_ms} ms to {}", now_ms + by_ms));
    }

    /// A new limit, or a reset. The ledger may hear of it now, or by the next reserve.
    fn change_rule(&mut self) {
        let of = self.store.rules.len() as u64;
        let rule = &mut self.store.rules[usize::try_from(self.cx.random.below(of)).unwrap()];
        rule.revision += 1;
        if self.cx.random.chance(3) {
            rule.generation += 1;
            self.cx.ghost.met.note("a budget was reset");
        }
        rule.limit = self.cx.random.between(0, 500);
        self.cx.ghost.limited(rule.n, rule.enforcement, rule.limit);
        let balance = self.server.balance(rule.scope(self.clock.now_ms()).counter);
        if balance.settled.0 > rule.limit {
            self.cx.ghost.met.note("a limit was lowered below its spend");
        }
        if self.cx.random.chance(2) {
            self.server.apply_limits(&[rule.change()]);
        }
        let what = format!("a new rule: {rule:?}");
        self.note(what);
    }

    /// A report of an SDK: charged, then stored, while no rebuild is between its readings.
    fn spend_elsewhere(&mut self) {
        if self.server.is_lost() || self.controls.iter().any(Control::is_filling) {
            return;
        }
        self.cx.next_id += 1;
        let (id, cost) = (attempt(self.cx.next_id), self.cx.random.between(0, 60));
        let scopes = vec![self.cx.random.pick(&self.store.rules).scope(self.clock.now_ms())];
        let charges: Vec<_> = scopes.iter().map(|scope| BudgetCharge::to_scope(scope, None)).collect();
        let charge = Charge { id, org: ORG, scopes, session: None, actual: Nanos(cost) };
        self.server.charge(&charge);
        self.cx.ghost.spent_elsewhere(id, &charges, cost);
        let stub = Stub { attempt: id, held: cost, charges };
        let event = Closed { stub, revision: 1, cost, lapsed: false, swept: false };
        self.store.ingest(&[event], false, &mut self.cx.ghost.met);
        self.note(format!("{cost} are spent elsewhere: {id}"));
    }

    fn fault(&mut self, p: usize) {
        let Self { planes, cx, server, .. } = self;
        let what = match (planes[p].life, self.layout) {
            (Life::Runs, Layout::Alone) => {
                cx.ghost.met.note("a process died with its ledger");
                planes[p].die(cx);
                server.lose();
                cx.net.lose_asked();
                "the process dies"
            }
            (_, Layout::Alone) => return self.start_alone(),
            (Life::Runs, _) if cx.random.chance(3) => {
                cx.ghost.met.note("books were lost");
                server.lose();
                cx.net.lose_asked();
                "the ledger loses its books"
            }
            (Life::Runs, _) if cx.random.chance(2) => {
                planes[p].life = Life::Sleeps;
                "falls asleep"
            }
            (Life::Runs | Life::Sleeps, _) if cx.random.chance(2) => {
                planes[p].die(cx);
                "dies"
            }
            (Life::Sleeps, _) => {
                planes[p].life = Life::Runs;
                "wakes"
            }
            (Life::Runs, _) => return,
            (Life::Dead | Life::Left, _) => {
                planes[p].start(cx);
                // It follows policy before it serves.
                self.store.known.insert(p);
                "starts"
            }
        };
        self.note(format!("data plane {p}: {what}"));
    }

    /// The start of a process with its own ledger (design §5): what the spool has is stored, the ledger is filled from
    /// the store alone, and only then is anything served.
    fn start_alone(&mut self) {
        let Self { planes, cx, server, store, .. } = self;
        planes[0].recover(cx, store);
        if let Some(token) = server.begin() {
            for part in store.books(&[], cx) {
                server.fill(token, &part);
            }
            server.fill(token, &Part::Whole);
        }
        self.note("the process starts, and fills its ledger".to_owned());
    }

    /// No more faults, no more requests: everything must come to rest.
    fn rest(&mut self) -> Result<(), String> {
        self.cx.net.faulty = false;
        for step in 0..REST_STEPS {
            self.cx.now_ms = self.clock.now_ms();
            for p in 0..self.planes.len() {
                match self.planes[p].life {
                    Life::Runs => {}
                    Life::Sleeps => self.planes[p].life = Life::Runs,
                    Life::Dead | Life::Left if self.layout == Layout::Alone => self.start_alone(),
                    Life::Dead | Life::Left => {
                        self.planes[p].start(&mut self.cx);
                        self.store.known.insert(p);
                    }
                }
            }
            let p = self.any_plane();
            match self.cx.random.below(10) {
                0..5 => self.arrives(),
                5..7 => self.planes[p].go_on(&mut self.cx),
                7..9 => {
                    self.planes[p].upkeep(&mut self.cx, &mut self.store);
                }
                _ => self.control(),
            }
            if step % 50 == 0 {
                self.clock.advance_ms(500);
                self.latest_ms = self.latest_ms.max(self.clock.now_ms());
            }
            self.look()?;
            let idle = self.planes.iter().all(Plane::is_idle);
            if idle && self.server.under_way() == 0 && !self.server.is_lost() {
                return Ok(());
            }
        }
        let what = format!("{} holds and lapses are under way, and no rest comes", self.server.under_way());
        self.cx.ghost.broken.get_or_insert(what);
        self.look()
    }

    fn at_rest(&mut self) {
        let Self { cx, store, server, .. } = self;
        cx.ghost.at_rest(store);
        for rule in &store.rules {
            // The ledger goes by the latest time it saw, whatever the clock says since.
            let counter = rule.scope(self.latest_ms).counter;
            let stored = store.windows.get(&counter).copied().unwrap_or(0);
            let settled = server.balance(counter).settled.0;
            let slack = cx.ghost.slack(store, counter);
            if !(0..=slack).contains(&(stored - settled)) {
                let what = format!("{counter:?}: the store has {stored}, the ledger {settled}");
                cx.ghost.broken.get_or_insert(what);
            }
        }
    }
}

/// Ids are small numbers here: `#1f` for an attempt, `1f` for anything else.
fn shorten(text: &str) -> String {
    let long = "00000000-0000-0000-0000-";
    let mut parts = text.split(long);
    let mut short = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.get(..12).map_or(part, |digits| digits.trim_start_matches('0'));
        if short.ends_with("AttemptId(") {
            short.truncate(short.len() - "AttemptId(".len());
            short.push_str(&format!("#{rest}"));
            short.push_str(part.get(13..).unwrap_or_default());
        } else {
            short.push_str(rest);
            short.push_str(part.get(12..).unwrap_or_default());
        }
    }
    short
}

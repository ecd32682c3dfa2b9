//! The database: events, windows, limits and rebuilds under way. Model of `control-plane/src/store`.

use std::collections::{BTreeMap, BTreeSet};

use nullspend_core::{
    attempt::BudgetCharge,
    id::AttemptId,
    ledger::{CounterKey, LimitChange, Limits, Reserve, Restored, Scope},
    money::Nanos,
    policy::Enforcement,
};

use super::{
    ghost::{Met, budget},
    plane::Cx,
    server::{ORG, Part},
    spool::{Closed, Stub, encode},
    world::Flaw,
};

/// A budget as policy tells it.
#[derive(Clone, Debug)]
pub struct Rule {
    pub n: u128,
    pub window_ms: Option<i64>,
    pub generation: u32,
    pub limit: i64,
    pub revision: u64,
    pub enforcement: Enforcement,
}

impl Rule {
    pub fn scope(&self, now_ms: i64) -> Scope {
        let start_ms = self.window_ms.map_or(0, |length| now_ms.div_euclid(length) * length);
        Scope {
            counter: CounterKey {
                budget: budget(self.n),
                generation: self.generation,
                window_start_ms: start_ms,
            },
            window_end_ms: self.window_ms.map(|length| start_ms + length),
            limit: Nanos(self.limit),
            revision: self.revision,
            enforcement: self.enforcement,
            session_limit: None,
            velocity: None,
            finalization_reserve: Nanos::ZERO,
        }
    }

    pub fn change(&self) -> LimitChange {
        let limits = Limits { enforcement: self.enforcement, ..Limits::strict(Nanos(self.limit)) };
        LimitChange { budget: budget(self.n), revision: self.revision, limits: Some(limits) }
    }
}

#[derive(Clone, Debug)]
pub struct Event {
    pub cost: i64,
    pub lapsed: bool,
    pub revision: u32,
    pub charges: Vec<BudgetCharge>,
}

/// A rebuild under way, and what was delivered for it.
pub struct Rebuild {
    pub id: u64,
    pub deliveries: BTreeMap<usize, Vec<Stub>>,
}

#[derive(Default)]
pub struct Store {
    pub rules: Vec<Rule>,
    pub events: BTreeMap<AttemptId, Event>,
    pub windows: BTreeMap<CounterKey, i64>,
    pub rebuild: Option<Rebuild>,
    pub rebuilds: u64,
    /// Data planes that may have work under way.
    pub known: BTreeSet<usize>,
}

impl Event {
    /// Its owner has told: what nobody saw end too, once that is told again.
    fn is_final(&self) -> bool {
        !self.lapsed || self.revision > 1
    }
}

impl Store {
    /// Takes a report in, in one transaction.
    pub fn ingest(&mut self, ends: &[Closed], adds: bool, met: &mut Met) {
        for end in ends {
            self.write(end, adds, met);
        }
    }

    /// The rule of `event_write.rs`: the truth beats a lapse, then the higher revision wins; the difference is booked.
    fn write(&mut self, end: &Closed, adds: bool, met: &mut Met) {
        let id = end.stub.attempt;
        let mut revision = end.revision;
        if let Some(known) = self.events.get(&id) {
            let supersedes = match (end.lapsed, known.lapsed) {
                (false, true) => true,
                (true, false) => false,
                _ => end.revision > known.revision,
            };
            if !supersedes {
                return;
            }
            if known.lapsed && !end.lapsed {
                met.note("an end replaced its lapse");
            }
            revision = revision.max(known.revision + 1);
            let (charges, cost) = (known.charges.clone(), known.cost);
            if !adds {
                self.book(&charges, -cost);
            }
        }
        self.book(&end.stub.charges, end.cost);
        let charges = end.stub.charges.clone();
        self.events.insert(id, Event { cost: end.cost, lapsed: end.lapsed, revision, charges });
    }

    fn book(&mut self, charges: &[BudgetCharge], nanos: i64) {
        for charge in charges {
            *self.windows.entry(charge.counter).or_default() += nanos;
        }
    }

    /// The rebuild under way, or a new one.
    pub fn begin_rebuild(&mut self) -> u64 {
        let rebuilds = &mut self.rebuilds;
        let rebuild = self.rebuild.get_or_insert_with(|| {
            *rebuilds += 1;
            Rebuild { id: *rebuilds, deliveries: BTreeMap::new() }
        });
        rebuild.id
    }

    pub fn end_rebuild(&mut self, id: u64) {
        self.rebuild.take_if(|rebuild| rebuild.id == id);
    }

    /// False when nobody waits for it.
    pub fn keep_delivery(&mut self, id: u64, plane: usize, attempts: Vec<Stub>) -> bool {
        let Some(rebuild) = self.rebuild.as_mut().filter(|rebuild| rebuild.id == id) else { return false };
        rebuild.deliveries.insert(plane, attempts);
        true
    }

    /// Everything that was delivered for a rebuild, once nobody is awaited.
    pub fn delivered(&self, id: u64) -> Option<Vec<Stub>> {
        let rebuild = self.rebuild.as_ref().filter(|rebuild| rebuild.id == id)?;
        let awaited = self.known.iter().any(|plane| !rebuild.deliveries.contains_key(plane));
        (!awaited).then(|| rebuild.deliveries.values().flatten().cloned().collect())
    }

    /// One reading of the books, as the calls that fill a ledger with it.
    pub fn books(&self, under_way: &[Stub], cx: &mut Cx) -> Vec<Part> {
        let current = |counter: &CounterKey| {
            self.rules
                .iter()
                .any(|rule| budget(rule.n) == counter.budget && rule.generation == counter.generation)
        };
        let settled = self.windows.iter().filter(|(counter, _)| current(counter));
        let settled = settled.map(|(counter, nanos)| (*counter, Nanos(*nanos))).collect();
        let recorded = |stub: &&Stub| self.events.get(&stub.attempt).is_some_and(Event::is_final);
        let mut done: Vec<AttemptId> = under_way.iter().filter(recorded).map(|stub| stub.attempt).collect();
        if cx.is(Flaw::HoldsWhatIsRecorded) {
            done.clear();
        }
        let mut parts = vec![
            Part::Limits(self.rules.iter().map(Rule::change).collect()),
            Part::Settled(settled),
            Part::Done(done.clone()),
        ];
        let forgets = cx.is(Flaw::ForgetsLapses);
        for (id, event) in self.events.iter().filter(|(_, event)| !event.is_final() && !forgets) {
            cx.ghost.met.note("a lapse was put back");
            parts.push(Part::PutBack(put_back(*id, event.cost, &event.charges), Restored::Lapsed));
        }
        for stub in under_way.iter().filter(|stub| !done.contains(&stub.attempt)) {
            cx.ghost.met.note("a hold was put back");
            parts.push(Part::PutBack(put_back(stub.attempt, stub.held, &stub.charges), Restored::Held));
        }
        if !done.is_empty() {
            cx.ghost.met.note("an id was put back as done");
        }
        parts
    }
}

fn put_back(hold: AttemptId, amount: i64, charges: &[BudgetCharge]) -> Box<Reserve> {
    Box::new(Reserve {
        hold,
        org: ORG,
        scopes: charges.iter().map(BudgetCharge::scope).collect(),
        session: None,
        finalize: false,
        amount: Nanos(amount),
        lease_ms: 1,
        stub: encode(charges),
    })
}

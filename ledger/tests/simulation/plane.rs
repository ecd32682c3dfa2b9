//! A data plane. Model of ext-proc's `plane.rs`, `flight.rs`, `settle.rs`, `give_up.rs`, `lease.rs`, `rebuild.rs` and
//! `recovery.rs`: the same steps in the same order, one at a time, so that a death fits between any two.

use std::collections::{BTreeMap, BTreeSet};

use nullspend_core::{
    attempt::BudgetCharge,
    id::AttemptId,
    ledger::{Charge, ExtendOutcome, LapsedHold, Reserve, ReserveOutcome, Scope, SettleOutcome},
    money::Nanos,
};
use nullspend_ledger::conformance::Random;

use super::{
    ghost::Ghost,
    network::{Net, Packet, Who},
    server::{Ask, LEASE_MS, ORG, Told},
    spool::{Closed, Record, Spool, Stub, decode, encode},
    store::Rule,
    world::{Flaw, attempt},
};

/// How often an extension is asked for before its stream is ended.
const EXTEND_TRIES: u32 = 3;
/// Ends of one report.
pub const REPORTED_AT_ONCE: usize = 4;

/// What every part may use in its step.
pub struct Cx {
    pub random: Random,
    pub net: Net,
    pub ghost: Ghost,
    pub now_ms: i64,
    pub flaw: Option<Flaw>,
    pub next_id: u128,
}

impl Cx {
    pub fn is(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Runs,
    /// Its machine sleeps: nothing is renewed.
    Sleeps,
    Dead,
    /// Ended in good order.
    Left,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    Reserving {
        retries: u32,
    },
    /// The ledger holds; the spool does not know.
    Granted,
    Forwarded,
    Extending {
        add: i64,
        tries: u32,
    },
    Extended {
        add: i64,
    },
    /// It never left. Should its hold have lapsed, its correction is written before the ledger hears of it.
    Looking,
    /// The end is in the spool, and the ledger must hear of it.
    Settling,
    /// The ledger does not know the hold.
    Charging,
    /// The hold had lapsed: revision 2 must be written.
    Correcting,
    /// Only the settled mark is missing.
    Marking,
}

pub struct Call {
    pub scopes: Vec<Scope>,
    pub stub: Stub,
    pub stage: Stage,
    /// The call to the ledger whose answer is waited for.
    pub asked: Option<u64>,
    pub closed: Option<Closed>,
    /// Refused without an answer to its reserve, which is taken back.
    pub given_up: bool,
    pub lost: bool,
    pub growths: u32,
}

/// A rebuild that asks for what is under way.
pub struct Asked {
    pub rebuild: u64,
    /// Calls that may have been granted before; known once it is looked at.
    pub deciding: Option<BTreeSet<AttemptId>>,
    pub target: Option<usize>,
}

pub struct Plane {
    pub who: Who,
    pub life: Life,
    pub spool: Spool,
    pub skew_ms: i64,
    pub rules: Vec<Rule>,
    pub calls: BTreeMap<AttemptId, Call>,
    pub number: u64,
    pub renewing: Option<(u64, Vec<AttemptId>)>,
    pub sweeping: Option<u64>,
    pub received: Vec<AttemptId>,
    pub unwritten: Vec<Closed>,
    pub reporting: Option<u64>,
    pub asked: Option<Asked>,
    pub delivered: u64,
}

impl Plane {
    pub fn new(plane: usize, skew_ms: i64, rules: Vec<Rule>) -> Self {
        Self {
            who: Who { plane, life: 0 },
            life: Life::Runs,
            spool: Spool::default(),
            skew_ms,
            rules,
            calls: BTreeMap::new(),
            number: 0,
            renewing: None,
            sweeping: None,
            received: Vec::new(),
            unwritten: Vec::new(),
            reporting: None,
            asked: None,
            delivered: 0,
        }
    }

    pub fn runs(&self) -> bool {
        self.life == Life::Runs
    }

    /// Nothing is under way here.
    pub fn is_idle(&self) -> bool {
        self.calls.is_empty()
            && self.unwritten.is_empty()
            && self.spool.is_drained(self.spool.last_reported())
    }

    pub fn ask(&mut self, cx: &mut Cx, ask: Ask) -> u64 {
        let call = cx.net.call();
        cx.net.send(Packet::Ask { from: self.who, call, ask });
        call
    }

    fn scopes(&self, matched: impl Iterator<Item = u128>, now_ms: i64) -> Vec<Scope> {
        matched
            .filter_map(|n| self.rules.iter().find(|rule| rule.n == n))
            .map(|rule| rule.scope(now_ms))
            .collect()
    }

    /// A request comes.
    pub fn begin(&mut self, cx: &mut Cx) {
        cx.next_id += 1;
        let id = attempt(cx.next_id);
        let of = self.rules.len() as u128;
        let first = u128::from(cx.random.below(of as u64)) + 1;
        let matched = [Some(first), cx.random.chance(2).then_some(first % of + 1)];
        let scopes = self.scopes(matched.into_iter().flatten(), cx.now_ms + self.skew_ms);
        let charges = scopes.iter().map(|scope| BudgetCharge::to_scope(scope, None)).collect();
        let limit = scopes.iter().map(|scope| scope.limit.0).min().unwrap_or(0);
        let held = if cx.random.chance(4) { limit / 2 } else { cx.random.between(1, 120) };
        let stub = Stub { attempt: id, held, charges };
        let mut call = Call {
            scopes,
            stub,
            stage: Stage::Reserving { retries: 0 },
            asked: None,
            closed: None,
            given_up: false,
            lost: false,
            growths: 0,
        };
        call.asked = Some(self.ask(cx, reserve(&call)));
        self.calls.insert(id, call);
    }

    /// One step of one call.
    pub fn go_on(&mut self, cx: &mut Cx) {
        let Some(id) = pick(&mut cx.random, self.calls.keys()) else { return };
        let Some(mut call) = self.calls.remove(&id) else { return };
        if self.step(cx, &mut call) {
            self.calls.insert(id, call);
        }
    }

    /// False when the call is over.
    fn step(&mut self, cx: &mut Cx, call: &mut Call) -> bool {
        if call.asked.is_some() {
            // An answer is waited for; sometimes in vain.
            if cx.random.chance(if cx.net.faulty { 5 } else { 2 }) {
                call.asked = None;
                return self.not_answered(cx, call);
            }
            return true;
        }
        match call.stage.clone() {
            Stage::Reserving { .. } => call.asked = Some(self.ask(cx, reserve(call))),
            Stage::Granted => self.open(cx, call),
            Stage::Forwarded => self.flow(cx, call),
            Stage::Extending { add, .. } => self.extend(cx, call, add),
            Stage::Extended { add } => {
                call.stub.held += add;
                self.spool.append(Record::Opened(call.stub.clone()));
                cx.ghost.forwarded(&call.stub);
                cx.ghost.met.note("a hold grew");
                call.stage = Stage::Forwarded;
            }
            Stage::Looking => self.extend(cx, call, 0),
            Stage::Settling => {
                let cost = call.closed.as_ref().map_or(0, |closed| closed.cost);
                call.asked = Some(self.ask(cx, settle(call, cost)));
            }
            Stage::Charging => {
                let cost = call.closed.as_ref().map_or(0, |closed| closed.cost);
                call.asked = Some(self.ask(cx, charge(call, cost)));
            }
            Stage::Correcting => {
                self.correct(cx, call);
                call.stage = Stage::Marking;
            }
            Stage::Marking => {
                if cx.is(Flaw::SettlesBeforeClosed)
                    && let Some(closed) = call.closed.take()
                {
                    self.spool.append(Record::Closed(closed));
                }
                self.spool.append(Record::Settled(call.stub.attempt));
                if call.given_up {
                    cx.ghost.taken_back(call.stub.attempt);
                }
                return false;
            }
        }
        true
    }

    fn not_answered(&mut self, cx: &mut Cx, call: &mut Call) -> bool {
        match &mut call.stage {
            Stage::Reserving { .. } => {
                cx.ghost.met.note("a reserve was given up");
                if cx.is(Flaw::DoesNotGiveUp) {
                    cx.ghost.taken_back(call.stub.attempt);
                    return false;
                }
                (call.given_up, call.stage) = (true, Stage::Looking);
            }
            Stage::Extending { tries, .. } => {
                *tries += 1;
                if *tries >= EXTEND_TRIES {
                    // The stream is ended.
                    (call.stage, call.growths) = (Stage::Forwarded, u32::MAX);
                }
            }
            Stage::Settling | Stage::Charging if call.given_up => call.stage = Stage::Looking,
            Stage::Settling if cx.is(Flaw::SettlesOnce) => call.stage = Stage::Marking,
            _ => {}
        }
        true
    }

    /// What was granted is opened and forwarded; or its client is gone, and it is released.
    fn open(&mut self, cx: &mut Cx, call: &mut Call) {
        if cx.random.chance(12) {
            (call.given_up, call.stage) = (true, Stage::Looking);
            return;
        }
        if !cx.is(Flaw::ForwardsBeforeOpened) {
            self.spool.append(Record::Opened(call.stub.clone()));
        }
        cx.ghost.forwarded(&call.stub);
        call.stage = Stage::Forwarded;
    }

    /// The answer comes: more of it is paid for, or it ends.
    fn flow(&mut self, cx: &mut Cx, call: &mut Call) {
        if call.growths < 3 && cx.random.chance(2) {
            call.growths += 1;
            let add = cx.random.between(1, 60);
            call.stage = Stage::Extending { add, tries: 0 };
            return self.extend(cx, call, add);
        }
        if cx.random.chance(2) {
            return;
        }
        let over = if cx.random.chance(10) { 30 } else { 0 };
        let cost = cx.random.between(0, call.stub.held + over);
        cx.ghost.billed(call.stub.attempt, cost, true);
        let closed = Closed { stub: call.stub.clone(), revision: 1, cost, lapsed: false, swept: false };
        if !cx.is(Flaw::SettlesBeforeClosed) {
            self.spool.append(Record::Closed(closed.clone()));
        }
        (call.closed, call.stage) = (Some(closed), Stage::Settling);
    }

    fn extend(&mut self, cx: &mut Cx, call: &mut Call, add: i64) {
        self.number += 1;
        let (number, holds) = (self.number, vec![call.stub.attempt]);
        call.asked = Some(self.ask(cx, Ask::Extend { holds, number, add: Nanos(add) }));
    }

    fn correct(&mut self, cx: &mut Cx, call: &mut Call) {
        let of_nothing =
            || Closed { stub: call.stub.clone(), revision: 2, cost: 0, lapsed: false, swept: false };
        if call.closed.is_none() {
            cx.ghost.met.note("a given up reserve had lapsed");
            if cx.is(Flaw::LeavesTheLapse) {
                return;
            }
        }
        let mut closed = call.closed.clone().unwrap_or_else(of_nothing);
        closed.revision = 2;
        self.spool.append(Record::Closed(closed.clone()));
        call.closed = Some(closed);
    }

    /// The ledger answers.
    pub fn told(&mut self, cx: &mut Cx, number: u64, told: Told) {
        if self.sweeping == Some(number) {
            self.sweeping = None;
            if let Told::Swept(swept) = told {
                self.swept(cx, swept);
            }
            return;
        }
        if let Some((_, holds)) = self.renewing.take_if(|(call, _)| *call == number) {
            if let Told::Extend(outcomes) = told {
                for (hold, outcome) in holds.iter().zip(outcomes) {
                    if matches!(outcome, ExtendOutcome::Lapsed | ExtendOutcome::Unknown)
                        && let Some(call) = self.calls.get_mut(hold)
                    {
                        call.lost = true;
                    }
                }
            }
            return;
        }
        let Some(id) = self.calls.iter().find(|(_, call)| call.asked == Some(number)).map(|(id, _)| *id)
        else {
            return;
        };
        let Some(mut call) = self.calls.remove(&id) else { return };
        call.asked = None;
        if self.answered(cx, &mut call, told) {
            self.calls.insert(id, call);
        }
    }

    /// False when the call is over.
    fn answered(&mut self, cx: &mut Cx, call: &mut Call, told: Told) -> bool {
        match (call.stage.clone(), told) {
            (Stage::Reserving { retries }, Told::Reserve(outcome)) => {
                return self.reserved(cx, call, retries, &outcome);
            }
            // Nothing was carried out: the call is refused.
            (Stage::Reserving { .. }, Told::Lost) => return false,
            (Stage::Extending { add, tries }, told) => call.stage = extended(cx, call, add, tries, &told),
            (Stage::Looking, Told::Extend(outcomes)) => {
                if outcomes == [ExtendOutcome::Lapsed] {
                    self.correct(cx, call);
                }
                call.stage = Stage::Settling;
            }
            (Stage::Settling, Told::Settle(outcome)) => {
                call.stage = match outcome {
                    SettleOutcome::Settled { .. } | SettleOutcome::AlreadyDone
                        if call.given_up && call.closed.is_none() =>
                    {
                        cx.ghost.taken_back(call.stub.attempt);
                        return false;
                    }
                    SettleOutcome::Settled { .. } | SettleOutcome::AlreadyDone => Stage::Marking,
                    SettleOutcome::Lapsed { .. } => Stage::Correcting,
                    SettleOutcome::Unknown => Stage::Charging,
                    SettleOutcome::Invalid(misuse) => {
                        cx.ghost.broken = Some(format!("a settlement is refused: {misuse}"));
                        return false;
                    }
                };
            }
            (Stage::Charging, Told::Charged) => {
                cx.ghost.met.note("a lost end was charged");
                // It may have come and lapsed in between.
                call.stage = Stage::Settling;
            }
            // From the start again, once the ledger has books.
            (Stage::Charging, Told::Lost) => call.stage = Stage::Settling,
            _ => {}
        }
        true
    }

    fn reserved(&mut self, cx: &mut Cx, call: &mut Call, retries: u32, outcome: &ReserveOutcome) -> bool {
        let (met, now_ms) = match outcome {
            ReserveOutcome::Reserved { .. } => {
                call.stage = Stage::Granted;
                return true;
            }
            ReserveOutcome::Denied { .. } => {
                cx.ghost.met.note("a strict limit refused");
                return false;
            }
            ReserveOutcome::StalePolicy { .. } => ("an old policy was refused", cx.now_ms + self.skew_ms),
            ReserveOutcome::WrongWindow { now_ms } => ("a wrong window was refused", *now_ms),
            ReserveOutcome::AlreadyDone | ReserveOutcome::Invalid(_) => return false,
        };
        cx.ghost.met.note(met);
        if retries >= 2 {
            return false;
        }
        let matched: Vec<u128> = call.scopes.iter().map(|scope| scope.counter.budget.0.as_u128()).collect();
        call.scopes = self.scopes(matched.into_iter(), now_ms);
        call.stub.charges = call.scopes.iter().map(|scope| BudgetCharge::to_scope(scope, None)).collect();
        call.stage = Stage::Reserving { retries: retries + 1 };
        true
    }

    fn swept(&mut self, cx: &mut Cx, swept: Vec<LapsedHold>) {
        for LapsedHold { hold, amount, stub, .. } in swept {
            if let Some(call) = self.calls.get_mut(&hold) {
                call.lost = true;
            } else {
                cx.ghost.met.note("a sweep took a hold of another");
            }
            let charges = decode(&stub);
            let stub = Stub { attempt: hold, held: amount.0, charges };
            self.received.push(hold);
            self.unwritten.push(Closed { swept: true, ..Closed::lapsed(stub, amount.0) });
        }
    }
}

fn extended(cx: &mut Cx, call: &mut Call, add: i64, tries: u32, told: &Told) -> Stage {
    let outcome = match told {
        Told::Extend(outcomes) => outcomes.first().copied(),
        _ => None,
    };
    match outcome {
        Some(ExtendOutcome::Extended) => return Stage::Extended { add },
        Some(ExtendOutcome::Denied { .. }) => cx.ghost.met.note("a growth was refused"),
        // A later number was quicker: once more.
        Some(ExtendOutcome::AlreadyDone) if tries + 1 < EXTEND_TRIES => {
            return Stage::Extending { add, tries: tries + 1 };
        }
        _ => {}
    }
    // No more than was held so far may pass.
    call.growths = u32::MAX;
    Stage::Forwarded
}

fn reserve(call: &Call) -> Ask {
    Ask::Reserve(Box::new(Reserve {
        hold: call.stub.attempt,
        org: ORG,
        scopes: call.scopes.clone(),
        session: None,
        finalize: false,
        amount: Nanos(call.stub.held),
        lease_ms: LEASE_MS,
        stub: encode(&call.stub.charges),
    }))
}

fn settle(call: &Call, cost: i64) -> Ask {
    Ask::Settle { hold: call.stub.attempt, actual: Nanos(cost) }
}

fn charge(call: &Call, cost: i64) -> Ask {
    Ask::Charge(Box::new(Charge {
        id: call.stub.attempt,
        org: ORG,
        scopes: call.stub.charges.iter().map(BudgetCharge::scope).collect(),
        session: None,
        actual: Nanos(cost),
    }))
}

fn pick<'a>(random: &mut Random, of: impl ExactSizeIterator<Item = &'a AttemptId>) -> Option<AttemptId> {
    let at = usize::try_from(random.below(of.len() as u64)).unwrap_or(0);
    of.into_iter().nth(at).copied()
}

//! What a data plane does beside its calls: leases, sweeps, reports, rebuilds; and how it dies and comes back.

use std::collections::BTreeSet;

use nullspend_core::{id::AttemptId, money::Nanos};

use super::{
    network::{Packet, Who},
    plane::{Asked, Call, Cx, Life, Plane, REPORTED_AT_ONCE, Stage},
    server::Ask,
    spool::{Closed, Record, Replay},
    store::Store,
    world::Flaw,
};

impl Plane {
    /// Something of what runs in the background.
    pub fn upkeep(&mut self, cx: &mut Cx, store: &mut Store) {
        match cx.random.below(6) {
            0 => self.renew(cx),
            1 => self.sweep(cx),
            2 => self.write_event(cx),
            3 => self.report(cx),
            4 => self.watch(store),
            _ => self.deliver(cx),
        }
    }

    fn renew(&mut self, cx: &mut Cx) {
        let renewed = |call: &&Call| call.is_open() && !call.lost;
        let holds: Vec<AttemptId> =
            self.calls.values().filter(renewed).map(|call| call.stub.attempt).collect();
        self.number += 1;
        let number = self.number;
        let call = self.ask(cx, Ask::Extend { holds: holds.clone(), number, add: Nanos::ZERO });
        self.renewing = Some((call, holds));
    }

    fn sweep(&mut self, cx: &mut Cx) {
        // What the last one brought is written first.
        if !self.unwritten.is_empty() || (self.sweeping.is_some() && !cx.random.chance(3)) {
            return;
        }
        let received = std::mem::take(&mut self.received);
        self.sweeping = Some(self.ask(cx, Ask::Sweep { received }));
    }

    fn write_event(&mut self, cx: &Cx) {
        let Some(mut event) = self.unwritten.pop() else { return };
        event.swept = !cx.is(Flaw::TakesSweptForSettled);
        let id = event.stub.attempt;
        self.spool.append(Record::Closed(event));
        if cx.is(Flaw::TakesSweptForSettled) {
            self.spool.append(Record::Settled(id));
        }
    }

    fn report(&mut self, cx: &mut Cx) {
        if self.reporting.is_some() {
            if !cx.random.chance(4) {
                return;
            }
            cx.ghost.met.note("a report was repeated");
        }
        let Some((ends, last)) = self.spool.unreported(REPORTED_AT_ONCE) else { return };
        let call = cx.net.call();
        self.reporting = Some(call);
        cx.net.send(Packet::Report { from: self.who, call, ends, last });
    }

    pub fn acked(&mut self, call: u64, last: usize) {
        self.spool.ack(last);
        self.reporting.take_if(|reporting| *reporting == call);
    }

    /// Policy, and the rebuild that waits for it.
    fn watch(&mut self, store: &mut Store) {
        store.known.insert(self.who.plane);
        self.rules.clone_from(&store.rules);
        let wanted = store.rebuild.as_ref().map(|rebuild| rebuild.id);
        let wanted = wanted.filter(|rebuild| *rebuild != self.delivered);
        if self.asked.as_ref().map(|asked| asked.rebuild) != wanted {
            self.asked = wanted.map(|rebuild| Asked { rebuild, deciding: None, target: None });
        }
    }

    /// What the ledger may have granted is in the spool, what ended is in the store, and only what is left is told.
    fn deliver(&mut self, cx: &mut Cx) {
        let Some(asked) = &mut self.asked else { return };
        let deciding = asked.deciding.get_or_insert_with(|| {
            let deciding = self.calls.values().filter(|call| call.is_deciding());
            deciding.map(|call| call.stub.attempt).collect::<BTreeSet<_>>()
        });
        let undecided = |id| self.calls.get(id).is_some_and(Call::is_deciding);
        if deciding.iter().any(undecided) && !cx.is(Flaw::DeliversUndecided) {
            return;
        }
        if !self.unwritten.is_empty() {
            return self.write_event(cx);
        }
        let target = *asked.target.get_or_insert_with(|| self.spool.last_reported());
        if self.spool.is_drained(target) || cx.is(Flaw::DeliversUndrained) {
            let rebuild = asked.rebuild;
            cx.net.send(Packet::Deliver { from: self.who, rebuild, attempts: self.spool.unsettled() });
        }
    }

    pub fn delivered(&mut self, rebuild: u64, kept: bool) {
        if self.asked.take_if(|asked| asked.rebuild == rebuild).is_some() && kept {
            self.delivered = rebuild;
        }
    }

    /// Ends in good order, if nothing is left here.
    pub fn leave(&mut self, cx: &mut Cx, store: &mut Store) {
        if self.is_idle() {
            store.known.remove(&self.who.plane);
            self.life = Life::Left;
            cx.ghost.met.note("a data plane left");
        }
    }

    /// `kill -9`. Providers go on with what they were sent.
    pub fn die(&mut self, cx: &mut Cx) {
        cx.ghost.met.note("a data plane died");
        for call in self.calls.values().filter(|call| call.is_open()) {
            let cost = cx.random.between(0, call.stub.held);
            cx.ghost.billed(call.stub.attempt, cost, false);
        }
        let unwritten = self.calls.values().filter(|call| call.given_up && call.closed.is_none());
        cx.ghost.orphans.extend(unwritten.map(|call| call.stub.attempt));
        self.calls.clear();
        (self.renewing, self.sweeping, self.reporting, self.asked) = (None, None, None, None);
        self.received.clear();
        self.unwritten.clear();
        (self.number, self.delivered) = (0, 0);
        self.life = Life::Dead;
        self.who = Who { life: self.who.life + 1, ..self.who };
    }

    /// Starts with a ledger of its own, which knows nothing yet: everything is stored, and nothing is left to tell.
    pub fn recover(&mut self, cx: &mut Cx, store: &mut Store) {
        let Replay { unclosed, unsettled } = self.spool.replay();
        let lapsed: Vec<AttemptId> = unclosed.keys().copied().collect();
        for stub in unclosed.into_values() {
            let held = stub.held;
            self.spool.append(Record::Closed(Closed::lapsed(stub, held)));
        }
        while let Some((ends, last)) = self.spool.unreported(REPORTED_AT_ONCE) {
            store.ingest(&ends, cx.is(Flaw::AddsTheTruthToTheLapse), &mut cx.ghost.met);
            self.spool.ack(last);
        }
        for id in unsettled.into_keys().chain(lapsed) {
            self.spool.append(Record::Settled(id));
        }
        self.life = Life::Runs;
    }

    /// Starts again: what was left open is closed as lapsed, and the ledger is told what it was not told. The start may
    /// die too.
    pub fn start(&mut self, cx: &mut Cx) {
        let Replay { unclosed, unsettled } = self.spool.replay();
        let dies = cx.random.chance(8) && cx.net.faulty;
        let mut left: Vec<Closed> = unsettled.into_values().collect();
        for stub in unclosed.into_values() {
            if dies && cx.random.chance(2) {
                return;
            }
            let held = stub.held;
            let closed = Closed::lapsed(stub, held);
            self.spool.append(Record::Closed(closed.clone()));
            left.push(closed);
        }
        self.life = Life::Runs;
        for closed in left {
            self.calls.insert(closed.stub.attempt, Call::left(closed));
        }
    }
}

impl Call {
    /// An end that an earlier run wrote.
    fn left(closed: Closed) -> Self {
        Self {
            scopes: Vec::new(),
            stub: closed.stub.clone(),
            stage: Stage::Settling,
            asked: None,
            closed: Some(closed),
            given_up: false,
            lost: true,
            growths: 0,
        }
    }

    fn is_deciding(&self) -> bool {
        matches!(
            self.stage,
            Stage::Reserving { .. } | Stage::Granted | Stage::Extending { .. } | Stage::Extended { .. }
        )
    }

    /// It was forwarded, and the ledger was not told its end.
    fn is_open(&self) -> bool {
        !self.given_up && !matches!(self.stage, Stage::Reserving { .. } | Stage::Granted)
    }
}

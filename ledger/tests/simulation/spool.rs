//! What a data plane has on its disk: every record it wrote, in order, and what was acknowledged. Model of
//! `ext-proc/src/spool`: deaths lose nothing that was appended.

use std::collections::BTreeMap;

use bytes::{Buf as _, BufMut as _, Bytes};
use nullspend_core::{
    attempt::BudgetCharge,
    id::{AttemptId, BudgetId},
    ledger::CounterKey,
};
use uuid::Uuid;

/// What an event is written from.
#[derive(Clone, Debug)]
pub struct Stub {
    pub attempt: AttemptId,
    pub held: i64,
    pub charges: Vec<BudgetCharge>,
}

/// An attempt's end: its event.
#[derive(Clone, Debug)]
pub struct Closed {
    pub stub: Stub,
    pub revision: u32,
    pub cost: i64,
    pub lapsed: bool,
    /// Written by who swept the hold: the ledger knows.
    pub swept: bool,
}

impl Closed {
    pub fn lapsed(stub: Stub, cost: i64) -> Self {
        Self { stub, revision: 1, cost, lapsed: true, swept: false }
    }
}

#[derive(Clone, Debug)]
pub enum Record {
    Opened(Stub),
    Closed(Closed),
    Settled(AttemptId),
}

#[derive(Default)]
pub struct Spool {
    records: Vec<Record>,
    acked: usize,
}

/// What a start finds.
#[derive(Default)]
pub struct Replay {
    pub unclosed: BTreeMap<AttemptId, Stub>,
    pub unsettled: BTreeMap<AttemptId, Closed>,
}

impl Spool {
    pub fn append(&mut self, record: Record) {
        self.records.push(record);
    }

    pub fn replay(&self) -> Replay {
        let mut replay = Replay::default();
        for record in &self.records {
            match record {
                Record::Opened(stub) => drop(replay.unclosed.insert(stub.attempt, stub.clone())),
                Record::Closed(closed) if closed.swept => {}
                Record::Closed(closed) => {
                    replay.unclosed.remove(&closed.stub.attempt);
                    replay.unsettled.insert(closed.stub.attempt, closed.clone());
                }
                Record::Settled(id) => drop(replay.unsettled.remove(id)),
            }
        }
        replay
    }

    /// Everything whose cost the ledger has not been told.
    pub fn unsettled(&self) -> Vec<Stub> {
        let Replay { unclosed, unsettled } = self.replay();
        unclosed.into_values().chain(unsettled.into_values().map(|closed| closed.stub)).collect()
    }

    /// The number of the last record that is reported.
    pub fn last_reported(&self) -> usize {
        self.records.iter().rposition(|record| matches!(record, Record::Closed(_))).map_or(0, |at| at + 1)
    }

    pub fn is_drained(&self, target: usize) -> bool {
        self.acked >= target
    }

    /// The next ends to report, and the number of the last.
    pub fn unreported(&self, most: usize) -> Option<(Vec<Closed>, usize)> {
        let mut last = self.acked;
        let mut ends = Vec::new();
        for (at, record) in self.records.iter().enumerate().skip(self.acked) {
            if let Record::Closed(closed) = record
                && ends.len() < most
            {
                ends.push(closed.clone());
                last = at + 1;
            }
        }
        (!ends.is_empty()).then_some((ends, last))
    }

    pub fn ack(&mut self, number: usize) {
        self.acked = self.acked.max(number);
    }
}

/// The stub as the ledger keeps it.
pub fn encode(charges: &[BudgetCharge]) -> Bytes {
    let mut bytes = Vec::new();
    for BudgetCharge { counter, window_end_ms, .. } in charges {
        bytes.put_u128(counter.budget.0.as_u128());
        bytes.put_u32(counter.generation);
        bytes.put_i64(counter.window_start_ms);
        bytes.put_i64(window_end_ms.unwrap_or(i64::MAX));
    }
    bytes.into()
}

/// What a sweeper reads of it.
pub fn decode(stub: &Bytes) -> Vec<BudgetCharge> {
    let (mut stub, mut charges) = (stub.clone(), Vec::new());
    while stub.has_remaining() {
        let budget = BudgetId(Uuid::from_u128(stub.get_u128()));
        let counter = CounterKey { budget, generation: stub.get_u32(), window_start_ms: stub.get_i64() };
        let window_end_ms = Some(stub.get_i64()).filter(|end| *end != i64::MAX);
        charges.push(BudgetCharge { counter, window_end_ms, of_session: false });
    }
    charges
}

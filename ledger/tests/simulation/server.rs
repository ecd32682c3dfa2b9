//! The ledger as a server of its own: the real in-process ledger, which can lose its books, answers only while they are
//! whole, and hands a lapse out until the one who swept it has it (what the Redis scripts do).

use std::{collections::BTreeMap, sync::Arc};

use futures::FutureExt as _;
use nullspend_core::{
    clock::{Clock, ManualClock},
    id::{AttemptId, OrgId},
    ledger::{
        Balance, Charge, ChargeOutcome, CounterKey, ExtendOutcome, LapsedHold, Ledger, LedgerUnavailable,
        LimitChange, Reserve, ReserveOutcome, Restored, SettleOutcome,
    },
    money::Nanos,
};
use nullspend_ledger::MemoryLedger;

pub const ORG: OrgId = OrgId(uuid::Uuid::from_u128(1));
pub const LEASE_MS: i64 = 2_000;
/// The lease of a hold that a rebuild puts back.
const RESTORED_LEASE_MS: i64 = 4_000;
/// How long one who swept may take to tell that he has it.
const CLAIM_MS: i64 = 3_000;

/// What a data plane asks of the ledger.
#[derive(Clone, Debug)]
pub enum Ask {
    Reserve(Box<Reserve>),
    Extend { holds: Vec<AttemptId>, number: u64, add: Nanos },
    Settle { hold: AttemptId, actual: Nanos },
    Charge(Box<Charge>),
    Sweep { received: Vec<AttemptId> },
}

/// What it is told.
#[derive(Clone, Debug)]
pub enum Told {
    Reserve(ReserveOutcome),
    Extend(Vec<ExtendOutcome>),
    Settle(SettleOutcome),
    Charged,
    Swept(Vec<LapsedHold>),
    /// Nothing was carried out: the books are lost.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Books {
    Whole,
    Lost,
    Building(u64),
}

pub struct Server {
    ledger: MemoryLedger,
    clock: Arc<ManualClock>,
    books: Books,
    /// Lapses that nobody told he has, and until when they are not handed out again.
    unreported: BTreeMap<AttemptId, (i64, LapsedHold)>,
    tokens: u64,
}

/// The ledger in this process answers at once, and always.
pub fn at_once<T>(answer: impl Future<Output = Result<T, LedgerUnavailable>>) -> T {
    answer.now_or_never().unwrap().unwrap()
}

impl Server {
    pub fn new(clock: Arc<ManualClock>) -> Self {
        let ledger = MemoryLedger::new(clock.clone());
        Self { ledger, clock, books: Books::Whole, unreported: BTreeMap::new(), tokens: 0 }
    }

    pub fn ask(&mut self, ask: &Ask) -> Told {
        if self.books != Books::Whole {
            return Told::Lost;
        }
        match ask {
            Ask::Reserve(reserve) => Told::Reserve(at_once(self.ledger.reserve(reserve))),
            Ask::Extend { holds, number, add } => {
                Told::Extend(at_once(self.ledger.extend(ORG, holds, *number, LEASE_MS, *add)))
            }
            Ask::Settle { hold, actual } => {
                let told = at_once(self.ledger.settle(ORG, *hold, *actual));
                self.unreported.remove(hold);
                Told::Settle(told)
            }
            Ask::Charge(charge) => {
                self.unreported.remove(&charge.id);
                self.charge(charge);
                Told::Charged
            }
            Ask::Sweep { received } => Told::Swept(self.sweep(received)),
        }
    }

    fn sweep(&mut self, received: &[AttemptId]) -> Vec<LapsedHold> {
        self.unreported.retain(|id, _| !received.contains(id));
        let now_ms = self.clock.now_ms();
        for lapsed in at_once(self.ledger.sweep()) {
            self.unreported.insert(lapsed.hold, (now_ms, lapsed));
        }
        let due = self.unreported.values_mut().filter(|(until_ms, _)| *until_ms <= now_ms);
        due.map(|(until_ms, lapsed)| {
            *until_ms = now_ms + CLAIM_MS;
            lapsed.clone()
        })
        .collect()
    }

    /// The books are gone: flushed, or the process died.
    pub fn lose(&mut self) {
        let clock = self.clock.clone();
        (self.ledger, self.books) = (MemoryLedger::new(clock), Books::Lost);
        self.unreported.clear();
    }

    pub fn is_lost(&self) -> bool {
        self.books != Books::Whole
    }

    /// A token to fill the books with; none when they are whole.
    pub fn begin(&mut self) -> Option<u64> {
        if self.books == Books::Whole {
            return None;
        }
        self.ledger = MemoryLedger::new(self.clock.clone());
        self.tokens += 1;
        self.books = Books::Building(self.tokens);
        Some(self.tokens)
    }

    /// False when another one has taken over.
    pub fn fill(&mut self, token: u64, part: &Part) -> bool {
        if self.books != Books::Building(token) {
            return false;
        }
        match part {
            Part::Limits(limits) => at_once(self.ledger.apply_limits(ORG, limits)),
            Part::Settled(settled) => at_once(self.ledger.load(ORG, settled)),
            Part::Done(ids) => at_once(self.ledger.restore_done(ORG, ids)),
            Part::PutBack(reserve, as_a) => {
                let mut reserve = reserve.clone();
                reserve.lease_ms = RESTORED_LEASE_MS;
                let told = at_once(self.ledger.restore(&reserve, *as_a));
                assert!(
                    matches!(told, ReserveOutcome::Reserved { .. } | ReserveOutcome::AlreadyDone),
                    "{told:?}"
                );
            }
            Part::Whole => self.books = Books::Whole,
        }
        true
    }

    /// What the control plane knows of limits, unless the books are lost.
    pub fn apply_limits(&self, limits: &[LimitChange]) {
        if !self.is_lost() {
            at_once(self.ledger.apply_limits(ORG, limits));
        }
    }

    pub fn charge(&self, charge: &Charge) {
        let told = at_once(self.ledger.charge(charge));
        assert!(!matches!(told, ChargeOutcome::Invalid(_)), "{charge:?}: {told:?}");
    }

    pub fn balance(&self, counter: CounterKey) -> Balance {
        at_once(self.ledger.balances(ORG, &[counter]))[0]
    }

    /// Open holds, and lapses that nobody told he has.
    pub fn under_way(&self) -> u64 {
        at_once(self.ledger.open_holds()).count + self.unreported.len() as u64
    }

    pub fn invariants(&self) -> Result<(), String> {
        self.ledger.invariants()
    }
}

/// One call of a rebuild.
#[derive(Clone, Debug)]
pub enum Part {
    Limits(Vec<LimitChange>),
    Settled(Vec<(CounterKey, Nanos)>),
    Done(Vec<AttemptId>),
    PutBack(Box<Reserve>, Restored),
    Whole,
}

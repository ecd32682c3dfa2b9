//! What both benches do: one call's share of the ledger's work, a reserve and a settle, through the port as the data
//! plane calls it.

#![allow(dead_code, reason = "each bench uses a part")]

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use criterion::{BenchmarkGroup, Throughput, measurement::WallTime};
use nullspend_core::{
    id::{AttemptId, BudgetId, OrgId},
    ledger::{CounterKey, Ledger, Reserve, ReserveOutcome, Scope, SettleOutcome},
    money::{MAX_LIMIT, Nanos},
    policy::Enforcement,
};
use uuid::Uuid;

/// Short runs, as the machine they were made for is shared: compare figures of one run only.
pub fn settings(group: &mut BenchmarkGroup<'_, WallTime>, calls: u64) {
    group.throughput(Throughput::Elements(calls)).warm_up_time(Duration::from_secs(1));
    group.measurement_time(Duration::from_secs(2)).sample_size(20);
}

/// Calls of organisations in turn, each with scopes of its own.
pub struct Calls {
    next_id: AtomicU64,
    orgs: Vec<(OrgId, Vec<Scope>)>,
}

impl Calls {
    pub fn new(orgs: u128, scopes: u128) -> Self {
        let scopes_of = |org: u128| (0..scopes).map(|n| scope(org * 100 + n)).collect();
        let orgs = (1..=orgs).map(|org| (OrgId(Uuid::from_u128(org)), scopes_of(org))).collect();
        Self { next_id: AtomicU64::new(1), orgs }
    }

    pub fn orgs(&self) -> impl Iterator<Item = OrgId> {
        self.orgs.iter().map(|(org, _)| *org)
    }

    /// How many were made.
    pub fn made(&self) -> u64 {
        self.next_id.load(Ordering::Relaxed) - 1
    }

    /// The next one, in the organisation whose turn it is.
    pub fn next(&self) -> Reserve {
        let n = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (org, scopes) = &self.orgs[usize::try_from(n).unwrap_or(0) % self.orgs.len()];
        Reserve {
            hold: AttemptId(Uuid::from_u128(u128::from(n) << 64 | u128::from(n))),
            org: *org,
            scopes: scopes.clone(),
            session: None,
            finalize: false,
            amount: Nanos(1_000_000),
            lease_ms: 60_000,
            stub: bytes::Bytes::from_static(b"stub"),
        }
    }

    /// Makes the next one.
    pub async fn make(&self, ledger: &impl Ledger) {
        let reserve = self.next();
        let reserved = ledger.reserve(&reserve).await;
        assert!(matches!(reserved, Ok(ReserveOutcome::Reserved { .. })), "{reserved:?}");
        let settled = ledger.settle(reserve.org, reserve.hold, Nanos(700_000)).await;
        assert!(matches!(settled, Ok(SettleOutcome::Settled { .. })), "{settled:?}");
    }
}

fn scope(n: u128) -> Scope {
    Scope {
        counter: CounterKey { budget: BudgetId(Uuid::from_u128(n)), generation: 0, window_start_ms: 0 },
        window_end_ms: None,
        limit: MAX_LIMIT,
        revision: 1,
        enforcement: Enforcement::StrictBlock,
        session_limit: None,
        velocity: None,
        finalization_reserve: Nanos::ZERO,
    }
}

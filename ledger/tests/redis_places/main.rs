//! The ledger keeps its promises wherever `redis_url` can lead: over TLS, behind sentinels, and in a cluster.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod cluster;
mod load;
mod sentinel;
#[path = "../support/mod.rs"]
mod support;
mod tls;

use std::sync::Arc;

use nullspend_core::{
    clock::SystemClock,
    id::{AttemptId, BudgetId, OrgId},
    ledger::{Balance, CounterKey, Ledger, Reserve, ReserveOutcome, Scope},
    money::Nanos,
    policy::Enforcement,
};
use nullspend_ledger::{RedisConfig, RedisLedger};
use uuid::Uuid;

fn ledger(config: &RedisConfig) -> RedisLedger {
    RedisLedger::new(config, Arc::new(SystemClock::new())).unwrap()
}

fn id(n: u128) -> AttemptId {
    AttemptId(Uuid::from_u128(n))
}

fn scope() -> Scope {
    Scope {
        counter: CounterKey { budget: BudgetId(Uuid::from_u128(1)), generation: 0, window_start_ms: 0 },
        window_end_ms: None,
        limit: Nanos(1_000_000),
        revision: 1,
        enforcement: Enforcement::StrictBlock,
        session_limit: None,
        velocity: None,
        finalization_reserve: Nanos::ZERO,
    }
}

fn reserve_of(org: OrgId, n: u128) -> Reserve {
    Reserve {
        hold: id(n),
        org,
        scopes: vec![scope()],
        session: None,
        finalize: false,
        amount: Nanos(10),
        lease_ms: 60_000,
        stub: bytes::Bytes::from_static(b"stub"),
    }
}

/// Reserves ten nano-dollars.
async fn reserve(ledger: &RedisLedger, org: OrgId, n: u128) -> Result<(), String> {
    match ledger.reserve(&reserve_of(org, n)).await {
        Ok(ReserveOutcome::Reserved { .. } | ReserveOutcome::AlreadyDone) => Ok(()),
        Ok(other) => panic!("not granted: {other:?}"),
        Err(away) => Err(away.to_string()),
    }
}

async fn balance(ledger: &RedisLedger, org: OrgId) -> (i64, i64) {
    let Balance { settled, held, .. } = ledger.balances(org, &[scope().counter]).await.unwrap()[0];
    (settled.0, held.0)
}

/// That nothing is decided, for the reason that the books are lost. The first calls after a crash find the old
/// connection dead.
async fn refuses(ledger: &RedisLedger, org: OrgId) {
    let told = async {
        loop {
            let refused = reserve(ledger, org, u128::MAX).await.expect_err("a refusal");
            if refused.contains("wait for a rebuild") {
                return;
            }
            tokio::time::sleep(load::PACE).await;
        }
    };
    tokio::time::timeout(load::BOUND, told).await.expect("a refusal in bounded time");
}

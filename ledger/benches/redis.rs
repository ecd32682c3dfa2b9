//! Reserve + settle on a Redis server of its own over a unix socket, five scopes each: one after the other, and 64 at
//! once over the one connection.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench fails by panicking")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::future::join_all;
use nullspend_core::{
    clock::SystemClock,
    id::{AttemptId, BudgetId},
    ledger::{CounterKey, Ledger, Reserve, ReserveOutcome, Scope, SettleOutcome},
    money::{MAX_LIMIT, Nanos},
    policy::Enforcement,
};
use nullspend_ledger::RedisLedger;
use uuid::Uuid;

use support::{Server, open, org};

const SCOPES: u128 = 5;
const AT_ONCE: u64 = 64;

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

async fn call(ledger: &RedisLedger, next_id: &AtomicU64) {
    let hold = AttemptId(Uuid::from_u128(u128::from(next_id.fetch_add(1, Ordering::Relaxed))));
    let reserve = Reserve {
        hold,
        org: org(1),
        scopes: (0..SCOPES).map(scope).collect(),
        session: None,
        finalize: false,
        amount: Nanos(1_000_000),
        lease_ms: 60_000,
        stub: bytes::Bytes::from_static(b"stub"),
    };
    let reserved = ledger.reserve(&reserve).await;
    assert!(matches!(reserved, Ok(ReserveOutcome::Reserved { .. })), "{reserved:?}");
    let settled = ledger.settle(org(1), hold, Nanos(700_000)).await;
    assert!(matches!(settled, Ok(SettleOutcome::Settled { .. })), "{settled:?}");
}

fn reserve_and_settle(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let server = Server::start(&[]);
    let ledger = RedisLedger::new(&server.config(), Arc::new(SystemClock::new())).expect("a ledger");
    runtime.block_on(open(&ledger, org(1)));
    let next_id = AtomicU64::new(1);
    let before = server.calls("evalsha");
    let mut group = criterion.benchmark_group("redis reserve+settle, 5 scopes");
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3)).sample_size(20);
    group.throughput(Throughput::Elements(1));
    group.bench_function("one after the other", |bencher| {
        bencher.iter(|| runtime.block_on(call(&ledger, &next_id)));
    });
    group.throughput(Throughput::Elements(AT_ONCE));
    group.bench_function("64 at once", |bencher| {
        bencher.iter(|| runtime.block_on(join_all((0..AT_ONCE).map(|_| call(&ledger, &next_id)))));
    });
    group.finish();
    let calls = next_id.load(Ordering::Relaxed) - 1;
    println!("{} round trips for {calls} calls", server.calls("evalsha") - before);
}

criterion_group!(benches, reserve_and_settle);
criterion_main!(benches);

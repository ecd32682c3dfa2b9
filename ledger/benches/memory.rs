//! Reserve + settle on the in-process ledger, through the port as the data plane calls it.
//!
//! The clock is moved by hand, 4 ms for each call, so that the ids remembered for an hour (0.9 million) weigh in.

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nullspend_core::{
    clock::ManualClock,
    id::{AttemptId, BudgetId, OrgId},
    ledger::{CounterKey, Ledger, Reserve, ReserveOutcome, Scope, SettleOutcome},
    money::{MAX_LIMIT, Nanos},
    policy::Enforcement,
};
use nullspend_ledger::MemoryLedger;
use uuid::Uuid;

const MS_PER_CALL: i64 = 4;

struct Bench {
    ledger: MemoryLedger,
    clock: Arc<ManualClock>,
    next_id: AtomicU64,
    /// For each organisation, the scopes of its calls.
    orgs: Vec<(OrgId, Vec<Scope>)>,
}

impl Bench {
    fn new(orgs: u128, scopes: u128) -> Self {
        let clock = Arc::new(ManualClock::at(0));
        let orgs = (0..orgs)
            .map(|org| {
                let scopes = (0..scopes).map(|n| scope(org * 100 + n)).collect();
                (OrgId(Uuid::from_u128(org)), scopes)
            })
            .collect();
        Self { ledger: MemoryLedger::new(clock.clone()), clock, next_id: AtomicU64::new(1), orgs }
    }

    /// One call's share of the ledger's work, in the organisation whose turn it is.
    fn call(&self) {
        let n = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.clock.advance_ms(MS_PER_CALL);
        let (org, scopes) = &self.orgs[usize::try_from(n).unwrap_or(0) % self.orgs.len()];
        let hold = AttemptId(Uuid::from_u128(u128::from(n) << 64 | u128::from(n)));
        let reserve = Reserve {
            hold,
            org: *org,
            scopes: scopes.clone(),
            session: None,
            finalize: false,
            amount: Nanos(1_000_000),
            lease_ms: 60_000,
            stub: bytes::Bytes::from_static(b"stub"),
        };
        let reserved = ready(self.ledger.reserve(&reserve));
        assert!(matches!(reserved, Ok(ReserveOutcome::Reserved { .. })));
        let settled = ready(self.ledger.settle(*org, hold, Nanos(700_000)));
        assert!(matches!(settled, Ok(SettleOutcome::Settled { .. })));
    }

    /// How long it takes that many threads to make `calls` calls in all.
    #[expect(clippy::disallowed_methods, reason = "a bench measures time")]
    fn time(&self, threads: u64, calls: u64) -> Duration {
        if threads == 1 {
            let start = Instant::now();
            (0..calls).for_each(|_| self.call());
            return start.elapsed();
        }
        let barrier = Barrier::new(usize::try_from(threads).unwrap_or(1) + 1);
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let barrier = &barrier;
                scope.spawn(move || {
                    let share = calls / threads + u64::from(thread < calls % threads);
                    barrier.wait();
                    (0..share).for_each(|_| self.call());
                    barrier.wait();
                });
            }
            barrier.wait();
            let start = Instant::now();
            barrier.wait();
            start.elapsed()
        })
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

/// The in-process ledger answers at the first poll.
fn ready<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("the in-process ledger waited"),
    }
}

fn reserve_and_settle(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reserve+settle");
    group.throughput(Throughput::Elements(1)).warm_up_time(Duration::from_secs(1));
    group.measurement_time(Duration::from_secs(2)).sample_size(20);
    for (orgs, threads) in [(1, 1), (1_000, 1), (1, 8), (1_000, 8)] {
        for scopes in [1, 5, 10] {
            let bench = Bench::new(orgs, scopes);
            let name = format!("{orgs} orgs, {threads} threads");
            group.bench_function(BenchmarkId::new(name, format!("{scopes} scopes")), |bencher| {
                bencher.iter_custom(|calls| bench.time(threads, calls));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, reserve_and_settle);
criterion_main!(benches);

//! Reserve + settle on the in-process ledger.
//!
//! The clock is moved by hand, 4 ms for each call, so that the ids remembered for an hour (0.9 million) weigh in.

mod calls;

use std::{
    sync::{Arc, Barrier},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use nullspend_core::clock::ManualClock;
use nullspend_ledger::MemoryLedger;

use calls::Calls;

const MS_PER_CALL: i64 = 4;

struct Bench {
    ledger: MemoryLedger,
    clock: Arc<ManualClock>,
    calls: Calls,
}

impl Bench {
    fn new(orgs: u128, scopes: u128) -> Self {
        let clock = Arc::new(ManualClock::at(0));
        Self { ledger: MemoryLedger::new(clock.clone()), clock, calls: Calls::new(orgs, scopes) }
    }

    fn call(&self) {
        self.clock.advance_ms(MS_PER_CALL);
        ready(self.calls.make(&self.ledger));
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

/// The in-process ledger answers at the first poll.
fn ready<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("the in-process ledger waited"),
    }
}

fn reserve_and_settle(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("memory reserve+settle");
    calls::settings(&mut group, 1);
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

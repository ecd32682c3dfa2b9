//! Reserve + settle on the in-process ledger, in the processor's time, which other work on the machine does not add to.
//!
//! The clock is moved by hand, 4 ms for each call, so that the ids remembered for an hour (0.9 million) weigh in.

mod calls;

use std::{
    sync::{Arc, Barrier},
    task::{Context, Poll, Waker},
    time::Duration,
};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use nullspend_core::clock::ManualClock;
use nullspend_ledger::MemoryLedger;
use rustix::time::{ClockId, clock_gettime};

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

    /// The processor's time that so many threads take to make `calls` calls in all.
    fn time(&self, threads: u64, calls: u64) -> Duration {
        if threads == 1 {
            let start = used();
            (0..calls).for_each(|_| self.call());
            return used().saturating_sub(start);
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
            let start = used();
            barrier.wait();
            used().saturating_sub(start)
        })
    }
}

/// What this process has used of the processor's time.
fn used() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let part = |number: i64| u64::try_from(number).unwrap_or(0);
    Duration::from_secs(part(time.tv_sec)) + Duration::from_nanos(part(time.tv_nsec))
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

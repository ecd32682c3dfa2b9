//! Calls that go on while servers fail.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use nullspend_core::{id::OrgId, ledger::Ledger as _, money::Nanos};
use nullspend_ledger::RedisLedger;
use tokio::task::JoinHandle;

use crate::{id, reserve};

/// After a failure, how long until the ledger must decide again, or say that it must not.
pub const BOUND: Duration = Duration::from_secs(10);
/// From the promotion on: an attempt each second, and what connecting takes on a busy machine.
pub const FOUND_WITHIN: Duration = Duration::from_secs(3);
/// Between a call that failed and the same one again.
pub const PACE: Duration = Duration::from_millis(10);

/// Callers of one organisation, each making one call after the other until it is ended or the books are lost. A call
/// that fails is made again, as data planes do.
pub struct Load {
    callers: Vec<JoinHandle<bool>>,
    ended: Arc<AtomicBool>,
    /// Calls that were reserved and settled, by now.
    done: Arc<AtomicU64>,
}

impl Load {
    pub fn start(ledger: &Arc<RedisLedger>, org: OrgId) -> Self {
        let (ended, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let caller = |caller: u128| {
            let (ledger, ended, done) = (Arc::clone(ledger), Arc::clone(&ended), Arc::clone(&done));
            tokio::spawn(async move {
                let mut n = caller << 64;
                while !ended.load(Ordering::SeqCst) {
                    n += 1;
                    if !call(&ledger, org, n).await {
                        return false;
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                }
                true
            })
        };
        Self { callers: (1..=4).map(caller).collect(), ended: Arc::clone(&ended), done: Arc::clone(&done) }
    }

    /// Waits until so many more calls are done.
    pub async fn more(&self, calls: u64) {
        self.more_within(calls, BOUND).await;
    }

    /// Likewise, for so long at most.
    pub async fn more_within(&self, calls: u64, bound: Duration) {
        let goal = self.done.load(Ordering::SeqCst) + calls;
        let reached = async {
            while self.done.load(Ordering::SeqCst) < goal {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(bound, reached).await.expect("decisions in bounded time");
    }

    /// Ends it; answers how many calls were done, all of them.
    pub async fn end(self) -> u64 {
        self.ended.store(true, Ordering::SeqCst);
        for caller in self.callers {
            assert!(caller.await.unwrap(), "the books were lost");
        }
        self.done.load(Ordering::SeqCst)
    }

    /// Waits until every caller has been told that the books are lost.
    pub async fn until_refused(self) {
        for caller in self.callers {
            let refused = tokio::time::timeout(BOUND, caller).await.expect("a refusal in bounded time");
            assert!(!refused.unwrap());
        }
    }
}

/// Reserves 10 and settles 7. False when the books are lost.
async fn call(ledger: &RedisLedger, org: OrgId, n: u128) -> bool {
    let lost = |told: &str| told.contains("wait for a rebuild");
    loop {
        match reserve(ledger, org, n).await {
            Ok(()) => break,
            Err(told) if lost(&told) => return false,
            Err(_) => tokio::time::sleep(PACE).await,
        }
    }
    loop {
        match ledger.settle(org, id(n), Nanos(7)).await {
            Ok(_) => return true,
            Err(told) if lost(&told.to_string()) => return false,
            Err(_) => tokio::time::sleep(PACE).await,
        }
    }
}

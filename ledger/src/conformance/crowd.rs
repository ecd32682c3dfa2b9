//! Cases with many callers at once.

use std::sync::Arc;

use nullspend_core::ledger::{ChargeOutcome, ReserveOutcome, Scope, SettleOutcome};
use tokio::sync::Barrier;

use super::world::{World, seeded::Random, soft, strict};

const CALLERS: u64 = 64;
const DEAREST: i64 = 500;
const LIMIT: i64 = 100_003;

/// The budgets of every call: the second is the tightest.
fn scopes() -> [Scope; 3] {
    [strict(1, LIMIT + 20_000), strict(2, LIMIT), soft(3, 10)]
}

/// Runs callers that all start at once, and sums up what each returns.
async fn all_at_once<F, C>(caller: F) -> i64
where
    F: Fn(u64, Random) -> C,
    C: Future<Output = i64> + Send + 'static,
{
    let start = Arc::new(Barrier::new(usize::try_from(CALLERS).unwrap_or(1)));
    let running: Vec<_> = (0..CALLERS)
        .map(|n| {
            let (start, call) = (Arc::clone(&start), caller(n, Random::seeded(n)));
            tokio::spawn(async move {
                start.wait().await;
                call.await
            })
        })
        .collect();
    let mut sum = 0;
    for caller in running {
        match caller.await {
            Ok(of_one) => sum += of_one,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    sum
}

fn hold_id(caller: u64, call: u64) -> u128 {
    u128::from(caller * 1_000_000 + call)
}

pub async fn a_crowd_does_not_pass_the_limit(world: &World) {
    let granted = all_at_once(|caller, mut random| {
        let world = world.clone();
        async move {
            let mut granted = 0;
            for call in 1.. {
                let amount = random.between(1, DEAREST);
                if !world.grants(hold_id(caller, call), amount, &scopes()).await {
                    break;
                }
                granted += amount;
            }
            granted
        }
    })
    .await;
    assert!(granted <= LIMIT, "{granted} granted of {LIMIT}");
    // Each caller went on until it was denied at most DEAREST, so less than that is left.
    assert!(granted > LIMIT - DEAREST, "only {granted} granted of {LIMIT}");
    for scope in &scopes() {
        assert_eq!(world.balance(scope).await, (scope.limit.0, 0, granted));
    }
}

pub async fn a_crowd_that_settles_as_it_goes_does_not_pass_the_limit(world: &World) {
    let spent = all_at_once(|caller, mut random| {
        let world = world.clone();
        async move {
            let (mut spent, mut denied) = (0, 0);
            for call in 1.. {
                let amount = random.between(1, DEAREST);
                match world.reserve(hold_id(caller, call), amount, &scopes()).await {
                    ReserveOutcome::Reserved { balances, .. } => {
                        let tightest = balances[1];
                        assert!(tightest.settled + tightest.held <= tightest.limit, "{tightest:?}");
                        tokio::task::yield_now().await;
                        let actual = random.between(0, amount);
                        let outcome = world.settle(hold_id(caller, call), actual).await;
                        assert!(matches!(outcome, SettleOutcome::Settled { .. }), "{outcome:?}");
                        spent += actual;
                    }
                    ReserveOutcome::Denied { .. } if denied < 20 => denied += 1,
                    ReserveOutcome::Denied { .. } => break,
                    other => panic!("{other:?}"),
                }
            }
            spent
        }
    })
    .await;
    assert!(spent <= LIMIT, "{spent} spent of {LIMIT}");
    for scope in &scopes() {
        assert_eq!(world.balance(scope).await, (scope.limit.0, spent, 0));
    }
    assert_eq!(world.open_count().await, 0);
}

pub async fn the_same_call_from_many_sides_is_done_once(world: &World) {
    let done = all_at_once(|_, _| {
        let world = world.clone();
        async move {
            let mut done = 0;
            let reserved = world.reserve(1, 100, &scopes()).await;
            done += i64::from(matches!(reserved, ReserveOutcome::Reserved { .. }));
            let settled = world.settle(1, 70).await;
            done += i64::from(matches!(settled, SettleOutcome::Settled { .. }));
            let charged = world.charge(2, 5, &scopes()).await;
            done + i64::from(matches!(charged, ChargeOutcome::Charged { .. }))
        }
    })
    .await;
    assert_eq!(done, 3, "one reserve, one settle, one charge");
    assert_eq!(world.balance(&scopes()[1]).await, (LIMIT, 75, 0));
}

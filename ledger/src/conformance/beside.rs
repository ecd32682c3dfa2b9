//! Cases of what stands beside a budget's limit: sessions, spend rates, and what is kept back for finalizing calls.

use nullspend_core::{
    ledger::{
        ExtendOutcome, MAX_VELOCITY, Misuse, Reserve, ReserveOutcome, SESSION_IDLE_MS, Scope, SessionSpend,
        SettleOutcome, Why,
    },
    money::{MAX_EVENT, Nanos},
    policy::Velocity,
};

use super::world::{
    LEASE_MS, World, answered, at_revision, budget, in_window, no_faster, org, per_session, reserve_of, soft,
    strict,
};

type Asked = Result<(), (usize, Why, Option<i64>)>;

fn over_session(scope: usize, spend: i64) -> Asked {
    Err((scope, Why::Session { spend: Nanos(spend) }, None))
}

fn too_fast(scope: usize, rate: i64, retry_after_ms: i64) -> Asked {
    Err((scope, Why::Velocity { rate: Nanos(rate) }, Some(retry_after_ms)))
}

pub async fn a_session_is_limited_whatever_the_enforcement(world: &World) {
    let scopes = [strict(1, 1_000), per_session(100, soft(2, 0))];
    assert_eq!(world.ask("a", 1, 60, &scopes).await, Ok(()));
    assert_eq!(world.ask("a", 2, 41, &scopes).await, over_session(1, 60));
    assert_eq!(world.balance(&scopes[0]).await.2, 60, "nothing was held");
    assert_eq!(world.ask("a", 2, 40, &scopes).await, Ok(()), "exactly equal is allowed");
    assert_eq!(world.ask("b", 3, 100, &scopes).await, Ok(()), "another session");
    assert_eq!(world.ask("", 4, 500, &scopes).await, Ok(()), "no session");
    assert_eq!(world.ask("b", 5, 1, &scopes).await, over_session(1, 100));
}

pub async fn a_session_spends_what_its_window_does(world: &World) {
    let scopes = [per_session(100, strict(1, 10_000))];
    let spend = async |n: u128| match world.ask("a", n, 9_000, &scopes).await {
        Err((0, Why::Session { spend }, None)) => spend.0,
        other => panic!("{other:?}"),
    };
    assert_eq!(world.ask("a", 1, 60, &scopes).await, Ok(()));
    world.settle(1, 10).await;
    assert_eq!(spend(100).await, 10, "settled");
    world.charge_in("a", 2, 30, &scopes).await;
    assert_eq!(spend(101).await, 40, "charged");
    assert_eq!(world.ask("a", 3, 20, &scopes).await, Ok(()));
    assert_eq!(world.extend(3, 1, 5).await, ExtendOutcome::Extended);
    assert_eq!(spend(102).await, 65, "held and extended");
    assert_eq!(world.extend(3, 2, 36).await, ExtendOutcome::Denied { scope: 0 });
    world.at(LEASE_MS).sweep().await;
    assert_eq!(spend(103).await, 65, "lapsed");
    assert_eq!(world.settle(3, 4).await, SettleOutcome::Lapsed { charged: Nanos(25) });
    assert_eq!(spend(104).await, 44, "corrected");
}

pub async fn a_session_idle_for_a_day_starts_again(world: &World) {
    let scopes = [in_window(0, None, per_session(100, soft(1, 0)))];
    world.charge_in("a", 1, 70, &scopes).await;
    world.charge_in("b", 2, 70, &scopes).await;
    assert_eq!(world.ask("c", 3, 70, &scopes).await, Ok(()));
    world.at(SESSION_IDLE_MS - 1);
    assert_eq!(world.ask("a", 4, 31, &scopes).await, over_session(0, 70), "a denial is no use");
    assert_eq!(world.ask("b", 5, 30, &scopes).await, Ok(()));
    world.settle(5, 30).await;
    assert_eq!(world.extend(3, 1, 0).await, ExtendOutcome::Extended);
    world.at(SESSION_IDLE_MS);
    assert_eq!(world.ask("a", 6, 101, &scopes).await, over_session(0, 0));
    world.sweep().await;
    assert_eq!(world.ask("b", 7, 1, &scopes).await, over_session(0, 100));
    world.at(3 * SESSION_IDLE_MS);
    assert_eq!(world.ask("c", 8, 31, &scopes).await, over_session(0, 70), "a hold keeps its session");
}

pub async fn sessions_belong_to_a_generation_and_are_loaded(world: &World) {
    let old = [per_session(100, strict(1, 1_000))];
    let spend = |session: &str, settled, last_used_ms| SessionSpend {
        budget: budget(1),
        generation: 0,
        session: session.into(),
        settled: Nanos(settled),
        last_used_ms,
    };
    let loaded = [spend("a", 60, 5), spend("b", 60, 5 - SESSION_IDLE_MS)];
    answered(world.ledger.load_sessions(org(1), &loaded).await);
    world.at(5);
    assert_eq!(world.ask("a", 1, 41, &old).await, over_session(0, 60));
    assert_eq!(world.ask("b", 2, 101, &old).await, over_session(0, 0));
    assert_eq!(world.ask("a", 3, 40, &old).await, Ok(()));
    let mut new = at_revision(2, old[0].clone());
    new.counter.generation = 1;
    let new = [new];
    assert_eq!(world.ask("a", 4, 100, &new).await, Ok(()));
    world.settle(3, 0).await;
    assert_eq!(world.ask("a", 5, 1, &new).await, over_session(0, 100));
}

pub async fn a_rate_is_limited_from_the_first_call_on(world: &World) {
    let scopes = [strict(1, 1_000_000), no_faster(100, soft(2, 0))];
    assert_eq!(world.ask("", 1, 101, &scopes).await, too_fast(1, 0, 300));
    assert_eq!(world.at(299).ask("", 2, 0, &scopes).await, too_fast(1, 0, 1), "cooling down");
    assert_eq!(world.at(300).ask("", 3, 100, &scopes).await, Ok(()));
    // The bucket before counts by what is left of the window, rounded down.
    assert_eq!(world.at(1_501).ask("", 4, 51, &scopes).await, Ok(()));
    assert_eq!(world.ask("", 5, 1, &scopes).await, too_fast(1, 49 + 51, 300));
    assert_eq!(world.at(1_801).ask("", 6, 101, &scopes).await, too_fast(1, 0, 300), "afresh after cooling");
    assert_eq!(world.balance(&scopes[0]).await.2, 151);
}

pub async fn a_rate_counts_what_holds_turn_out_to_cost(world: &World) {
    let scopes = [no_faster(100, strict(1, 1_000_000))];
    assert_eq!(world.at(100).ask("", 1, 100, &scopes).await, Ok(()));
    assert_eq!(world.settle(1, 20).await, SettleOutcome::Settled { over_by: Nanos(0) });
    assert_eq!(world.at(900).ask("", 2, 60, &scopes).await, Ok(()));
    assert_eq!(world.extend(2, 1, 10).await, ExtendOutcome::Extended);
    // 90 in the bucket before, half of its window left; then 80, as the hold in it is settled.
    assert_eq!(world.at(1_500).ask("", 3, 56, &scopes).await, too_fast(0, 45, 300));
    assert_eq!(world.settle(2, 60).await, SettleOutcome::Settled { over_by: Nanos(0) });
    assert_eq!(world.at(1_501).ask("", 4, 0, &scopes).await, too_fast(0, 39, 299));
    world.at(1_801).charge_in("a", 5, 150, &scopes).await;
    assert_eq!(world.ask("", 6, 0, &scopes).await, too_fast(0, 150, 300), "charges count");
}

pub async fn large_rates_are_exact(world: &World) {
    let velocity = Velocity { limit: MAX_VELOCITY, window_ms: 3_599_999, cooldown_ms: 1 };
    let scopes = [in_window(0, None, Scope { velocity: Some(velocity), ..soft(1, 0) })];
    let most = MAX_EVENT.0 - 3;
    assert_eq!(world.ask("", 1, most, &scopes).await, Ok(()));
    let (at_ms, left_ms) = (3_599_999 + 1_234_567, 3_599_999 - 1_234_567);
    let rate = i64::try_from(i128::from(most) * left_ms / 3_599_999).unwrap_or(0);
    let room = MAX_VELOCITY.0 - rate;
    assert_eq!(world.at(at_ms).ask("", 2, room + 1, &scopes).await, too_fast(0, rate, 1));
    for n in 3..9 {
        world.at(at_ms + 1).charge_in("a", n, MAX_EVENT.0, &scopes).await;
    }
    assert_eq!(world.ask("", 9, 0, &scopes).await, too_fast(0, 4_000_000_000_000_000, 1), "saturated");
    let endless = Velocity { window_ms: 0, ..velocity };
    let nonsense = [Scope { velocity: Some(endless), ..soft(2, 0) }];
    let outcome = world.reserve(10, 1, &nonsense).await;
    assert_eq!(outcome, ReserveOutcome::Invalid(Misuse::VelocityOutOfRange));
}

pub async fn sessions_come_before_rates_and_rates_before_limits(world: &World) {
    let scopes = [strict(1, 10), no_faster(10, strict(2, 1_000)), per_session(20, soft(3, 0))];
    assert_eq!(world.ask("a", 1, 21, &scopes).await, over_session(2, 0));
    assert_eq!(world.ask("a", 2, 20, &scopes).await, too_fast(1, 0, 300));
    world.at(300);
    let limit = world.ask("a", 3, 9, &scopes[1..]).await;
    assert_eq!(limit, Ok(()));
    let limit = world.ask("a", 4, 1, &[strict(4, 0), scopes[1].clone()]).await;
    assert!(matches!(limit, Err((0, Why::Budget, _))), "{limit:?}");
    assert_eq!(world.ask("a", 5, 1, &scopes).await, Ok(()), "a denied call was not counted");
}

pub async fn what_is_kept_back_is_left_to_finalizing_calls(world: &World) {
    let kept = |scope: Scope| [Scope { finalization_reserve: Nanos(20), ..scope }];
    let finalizing = async |n, amount, scopes: &[Scope]| {
        let reserve = Reserve { finalize: true, ..reserve_of(n, amount, scopes) };
        matches!(answered(world.ledger.reserve(&reserve).await), ReserveOutcome::Reserved { .. })
    };
    assert!(!world.grants(1, 81, &kept(strict(1, 100))).await);
    assert!(world.grants(1, 40, &kept(strict(1, 100))).await);
    assert!(!finalizing(2, 61, &kept(strict(1, 100))).await);
    assert!(finalizing(2, 45, &kept(strict(1, 100))).await);
    assert_eq!(world.extend(1, 1, 1).await, ExtendOutcome::Denied { scope: 0 });
    assert_eq!(world.extend(2, 1, 15).await, ExtendOutcome::Extended, "extended as it was reserved");
    assert!(world.grants(3, 500, &kept(soft(2, 100))).await, "only strict budgets keep back");
}

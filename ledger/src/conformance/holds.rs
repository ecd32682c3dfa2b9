//! Cases of reserve, extend, settle and sweep.

use nullspend_core::{
    ledger::{
        ExtendOutcome, LAPSE_KEPT_MS, MAX_SCOPES, ReserveOutcome, SESSION_IDLE_MS, Scope, SettleOutcome,
    },
    money::Nanos,
    policy::Enforcement,
};

use super::world::{DAY_MS, LEASE_MS, World, answered, id, in_window, org, per_session, soft, strict};

const SETTLED: SettleOutcome = SettleOutcome::Settled { over_by: Nanos::ZERO };

pub async fn a_strict_limit_is_reached_exactly_and_not_passed(world: &World) {
    let scope = [strict(1, 100)];
    world.charge(1, 30, &scope).await;
    world.hold(2, 30, &scope).await;
    assert!(!world.grants(3, 41, &scope).await);
    assert!(world.grants(4, 40, &scope).await, "exactly equal is allowed");
    assert_eq!(world.balance(&scope[0]).await, (100, 30, 70));
    assert!(!world.grants(5, 1, &scope).await);
    assert!(world.grants(6, 0, &scope).await);
    world.settle(4, 39).await;
    assert!(!world.grants(7, 2, &scope).await);
    assert!(world.grants(8, 1, &scope).await, "what a settle released can be held again");
}

pub async fn all_scopes_are_taken_from_or_none(world: &World) {
    let scopes = [strict(1, 100), soft(2, 10), strict(3, 50)];
    world.hold(1, 50, &scopes).await;
    assert!(!world.grants(2, 1, &scopes).await);
    for scope in &scopes {
        assert_eq!(world.balance(scope).await, (scope.limit.0, 0, 50));
    }
    world.settle(1, 20).await;
    for scope in &scopes {
        assert_eq!(world.balance(scope).await, (scope.limit.0, 20, 0));
    }
}

pub async fn as_many_scopes_as_allowed_are_taken_from_or_none(world: &World) {
    let mut scopes: Vec<Scope> = (1..=MAX_SCOPES as u128).map(|n| strict(n, 100)).collect();
    world.hold(1, 60, &scopes).await;
    scopes.rotate_left(1);
    assert!(!world.grants(2, 41, &scopes).await);
    world.hold(3, 40, &scopes[MAX_SCOPES - 1..]).await;
    match world.reserve(4, 40, &scopes).await {
        ReserveOutcome::Denied { scope, .. } => assert_eq!(scope, MAX_SCOPES - 1),
        other => panic!("{other:?}"),
    }
    world.settle(1, 60).await;
    for (index, scope) in scopes.iter().enumerate() {
        let held = if index == MAX_SCOPES - 1 { 40 } else { 0 };
        assert_eq!(world.balance(scope).await, (100, 60, held));
    }
}

pub async fn a_denial_names_the_first_strict_scope_that_does_not_fit(world: &World) {
    world.at(400);
    let scopes = [soft(4, 0), strict(1, 100), strict(3, 9), strict(2, 1)];
    match world.reserve(1, 10, &scopes).await {
        ReserveOutcome::Denied { scope, retry_after_ms, balances, .. } => {
            assert_eq!((scope, retry_after_ms), (2, Some(DAY_MS - 400)));
            let limits: Vec<i64> = balances.iter().map(|balance| balance.limit.0).collect();
            assert_eq!(limits, [0, 100, 9, 1]);
            assert!(balances.iter().all(|b| b.held == Nanos::ZERO && b.settled == Nanos::ZERO));
        }
        other => panic!("{other:?}"),
    }
    assert!(world.grants(1, 1, &scopes).await, "a denied id may ask again");
}

pub async fn soft_and_warning_budgets_never_deny(world: &World) {
    let warning = Scope { enforcement: Enforcement::Warn, ..strict(3, 0) };
    let scopes = [soft(1, 10), soft(2, 9), warning];
    match world.reserve(1, 10, &scopes).await {
        ReserveOutcome::Reserved { balances, exceeded } => {
            assert_eq!(exceeded, [1], "the soft one that is over");
            assert_eq!(balances.iter().map(|b| b.held.0).collect::<Vec<_>>(), [10, 10, 10]);
        }
        other => panic!("{other:?}"),
    }
}

pub async fn a_reserve_without_scopes_is_a_hold(world: &World) {
    world.hold(1, 5, &[]).await;
    assert_eq!(world.open_count().await, 1);
    assert_eq!(world.settle(1, 3).await, SETTLED);
    assert_eq!(world.open_count().await, 0);
}

pub async fn a_repeated_reserve_changes_nothing(world: &World) {
    let scope = [strict(1, 100)];
    world.hold(1, 60, &scope).await;
    assert_eq!(world.reserve(1, 60, &scope).await, ReserveOutcome::AlreadyDone);
    assert_eq!(world.reserve(1, 1, &[strict(2, 9)]).await, ReserveOutcome::AlreadyDone);
    assert_eq!(world.balance(&scope[0]).await, (100, 0, 60));
    world.settle(1, 10).await;
    assert_eq!(world.reserve(1, 60, &scope).await, ReserveOutcome::AlreadyDone, "after the settle");
    world.hold(2, 50, &scope).await;
    world.at(LEASE_MS).sweep().await;
    assert_eq!(world.reserve(2, 50, &scope).await, ReserveOutcome::AlreadyDone, "after the lapse");
    assert_eq!(world.balance(&scope[0]).await, (100, 60, 0));
}

pub async fn a_repeated_settle_changes_nothing(world: &World) {
    let scope = [strict(1, 100)];
    world.hold(1, 60, &scope).await;
    assert_eq!(world.settle(1, 10).await, SETTLED);
    world.at(3_599_999);
    for actual in [10, 60] {
        assert_eq!(world.settle(1, actual).await, SettleOutcome::AlreadyDone);
        assert_eq!(world.extend(1, 1, 5).await, ExtendOutcome::AlreadyDone);
    }
    assert_eq!(world.balance(&scope[0]).await, (100, 10, 0));
}

pub async fn a_settle_above_the_hold_is_recorded_in_full(world: &World) {
    let scope = [strict(1, 100)];
    world.hold(1, 60, &scope).await;
    assert_eq!(world.settle(1, 140).await, SettleOutcome::Settled { over_by: Nanos(80) });
    assert_eq!(world.balance(&scope[0]).await, (100, 140, 0));
    assert!(!world.grants(2, 0, &scope).await, "overspent: not even nothing");
}

pub async fn a_hold_that_nobody_knows_is_told(world: &World) {
    assert_eq!(world.settle(1, 1).await, SettleOutcome::Unknown);
    assert_eq!(world.extend(1, 1, 0).await, ExtendOutcome::Unknown);
}

pub async fn a_hold_lapses_when_its_lease_ends(world: &World) {
    let scope = [strict(1, 100)];
    world.hold(7, 30, &scope).await;
    world.at(1).hold(8, 20, &scope).await;
    assert!(world.at(LEASE_MS - 1).sweep().await.is_empty());
    let lapsed = world.at(LEASE_MS).sweep().await;
    assert_eq!(lapsed.len(), 1);
    assert_eq!((lapsed[0].hold, lapsed[0].org, lapsed[0].amount), (id(7), org(1), Nanos(30)));
    assert_eq!(lapsed[0].stub, 7_u128.to_be_bytes().to_vec());
    assert_eq!(world.balance(&scope[0]).await, (100, 30, 20), "charged in full");
    assert!(world.sweep().await.is_empty(), "a hold lapses once");
    assert_eq!(world.extend(7, 1, 0).await, ExtendOutcome::Lapsed);
    assert_eq!(world.settle(8, 20).await, SETTLED);
    assert_eq!(world.open_count().await, 0);
}

pub async fn a_renewed_hold_does_not_lapse(world: &World) {
    world.hold(1, 30, &[strict(1, 100)]).await;
    for number in 1..=5 {
        world.at(i64::try_from(number).unwrap_or(0) * (LEASE_MS - 1));
        assert_eq!(world.extend(1, number, 0).await, ExtendOutcome::Extended);
        assert!(world.sweep().await.is_empty());
    }
    // Past its lease, but not swept yet: still the owner's.
    world.at(20 * LEASE_MS);
    assert_eq!(world.extend(1, 6, 0).await, ExtendOutcome::Extended);
    assert!(world.sweep().await.is_empty());
    assert_eq!(world.at(30 * LEASE_MS).settle(1, 30).await, SETTLED);
}

pub async fn a_settle_after_the_lapse_corrects_it(world: &World) {
    let scopes = [strict(1, 100), soft(2, 5)];
    for (n, actual) in [(1, 0), (2, 10), (3, 30), (4, 45)] {
        let (_, before, _) = world.balance(&scopes[1]).await;
        world.charge(n + 100, 7, &scopes).await;
        world.hold(n, 30, &scopes).await;
        world.at(i64::try_from(n).unwrap_or(0) * 10 * LEASE_MS).sweep().await;
        assert_eq!(world.settle(n, actual).await, SettleOutcome::Lapsed { charged: Nanos(30) });
        // Who did not hear of it asks again.
        assert_eq!(world.settle(n, 99).await, SettleOutcome::Lapsed { charged: Nanos(30) });
        for scope in &scopes {
            assert_eq!(world.balance(scope).await, (scope.limit.0, before + 7 + actual, 0));
        }
    }
}

pub async fn a_lapse_that_nobody_corrects_is_given_up(world: &World) {
    let endless = [in_window(0, None, strict(1, 100)), per_session(50, in_window(0, None, soft(2, 0)))];
    let daily = [strict(3, 100)];
    assert_eq!(world.ask("a", 1, 30, &endless).await, Ok(()));
    assert_eq!(world.ask("a", 2, 20, &endless).await, Ok(()));
    world.hold(3, 10, &daily).await;
    world.at(LEASE_MS).sweep().await;
    world.at(LEASE_MS + LAPSE_KEPT_MS - 1).sweep().await;
    assert_eq!(world.balance(&daily[0]).await, (100, 10, 0), "a lapse keeps its window");
    assert_eq!(world.settle(1, 5).await, SettleOutcome::Lapsed { charged: Nanos(30) });
    world.at(LEASE_MS + LAPSE_KEPT_MS).sweep().await;
    assert_eq!(world.extend(2, 1, 0).await, ExtendOutcome::Unknown);
    assert_eq!(world.settle(2, 1).await, SettleOutcome::Unknown);
    assert_eq!(world.balance(&endless[0]).await, (100, 25, 0), "it stays charged");
    assert_eq!(world.balance(&daily[0]).await, (100, 0, 0), "the store has what was settled");
    world.at(LEASE_MS + LAPSE_KEPT_MS + SESSION_IDLE_MS);
    assert_eq!(world.ask("a", 4, 50, &endless).await, Ok(()), "it keeps no session either");
}

pub async fn an_extension_is_applied_once_and_within_limits(world: &World) {
    let scopes = [strict(1, 100), soft(2, 10), strict(3, 50)];
    world.hold(1, 40, &scopes).await;
    assert_eq!(world.extend(1, 1, 10).await, ExtendOutcome::Extended);
    assert_eq!(world.extend(1, 1, 10).await, ExtendOutcome::AlreadyDone);
    assert_eq!(world.extend(1, 2, 1).await, ExtendOutcome::Denied { scope: 2 });
    for scope in &scopes {
        assert_eq!(world.balance(scope).await, (scope.limit.0, 0, 50));
    }
    world.set_limit(3, 2, Some(51)).await;
    assert_eq!(world.extend(1, 2, 1).await, ExtendOutcome::Extended, "a refused number may be used again");
    world.hold(2, 5, &[strict(1, 100)]).await;
    let outcomes =
        answered(world.ledger.extend(org(1), &[id(1), id(2), id(3)], 3, LEASE_MS, Nanos(40)).await);
    assert_eq!(
        outcomes,
        [ExtendOutcome::Denied { scope: 2 }, ExtendOutcome::Extended, ExtendOutcome::Unknown],
        "each hold by itself"
    );
    assert_eq!(world.balance(&scopes[0]).await, (100, 0, 96));
    world.settle(1, 51).await;
    assert_eq!(world.balance(&scopes[0]).await, (100, 51, 45));
}

pub async fn a_renewal_is_not_refused_by_a_lowered_limit(world: &World) {
    world.hold(1, 50, &[strict(1, 100)]).await;
    world.set_limit(1, 2, Some(10)).await;
    assert_eq!(world.at(500).extend(1, 1, 0).await, ExtendOutcome::Extended);
    assert_eq!(world.at(900).extend(1, 2, 1).await, ExtendOutcome::Denied { scope: 0 });
    assert!(world.at(899 + LEASE_MS).sweep().await.is_empty(), "a refusal renews the lease all the same");
}

pub async fn open_holds_are_counted(world: &World) {
    world.at(100).hold(1, 10, &[strict(1, 100), strict(2, 100)]).await;
    world.at(300).hold(2, 5, &[strict(1, 100)]).await;
    let open = answered(world.at(500).ledger.open_holds().await);
    assert_eq!((open.count, open.oldest_ms, open.held), (2, 400, Nanos(15)));
}

pub async fn a_clock_set_back_changes_nothing(world: &World) {
    let tomorrow = in_window(DAY_MS, Some(2 * DAY_MS), strict(1, 100));
    world.at(DAY_MS + 10).hold(1, 10, std::slice::from_ref(&tomorrow)).await;
    world.at(5);
    assert_eq!(
        world.reserve(2, 1, &[strict(1, 100)]).await,
        ReserveOutcome::WrongWindow { now_ms: DAY_MS + 10 }
    );
    world.hold(3, 10, std::slice::from_ref(&tomorrow)).await;
    assert!(world.at(5 + LEASE_MS).sweep().await.is_empty(), "its lease counts from the later time");
    assert_eq!(world.at(DAY_MS + 10 + LEASE_MS).sweep().await.len(), 2);
}

//! What a rebuild puts back, and what becomes of calls that were given up.

use nullspend_core::{
    attempt::BudgetCharge,
    ledger::{ChargeOutcome, ExtendOutcome, Limits, Reserve, ReserveOutcome, Restored, SettleOutcome},
    money::Nanos,
    policy::Enforcement,
};

use super::world::{DAY_MS, LEASE_MS, World, answered, id, in_window, org, per_session, reserve_of, strict};

/// A restored hold is held over the limit, once, and settles as any other.
pub async fn a_restored_hold_is_held_whatever_the_limit(world: &World) {
    let scope = strict(1, 100);
    world.load(&scope, 60).await;
    let again = || async {
        answered(world.ledger.restore(&reserve_of(1, 70, std::slice::from_ref(&scope)), Restored::Held).await)
    };
    assert!(matches!(again().await, ReserveOutcome::Reserved { .. }));
    assert_eq!(again().await, ReserveOutcome::AlreadyDone);
    assert_eq!(world.balance(&scope).await, (100, 60, 70));
    assert!(!world.grants(2, 1, std::slice::from_ref(&scope)).await);
    assert_eq!(world.settle(1, 5).await, SettleOutcome::Settled { over_by: Nanos::ZERO });
    assert_eq!(world.balance(&scope).await, (100, 65, 0));
}

/// Who puts a hold back knows its charges only; what its budgets ask of an extension is applied with their limits.
pub async fn a_restored_hold_is_extended_as_its_budget_says(world: &World) {
    let strict = Limits::strict(Nanos(100));
    let limits = [
        strict,
        Limits { enforcement: Enforcement::SoftBlock, ..strict },
        Limits { enforcement: Enforcement::Warn, ..strict },
        Limits { finalization_reserve: Nanos(20), ..strict },
        Limits { session_limit: Some(Nanos(70)), ..strict },
    ];
    let restored = async |hold: u128, budget: u128, finalize| {
        let scope = in_window(0, None, super::world::strict(budget, 0));
        let charge = BudgetCharge { counter: scope.counter, window_end_ms: None, of_session: budget == 5 };
        let session = Some("s".into());
        let reserve = Reserve { session, finalize, ..reserve_of(hold, 60, &[charge.scope()]) };
        let outcome = answered(world.ledger.restore(&reserve, Restored::Held).await);
        assert!(matches!(outcome, ReserveOutcome::Reserved { .. }), "{outcome:?}");
    };
    for (budget, limits) in (1..).zip(limits) {
        world.set_limits(budget, 9, Some(limits)).await;
        restored(budget, budget, false).await;
    }
    for (hold, extended, denied) in
        [(1, 40, Some(1)), (2, 500, None), (3, 500, None), (4, 20, Some(1)), (5, 10, Some(1))]
    {
        assert_eq!(world.extend(hold, 1, extended).await, ExtendOutcome::Extended, "budget {hold}");
        if let Some(more) = denied {
            assert_eq!(
                world.extend(hold, 2, more).await,
                ExtendOutcome::Denied { scope: 0 },
                "budget {hold}"
            );
        }
    }
    assert_eq!(world.settle(4, 0).await, SettleOutcome::Settled { over_by: Nanos::ZERO });
    restored(6, 4, true).await;
    assert_eq!(world.extend(6, 1, 40).await, ExtendOutcome::Extended, "it may finalize, as before");
}

/// The totals have what a lapse charged; its owner's word makes the difference, in the session too.
pub async fn a_restored_lapse_is_corrected_by_the_difference(world: &World) {
    let scope = per_session(1_000, strict(1, 100));
    world.charge_in("s", 9, 40, std::slice::from_ref(&scope)).await;
    let reserve = Reserve { session: Some("s".into()), ..reserve_of(1, 30, std::slice::from_ref(&scope)) };
    for expected in [true, false] {
        let restored = answered(world.ledger.restore(&reserve, Restored::Lapsed).await);
        assert_eq!(matches!(restored, ReserveOutcome::Reserved { .. }), expected);
    }
    assert_eq!(world.balance(&scope).await, (100, 40, 0));
    assert_eq!(world.open_count().await, 0);
    assert!(world.sweep().await.is_empty(), "its event is written");
    assert_eq!(world.settle(1, 12).await, SettleOutcome::Lapsed { charged: Nanos(30) });
    assert_eq!(world.balance(&scope).await, (100, 22, 0));
    assert!(world.ask("s", 2, 78, std::slice::from_ref(&scope)).await.is_ok(), "the session has 22 as well");
}

/// It was taken by a clock that ran ahead, and mended since.
pub async fn a_restored_hold_of_a_window_to_come_makes_no_present_one_old(world: &World) {
    let today = strict(1, 100);
    let later = in_window(3 * DAY_MS, Some(4 * DAY_MS), strict(1, 100));
    for as_a in [Restored::Held, Restored::Lapsed] {
        let reserve = reserve_of(as_a as u128, 10, std::slice::from_ref(&later));
        let outcome = answered(world.ledger.restore(&reserve, as_a).await);
        assert!(matches!(outcome, ReserveOutcome::Reserved { .. }), "{outcome:?}");
    }
    world.charge(8, 90, std::slice::from_ref(&today)).await;
    world.sweep().await;
    assert_eq!(world.balance(&today).await, (100, 90, 0));
    assert!(!world.grants(9, 11, std::slice::from_ref(&today)).await);
}

/// Ids whose cost is in the totals are not charged again.
pub async fn what_is_in_the_totals_is_not_charged_again(world: &World) {
    let scope = strict(1, 100);
    world.load(&scope, 60).await;
    answered(world.ledger.restore_done(org(1), &[id(1), id(2)]).await);
    assert_eq!(world.settle(1, 60).await, SettleOutcome::AlreadyDone);
    assert_eq!(world.charge(2, 60, std::slice::from_ref(&scope)).await, ChargeOutcome::AlreadyDone);
    assert_eq!(world.reserve(1, 1, std::slice::from_ref(&scope)).await, ReserveOutcome::AlreadyDone);
    assert_eq!(world.balance(&scope).await, (0, 60, 0));
}

/// A reserve that was given up, since its answer did not come, may still be on its way.
pub async fn a_reserve_that_arrives_after_it_was_given_up_holds_nothing(world: &World) {
    let scope = strict(1, 100);
    assert_eq!(world.settle(1, 0).await, SettleOutcome::Unknown);
    assert!(matches!(world.charge(1, 0, std::slice::from_ref(&scope)).await, ChargeOutcome::Charged { .. }));
    assert_eq!(world.reserve(1, 50, std::slice::from_ref(&scope)).await, ReserveOutcome::AlreadyDone);
    assert_eq!(world.open_count().await, 0);
    // Or it was carried out before.
    world.hold(2, 50, std::slice::from_ref(&scope)).await;
    assert!(matches!(world.charge(2, 0, std::slice::from_ref(&scope)).await, ChargeOutcome::Charged { .. }));
    assert_eq!((world.open_count().await, world.balance(&scope).await), (0, (100, 0, 0)));
    assert_eq!(world.settle(2, 0).await, SettleOutcome::AlreadyDone);
    // Or it was, and lapsed: its event must be corrected.
    world.hold(3, 50, std::slice::from_ref(&scope)).await;
    assert_eq!(world.at(LEASE_MS).sweep().await.len(), 1);
    assert!(matches!(world.charge(3, 0, std::slice::from_ref(&scope)).await, ChargeOutcome::Charged { .. }));
    assert_eq!(world.settle(3, 0).await, SettleOutcome::Lapsed { charged: Nanos(50) });
    assert_eq!(world.balance(&scope).await, (100, 0, 0));
}

//! Cases of charges, limits, windows and totals.

use nullspend_core::{
    ledger::{
        Balance, Charge, ChargeOutcome, ExtendOutcome, LimitChange, Limits, MAX_SCOPES, Misuse, Reserve,
        ReserveOutcome, Scope, SettleOutcome, Why,
    },
    money::{MAX_EVENT, MAX_LIMIT, MAX_TOTAL_NANOS, Nanos},
    policy::Enforcement,
};

use super::world::{
    DAY_MS, LEASE_MS, World, answered, at_revision, budget, id, in_window, no_faster, org, per_session,
    reserve_of, soft, strict,
};

fn balance(limit: i64, settled: i64, held: i64) -> Balance {
    Balance { limit: Nanos(limit), settled: Nanos(settled), held: Nanos(held) }
}

pub async fn a_charge_is_never_refused_and_recorded_once(world: &World) {
    let scopes = [strict(1, 10), in_window(-DAY_MS, Some(0), strict(2, 100))];
    world.hold(1, 9, &scopes[..1]).await;
    let charged = ChargeOutcome::Charged { balances: vec![balance(10, 50, 9), balance(100, 50, 0)] };
    assert_eq!(world.charge(2, 50, &scopes).await, charged, "above the limit and into a window that is over");
    assert_eq!(world.charge(2, 50, &scopes).await, ChargeOutcome::AlreadyDone);
    assert_eq!(world.settle(2, 50).await, SettleOutcome::AlreadyDone);
    assert_eq!(world.reserve(2, 0, &[]).await, ReserveOutcome::AlreadyDone);
    assert_eq!(world.balance(&scopes[0]).await, (10, 50, 9));
    assert!(!world.grants(3, 0, &scopes[..1]).await, "what was spent elsewhere blocks");
    assert_eq!(world.charge(4, 1, &[]).await, ChargeOutcome::Charged { balances: vec![] });
}

pub async fn a_charge_of_a_held_id_settles_it(world: &World) {
    let scope = [strict(1, 100)];
    world.hold(1, 30, &scope).await;
    world.hold(2, 40, &scope).await;
    let charged = ChargeOutcome::Charged { balances: vec![balance(100, 10, 40)] };
    assert_eq!(world.charge(1, 10, &scope).await, charged);
    world.at(LEASE_MS).sweep().await;
    let charged = ChargeOutcome::Charged { balances: vec![balance(100, 15, 0)] };
    assert_eq!(world.charge(2, 5, &scope).await, charged, "a lapsed one too");
    assert_eq!(world.settle(1, 10).await, SettleOutcome::AlreadyDone);
}

pub async fn a_charge_takes_spend_back_down_to_nothing(world: &World) {
    let scope = [per_session(60, no_faster(60, strict(1, 100)))];
    world.charge_in("a", 1, 50, &scope).await;
    world.hold(2, 10, &scope).await;
    let charged = ChargeOutcome::Charged { balances: vec![balance(100, 30, 10)] };
    assert_eq!(world.charge(3, -20, &scope).await, charged);
    assert_eq!(world.charge(3, -20, &scope).await, ChargeOutcome::AlreadyDone);
    let rate = Why::Velocity { rate: Nanos(60) };
    assert_eq!(world.ask("b", 4, 1, &scope).await, Err((0, rate, Some(300))), "a rate is of the present");
    world.at(3_000).sweep().await;
    world.charge_in("a", 5, -45, &scope).await;
    assert_eq!(world.balance(&scope[0]).await, (100, 0, 0));
    assert_eq!(world.ask("a", 6, 55, &scope).await, Ok(()), "the session took it back too");
    let misuse = ChargeOutcome::Invalid(Misuse::AmountOutOfRange);
    assert_eq!(world.charge(6, -1, &scope).await, misuse, "a call never costs less than nothing");
    for amount in [-MAX_EVENT.0 - 1, i64::MIN] {
        assert_eq!(world.charge(7, amount, &scope).await, misuse);
    }
    assert_eq!(world.settle(6, 3).await, SettleOutcome::Settled { over_by: Nanos::ZERO });
}

pub async fn a_limit_lowered_below_what_is_spent_blocks_and_harms_nothing(world: &World) {
    let scope = [strict(1, 100)];
    world.charge(1, 40, &scope).await;
    world.hold(2, 50, &scope).await;
    world.set_limit(1, 2, Some(10)).await;
    let current = [at_revision(2, strict(1, 10))];
    assert!(!world.grants(3, 0, &current).await);
    assert_eq!(world.settle(2, 50).await, SettleOutcome::Settled { over_by: Nanos::ZERO });
    assert_eq!(world.balance(&scope[0]).await, (10, 90, 0));
    assert!(
        world.grants(4, 1, &[at_revision(3, strict(1, 91))]).await,
        "raised again, by the policy's own word"
    );
}

pub async fn an_old_limit_is_refused_and_a_new_one_kept(world: &World) {
    world.set_limit(1, 5, Some(50)).await;
    let scopes = |revision, limit| [strict(2, 1_000), at_revision(revision, strict(1, limit))];
    let stale = ReserveOutcome::StalePolicy { scope: 1, revision: 5 };
    assert_eq!(world.reserve(1, 1, &scopes(4, 500)).await, stale);
    assert_eq!(world.balance(&strict(2, 0)).await.2, 0, "nothing was held");
    assert!(!world.grants(1, 51, &scopes(5, 500)).await, "at the same revision the ledger's word counts");
    assert!(world.grants(1, 50, &scopes(5, 500)).await);
    assert!(!world.grants(2, 1, &scopes(6, 50)).await);
    assert!(world.grants(2, 1, &scopes(7, 51)).await);
    let stale = ReserveOutcome::StalePolicy { scope: 1, revision: 7 };
    assert_eq!(world.reserve(3, 0, &scopes(6, 50)).await, stale);
    assert_eq!(world.balance(&strict(1, 0)).await, (51, 0, 51));
}

pub async fn limits_are_applied_by_revision_in_any_order(world: &World) {
    for (revision, limit, limit_after) in [
        (3, Some(30), 30),
        (2, Some(20), 30),
        (3, Some(99), 30),
        (4, Some(40), 40),
        (6, None, 0),
        (5, Some(50), 0),
        (7, Some(70), 70),
    ] {
        world.set_limit(1, revision, limit).await;
        assert_eq!(world.balance(&strict(1, 0)).await, (limit_after, 0, 0), "after revision {revision}");
    }
    assert_eq!(world.balance(&strict(2, 0)).await, (0, 0, 0), "a budget never heard of");
}

pub async fn limits_that_are_applied_are_what_extensions_go_by(world: &World) {
    let scope = [strict(1, 100)];
    world.hold(1, 100, &scope).await;
    let limits = |enforcement| Some(Limits { enforcement, ..Limits::strict(Nanos(100)) });
    world.set_limits(1, 3, limits(Enforcement::SoftBlock)).await;
    assert_eq!(world.extend(1, 1, 5).await, ExtendOutcome::Extended);
    world.set_limits(1, 2, limits(Enforcement::StrictBlock)).await;
    assert_eq!(world.extend(1, 2, 5).await, ExtendOutcome::Extended, "older ones change nothing");
    world.set_limits(1, 4, limits(Enforcement::StrictBlock)).await;
    assert_eq!(world.extend(1, 3, 5).await, ExtendOutcome::Denied { scope: 0 });
}

pub async fn a_deleted_budget_binds_no_more(world: &World) {
    let scopes = [strict(1, 10), strict(2, 100)];
    world.hold(1, 10, &scopes).await;
    world.set_limit(1, 2, None).await;
    assert_eq!(world.extend(1, 1, 5).await, ExtendOutcome::Extended);
    assert_eq!(world.balance(&scopes[0]).await, (0, 0, 15));
    for revision in [1, 2] {
        let old = [at_revision(revision, strict(1, 10))];
        assert_eq!(world.reserve(2, 0, &old).await, ReserveOutcome::StalePolicy { scope: 0, revision: 2 });
    }
    assert_eq!(world.settle(1, 15).await, SettleOutcome::Settled { over_by: Nanos::ZERO });
    assert_eq!(world.balance(&scopes[1]).await, (100, 15, 0));
}

pub async fn a_reserve_outside_its_window_is_refused(world: &World) {
    for (n, start_ms, end_ms, now_ms, right) in [
        (1, 1_000, Some(2_000), 999, false),
        (2, 1_000, Some(2_000), 1_000, true),
        (3, 1_000, Some(2_000), 1_999, true),
        (4, 1_000, Some(2_000), 2_000, false),
        (5, 0, None, 3_000, true),
        (6, 3_001, None, 3_000, false),
    ] {
        let scopes = [in_window(0, None, strict(100, 1_000)), in_window(start_ms, end_ms, strict(n, 100))];
        let outcome = world.at(now_ms).reserve(n, 1, &scopes).await;
        if right {
            assert!(matches!(outcome, ReserveOutcome::Reserved { .. }), "case {n}: {outcome:?}");
        } else {
            assert_eq!(outcome, ReserveOutcome::WrongWindow { now_ms }, "case {n}");
        }
        assert_eq!(world.balance(&scopes[1]).await.2, i64::from(right), "case {n}");
    }
}

fn tomorrow(n: u128, limit: i64) -> Scope {
    in_window(DAY_MS, Some(2 * DAY_MS), strict(n, limit))
}

pub async fn a_hold_settles_into_the_window_it_was_taken_in(world: &World) {
    world.at(DAY_MS - 1).hold(1, 90, &[strict(1, 100)]).await;
    world.at(DAY_MS).hold(2, 100, &[tomorrow(1, 100)]).await;
    world.settle(1, 95).await;
    assert_eq!(world.balance(&strict(1, 0)).await, (100, 95, 0));
    assert_eq!(world.balance(&tomorrow(1, 0)).await, (100, 0, 100));
}

pub async fn a_counter_outlives_its_window_while_a_hold_names_it(world: &World) {
    let scope = [strict(1, 100)];
    world.charge(1, 40, &scope).await;
    world.at(DAY_MS - 1).hold(2, 10, &scope).await;
    for (number, now_ms) in [(1, DAY_MS + 500), (2, DAY_MS + 1_400)] {
        assert_eq!(world.at(now_ms).extend(2, number, 1).await, ExtendOutcome::Extended);
        assert!(world.sweep().await.is_empty());
    }
    assert_eq!(world.balance(&scope[0]).await, (100, 40, 12));
    assert_eq!(world.extend(2, 3, 49).await, ExtendOutcome::Denied { scope: 0 }, "its limit still binds");
    assert_eq!(world.at(3 * DAY_MS).sweep().await.len(), 1);
    world.at(4 * DAY_MS).sweep().await;
    assert_eq!(world.balance(&scope[0]).await, (100, 52, 0), "the lapse may yet be corrected");
    assert_eq!(world.settle(2, 3).await, SettleOutcome::Lapsed { charged: Nanos(12) });
    assert_eq!(world.balance(&scope[0]).await, (100, 43, 0));
}

pub async fn a_new_generation_starts_at_nothing(world: &World) {
    let old = [strict(1, 100)];
    world.hold(1, 100, &old).await;
    let mut new = at_revision(2, strict(1, 100));
    new.counter.generation = 1;
    assert!(world.grants(2, 100, std::slice::from_ref(&new)).await);
    world.settle(1, 100).await;
    assert_eq!(world.balance(&old[0]).await, (100, 100, 0));
    assert_eq!(world.balance(&new).await, (100, 0, 100));
}

pub async fn what_was_settled_is_loaded(world: &World) {
    let scope = [strict(1, 100)];
    world.load(&scope[0], 60).await;
    assert_eq!(world.balance(&scope[0]).await, (0, 60, 0), "the store tells no limits");
    assert!(!world.grants(1, 41, &scope).await);
    assert!(world.grants(1, 40, &scope).await);
    world.load(&scope[0], 50).await;
    assert_eq!(world.balance(&scope[0]).await, (100, 50, 40), "set, not added, and holds stay");
}

/// Beyond 2^53, where an implementation that calculates with floating point goes wrong.
pub async fn large_amounts_are_exact(world: &World) {
    let limit = MAX_LIMIT.0 - 1;
    let scope = [strict(1, limit)];
    world.load(&scope[0], limit - 7).await;
    assert!(!world.grants(1, 8, &scope).await);
    assert!(world.grants(2, 3, &scope).await);
    assert!(!world.grants(3, 5, &scope).await);
    assert!(world.grants(3, 4, &scope).await);
    assert_eq!(world.balance(&scope[0]).await, (limit, limit - 7, 7));
    world.settle(2, 1).await;
    world.settle(3, 2).await;
    assert_eq!(world.balance(&scope[0]).await, (limit, limit - 4, 0));
    let wide = [strict(2, (1 << 53) + 3)];
    for n in 10..19 {
        world.hold(n, MAX_EVENT.0 - 1, &wide).await;
    }
    let left = (1 << 53) + 3 - 9 * (MAX_EVENT.0 - 1);
    assert!(!world.grants(20, left + 1, &wide).await);
    assert!(world.grants(20, left, &wide).await);
}

pub async fn totals_saturate(world: &World) {
    let scope = [soft(1, 100)];
    world.load(&scope[0], MAX_TOTAL_NANOS - 5).await;
    world.charge(1, 6, &scope).await;
    world.hold(2, MAX_EVENT.0, &scope).await;
    world.settle(2, MAX_EVENT.0).await;
    assert_eq!(world.balance(&scope[0]).await, (100, MAX_TOTAL_NANOS, 0));
}

pub async fn nonsense_is_answered_and_changes_nothing(world: &World) {
    let many: Vec<Scope> = (1..=MAX_SCOPES as u128 + 1).map(|n| strict(n, 100)).collect();
    let twice = vec![strict(1, 100), strict(2, 100), tomorrow(1, 100)];
    let one = vec![strict(1, 100)];
    for (scopes, amount, misuse) in [
        (&many, 1, Misuse::TooManyScopes),
        (&twice, 1, Misuse::BudgetTwice),
        (&one, MAX_EVENT.0 + 1, Misuse::AmountOutOfRange),
    ] {
        assert_eq!(world.reserve(1, amount, scopes).await, ReserveOutcome::Invalid(misuse));
        assert_eq!(world.charge(1, amount, scopes).await, ChargeOutcome::Invalid(misuse));
    }
    let misuse = Misuse::AmountOutOfRange;
    assert_eq!(world.reserve(1, -1, &one).await, ReserveOutcome::Invalid(misuse));
    let reserve = Reserve { lease_ms: 0, ..reserve_of(1, 1, &one) };
    let outcome = answered(world.ledger.reserve(&reserve).await);
    assert_eq!(outcome, ReserveOutcome::Invalid(Misuse::LeaseNotPositive));
    assert_eq!(world.settle(1, 1).await, SettleOutcome::Unknown);
    assert_eq!(world.balance(&one[0]).await, (0, 0, 0));
    world.hold(1, 50, &one).await;
    for amount in [-1, MAX_EVENT.0 + 1] {
        assert_eq!(world.settle(1, amount).await, SettleOutcome::Invalid(Misuse::AmountOutOfRange));
        assert_eq!(world.extend(1, 1, amount).await, ExtendOutcome::Invalid(Misuse::AmountOutOfRange));
    }
    assert_eq!(world.extend(1, 1, MAX_EVENT.0 - 49).await, ExtendOutcome::Invalid(Misuse::AmountOutOfRange));
    let outcome = answered(world.ledger.extend(org(1), &[id(1)], 1, 0, Nanos::ZERO).await);
    assert_eq!(outcome, [ExtendOutcome::Invalid(Misuse::LeaseNotPositive)]);
    assert_eq!(world.balance(&one[0]).await, (100, 0, 50));
}

pub async fn organisations_do_not_meet(world: &World) {
    let scope = [strict(1, 100)];
    world.hold(1, 100, &scope).await;
    world.set_limit(1, 5, Some(100)).await;
    let same_ids = Reserve { org: org(2), ..reserve_of(1, 100, &scope) };
    let outcome = answered(world.ledger.reserve(&same_ids).await);
    assert!(matches!(outcome, ReserveOutcome::Reserved { .. }), "{outcome:?}");
    let charge = Charge { id: id(1), org: org(3), scopes: scope.to_vec(), session: None, actual: Nanos(4) };
    let charged = ChargeOutcome::Charged { balances: vec![balance(100, 4, 0)] };
    assert_eq!(answered(world.ledger.charge(&charge).await), charged);
    let change = LimitChange { budget: budget(1), revision: 9, limits: Some(Limits::strict(Nanos(1))) };
    answered(world.ledger.apply_limits(org(2), &[change]).await);
    world.settle(1, 3).await;
    assert_eq!(world.balance(&scope[0]).await, (100, 3, 0));
    let others = answered(world.ledger.balances(org(2), &[scope[0].counter]).await);
    assert_eq!(others, [balance(1, 0, 100)]);
    assert_eq!(world.open_count().await, 1);
    assert_eq!(world.at(LEASE_MS).sweep().await[0].org, org(2));
}

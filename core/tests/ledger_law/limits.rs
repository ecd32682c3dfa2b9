//! Limits by revision, windows, and which counters are kept.

use nullspend_core::{
    ledger::{ExtendOutcome, ReserveOutcome, Scope, SettleOutcome},
    money::Nanos,
};

use crate::book::{Book, DAY_MS, LEASE_MS, at_revision, strict, warn};

#[test]
fn the_limit_of_the_highest_revision_binds() {
    // known revision and limit (None: deleted), scope's revision and limit, then: stale?, granted for 10?
    let stale = Err::<bool, u64>;
    for (known, scope, expected) in [
        (None, (1, 10), Ok(true)),
        (None, (1, 9), Ok(false)),
        (None, (0, 10), Ok(true)),
        (Some((5, Some(9))), (4, 10), stale(5)),
        (Some((5, Some(9))), (5, 10), Ok(false)), // the ledger's own word at the same revision
        (Some((5, Some(10))), (5, 9), Ok(true)),
        (Some((5, Some(9))), (6, 10), Ok(true)),
        (Some((5, Some(10))), (6, 9), Ok(false)),
        (Some((5, None)), (4, 10), stale(5)),
        (Some((5, None)), (5, 10), stale(5)),
        (Some((5, None)), (6, 10), Ok(true)),
    ] {
        let mut book = Book::new();
        if let Some((revision, limit)) = known {
            book.set_limit(1, revision, limit);
        }
        let (revision, limit) = scope;
        // A second scope that fits shows that the index is the right one and that nothing is held on a refusal.
        let scopes = [strict(2, 10), at_revision(revision, strict(1, limit))];
        let outcome = match book.reserve(1, 10, &scopes) {
            ReserveOutcome::Reserved { .. } => Ok(true),
            ReserveOutcome::Denied { scope: 1, .. } => Ok(false),
            ReserveOutcome::StalePolicy { scope: 1, revision } => Err(revision),
            other => panic!("{known:?} {scope:?} gave {other:?}"),
        };
        assert_eq!(outcome, expected, "{known:?} {scope:?}");
        let held = if outcome == Ok(true) { 10 } else { 0 };
        assert_eq!(book.balance(&scopes[0]).2, held);
        assert_eq!(book.balance(&scopes[1]).2, held);
    }
}

#[test]
fn changes_of_limits_come_in_any_order_and_any_number_of_times() {
    let scope = strict(1, 100);
    let mut book = Book::new();
    for (revision, limit, limit_after) in [
        (3, Some(30), 30),
        (2, Some(20), 30),
        (3, Some(99), 30),
        (4, Some(40), 40),
        (6, None, 0),
        (5, Some(50), 0),
        (6, Some(60), 0),
        (7, Some(70), 70),
    ] {
        book.set_limit(1, revision, limit);
        assert_eq!(book.balance(&scope).0, limit_after, "after revision {revision}");
    }
    assert_eq!(book.balance(&strict(2, 100)), (0, 0, 0), "a budget never heard of");
}

#[test]
fn a_denial_teaches_the_limit_and_a_refusal_does_not() {
    let mut book = Book::new();
    book.hold(1, 10, &[strict(1, 10)]);
    assert!(!book.grants(2, 1, &[at_revision(2, strict(1, 5))]));
    assert_eq!(book.balance(&strict(1, 0)).0, 5);
    book.set_limit(2, 9, Some(1));
    let refused = book.reserve(3, 1, &[at_revision(3, strict(1, 500)), strict(2, 1)]);
    assert_eq!(refused, ReserveOutcome::StalePolicy { scope: 1, revision: 9 });
    assert_eq!(book.balance(&strict(1, 0)).0, 5);
}

#[test]
fn a_charge_teaches_a_later_limit_only() {
    let mut book = Book::new();
    for (revision, limit, limit_after) in [(2, 20, 20), (1, 10, 20), (3, 30, 30)] {
        book.charge(revision.into(), 1, &[at_revision(revision, strict(1, limit))]);
        assert_eq!(book.balance(&strict(1, 0)).0, limit_after);
    }
    book.set_limit(1, 4, None);
    book.charge(9, 1, &[at_revision(4, strict(1, 40))]);
    assert_eq!(book.balance(&strict(1, 0)), (0, 4, 0), "spend of a deleted budget counts, its limit is gone");
}

#[test]
fn a_limit_lowered_below_what_is_spent_blocks_reserves_and_harms_nothing_else() {
    let scope = strict(1, 100);
    let mut book = Book::with(&scope, 40, 0);
    book.hold(1, 50, std::slice::from_ref(&scope));
    book.set_limit(1, 2, Some(10));
    let current = at_revision(2, strict(1, 10));
    assert!(!book.grants(2, 0, std::slice::from_ref(&current)));
    book.settle(1, 50);
    assert_eq!(book.balance(&current), (10, 90, 0));
    book.set_limit(1, 3, Some(91));
    assert!(book.grants(3, 1, &[at_revision(3, strict(1, 91))]));
}

#[test]
fn a_deleted_budget_binds_no_extension() {
    let mut book = Book::new();
    book.hold(1, 10, &[strict(1, 10), strict(2, 100)]);
    book.set_limit(1, 2, None);
    assert_eq!(book.extend(1, 1, 5), ExtendOutcome::Extended);
    assert_eq!(book.balance(&strict(2, 100)), (100, 0, 15));
}

#[test]
fn a_reserve_is_made_in_the_window_of_the_ledgers_clock() {
    for (start_ms, end_ms, now_ms, right) in [
        (1_000, Some(2_000), 999, false),
        (1_000, Some(2_000), 1_000, true),
        (1_000, Some(2_000), 1_999, true),
        (1_000, Some(2_000), 2_000, false),
        (0, None, 0, true),
        (0, None, i64::MAX, true),
        (0, None, -1, false),
    ] {
        let mut windowed = strict(2, 100);
        (windowed.counter.window_start_ms, windowed.window_end_ms) = (start_ms, end_ms);
        let mut other = strict(1, 100);
        (other.counter.window_start_ms, other.window_end_ms) = (i64::MIN, None);
        let outcome = Book::new().at(now_ms).reserve(1, 1, &[other, windowed]);
        if right {
            assert!(matches!(outcome, ReserveOutcome::Reserved { .. }), "{start_ms} {now_ms}: {outcome:?}");
        } else {
            assert_eq!(outcome, ReserveOutcome::WrongWindow { now_ms }, "{start_ms} {now_ms}");
        }
    }
    // The clock that counts is the one that never moves backwards.
    let mut book = Book::new();
    book.at(DAY_MS).sweep();
    assert_eq!(book.at(5).reserve(1, 1, &[strict(1, 9)]), ReserveOutcome::WrongWindow { now_ms: DAY_MS });
}

#[test]
fn a_stale_policy_is_told_before_a_wrong_window() {
    let mut book = Book::new();
    book.set_limit(2, 5, Some(1));
    let scopes = [strict(1, 9), strict(2, 9)];
    assert_eq!(
        book.at(2 * DAY_MS).reserve(1, 1, &scopes),
        ReserveOutcome::StalePolicy { scope: 1, revision: 5 }
    );
}

/// Budget 1 tomorrow.
fn tomorrow(limit: i64) -> Scope {
    let mut scope = strict(1, limit);
    (scope.counter.window_start_ms, scope.window_end_ms) = (DAY_MS, Some(2 * DAY_MS));
    scope
}

#[test]
fn every_window_has_money_of_its_own() {
    let mut book = Book::new();
    book.at(DAY_MS - 1).hold(1, 90, &[strict(1, 100)]);
    book.at(DAY_MS).hold(2, 100, &[tomorrow(100)]);
    assert_eq!(book.settle(1, 95), SettleOutcome::Settled { over_by: Nanos(5) });
    assert_eq!(book.balance(&strict(1, 100)), (100, 95, 0), "a hold settles into the window it was taken in");
    assert_eq!(book.balance(&tomorrow(100)), (100, 0, 100));
}

#[test]
fn a_counter_is_kept_until_its_window_ends_and_for_every_hold_that_names_it() {
    let scope = strict(1, 100);
    let mut book = Book::with(&scope, 40, 0);
    book.settle(9_002, 0);
    book.at(DAY_MS - 1).sweep();
    assert_eq!(book.balance(&scope), (100, 40, 0), "the window is not over");
    let mut other = Book::with(&scope, 40, 0);
    other.settle(9_002, 0);
    other.at(DAY_MS).sweep();
    assert_eq!(other.balance(&scope), (100, 0, 0), "now it is");
    book.hold(1, 10, std::slice::from_ref(&scope));
    book.at(DAY_MS + LEASE_MS - 2).sweep();
    assert_eq!(book.balance(&scope), (100, 40, 10), "an open hold names it");
    book.at(DAY_MS + LEASE_MS).sweep();
    book.at(9 * DAY_MS).sweep();
    assert_eq!(book.balance(&scope), (100, 50, 0), "a lapsed hold names it");
    book.settle(1, 2);
    assert_eq!(book.balance(&scope), (100, 42, 0));
    book.sweep();
    assert_eq!(book.balance(&scope), (100, 0, 0), "the store has it");
    book.set_limit(1, 1, Some(7));
    assert_eq!(book.balance(&scope).0, 100, "the limit and its revision stay known");
}

#[test]
fn counters_of_windows_generations_and_budgets_that_are_gone_are_dropped() {
    let endless = |generation: u32| {
        let mut scope = at_revision(generation.into(), warn(1, 100));
        scope.counter.generation = generation;
        scope.window_end_ms = None;
        scope
    };
    let mut book = Book::new();
    book.charge(1, 10, &[endless(1)]);
    book.charge(2, 20, &[endless(2)]);
    book.sweep();
    assert_eq!(book.balance(&endless(1)).1, 10, "a charge does not show which generation is the latest");
    book.hold(3, 1, &[endless(2)]);
    book.sweep();
    assert_eq!(book.balance(&endless(1)).1, 0, "a reserve does");
    assert_eq!(book.balance(&endless(2)), (100, 20, 1));
    book.settle(3, 1);
    book.sweep();
    assert_eq!(book.balance(&endless(2)), (100, 21, 0));
    book.set_limit(1, 9, None);
    assert_eq!(book.balance(&endless(2)), (0, 21, 0));
    book.sweep();
    assert_eq!(book.balance(&endless(2)), (0, 0, 0), "a deleted budget");
}

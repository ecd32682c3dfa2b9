//! Reserve, settle and charge.

use nullspend_core::{
    ledger::{Balance, ChargeOutcome, ExtendOutcome, MAX_SCOPES, Misuse, ReserveOutcome, SettleOutcome, Why},
    money::{MAX_EVENT, MAX_TOTAL_NANOS, Nanos},
};

use crate::book::{Book, DAY_MS, LEASE_MS, id, soft, strict, warn};

fn balance(limit: i64, settled: i64, held: i64) -> Balance {
    Balance { limit: Nanos(limit), settled: Nanos(settled), held: Nanos(held) }
}

#[test]
fn a_strict_budget_grants_up_to_its_limit_and_nothing_beyond() {
    for (limit, settled, held, amount, granted) in [
        (100, 0, 0, 0, true),
        (100, 0, 0, 100, true), // exactly equal is allowed
        (100, 0, 0, 101, false),
        (100, 30, 0, 70, true),
        (100, 30, 0, 71, false),
        (100, 0, 30, 70, true),
        (100, 0, 30, 71, false),
        (100, 30, 30, 40, true),
        (100, 30, 30, 41, false),
        (100, 100, 0, 0, true),
        (100, 101, 0, 0, false), // overspent: not even nothing
        (0, 0, 0, 0, true),
        (0, 0, 0, 1, false),
    ] {
        let scope = strict(1, limit);
        let mut book = Book::with(&scope, settled, held);
        let told = format!("{amount} of {limit} with {settled} settled and {held} held");
        assert_eq!(book.grants(1, amount, std::slice::from_ref(&scope)), granted, "{told}");
        let taken = if granted { amount } else { 0 };
        assert_eq!(book.balance(&scope), (limit, settled, held + taken), "{told}");
    }
}

#[test]
fn only_strict_budgets_deny_and_only_soft_ones_are_told_exceeded() {
    for (scope, amount, exceeded) in [
        (soft(1, 100), 100, vec![]),
        (soft(1, 100), 101, vec![0]),
        (warn(1, 100), 101, vec![]),
        (strict(1, 100), 100, vec![]),
    ] {
        let expected = ReserveOutcome::Reserved { balances: vec![balance(100, 0, amount)], exceeded };
        assert_eq!(
            Book::new().reserve(1, amount, std::slice::from_ref(&scope)),
            expected,
            "{scope:?} {amount}"
        );
    }
}

#[test]
fn a_reserve_takes_from_every_scope_or_from_none() {
    let scopes = [strict(1, 100), soft(2, 10), strict(3, 50), warn(4, 10), soft(5, 60)];
    let mut book = Book::new();
    let granted = ReserveOutcome::Reserved {
        balances: [100, 10, 50, 10, 60].map(|limit| balance(limit, 0, 50)).to_vec(),
        exceeded: vec![1],
    };
    assert_eq!(book.reserve(1, 50, &scopes), granted);
    let denied = ReserveOutcome::Denied {
        scope: 2,
        why: Why::Budget,
        balances: [100, 10, 50, 10, 60].map(|limit| balance(limit, 0, 50)).to_vec(),
        retry_after_ms: Some(DAY_MS),
    };
    assert_eq!(book.reserve(2, 1, &scopes), denied);
    for scope in &scopes {
        assert_eq!(book.balance(scope), (scope.limit.0, 0, 50));
    }
}

#[test]
fn a_denial_names_the_first_strict_scope_that_does_not_fit_and_when_its_window_ends() {
    let mut endless = strict(3, 5);
    endless.window_end_ms = None;
    for (scopes, first, retry_after_ms) in [
        (vec![strict(1, 9), strict(2, 1)], 0, Some(DAY_MS - 400)),
        (vec![strict(2, 10), strict(1, 9)], 1, Some(DAY_MS - 400)),
        (vec![soft(4, 0), warn(5, 0), endless.clone(), strict(1, 9)], 2, None),
    ] {
        match Book::new().at(400).reserve(1, 10, &scopes) {
            ReserveOutcome::Denied { scope, retry_after_ms: retry, balances, .. } => {
                assert_eq!((scope, retry, balances.len()), (first, retry_after_ms, scopes.len()));
            }
            other => panic!("{scopes:?} gave {other:?}"),
        }
    }
}

#[test]
fn a_denied_id_is_not_remembered() {
    let mut book = Book::new();
    assert!(!book.grants(1, 11, &[strict(1, 10)]));
    assert!(book.grants(1, 10, &[strict(1, 10)]));
}

#[test]
fn a_call_without_budgets_is_held_and_settled_too() {
    let mut book = Book::new();
    assert_eq!(book.reserve(1, 5, &[]), ReserveOutcome::Reserved { balances: vec![], exceeded: vec![] });
    assert_eq!(book.state.open_holds(0).count, 1);
    assert_eq!(book.settle(1, 3), SettleOutcome::Settled { over_by: Nanos::ZERO });
    assert_eq!(book.charge(2, 3, &[]), ChargeOutcome::Charged { balances: vec![] });
}

#[test]
fn settling_replaces_the_hold_by_the_cost_and_tells_the_overage() {
    for (held, actual, over_by) in
        [(50, 0, 0), (50, 20, 0), (50, 50, 0), (50, 51, 1), (50, 500, 450), (0, 7, 7)]
    {
        let scopes = [strict(1, 100), soft(2, 10), warn(3, 1_000)];
        let mut book = Book::with(&scopes[0], 10, 20);
        book.hold(1, held, &scopes);
        assert_eq!(book.settle(1, actual), SettleOutcome::Settled { over_by: Nanos(over_by) });
        assert_eq!(book.balance(&scopes[0]), (100, 10 + actual, 20), "{held} held, {actual} settled");
        assert_eq!(book.balance(&scopes[1]), (10, actual, 0));
        assert_eq!(book.balance(&scopes[2]), (1_000, actual, 0));
    }
}

#[test]
fn a_charge_is_recorded_whatever_limits_and_windows_say() {
    let mut yesterday = strict(2, 100);
    (yesterday.counter.window_start_ms, yesterday.window_end_ms) = (-DAY_MS, Some(0));
    let scopes = [strict(1, 10), yesterday];
    let mut book = Book::with(&scopes[0], 9, 3);
    let expected = ChargeOutcome::Charged { balances: vec![balance(10, 59, 3), balance(100, 50, 0)] };
    assert_eq!(book.charge(1, 50, &scopes), expected);
    assert!(!book.grants(2, 0, &scopes[..1]), "what was spent elsewhere blocks further reserves");
}

#[test]
fn a_charge_may_take_back_what_was_spent_and_no_more() {
    for (settled, back, left) in [(50, -20, 30), (50, -50, 0), (50, -51, 0), (0, -1, 0)] {
        let scope = [strict(1, 100)];
        let mut book = Book::with(&scope[0], settled, 10);
        let charged = ChargeOutcome::Charged { balances: vec![balance(100, left, 10)] };
        assert_eq!(book.charge(1, back, &scope), charged, "{back} from {settled}");
        assert_eq!(book.charge(1, back, &scope), ChargeOutcome::AlreadyDone);
        assert!(
            book.grants(2, 90 - left, &scope) && !book.grants(3, 1, &scope),
            "what is taken back is free"
        );
    }
    let scope = [strict(1, 100)];
    let mut book = Book::new();
    book.hold(1, 30, &scope);
    let misuse = ChargeOutcome::Invalid(Misuse::AmountOutOfRange);
    assert_eq!(book.charge(1, -5, &scope), misuse, "a call never costs less than nothing");
    book.at(LEASE_MS).sweep();
    assert_eq!(book.charge(1, -5, &scope), misuse, "nor does a lapsed one");
    assert_eq!(book.settle(1, 20), SettleOutcome::Lapsed { charged: Nanos(30) });
}

/// What each operation answers for an id in each state. Repeating any of them changes nothing.
#[test]
fn an_id_is_spent_once() {
    use ExtendOutcome as E;
    use SettleOutcome as S;
    let scopes = [strict(1, 1_000)];
    let prepare = |state: &str| {
        let mut book = Book::new();
        match state {
            "unknown" => {}
            "charged" => drop(book.charge(1, 40, &scopes)),
            _ => book.hold(1, 100, &scopes),
        }
        match state {
            "settled" => drop(book.settle(1, 40)),
            "lapsed" => drop(book.at(LEASE_MS).sweep()),
            "corrected" => {
                book.at(LEASE_MS).sweep();
                book.settle(1, 40);
            }
            _ => {}
        }
        book
    };
    let settled = S::Settled { over_by: Nanos::ZERO };
    let lapsed = S::Lapsed { charged: Nanos(100) };
    // state, reserve known, extend, settle at 40, settled and held afterwards
    for (state, known, extend, settle, after) in [
        ("unknown", false, E::Unknown, S::Unknown, (0, 0)),
        ("open", true, E::Extended, settled, (40, 0)),
        ("settled", true, E::AlreadyDone, S::AlreadyDone, (40, 0)),
        ("charged", true, E::AlreadyDone, S::AlreadyDone, (40, 0)),
        ("lapsed", true, E::Lapsed, lapsed, (40, 0)),
        ("corrected", true, E::AlreadyDone, lapsed, (40, 0)),
    ] {
        let mut book = prepare(state);
        let before = book.balance(&scopes[0]);
        if known {
            assert_eq!(book.reserve(1, 77, &scopes), ReserveOutcome::AlreadyDone, "reserve when {state}");
        }
        assert_eq!(book.extend(1, 1, 0), extend, "extend when {state}");
        assert_eq!(book.balance(&scopes[0]), before, "neither changes anything when {state}");
        assert_eq!(book.settle(1, 40), settle, "settle when {state}");
        let (_, spent, held) = book.balance(&scopes[0]);
        assert_eq!((spent, held), after, "settled and held when {state}");
        let repeated = match state {
            "unknown" => S::Unknown,
            "lapsed" | "corrected" => lapsed,
            _ => S::AlreadyDone,
        };
        assert_eq!(book.settle(1, 40), repeated, "settle again when {state}");

        // A charge of the same id ends the hold instead of charging twice.
        let mut book = prepare(state);
        let first = book.charge(1, 40, &scopes);
        match state {
            "unknown" | "open" | "lapsed" => {
                assert_eq!(
                    first,
                    ChargeOutcome::Charged { balances: vec![balance(1_000, 40, 0)] },
                    "{state}"
                );
            }
            _ => assert_eq!(first, ChargeOutcome::AlreadyDone, "charge when {state}"),
        }
        assert_eq!(book.charge(1, 40, &scopes), ChargeOutcome::AlreadyDone, "charge again when {state}");
        assert_eq!(book.balance(&scopes[0]), (1_000, 40, 0), "charge when {state}");
        let had_lapsed = ["lapsed", "corrected"].contains(&state);
        let told = if had_lapsed { lapsed } else { S::AlreadyDone };
        assert_eq!(book.settle(1, 40), told, "settle after a charge when {state}");
    }
}

#[test]
fn settled_and_charged_ids_are_remembered_for_one_hour() {
    const HOUR_MS: i64 = 3_600_000;
    let scopes = [strict(1, 1_000)];
    for (age_ms, settle) in [(HOUR_MS - 1, SettleOutcome::AlreadyDone), (HOUR_MS, SettleOutcome::Unknown)] {
        let mut book = Book::new();
        book.at(50).hold(1, 10, &scopes);
        book.settle(1, 10);
        book.charge(2, 10, &scopes);
        book.at(50 + age_ms);
        assert_eq!(book.settle(1, 10), settle);
        assert_eq!(book.settle(2, 10), settle);
    }
}

#[test]
fn nonsense_is_answered_and_changes_nothing() {
    let many: Vec<_> = (1..=MAX_SCOPES as u128 + 1).map(|n| strict(n, 100)).collect();
    let mut other_window = strict(1, 100);
    other_window.counter.generation = 7;
    let twice = vec![strict(1, 100), strict(2, 100), other_window];
    let one = vec![strict(1, i64::MAX)];
    for (scopes, amount, misuse) in [
        (&many, 1, Misuse::TooManyScopes),
        (&twice, 1, Misuse::BudgetTwice),
        (&one, -MAX_EVENT.0 - 1, Misuse::AmountOutOfRange),
        (&one, MAX_EVENT.0 + 1, Misuse::AmountOutOfRange),
    ] {
        let mut book = Book::new();
        assert_eq!(book.reserve(1, amount, scopes), ReserveOutcome::Invalid(misuse));
        assert_eq!(book.charge(1, amount, scopes), ChargeOutcome::Invalid(misuse));
        assert_eq!(book.settle(1, 1), SettleOutcome::Unknown, "nothing was held");
        assert_eq!(book.balance(&scopes[0]), (0, 0, 0));
    }
    let mut book = Book::new();
    assert_eq!(book.reserve(1, -1, &one), ReserveOutcome::Invalid(Misuse::AmountOutOfRange));
    book.hold(1, MAX_EVENT.0, &one);
    for amount in [-1, MAX_EVENT.0 + 1] {
        assert_eq!(book.settle(1, amount), SettleOutcome::Invalid(Misuse::AmountOutOfRange));
        assert_eq!(book.extend(1, 1, amount), ExtendOutcome::Invalid(Misuse::AmountOutOfRange));
    }
    assert_eq!(
        book.extend(1, 1, 1),
        ExtendOutcome::Invalid(Misuse::AmountOutOfRange),
        "a hold has the same cap"
    );
    for lease_ms in [0, -1, i64::MIN] {
        let extended = book.state.extend(0, &[id(1)], 1, lease_ms, Nanos::ZERO);
        assert_eq!(extended, [ExtendOutcome::Invalid(Misuse::LeaseNotPositive)]);
    }
    book.hold(2, 0, &many[..MAX_SCOPES]);
    book.hold(3, 1, &[]);
    assert_eq!(book.extend(3, 1, MAX_EVENT.0 - 1), ExtendOutcome::Extended, "and may reach it");
}

#[test]
fn totals_saturate() {
    let scope = warn(1, 100);
    let mut book = Book::new();
    book.state.load(&[(scope.counter, Nanos(MAX_TOTAL_NANOS - 5))]);
    book.charge(1, 6, std::slice::from_ref(&scope));
    assert_eq!(book.balance(&scope), (100, MAX_TOTAL_NANOS, 0));
    book.hold(2, 6, std::slice::from_ref(&scope));
    book.settle(2, 6);
    assert_eq!(book.balance(&scope), (100, MAX_TOTAL_NANOS, 0));
    book.state.load(&[(scope.counter, Nanos(i64::MAX))]);
    assert_eq!(book.balance(&scope), (100, MAX_TOTAL_NANOS, 0));
    book.state.load(&[(scope.counter, Nanos(-1))]);
    assert_eq!(book.balance(&scope), (100, 0, 0));
}

#[test]
fn loading_sets_what_is_settled_and_leaves_what_is_held() {
    let scope = strict(1, 100);
    let mut book = Book::with(&scope, 5, 30);
    book.state.load(&[(scope.counter, Nanos(60))]);
    assert_eq!(book.balance(&scope), (100, 60, 30));
    assert!(!book.grants(1, 11, std::slice::from_ref(&scope)));
    assert!(book.grants(2, 10, std::slice::from_ref(&scope)));
}

#[test]
fn open_holds_are_counted_once_each_with_the_age_of_the_oldest() {
    let mut book = Book::new();
    assert_eq!((book.state.open_holds(500).count, book.state.open_holds(500).oldest_ms), (0, 0));
    book.at(100).hold(1, 10, &[strict(1, 100), strict(2, 100)]);
    book.at(300).hold(2, 5, &[strict(1, 100)]);
    let open = book.state.open_holds(500);
    assert_eq!((open.count, open.oldest_ms, open.held), (2, 400, Nanos(15)));
    book.settle(1, 0);
    let open = book.state.open_holds(500);
    assert_eq!((open.count, open.oldest_ms, open.held), (1, 200, Nanos(5)));
}

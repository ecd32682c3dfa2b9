//! Leases, lapses, extensions, and the ledger's clock.

use nullspend_core::{
    ledger::{ExtendOutcome, LAPSE_KEPT_MS, Scope, SettleOutcome},
    money::Nanos,
};

use crate::book::{Book, DAY_MS, LEASE_MS, at_revision, id, soft, strict, warn};

#[test]
fn a_hold_lapses_when_its_lease_ends_and_is_charged_in_full() {
    let scopes = [strict(1, 100), soft(2, 10)];
    let mut book = Book::with(&scopes[0], 5, 0);
    book.settle(9_002, 0);
    book.at(200).hold(2, 30, &scopes);
    book.at(300).hold(1, 20, &scopes[..1]);
    assert_eq!(book.at(200 + LEASE_MS - 1).sweep(), []);
    assert_eq!(book.balance(&scopes[0]), (100, 5, 50));
    assert_eq!(book.at(200 + LEASE_MS).sweep(), [(2, 30)]);
    assert_eq!(book.balance(&scopes[0]), (100, 35, 20));
    assert_eq!(book.balance(&scopes[1]), (10, 30, 0));
    assert_eq!(book.sweep(), [], "a hold lapses once");
    assert_eq!(book.at(300 + LEASE_MS).sweep(), [(1, 20)]);
    assert_eq!(book.balance(&scopes[0]), (100, 55, 0));
}

#[test]
fn lapses_come_in_the_order_of_their_ids() {
    let mut book = Book::new();
    for n in [7, 3, 9, 1, 5] {
        book.hold(n, 1, &[]);
    }
    assert_eq!(book.at(LEASE_MS).sweep(), [(1, 1), (3, 1), (5, 1), (7, 1), (9, 1)]);
}

#[test]
fn until_it_is_swept_a_hold_past_its_lease_can_be_renewed_and_settled() {
    let scopes = [strict(1, 100)];
    let mut book = Book::new();
    book.hold(1, 30, &scopes);
    book.hold(2, 30, &scopes);
    book.at(LEASE_MS + 5);
    assert_eq!(book.settle(1, 10), SettleOutcome::Settled { over_by: Nanos::ZERO });
    assert_eq!(book.extend(2, 1, 0), ExtendOutcome::Extended);
    assert_eq!(book.sweep(), []);
    assert_eq!(book.balance(&scopes[0]), (100, 10, 30));
}

#[test]
fn a_late_settle_corrects_what_the_lapse_charged() {
    for actual in [0, 10, 30, 45] {
        let scopes = [strict(1, 100), warn(2, 5)];
        let mut book = Book::with(&scopes[0], 7, 0);
        book.settle(9_002, 0);
        book.hold(1, 30, &scopes);
        book.at(LEASE_MS).sweep();
        book.at(LEASE_MS + LAPSE_KEPT_MS - 1).sweep();
        assert_eq!(book.settle(1, actual), SettleOutcome::Lapsed { charged: Nanos(30) });
        assert_eq!(book.balance(&scopes[0]), (100, 7 + actual, 0));
        assert_eq!(book.balance(&scopes[1]), (5, actual, 0));
        // Who did not hear of it asks again.
        assert_eq!(book.settle(1, 99), SettleOutcome::Lapsed { charged: Nanos(30) });
        assert_eq!(book.balance(&scopes[0]), (100, 7 + actual, 0));
    }
}

#[test]
fn a_lapse_that_nobody_corrects_is_given_up() {
    let scopes = [strict(1, 100)];
    let mut book = Book::new();
    book.hold(1, 30, &scopes);
    book.at(LEASE_MS).sweep();
    book.at(LEASE_MS + LAPSE_KEPT_MS - 1).sweep();
    assert_eq!(book.extend(1, 1, 0), ExtendOutcome::Lapsed);
    assert_eq!(book.balance(&scopes[0]), (100, 30, 0));
    book.at(LEASE_MS + LAPSE_KEPT_MS).sweep();
    assert_eq!(book.settle(1, 10), SettleOutcome::Unknown);
    assert_eq!(book.balance(&scopes[0]), (100, 0, 0), "its window ended long ago");
}

#[test]
fn a_later_lapse_of_the_same_id_has_its_own_time() {
    let scopes = [Scope { window_end_ms: None, ..strict(1, 100) }];
    let mut book = Book::new();
    for at_ms in [0, DAY_MS] {
        book.at(at_ms).hold(1, 30, &scopes);
        book.at(at_ms + LEASE_MS).sweep();
        if at_ms == 0 {
            book.settle(1, 10);
        }
    }
    book.at(LEASE_MS + LAPSE_KEPT_MS).sweep();
    assert_eq!(book.settle(1, 5), SettleOutcome::Lapsed { charged: Nanos(30) });
    assert_eq!(book.balance(&scopes[0]), (100, 15, 0));
}

#[test]
fn an_extension_counts_its_lease_from_now() {
    let mut book = Book::new();
    book.hold(1, 10, &[]);
    for (number, at_ms) in [(1, 900), (2, 1_899), (5, 2_898)] {
        assert_eq!(book.at(at_ms).extend(1, number, 0), ExtendOutcome::Extended);
        assert_eq!(book.at(at_ms + LEASE_MS - 1).sweep(), []);
    }
    assert_eq!(book.at(2_898 + LEASE_MS).sweep(), [(1, 10)]);
}

#[test]
fn an_extension_number_is_applied_once() {
    let scopes = [strict(1, 100)];
    let mut book = Book::new();
    book.hold(1, 10, &scopes);
    assert_eq!(book.extend(1, 1, 5), ExtendOutcome::Extended);
    book.at(500);
    for number in [0, 1] {
        assert_eq!(book.extend(1, number, 5), ExtendOutcome::AlreadyDone);
    }
    assert_eq!(book.balance(&scopes[0]), (100, 0, 15));
    assert_eq!(book.extend(1, 2, 5), ExtendOutcome::Extended);
    assert_eq!(book.extend(1, 1, 5), ExtendOutcome::AlreadyDone, "an older one that comes late");
    assert_eq!(book.balance(&scopes[0]), (100, 0, 20));
    // What was added belongs to the hold: it is charged by a lapse and released by a settle.
    assert_eq!(book.at(500 + LEASE_MS).sweep(), [(1, 20)]);
    assert_eq!(book.settle(1, 12), SettleOutcome::Lapsed { charged: Nanos(20) });
    assert_eq!(book.balance(&scopes[0]), (100, 12, 0));
}

#[test]
fn an_extension_takes_more_from_every_scope_or_from_none() {
    let scopes = [strict(1, 100), soft(2, 10), strict(3, 50)];
    let mut book = Book::new();
    book.hold(1, 40, &scopes);
    assert_eq!(book.extend(1, 1, 10), ExtendOutcome::Extended, "exactly equal is allowed");
    assert_eq!(book.at(700).extend(1, 2, 1), ExtendOutcome::Denied { scope: 2 });
    for scope in &scopes {
        assert_eq!(book.balance(scope), (scope.limit.0, 0, 50));
    }
    assert_eq!(book.at(699 + LEASE_MS).sweep(), [], "a refusal renews the lease all the same");
    book.set_limit(3, 2, Some(51));
    assert_eq!(book.extend(1, 2, 1), ExtendOutcome::Extended, "and leaves the number for another try");
    assert_eq!(book.balance(&scopes[2]), (51, 0, 51));
    assert_eq!(book.settle(1, 51), SettleOutcome::Settled { over_by: Nanos::ZERO });
}

#[test]
fn many_holds_are_extended_each_by_itself() {
    let scopes = [strict(1, 100)];
    let mut book = Book::new();
    for n in [1, 2, 3] {
        book.hold(n, 25, &scopes);
    }
    book.settle(2, 25);
    let ids = [id(1), id(2), id(3), id(4)];
    assert_eq!(
        book.state.extend(0, &ids, 1, LEASE_MS, Nanos(20)),
        [
            ExtendOutcome::Extended,
            ExtendOutcome::AlreadyDone,
            ExtendOutcome::Denied { scope: 0 },
            ExtendOutcome::Unknown
        ]
    );
    assert_eq!(book.balance(&scopes[0]), (100, 25, 70));
}

#[test]
fn a_renewal_that_takes_nothing_is_never_refused() {
    let scopes = [strict(1, 100)];
    let mut book = Book::new();
    book.hold(1, 50, &scopes);
    book.set_limit(1, 2, Some(10));
    assert_eq!(book.extend(1, 1, 0), ExtendOutcome::Extended);
    assert_eq!(book.extend(1, 2, 1), ExtendOutcome::Denied { scope: 0 });
}

#[test]
fn extensions_go_by_the_enforcement_last_heard() {
    let mut book = Book::new();
    book.hold(1, 10, &[strict(1, 10)]);
    assert_eq!(book.extend(1, 1, 1), ExtendOutcome::Denied { scope: 0 });
    book.hold(2, 0, &[at_revision(2, soft(1, 10))]);
    assert_eq!(book.extend(1, 1, 1), ExtendOutcome::Extended);
    assert!(!book.grants(3, 0, &[at_revision(3, strict(1, 10))]));
    assert_eq!(book.extend(1, 2, 1), ExtendOutcome::Denied { scope: 0 });
}

#[test]
fn the_ledgers_clock_never_moves_backwards() {
    let mut book = Book::new();
    book.at(5_000).hold(1, 10, &[]);
    book.at(4_000).hold(2, 10, &[]);
    assert_eq!(book.at(4_000 + LEASE_MS).sweep(), [], "both leases count from 5 000");
    assert_eq!(book.at(5_000 + LEASE_MS).sweep(), [(1, 10), (2, 10)]);
    book.at(0).hold(3, 10, &[]);
    assert_eq!(book.state.open_holds(0).oldest_ms, 0);
    assert_eq!(book.at(5_000 + 2 * LEASE_MS).sweep(), [(3, 10)]);
}

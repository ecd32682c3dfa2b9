//! The spend rate and its breaker.

use nullspend_core::{
    ledger::{ExtendOutcome, MAX_VELOCITY, MAX_VELOCITY_MS, Misuse, ReserveOutcome, Scope, Why},
    money::{MAX_EVENT, MAX_LIMIT, Nanos},
    policy::Velocity,
};

use crate::book::{Book, LEASE_MS, at_revision, no_faster, soft, strict, warn};

const WINDOW_MS: i64 = 1_000;
const COOLDOWN_MS: i64 = 300;

fn paced(limit: i64) -> Scope {
    no_faster(limit, WINDOW_MS, COOLDOWN_MS, strict(1, 1_000_000))
}

/// `Ok` when granted, else the rate and when to try again.
fn ask(book: &mut Book, at_ms: i64, n: u128, amount: i64, scope: &Scope) -> Result<(), (i64, i64)> {
    match book.at(at_ms).reserve(n, amount, std::slice::from_ref(scope)) {
        ReserveOutcome::Reserved { .. } => Ok(()),
        ReserveOutcome::Denied { why: Why::Velocity { rate }, retry_after_ms: Some(ms), .. } => {
            Err((rate.0, ms))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_reserve_is_checked_the_first_included_whatever_the_enforcement() {
    for (scope, amount, granted) in [
        (strict(1, 1_000), 100, true),
        (strict(1, 1_000), 101, false),
        (soft(1, 1_000), 101, false),
        (warn(1, 0), 101, false),
    ] {
        let scope = no_faster(100, WINDOW_MS, COOLDOWN_MS, scope);
        let mut book = Book::new();
        let expected = if granted { Ok(()) } else { Err((0, COOLDOWN_MS)) };
        assert_eq!(ask(&mut book, 0, 1, amount, &scope), expected);
        assert_eq!(book.balance(&scope).2, if granted { amount } else { 0 });
    }
}

/// 100 are counted in `[0, 1000)`. Later the bucket counts by the part of the window that is left, rounded down.
#[test]
fn the_bucket_before_slides_out() {
    for (at_ms, rate) in
        [(999, 100), (1_000, 100), (1_001, 99), (1_500, 50), (1_990, 1), (1_999, 0), (2_000, 0), (9_000, 0)]
    {
        let scope = paced(100);
        let mut book = Book::new();
        assert_eq!(ask(&mut book, 10, 1, 100, &scope), Ok(()));
        assert_eq!(ask(&mut book, at_ms, 2, 101 - rate, &scope), Err((rate, COOLDOWN_MS)), "at {at_ms}");
        let mut book = Book::new();
        assert_eq!(ask(&mut book, 10, 1, 100, &scope), Ok(()));
        assert_eq!(ask(&mut book, at_ms, 2, 100 - rate, &scope), Ok(()), "at {at_ms}");
    }
}

#[test]
fn a_tripped_breaker_denies_all_until_it_has_cooled_down_and_then_begins_afresh() {
    let scope = paced(100);
    let mut book = Book::new();
    assert_eq!(ask(&mut book, 100, 1, 60, &scope), Ok(()));
    assert_eq!(ask(&mut book, 200, 2, 41, &scope), Err((60, 300)));
    assert_eq!(ask(&mut book, 201, 3, 0, &scope), Err((60, 299)), "even nothing, with all numbers");
    assert_eq!(ask(&mut book, 499, 4, 1, &scope), Err((60, 1)));
    assert_eq!(
        ask(&mut book, 500, 5, 101, &scope),
        Err((0, 300)),
        "checked at once, and counted from nothing"
    );
    assert_eq!(ask(&mut book, 800, 6, 100, &scope), Ok(()));
    // The hold of before the trip is not in the buckets any more: settling it takes nothing out.
    book.settle(1, 0);
    assert_eq!(ask(&mut book, 800, 7, 1, &scope), Err((100, 300)));
}

#[test]
fn a_denial_trips_the_breaker_and_changes_nothing_else() {
    let scopes = [paced(100), no_faster(50, WINDOW_MS, COOLDOWN_MS, strict(2, 1_000)), strict(3, 10)];
    let mut book = Book::new();
    let denied = book.reserve(1, 60, &scopes);
    assert!(
        matches!(denied, ReserveOutcome::Denied { scope: 1, why: Why::Velocity { .. }, .. }),
        "{denied:?}"
    );
    assert_eq!(ask(&mut book, 0, 2, 100, &scopes[0]), Ok(()), "nothing was counted for the first scope");
    let denied = book.at(400).reserve(3, 11, &scopes[1..]);
    assert!(matches!(denied, ReserveOutcome::Denied { scope: 1, why: Why::Budget, .. }), "{denied:?}");
    assert_eq!(ask(&mut book, 400, 4, 50, &scopes[1]), Ok(()), "nor by a denial of the budget");
}

#[test]
fn the_rate_counts_what_holds_turn_out_to_cost() {
    // What happens to a hold of 60, and what it counts afterwards.
    type Then = fn(&mut Book);
    let cases: [(&str, Then, i64); 5] = [
        ("settled lower", |book| _ = book.settle(1, 10), 10),
        ("settled higher", |book| _ = book.settle(1, 90), 90),
        ("extended", |book| assert_eq!(book.extend(1, 1, 15), ExtendOutcome::Extended), 75),
        ("lapsed", |book| drop(book.at(LEASE_MS).sweep()), 60),
        (
            "lapsed and corrected",
            |book| {
                book.at(LEASE_MS).sweep();
                book.settle(1, 5);
            },
            5,
        ),
    ];
    for (told, then, counted) in cases {
        let scope = no_faster(1_000, 10_000, COOLDOWN_MS, strict(1, 1_000_000));
        let mut book = Book::new();
        assert_eq!(ask(&mut book, 0, 1, 60, &scope), Ok(()));
        then(&mut book);
        assert_eq!(ask(&mut book, 2_000, 2, 2_000, &scope), Err((counted, COOLDOWN_MS)), "{told}");
    }
}

#[test]
fn a_correction_finds_the_bucket_its_hold_was_counted_in() {
    for (at_ms, rate) in [(900, 20), (1_500, 10), (2_500, 0)] {
        let scope = paced(100);
        let mut book = Book::new();
        assert_eq!(ask(&mut book, 100, 1, 100, &scope), Ok(()));
        assert_eq!(ask(&mut book, at_ms, 2, 0, &scope), Ok(()), "at {at_ms}");
        book.settle(1, 20);
        assert_eq!(ask(&mut book, at_ms, 3, 101, &scope), Err((rate, COOLDOWN_MS)), "at {at_ms}");
    }
}

#[test]
fn charges_count_and_are_never_refused() {
    let scope = paced(100);
    let mut book = Book::new();
    book.charge(1, 150, std::slice::from_ref(&scope));
    book.charge(2, 10, std::slice::from_ref(&scope));
    assert_eq!(ask(&mut book, 0, 3, 0, &scope), Err((160, COOLDOWN_MS)));
}

#[test]
fn another_window_or_generation_begins_afresh() {
    let mut book = Book::new();
    assert_eq!(ask(&mut book, 0, 1, 100, &paced(100)), Ok(()));
    let longer = at_revision(2, no_faster(100, 2 * WINDOW_MS, COOLDOWN_MS, strict(1, 1_000_000)));
    assert_eq!(ask(&mut book, 1, 2, 100, &longer), Ok(()));
    book.settle(1, 0);
    assert_eq!(ask(&mut book, 1, 3, 1, &longer), Err((100, COOLDOWN_MS)));
    let mut new = at_revision(3, longer.clone());
    new.counter.generation = 1;
    assert_eq!(ask(&mut book, 1, 4, 100, &new), Ok(()), "a reset closes the breaker too");
    let other_limit = at_revision(4, no_faster(150, 2 * WINDOW_MS, COOLDOWN_MS, new));
    assert_eq!(ask(&mut book, 1, 5, 51, &other_limit), Err((100, COOLDOWN_MS)), "another limit does not");
}

#[test]
fn a_rate_that_makes_no_sense_is_misuse() {
    let good = Velocity { limit: MAX_VELOCITY, window_ms: MAX_VELOCITY_MS, cooldown_ms: MAX_VELOCITY_MS };
    for (velocity, sensible) in [
        (good, true),
        (Velocity { limit: MAX_VELOCITY + Nanos(1), ..good }, false),
        (Velocity { limit: Nanos(-1), ..good }, false),
        (Velocity { window_ms: 0, ..good }, false),
        (Velocity { window_ms: MAX_VELOCITY_MS + 1, ..good }, false),
        (Velocity { cooldown_ms: -1, ..good }, false),
        (Velocity { cooldown_ms: MAX_VELOCITY_MS + 1, ..good }, false),
    ] {
        let scope = Scope { velocity: Some(velocity), ..strict(1, MAX_LIMIT.0) };
        let outcome = Book::new().reserve(1, MAX_EVENT.0, &[scope]);
        let misuse = outcome == ReserveOutcome::Invalid(Misuse::VelocityOutOfRange);
        assert_eq!(misuse, !sensible, "{velocity:?}: {outcome:?}");
    }
}

/// Buckets saturate, and amounts beyond 2^53 / 10^6 lose nothing on the way.
#[test]
fn large_rates_are_exact() {
    let velocity = Velocity { limit: MAX_VELOCITY, window_ms: 3_599_999, cooldown_ms: 1 };
    let scope = Scope { velocity: Some(velocity), window_end_ms: None, ..warn(1, 0) };
    let mut book = Book::new();
    let most = MAX_EVENT.0 - 3;
    assert_eq!(ask(&mut book, 0, 1, most, &scope), Ok(()));
    let at_ms = 3_599_999 + 1_234_567;
    let rate = i128::from(most) * (3_599_999 - 1_234_567) / 3_599_999;
    let rate = i64::try_from(rate).unwrap();
    let room = MAX_VELOCITY.0 - rate;
    assert_eq!(ask(&mut book, at_ms, 2, room + 1, &scope), Err((rate, 1)));
    let mut book = Book::new();
    for n in 1..=6 {
        book.charge(n, MAX_EVENT.0, std::slice::from_ref(&scope));
    }
    assert_eq!(ask(&mut book, 0, 9, 0, &scope), Err((4_000_000_000_000_000, 1)));
}

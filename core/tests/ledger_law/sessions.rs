//! Session limits, and what budgets keep back for finalizing calls.

use nullspend_core::{
    ledger::{ExtendOutcome, ReserveOutcome, SESSION_IDLE_MS, Scope, SessionSpend, Why},
    money::Nanos,
};

use crate::book::{
    Book, Caller, DAY_MS, LEASE_MS, at_revision, budget, no_faster, per_session, session, soft, strict, warn,
};

/// What a session has settled and holds, as a denial tells it.
fn spend(book: &mut Book, id: &'static str, scope: &Scope) -> i64 {
    let probe = per_session(-1, scope.clone());
    match book.reserve_as(session(id), 999_999, 0, &[probe]) {
        ReserveOutcome::Denied { why: Why::Session { spend }, .. } => spend.0,
        other => panic!("{other:?}"),
    }
}

fn grants(book: &mut Book, caller: Caller, n: u128, amount: i64, scopes: &[Scope]) -> bool {
    match book.reserve_as(caller, n, amount, scopes) {
        ReserveOutcome::Reserved { .. } => true,
        ReserveOutcome::Denied { .. } => false,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_session_is_limited_whatever_the_enforcement_and_only_itself() {
    for scope in [strict(1, 1_000), soft(1, 1_000), warn(1, 0)] {
        let scopes = [per_session(100, scope)];
        let mut book = Book::new();
        assert!(grants(&mut book, session("a"), 1, 60, &scopes));
        assert!(!grants(&mut book, session("a"), 2, 41, &scopes));
        assert!(grants(&mut book, session("a"), 3, 40, &scopes), "exactly equal is allowed");
        assert!(grants(&mut book, session("b"), 4, 100, &scopes), "another session");
        assert!(grants(&mut book, Caller::default(), 5, 500, &scopes), "no session");
        assert_eq!(book.balance(&scopes[0]).2, 700, "all of it is in the window");
    }
}

#[test]
fn a_session_spends_what_its_window_does() {
    let scopes = [per_session(100, strict(1, 1_000))];
    let mut book = Book::new();
    book.reserve_as(session("a"), 1, 60, &scopes);
    book.settle(1, 10);
    assert_eq!(spend(&mut book, "a", &scopes[0]), 10, "settled");
    book.charge_as(session("a"), 2, 30, &scopes);
    assert_eq!(spend(&mut book, "a", &scopes[0]), 40, "charged");
    book.reserve_as(session("a"), 3, 20, &scopes);
    assert_eq!(book.extend(3, 1, 5), ExtendOutcome::Extended);
    assert_eq!(spend(&mut book, "a", &scopes[0]), 65, "held and extended");
    assert_eq!(
        book.extend(3, 2, 36),
        ExtendOutcome::Denied { scope: 0 },
        "the session's limit binds extensions"
    );
    book.at(LEASE_MS).sweep();
    assert_eq!(spend(&mut book, "a", &scopes[0]), 65, "lapsed");
    book.settle(3, 4);
    assert_eq!(spend(&mut book, "a", &scopes[0]), 44, "corrected");
    book.charge_as(session("a"), 4, 500, &scopes);
    assert!(!grants(&mut book, session("a"), 5, 0, &scopes), "overspent: not even nothing");
    assert_eq!(spend(&mut book, "b", &scopes[0]), 0);
}

#[test]
fn a_denial_by_session_holds_nothing_and_comes_before_all_others() {
    let scopes = [strict(1, 10), no_faster(10, 1_000, 1_000, strict(2, 100)), per_session(20, warn(3, 100))];
    let mut book = Book::new();
    match book.reserve_as(session("a"), 1, 21, &scopes) {
        ReserveOutcome::Denied {
            scope: 2,
            why: Why::Session { spend: Nanos(0) },
            balances,
            retry_after_ms: None,
        } => {
            assert_eq!(balances.len(), 3);
        }
        other => panic!("{other:?}"),
    }
    let rate = book.reserve_as(session("a"), 1, 20, &scopes);
    assert!(matches!(rate, ReserveOutcome::Denied { scope: 1, why: Why::Velocity { .. }, .. }), "{rate:?}");
    for scope in &scopes {
        assert_eq!(book.balance(scope).2, 0);
    }
    assert_eq!(spend(&mut book, "a", &scopes[2]), 0);
}

#[test]
fn a_session_idle_for_a_day_starts_again() {
    let scopes = [per_session(100, warn(1, 0))];
    let mut endless = scopes[0].clone();
    endless.window_end_ms = None;
    let scopes = [endless];
    for (idle_ms, swept, spent) in [
        (SESSION_IDLE_MS - 1, false, 70),
        (SESSION_IDLE_MS - 1, true, 70),
        (SESSION_IDLE_MS, false, 0),
        (SESSION_IDLE_MS, true, 0),
    ] {
        let mut book = Book::new();
        book.at(5).charge_as(session("a"), 1, 70, &scopes);
        book.at(5 + idle_ms);
        if swept {
            book.sweep();
        }
        assert_eq!(spend(&mut book, "a", &scopes[0]), spent, "{idle_ms} {swept}");
    }
    // A denial is no use; a hold keeps its session however long it lasts.
    let mut book = Book::new();
    book.charge_as(session("a"), 1, 70, &scopes);
    book.reserve_as(session("b"), 2, 30, &scopes);
    book.at(DAY_MS - 1);
    assert!(!grants(&mut book, session("a"), 3, 31, &scopes));
    assert_eq!(book.extend(2, 1, 0), ExtendOutcome::Extended);
    book.at(DAY_MS).sweep();
    assert_eq!(spend(&mut book, "a", &scopes[0]), 0);
    book.at(3 * DAY_MS);
    assert_eq!(spend(&mut book, "b", &scopes[0]), 30);
}

#[test]
fn a_new_generation_knows_no_session_and_an_old_hold_settles_in_its_own() {
    let old = [per_session(100, strict(1, 1_000))];
    let mut new = at_revision(2, old[0].clone());
    new.counter.generation = 1;
    let mut book = Book::new();
    book.reserve_as(session("a"), 1, 80, &old);
    assert!(grants(&mut book, session("a"), 2, 100, std::slice::from_ref(&new)));
    book.settle(1, 90);
    assert_eq!(spend(&mut book, "a", &new), 100);
}

#[test]
fn a_limit_set_later_counts_from_then_on() {
    let mut book = Book::new();
    book.reserve_as(session("a"), 1, 80, &[strict(1, 1_000)]);
    let scopes = [at_revision(2, per_session(100, strict(1, 1_000)))];
    assert!(grants(&mut book, session("a"), 2, 100, &scopes));
    book.settle(1, 80);
    assert_eq!(spend(&mut book, "a", &scopes[0]), 100, "the first hold is not the counter's");
    // And one that is taken away binds no extension any more.
    book.hold(3, 0, &[at_revision(3, strict(1, 1_000))]);
    assert_eq!(book.extend(2, 1, 50), ExtendOutcome::Extended);
}

#[test]
fn sessions_are_loaded_with_the_time_of_their_last_use() {
    let scopes = [per_session(100, strict(1, 1_000))];
    let mut book = Book::new();
    let spend_of = |id: &str, settled, last_used_ms| SessionSpend {
        budget: budget(1),
        generation: 0,
        session: id.into(),
        settled: Nanos(settled),
        last_used_ms,
    };
    book.state.load_sessions(&[spend_of("a", 60, 10), spend_of("b", 60, 10 - SESSION_IDLE_MS)]);
    book.at(10);
    assert_eq!(spend(&mut book, "a", &scopes[0]), 60);
    assert_eq!(spend(&mut book, "b", &scopes[0]), 0);
    book.state.load_sessions(&[spend_of("a", 50, 10)]);
    assert_eq!(spend(&mut book, "a", &scopes[0]), 50, "set, not added");
}

#[test]
fn what_is_kept_back_is_left_to_finalizing_calls() {
    let kept = |scope| Scope { finalization_reserve: Nanos(20), ..scope };
    let finalizing = Caller { finalize: true, ..Caller::default() };
    for (caller, scope, amount, granted) in [
        (Caller::default(), strict(1, 100), 80, true),
        (Caller::default(), strict(1, 100), 81, false),
        (finalizing, strict(1, 100), 100, true),
        (finalizing, strict(1, 100), 101, false),
        (Caller::default(), strict(1, 10), 0, false), // all of the limit is kept back
        (Caller::default(), soft(1, 100), 100, true),
        (Caller::default(), warn(1, 100), 200, true),
    ] {
        let scopes = [kept(scope)];
        let mut book = Book::new();
        assert_eq!(grants(&mut book, caller, 1, amount, &scopes), granted, "{amount} of {scopes:?}");
    }
    let exceeded = Book::new().reserve(1, 100, &[kept(soft(1, 100))]);
    assert!(matches!(exceeded, ReserveOutcome::Reserved { exceeded, .. } if exceeded.is_empty()));
    let scopes = [kept(strict(1, 100))];
    let mut book = Book::new();
    book.hold(1, 40, &scopes);
    book.reserve_as(finalizing, 2, 40, &scopes);
    assert_eq!(book.extend(1, 1, 1), ExtendOutcome::Denied { scope: 0 });
    assert_eq!(book.extend(2, 1, 20), ExtendOutcome::Extended, "extended as it was reserved");
    assert_eq!(book.extend(2, 2, 1), ExtendOutcome::Denied { scope: 0 });
}

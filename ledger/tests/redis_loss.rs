//! What the ledger in Redis has lost is noticed before anything is decided on what is left.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::{sync::Arc, time::Duration};

use nullspend_core::{
    clock::{ManualClock, SystemClock},
    id::{AttemptId, BudgetId},
    ledger::{
        Balance, CounterKey, LAPSE_KEPT_MS, Ledger, LimitChange, Limits, Reserve, ReserveOutcome, Restored,
        Scope, SettleOutcome, Silence,
    },
    money::Nanos,
    policy::Enforcement,
};
use nullspend_ledger::{RedisConfig, RedisLedger};
use uuid::Uuid;

use support::{Server, open, org};

fn scope(limit: i64) -> Scope {
    Scope {
        counter: CounterKey { budget: BudgetId(Uuid::from_u128(1)), generation: 0, window_start_ms: 0 },
        window_end_ms: None,
        limit: Nanos(limit),
        revision: 1,
        enforcement: Enforcement::StrictBlock,
        session_limit: None,
        velocity: None,
        finalization_reserve: Nanos::ZERO,
    }
}

fn reserve_of(n: u128, amount: i64) -> Reserve {
    Reserve {
        hold: AttemptId(Uuid::from_u128(n)),
        org: org(1),
        scopes: vec![scope(100)],
        session: None,
        finalize: false,
        amount: Nanos(amount),
        lease_ms: 60_000,
        stub: bytes::Bytes::from_static(b"stub"),
    }
}

fn ledger(server: &Server) -> RedisLedger {
    RedisLedger::new(&server.config(), Arc::new(SystemClock::new())).unwrap()
}

async fn reserves(ledger: &RedisLedger, n: u128, amount: i64) -> bool {
    match ledger.reserve(&reserve_of(n, amount)).await {
        Ok(ReserveOutcome::Reserved { .. }) => true,
        Ok(ReserveOutcome::Denied { .. }) => false,
        other => panic!("neither granted nor denied: {other:?}"),
    }
}

/// That nothing is decided, for the reason that the books are lost.
async fn refuses(ledger: &RedisLedger) {
    let refused = ledger.reserve(&reserve_of(99, 1)).await.unwrap_err();
    assert!(refused.to_string().contains("wait for a rebuild"), "{refused}");
    assert_eq!(refused.silence, Silence::Lost);
    assert!(ledger.is_lost(org(1)).await.unwrap());
    assert!(ledger.balances(org(1), &[scope(100).counter]).await.is_err());
}

async fn balance(ledger: &RedisLedger) -> Balance {
    ledger.balances(org(1), &[scope(100).counter]).await.unwrap()[0]
}

#[tokio::test]
async fn books_that_were_never_made_decide_nothing() {
    let server = Server::start(&[]);
    let ledger = ledger(&server);
    refuses(&ledger).await;
    assert!(ledger.sweep().await.unwrap().is_empty());
    open(&ledger, org(1)).await;
    assert!(reserves(&ledger, 1, 100).await);
    assert!(!ledger.begin_rebuild(org(1)).await.unwrap(), "they are whole");
    assert!(!reserves(&ledger, 2, 1).await, "asking changed nothing");
}

#[tokio::test]
async fn a_flush_is_noticed_and_a_rebuild_puts_back_what_was_spent_and_held() {
    let server = Server::start(&[]);
    let (ledger, other) = (ledger(&server), ledger(&server));
    open(&ledger, org(1)).await;
    assert!(reserves(&ledger, 1, 60).await && reserves(&other, 2, 10).await);
    server.ask(&["FLUSHALL", "SYNC"]).unwrap();
    refuses(&ledger).await;
    refuses(&other).await;

    assert!(ledger.begin_rebuild(org(1)).await.unwrap());
    refuses(&other).await;
    let change = LimitChange {
        budget: scope(0).counter.budget,
        revision: 1,
        limits: Some(Limits::strict(Nanos(100))),
    };
    ledger.apply_limits(org(1), &[change]).await.unwrap();
    ledger.load(org(1), &[(scope(100).counter, Nanos(35))]).await.unwrap();
    // More than the limit leaves, as when spend was charged meanwhile: what is held is held.
    let restored = ledger.restore(&reserve_of(1, 70), Restored::Held).await.unwrap();
    assert!(matches!(restored, ReserveOutcome::Reserved { .. }), "{restored:?}");
    assert_eq!(
        ledger.restore(&reserve_of(1, 70), Restored::Held).await.unwrap(),
        ReserveOutcome::AlreadyDone
    );
    refuses(&ledger).await;
    ledger.finish_rebuild(org(1)).await.unwrap();

    let rebuilt = Balance { limit: Nanos(100), settled: Nanos(35), held: Nanos(70) };
    assert_eq!((balance(&ledger).await, balance(&other).await), (rebuilt, rebuilt));
    assert!(!reserves(&other, 3, 1).await);
    let settled = other.settle(org(1), AttemptId(Uuid::from_u128(1)), Nanos(5)).await.unwrap();
    assert_eq!(settled, SettleOutcome::Settled { over_by: Nanos::ZERO });
    let unknown = other.settle(org(1), AttemptId(Uuid::from_u128(2)), Nanos(5)).await.unwrap();
    assert_eq!(unknown, SettleOutcome::Unknown, "nobody restored it");
}

#[tokio::test]
async fn books_that_are_made_again_go_by_the_clock_again_that_ran_ahead() {
    let server = Server::start(&[]);
    let clock = Arc::new(ManualClock::at(1_000_000));
    let ledger = RedisLedger::of_tests(&server.config(), clock.clone(), &|script| script).unwrap();
    open(&ledger, org(1)).await;
    assert!(reserves(&ledger, 1, 60).await);
    clock.advance_ms(-999_000);
    let then = Scope { window_end_ms: Some(500_000), ..scope(100) };
    let of_then = Reserve { scopes: vec![then], ..reserve_of(2, 60) };
    let outcome = ledger.reserve(&of_then).await.unwrap();
    assert_eq!(outcome, ReserveOutcome::WrongWindow { now_ms: 1_000_000 });
    ledger.give_up(org(1)).await.unwrap();
    open(&ledger, org(1)).await;
    let outcome = ledger.reserve(&of_then).await.unwrap();
    assert!(matches!(outcome, ReserveOutcome::Reserved { .. }), "{outcome:?}");
}

#[tokio::test]
async fn books_made_again_by_another_one_are_later_than_all_that_was_seen() {
    let server = Server::start(&[]);
    let clock = Arc::new(ManualClock::at(1_000_000));
    let on = || RedisLedger::of_tests(&server.config(), clock.clone(), &|script| script).unwrap();
    let (first, other) = (on(), on());
    open(&first, org(1)).await;
    server.ask(&["FLUSHALL", "SYNC"]).unwrap();
    clock.advance_ms(-999_000);
    open(&other, org(1)).await;
    refuses(&first).await;
    open(&other, org(1)).await;
    assert!(reserves(&first, 1, 60).await && !reserves(&other, 2, 60).await);
}

#[tokio::test]
async fn books_that_an_operator_gives_up_are_lost_to_everybody() {
    let server = Server::start(&[]);
    let (ledger, other) = (ledger(&server), ledger(&server));
    open(&ledger, org(1)).await;
    assert!(reserves(&other, 1, 60).await);
    assert!(!ledger.is_lost(org(1)).await.unwrap());
    ledger.give_up(org(1)).await.unwrap();
    ledger.give_up(org(1)).await.unwrap();
    refuses(&ledger).await;
    refuses(&other).await;
    open(&ledger, org(1)).await;
    assert!(reserves(&other, 1, 100).await, "nothing of the old books is left");
}

#[tokio::test]
async fn of_two_rebuilds_the_later_one_counts() {
    let server = Server::start(&[]);
    let (first, second) = (ledger(&server), ledger(&server));
    assert!(first.begin_rebuild(org(1)).await.unwrap());
    first.load(org(1), &[(scope(100).counter, Nanos(7))]).await.unwrap();
    assert!(second.begin_rebuild(org(1)).await.unwrap());
    assert!(first.load(org(1), &[(scope(100).counter, Nanos(8))]).await.is_err());
    second.load(org(1), &[(scope(100).counter, Nanos(9))]).await.unwrap();
    second.finish_rebuild(org(1)).await.unwrap();
    assert_eq!(balance(&first).await.settled, Nanos(9));
    // The first one does not know yet, and goes on where books are whole.
    let late = [(scope(100).counter, Nanos(8))];
    assert!(first.load(org(1), &late).await.is_err());
    assert!(first.restore_done(org(1), &[AttemptId(Uuid::from_u128(1))]).await.is_err());
    assert!(first.finish_rebuild(org(1)).await.is_err());
    assert_eq!(balance(&first).await.settled, Nanos(9));
}

#[tokio::test]
async fn a_restart_with_all_data_goes_on_and_one_without_is_noticed() {
    let server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let ledger = ledger(&server);
    open(&ledger, org(1)).await;
    assert!(reserves(&ledger, 1, 60).await);
    server.kill();
    server.start_again();
    until_connected(&ledger).await;
    assert!(!reserves(&ledger, 2, 41).await);
    assert!(reserves(&ledger, 2, 40).await);
    server.kill();
    std::fs::remove_dir_all(server.dir().join("appendonlydir")).unwrap();
    server.start_again();
    until_connected(&ledger).await;
    refuses(&ledger).await;
}

/// The first calls after a crash find the old connection dead.
async fn until_connected(ledger: &RedisLedger) {
    while ledger.sweep().await.is_err() {
        tokio::task::yield_now().await;
    }
}

/// A lost tail: the data is put back to an earlier time, as a promoted replica that was behind has it.
async fn gone_back(seen_by_the_late_one: u128) {
    let server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let (ledger, late) = (ledger(&server), ledger(&server));
    open(&ledger, org(1)).await;
    assert!(reserves(&ledger, 1, 10).await && reserves(&late, 2, 10).await);
    let (kept, log) = (server.dir().join("kept"), server.dir().join("appendonlydir"));
    assert!(std::process::Command::new("cp").arg("-r").args([&log, &kept]).status().unwrap().success());
    for n in 0..seen_by_the_late_one {
        assert!(reserves(&ledger, 10 + n, 1).await);
    }
    server.kill();
    std::fs::remove_dir_all(&log).unwrap();
    std::fs::rename(&kept, &log).unwrap();
    server.start_again();
    // Somebody who saw nothing of the tail goes on, past the numbers that the first one saw.
    until_connected(&late).await;
    for n in 0..2 * seen_by_the_late_one {
        assert!(reserves(&late, 100 + n, 1).await);
    }
    until_connected(&ledger).await;
    refuses(&ledger).await;
    refuses(&late).await;
}

#[tokio::test]
async fn a_lost_tail_is_noticed_by_whoever_saw_it() {
    gone_back(4).await;
    gone_back(1).await;
}

#[tokio::test]
async fn full_memory_refuses_reserves_and_lets_settle() {
    let server = Server::start(&["--maxmemory-policy", "noeviction"]);
    let ledger = ledger(&server);
    open(&ledger, org(1)).await;
    assert!(reserves(&ledger, 1, 60).await);
    server.ask(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    let refused = ledger.reserve(&reserve_of(2, 1)).await.unwrap_err().to_string();
    assert!(refused.contains("OOM"), "{refused}");
    let hold = AttemptId(Uuid::from_u128(1));
    assert_eq!(ledger.extend(org(1), &[hold], 1, 60_000, Nanos::ZERO).await.unwrap().len(), 1);
    assert!(ledger.settle(org(1), hold, Nanos(50)).await.is_ok());
    assert!(ledger.sweep().await.is_ok());
    assert_eq!(balance(&ledger).await, Balance { limit: Nanos(100), settled: Nanos(50), held: Nanos(0) });
}

#[tokio::test]
async fn a_server_that_does_not_serve_is_as_good_as_not_asked() {
    let server = Server::start(&[]);
    let ledger = ledger(&server);
    open(&ledger, org(1)).await;
    server.ask(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();
    let unavailable = ledger.reserve(&reserve_of(1, 60)).await.unwrap_err();
    assert_eq!(unavailable.silence, Silence::NotAsked, "{unavailable}");
    server.ask(&["REPLICAOF", "NO", "ONE"]).unwrap();
    assert!(reserves(&ledger, 1, 60).await, "nothing was carried out");
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_sent_again() {
    let server = Server::start(&[]);
    let ledger = ledger(&server);
    open(&ledger, org(1)).await;
    assert!(reserves(&ledger, 1, 60).await);
    server.ask(&["SCRIPT", "FLUSH"]).unwrap();
    assert!(!reserves(&ledger, 2, 60).await);
}

#[tokio::test]
async fn a_reserve_and_a_settle_are_one_round_trip_each() {
    let server = Server::start(&[]);
    let ledger = ledger(&server);
    open(&ledger, org(1)).await;
    assert!(reserves(&ledger, 1, 1).await);
    ledger.settle(org(1), AttemptId(Uuid::from_u128(1)), Nanos(1)).await.unwrap();
    let before = (server.calls("evalsha"), server.calls("script|load"));
    for n in 2..12 {
        assert!(reserves(&ledger, n, 1).await);
        ledger.settle(org(1), AttemptId(Uuid::from_u128(n)), Nanos(1)).await.unwrap();
    }
    assert_eq!((server.calls("evalsha"), server.calls("script|load")), (before.0 + 20, before.1));
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_told_in_time_and_left_alone_for_a_while() {
    let server = Server::start(&[]);
    let clock = Arc::new(ManualClock::at(0));
    let config = RedisConfig { breaker_failures: 3, ..RedisConfig::new(server.url().into()) };
    let patient = ledger(&server);
    open(&patient, org(1)).await;
    let ledger = RedisLedger::new(&config, Arc::clone(&clock) as _).unwrap();
    server.signal("STOP");
    for _ in 0..3 {
        let waited =
            tokio::time::timeout(Duration::from_millis(250), ledger.reserve(&reserve_of(1, 1))).await;
        assert_eq!(waited.expect("an answer in time").unwrap_err().silence, Silence::Unanswered);
    }
    let refused = ledger.reserve(&reserve_of(1, 1)).await.unwrap_err();
    assert!(refused.to_string().contains("asked again soon"), "{refused}");
    assert_eq!(refused.silence, Silence::NotAsked);
    server.signal("CONT");
    assert!(patient.sweep().await.is_ok());
    assert!(ledger.reserve(&reserve_of(1, 1)).await.is_err(), "the breaker is open until its time");
    clock.advance_ms(1_000);
    while ledger.reserve(&reserve_of(1, 1)).await.is_err() {
        clock.advance_ms(1_000);
    }
}

#[tokio::test]
async fn an_address_that_cannot_be_used_is_told_without_its_password() {
    let clock = Arc::new(SystemClock::new());
    for url in ["http://:hunter2@host", "redis://:hunter2@0.0.0.0", "redis-sentinel://:hunter2@host"] {
        let refused = RedisLedger::new(&RedisConfig::new(url.to_owned().into()), clock.clone());
        let told = format!("{:?} {}", refused.as_ref().err(), refused.as_ref().unwrap_err());
        assert!(told.contains("redis://host:port") && !told.contains("hunter2"), "{told}");
    }
    let prefix =
        RedisConfig { prefix: "a{b}".to_owned(), ..RedisConfig::new("redis://host".to_owned().into()) };
    assert!(RedisLedger::new(&prefix, clock).is_err());
}

#[tokio::test]
async fn what_a_lost_reply_held_is_handed_out_again() {
    let server = Server::start(&[]);
    let clock = Arc::new(ManualClock::at(0));
    let on = || RedisLedger::of_tests(&server.config(), clock.clone(), &|script| script).unwrap();
    let (ledger, other) = (on(), on());
    open(&ledger, org(1)).await;
    assert!(reserves(&ledger, 1, 10).await && reserves(&ledger, 2, 10).await);
    clock.advance_ms(60_000);
    // Its caller is gone before it writes the events.
    assert_eq!(ledger.sweep().await.unwrap().len(), 2);
    drop(ledger);
    assert!(other.sweep().await.unwrap().is_empty(), "the first one may still be writing");
    assert!(matches!(
        other.settle(org(1), AttemptId(Uuid::from_u128(2)), Nanos(3)).await.unwrap(),
        SettleOutcome::Lapsed { .. }
    ));
    clock.advance_ms(60_000);
    let again = other.sweep().await.unwrap();
    assert_eq!((again.len(), &again[0].stub[..], again[0].amount), (1, &b"stub"[..], Nanos(10)));
    clock.advance_ms(120_000);
    assert!(other.sweep().await.unwrap().is_empty(), "its caller has asked since, so it has it");
}

#[tokio::test]
async fn a_lapse_whose_stub_nobody_has_is_not_given_up() {
    let server = Server::start(&[]);
    let clock = Arc::new(ManualClock::at(0));
    let on = || RedisLedger::of_tests(&server.config(), clock.clone(), &|script| script).unwrap();
    let last = on();
    open(&last, org(1)).await;
    assert!(reserves(&last, 1, 10).await);
    for wait_ms in [60_000, LAPSE_KEPT_MS] {
        clock.advance_ms(wait_ms);
        // Its caller is gone before it writes the event.
        assert_eq!(on().sweep().await.unwrap().len(), 1);
    }
    clock.advance_ms(60_000);
    assert_eq!(last.sweep().await.unwrap().len(), 1);
    assert!(last.sweep().await.unwrap().is_empty(), "its caller has asked since, so it has it");
    let outcome = last.settle(org(1), AttemptId(Uuid::from_u128(1)), Nanos(3)).await.unwrap();
    assert_eq!(outcome, SettleOutcome::Unknown);
}

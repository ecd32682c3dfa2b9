//! The fault suite at the size of a usual run; `cargo xtask fault` runs it at its full size.

use std::time::Duration;

use nullspend_e2e::fault::{
    budgets, crowd, endings, kills,
    outages::{self, RedisFault},
    windows,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_leaves_and_asks_again_keeps_five_budgets() {
    println!("{}", crowd::on_one_node(80, 150_000).await.figures());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_on_two_nodes_keeps_five_budgets() {
    println!("{}", crowd::on_nodes(2, 60, 100_000).await.figures());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_of_everything_at_any_instant_lose_nothing() {
    println!("{}", kills::of_one_process(3, 1).await.figures());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_of_separate_processes_at_any_instant_lose_nothing() {
    println!("{}", kills::of_separate_processes(6, 2).await.figures());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_hangs_under_load_costs_refusals_and_nothing_else() {
    println!("{}", outages::of_redis(RedisFault::Paused(Duration::from_secs(2)), 1, 3).await.figures());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_dies_under_load_costs_refusals_and_nothing_else() {
    println!("{}", outages::of_redis(RedisFault::Killed, 1, 4).await.figures());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_forgets_everything_under_load_costs_refusals_and_nothing_else() {
    println!("{}", outages::of_redis(RedisFault::Flushed, 2, 5).await.figures());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_slow_under_load_costs_refusals_and_nothing_else() {
    println!("{}", outages::of_redis(RedisFault::Slow(Duration::from_millis(200)), 1, 6).await.figures());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_under_load_costs_nothing() {
    println!("{}", outages::of_postgres(Duration::from_secs(3), 7).await.figures());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn midnight_under_load_gives_a_new_budget_and_takes_nothing_over() {
    println!("{}", windows::midnight_under_load().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_step_back_change_nothing() {
    println!("{}", windows::clocks_step_back().await.figures());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_may_break_at_any_piece() {
    println!("{}", endings::at_every_piece(3).await.figures());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn budgets_and_keys_change_under_load() {
    let (audit, late) = budgets::changed_under_load(2).await;
    println!("{}, accepted until {late:?} after the revocation", audit.figures());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_below_what_is_spent_ends_everything_new() {
    println!("{}", budgets::lowered_below_spend().await.figures());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thresholds_are_told_once_on_several_nodes() {
    let (audit, told) = budgets::thresholds_once(2, 40).await;
    assert_eq!(told, 4, "25, 50, 75 and 90 percent: {audit:?}");
}

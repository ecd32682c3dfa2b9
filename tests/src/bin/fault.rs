//! Runs the fault suite at its full size, one scenario after the other, and prints what each came to.

use std::{future::Future, panic::AssertUnwindSafe, pin::Pin, process::ExitCode, time::Duration};

use futures::FutureExt as _;
use nullspend_core::clock::{Clock as _, SystemClock};
use nullspend_e2e::fault::{
    budgets, crowd,
    disks::{self, Full},
    endings, kills,
    outages::{self, RedisFault},
    windows,
};

type Running = Pin<Box<dyn Future<Output = String>>>;

/// A name, and what runs under it.
struct Scenario(&'static str, fn() -> Running);

const SCENARIOS: [Scenario; 18] = [
    Scenario("500 agents, one node, 5 budgets", || {
        Box::pin(async { crowd::on_one_node(500, 1_000_000).await.figures() })
    }),
    Scenario("500 agents, two nodes, 5 budgets", || {
        Box::pin(async { crowd::on_nodes(2, 500, 1_000_000).await.figures() })
    }),
    Scenario("500 agents, four nodes, 5 budgets", || {
        Box::pin(async { crowd::on_nodes(4, 500, 1_000_000).await.figures() })
    }),
    Scenario("40 kill -9 of the whole", || {
        Box::pin(async { kills::of_one_process(40, 100).await.figures() })
    }),
    Scenario("60 kill -9 of data planes, control plane, both", || {
        Box::pin(async { kills::of_separate_processes(60, 200).await.figures() })
    }),
    Scenario("Redis paused 30 s", || redis(RedisFault::Paused(Duration::from_secs(30)), 1)),
    Scenario("Redis killed 5 times", || redis(RedisFault::Killed, 5)),
    Scenario("Redis flushed 5 times", || redis(RedisFault::Flushed, 5)),
    Scenario("Redis slow, 200 ms each", || redis(RedisFault::Slow(Duration::from_millis(200)), 3)),
    Scenario("PostgreSQL down 60 s", || {
        Box::pin(async { outages::of_postgres(Duration::from_secs(60), 31).await.figures() })
    }),
    Scenario("spool disk full", || Box::pin(async { disks::full(Full::Spool).await.figures() })),
    Scenario("database disk full (SQLite)", || {
        Box::pin(async { disks::full(Full::Database).await.figures() })
    }),
    Scenario("midnight under load, two nodes", || Box::pin(windows::midnight_under_load())),
    Scenario("clocks step back past midnight", || {
        Box::pin(async { windows::clocks_step_back().await.figures() })
    }),
    Scenario("budgets changed 20 times, key revoked", || {
        Box::pin(async {
            let (audit, late) = budgets::changed_under_load(20).await;
            format!("{}; last call accepted {} ms after the revocation", audit.figures(), late.as_millis())
        })
    }),
    Scenario("limit lowered below spend", || {
        Box::pin(async { budgets::lowered_below_spend().await.figures() })
    }),
    Scenario("client leaves and provider resets at every piece", || {
        Box::pin(async { endings::at_every_piece(1).await.figures() })
    }),
    Scenario("thresholds, 4 nodes, 200 agents", || {
        Box::pin(async {
            let (audit, told) = budgets::thresholds_once(4, 200).await;
            format!("{}; {told} thresholds told", audit.figures())
        })
    }),
];

fn redis(fault: RedisFault, times: usize) -> Running {
    Box::pin(async move { outages::of_redis(fault, times, 30).await.figures() })
}

#[tokio::main]
async fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let (clock, mut failed) = (SystemClock::new(), Vec::new());
    println!("| scenario | seconds | figures |\n|---|---|---|");
    for Scenario(name, run) in SCENARIOS {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        let began_ms = clock.now_ms();
        // A scenario fails by panicking, and the others go on.
        let figures = AssertUnwindSafe(run()).catch_unwind().await;
        let seconds = (clock.now_ms() - began_ms) / 1000;
        match figures {
            Ok(figures) => println!("| {name} | {seconds} | {figures} |"),
            Err(_) => {
                println!("| {name} | {seconds} | FAILED, see above |");
                failed.push(name);
            }
        }
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("failed: {failed:?}");
    ExitCode::FAILURE
}

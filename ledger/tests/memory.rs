//! The in-process ledger passes the suite.

use std::sync::Arc;

use nullspend_core::clock::ManualClock;
use nullspend_ledger::{
    MemoryLedger,
    conformance::{World, model},
};

fn world() -> World {
    let clock = Arc::new(ManualClock::at(0));
    World { ledger: Arc::new(MemoryLedger::new(clock.clone())), clock, server: None }
}

nullspend_ledger::conformance!(world(), steps = 500_000);

/// The second half of a million steps, so that two cores share them.
#[tokio::test]
async fn random_commands_of_other_seeds_do_what_the_law_says() {
    for seed in 1_000_000..1_001_000 {
        model::run(&world(), seed, 500).await;
    }
}

//! The in-process ledger passes the suite.

use std::sync::Arc;

use nullspend_core::clock::ManualClock;
use nullspend_ledger::{MemoryLedger, conformance::World};

fn world() -> World {
    let clock = Arc::new(ManualClock::at(0));
    World { ledger: Arc::new(MemoryLedger::new(clock.clone())), clock, server: None }
}

nullspend_ledger::conformance!(world(), steps = 20_000);

//! The ledger in Redis passes the suite.

mod support;

use nullspend_ledger::conformance::World;

async fn world() -> World {
    support::changed_world(&|script| script).await
}

nullspend_ledger::conformance!(world().await, steps = 50_000);

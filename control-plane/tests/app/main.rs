//! The use cases on SQLite and the in-process ledger.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail them")]

mod budgets;
mod drift;
mod events;
mod freezes;
mod keys;
mod price_rows;
mod prices;
mod rebuild;
mod rerate;
mod world;

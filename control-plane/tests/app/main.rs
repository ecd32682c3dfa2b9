//! The use cases on SQLite and the in-process ledger.

mod budgets;
mod events;
mod keys;
mod world;

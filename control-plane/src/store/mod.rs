//! The store: SQLite or PostgreSQL behind one concrete type, each query written once for both.
//!
//! The portable subset: `$n` parameters; ids as bare UUID text; money as BIGINT nano-dollars; times as BIGINT Unix
//! milliseconds; JSON as TEXT that SQL never looks into; every sum cast to BIGINT; `ON CONFLICT` instead of trying
//! and catching, because PostgreSQL aborts a transaction at the first error. Rows are policy when a data plane
//! enforces them; each carries the policy revision of its last change, taken in the same transaction, and is deleted
//! softly, so that deltas can be read.

mod error;
mod model;
mod open;
mod pool;

pub(crate) use error::During;
pub use error::StoreError;
pub use model::{
    BudgetPlace, BudgetRecord, BudgetSettings, Cursor, EventFilter, EventRecord, IdempotencyBegin,
    IdempotencyKey, IngestReport, KeyAuth, KeyHash, KeyRecord, PolicyDelta, PolicyPosition, Source,
};

/// Handle to the database; clones share its connections.
#[derive(Clone, Debug)]
pub struct Store {
    pool: pool::Pool,
}

//! The store: SQLite or PostgreSQL behind one concrete type, each query written once for both.
//!
//! The portable subset: `$n` parameters; ids as bare UUID text; money as BIGINT nano-dollars; times as BIGINT Unix
//! milliseconds; JSON as TEXT that SQL never looks into; every sum cast to BIGINT; `ON CONFLICT` instead of trying
//! and catching, because PostgreSQL aborts a transaction at the first error. Rows are policy when a data plane
//! enforces them; each carries the policy revision of its last change, taken in the same transaction, and is deleted
//! softly, so that deltas can be read.

mod books;
mod budgets;
mod codec;
mod control_planes;
mod error;
mod event_read;
mod event_row;
mod event_write;
mod explain;
mod freezes;
mod idempotency;
mod ingest;
mod keys;
mod model;
mod node;
mod open;
mod orgs;
mod policy;
mod pool;
mod prices;
mod quarantine;
mod rebuilds;
mod record;
mod rerate;
mod sessions;
mod thresholds;
mod trail;

pub use books::{Books, BooksSince, LapsedRecord};
pub use error::StoreError;
pub use event_write::Written;
pub use explain::{BudgetName, EventRevision, Traced};
pub use freezes::{FreezeRecord, Froze};
pub use idempotency::IDEMPOTENCY_KEPT_MS;
pub use ingest::DenialRecord;
pub use keys::Revoked;
pub use model::{
    BudgetPlace, BudgetRecord, Cursor, EventFilter, EventRecord, IdempotencyBegin, IdempotencyKey,
    IngestReport, KeyAuth, KeyHash, KeyRecord, PolicyDelta, PolicyPosition, Source,
};

pub use open::{OpenError, Standing};
pub use orgs::Founding;
pub use prices::{PriceRecord, StoredCatalogue};
pub use quarantine::Retried;
pub use rebuilds::{RebuildRecord, UnderWay};
pub use rerate::RerateFilter;
pub use thresholds::Crossing;

/// Handle to the database; clones share its connections.
#[derive(Clone, Debug)]
pub struct Store {
    pool: pool::Pool,
}

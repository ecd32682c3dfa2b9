//! What is done now and then, without a caller.

use std::{sync::Arc, time::Duration};

use nullspend_core::ledger::SESSION_IDLE_MS;
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    metrics::Metrics,
    store::{IDEMPOTENCY_KEPT_MS, StoreError},
};

/// How often old rows are looked for.
const EVERY: Duration = Duration::from_secs(15 * 60);

/// How long denials are kept for explaining (design §5).
const DENIALS_KEPT_MS: i64 = 7 * 24 * 60 * 60 * 1000;

/// How long idle sessions are kept: longer than they count, since a lapse may be corrected late.
const SESSIONS_KEPT_MS: i64 = 7 * SESSION_IDLE_MS;

/// Rows deleted at once: small, so that SQLite's one writer is never held long.
const CHUNK: i64 = 500;

/// Deletes remembered answers and denials that are too old, and counts what is set aside, until `stop`.
pub(crate) async fn housekeeping(app: Arc<App>, metrics: Arc<Metrics>, stop: CancellationToken) {
    loop {
        if let Err(error) = keep_house(&app, &metrics).await {
            metrics.store_errors.inc();
            tracing::warn!(error = &error as &dyn std::error::Error, "old rows could not be deleted");
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn keep_house(app: &App, metrics: &Metrics) -> Result<(), StoreError> {
    let (store, now_ms) = (app.store(), app.clock().now_ms());
    metrics.quarantined_records.set(store.quarantine_depth().await?);
    while store.purge_idempotency(now_ms - IDEMPOTENCY_KEPT_MS, CHUNK).await? > 0 {}
    while store.purge_sessions(now_ms - SESSIONS_KEPT_MS, CHUNK).await? > 0 {}
    while store.purge_denials(now_ms - DENIALS_KEPT_MS, CHUNK).await? > 0 {}
    store.purge_control_planes().await?;
    Ok(())
}

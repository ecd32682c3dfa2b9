//! What is done for the ledger: its totals are compared with the store's, and lost books of one that outlives this process
//! are made again.

use std::{collections::BTreeMap, time::Duration};

use nullspend_core::{id::OrgId, ledger::CounterKey};

use crate::{
    app::{App, AppError},
    metrics::Metrics,
};

/// How often books are looked at; a delivery makes it at once.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often totals are compared.
const COMPARE_EVERY: Duration = Duration::from_secs(30);
/// How long a cost may be on its way to the ledger or to the store before it is missed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is told that a rebuild waits.
const TELL_EVERY: u32 = 20;

/// Makes lost books again, for ever.
pub(crate) async fn look(app: &App, metrics: &Metrics) {
    let mut looks: u32 = 0;
    loop {
        match app.rebuild_lost().await {
            Ok(looked) => {
                metrics.ledger_rebuilds.inc_by(looked.rebuilt as u64);
                metrics.ledger_waiting.set(i64::try_from(looked.waiting.len()).unwrap_or(i64::MAX));
                for (org, dataplanes) in &looked.waiting {
                    if looks.is_multiple_of(TELL_EVERY) {
                        tracing::warn!(
                            %org,
                            ?dataplanes,
                            "a rebuild of the ledger waits for data planes; one that is gone for good is given up by \
                             `nullspend ledger rebuild --without ID`"
                        );
                    }
                }
                looks = if looked.waiting.is_empty() { 0 } else { looks + 1 };
            }
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "rebuilds of the ledger cannot be read"
                );
            }
        }
        let _ = tokio::time::timeout(LOOK_EVERY, app.something_delivered()).await;
    }
}

/// Tells by how much the ledger and the store differ, for ever.
pub(crate) async fn compare(app: &App, metrics: &Metrics) {
    let mut before = BTreeMap::new();
    loop {
        tokio::time::sleep(COMPARE_EVERY).await;
        match drift(app).await {
            Ok(now) => {
                let lasting: i64 =
                    now.iter().map(|(key, nanos)| lasting(before.get(key).copied(), *nanos)).sum();
                metrics.ledger_drift_nanos.set(lasting);
                if lasting > 0 {
                    tracing::error!(
                        nanos = lasting,
                        "the ledger's totals differ from the store's: `nullspend ledger verify` says where"
                    );
                }
                before = now;
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "the ledger cannot be compared");
            }
        }
    }
}

/// By how much the ledger's settled totals are above the store's, where they differ, in nano-dollars.
async fn drift(app: &App) -> Result<BTreeMap<(OrgId, CounterKey), i64>, AppError> {
    let compared = app.compare_ledger(PATIENCE).await?;
    let drifts = compared.totals.iter().map(|totals| ((totals.org, totals.counter), totals.drift().0));
    Ok(drifts.filter(|(_, nanos)| *nanos != 0).collect())
}

/// The part of a difference that was there at the last look too: what took unusually long is there by now.
fn lasting(before: Option<i64>, now: i64) -> i64 {
    match before {
        Some(before) if before.signum() == now.signum() => before.abs().min(now.abs()),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::lasting;

    #[test]
    fn a_difference_counts_as_far_as_it_lasts() {
        for (before, now, counted) in [
            (None, 5, 0),
            (Some(5), 5, 5),
            (Some(9), 5, 5),
            (Some(5), 9, 5),
            (Some(-5), 5, 0),
            (Some(-5), -7, 5),
        ] {
            assert_eq!(lasting(before, now), counted, "{before:?} {now}");
        }
    }
}

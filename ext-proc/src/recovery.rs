//! What the last run left in the spool: closed, settled and reported before or while this one serves (design §5, Start).

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use nullspend_core::attempt::Measurement;
use nullspend_proto::internal::{self as wire, Closed, SpoolRecord, spool_record::Kind};

use crate::{
    DataPlane, convert, report,
    settle::{Settled, Settlement},
    spool::{self, Replay, SpoolError},
};

/// Between tries to write the spool.
const RETRY: Duration = Duration::from_millis(500);

/// A start that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// Attempts of the last run cannot be closed.
    #[error("close the attempts that the last run left open")]
    Spool(#[source] SpoolError),
    /// The control plane did not take what the spool holds.
    #[error(
        "{depth} records of the last run wait in the spool, and the control plane did not take them within {waited:?}"
    )]
    NotReported {
        /// Records left.
        depth: u64,
        /// How long was waited.
        waited: Duration,
    },
}

impl DataPlane {
    /// Closes what the last run left open and waits until the control plane has stored all of the spool (design §5,
    /// "Start"). Only then may the ledger be loaded from the store.
    ///
    /// # Errors
    /// The spool cannot be written, or the control plane does not take it within `deadline`.
    pub async fn recover(&self, deadline: Duration) -> Result<(), RecoverError> {
        let mut replay = self.take_replay();
        let lapsed = self.close_left_open(&replay)?;
        if report::flush(&self.spool, deadline).await {
            // The ledger is loaded with their costs.
            for closed in replay.unsettled.drain(..).chain(lapsed) {
                let attempt_id = closed.stub.map(|stub| stub.attempt_id).unwrap_or_default();
                let settled = SpoolRecord { kind: Some(Kind::Settled(wire::Settled { attempt_id })) };
                self.spool.append(&settled).map_err(RecoverError::Spool)?;
            }
            return Ok(());
        }
        Err(RecoverError::NotReported { depth: self.spool.depth(), waited: deadline })
    }

    /// Closes what the last run left open, where the ledger outlived it: the events go into the spool now, and the
    /// ledger hears of the costs in the background. Needs no control plane (design law 7).
    ///
    /// # Errors
    /// The spool cannot be written.
    pub fn resume(self: &Arc<Self>) -> Result<(), RecoverError> {
        let mut replay = self.take_replay();
        let lapsed = self.close_left_open(&replay)?;
        let left: Vec<Closed> = replay.unsettled.drain(..).chain(lapsed).collect();
        let (plane, entered) = (Arc::clone(self), self.enter());
        let stop = self.stop_background.clone();
        self.background.spawn(async move {
            // What a stop interrupts is still unsettled for the next start.
            let _ = stop.run_until_cancelled(plane.settle_left(left)).await;
            drop(entered);
        });
        Ok(())
    }

    async fn settle_left(&self, left: Vec<Closed>) {
        for mut closed in left {
            let Some(settlement) = Settlement::read(&closed) else {
                tracing::error!(?closed, "a record of the last run names no attempt and cannot be settled");
                continue;
            };
            if settlement.run(self).await == Settled::AfterLapse {
                // Also where nobody saw the end: what was swept may have held more than was written here.
                closed.revision = 2;
                let record = SpoolRecord { kind: Some(Kind::Closed(closed)) };
                while let Err(cause) = self.spool.append(&record) {
                    tracing::error!(%cause, attempt = %settlement.hold, "a correction cannot be written; it will be tried again");
                    tokio::time::sleep(RETRY).await;
                }
            }
            if let Err(cause) = self.spool.append(&convert::settled(settlement.hold)) {
                tracing::warn!(%cause, attempt = %settlement.hold, "the settled mark could not be written");
            }
        }
    }

    fn take_replay(&self) -> Replay {
        std::mem::take(&mut *self.replay.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes the ends of attempts that nobody saw end.
    fn close_left_open(&self, replay: &Replay) -> Result<Vec<Closed>, RecoverError> {
        let lapsed = spool::recover(replay, &self.spool, self.clock.as_ref()).map_err(RecoverError::Spool)?;
        for closed in &lapsed {
            let unpriced = closed.stub.as_ref().is_some_and(|stub| stub.unpriced);
            self.metrics.event(Measurement::Lapsed, unpriced);
        }
        if !lapsed.is_empty() || replay.torn_bytes > 0 || replay.damaged_places > 0 || replay.missing_seqs > 0
        {
            tracing::warn!(
                lapsed = lapsed.len(),
                torn_bytes = replay.torn_bytes,
                damaged_places = replay.damaged_places,
                missing_seqs = replay.missing_seqs,
                "the last run ended in mid-flight"
            );
        }
        Ok(lapsed)
    }
}

//! What the last run left in the spool: closed, settled and reported before or while this one serves (design §5, Start).

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use nullspend_core::{attempt::Measurement, id::OrgId};
use nullspend_proto::internal::{Closed, SpoolRecord, spool_record::Kind};

use crate::{
    DataPlane, convert, report,
    settle::{Settled, Settlement},
    spool::{self, Replay, SpoolError},
};

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
        let replay = self.take_replay();
        let lapsed = self.close_left_open(&replay)?;
        if report::flush(&self.spool, deadline).await {
            // The ledger is loaded with their costs.
            for settlement in replay.unsettled.iter().chain(&lapsed).filter_map(Settlement::read) {
                self.spool.append(&convert::settled(settlement.hold)).map_err(RecoverError::Spool)?;
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

    /// Organisations side by side: one whose books are lost keeps no other waiting.
    async fn settle_left(&self, left: Vec<Closed>) {
        let mut by_org: HashMap<OrgId, Vec<(Settlement, Closed)>> = HashMap::new();
        for closed in left {
            match Settlement::read(&closed) {
                Some(settlement) => by_org.entry(settlement.org).or_default().push((settlement, closed)),
                None => {
                    tracing::error!(
                        ?closed,
                        "a record of the last run names no attempt and cannot be settled"
                    );
                }
            }
        }
        let settling = by_org.into_values().map(async |left| {
            for (settlement, closed) in left {
                self.settle_one(&settlement, closed).await;
            }
        });
        join_all(settling).await;
    }

    async fn settle_one(&self, settlement: &Settlement, closed: Closed) {
        if settlement.run(self).await == Settled::AfterLapse {
            // Also where nobody saw the end: what was swept may have held more than was written here.
            let record = SpoolRecord { kind: Some(Kind::Closed(Closed { revision: 2, ..closed })) };
            self.write_surely(settlement.hold, record).await;
        }
        self.mark_settled(settlement.hold).await;
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

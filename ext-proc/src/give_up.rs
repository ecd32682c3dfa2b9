//! Reserves whose answer did not come: the ledger may have carried them out, or may yet.

use std::sync::Arc;

use nullspend_core::{
    attempt::{Ending, Measurement},
    id::AttemptId,
    ledger::Reserve,
};
use nullspend_proto::internal::{AttemptStub, Closed, SpoolRecord, spool_record::Kind};
use prost::Message as _;

use crate::{
    DataPlane,
    settle::{Settled, Settlement},
};

impl DataPlane {
    /// Takes a reserve back whose call was refused for want of an answer, for as long as that takes: what is held is
    /// released, and what still arrives holds nothing. A death before that lets the hold lapse.
    pub(crate) fn give_up(self: &Arc<Self>, reserve: Reserve) {
        self.metrics.reserves_given_up.inc();
        let settlement = Settlement::given_up(&reserve);
        self.take_back(settlement, AttemptStub::decode(reserve.stub).unwrap_or_default());
    }

    /// Gives back in the background what a call holds, or held, that did not leave.
    pub(crate) fn take_back(self: &Arc<Self>, settlement: Settlement, stub: AttemptStub) {
        let (plane, entered) = (Arc::clone(self), self.enter());
        tokio::spawn(async move {
            if settlement.take_back(&plane, &stub).await == Settled::AfterLapse {
                // Again, should it have lapsed at the last moment.
                plane.write_correction(settlement.hold, &stub).await;
            }
            if plane.spool.is_unsettled(settlement.hold) {
                plane.mark_settled(settlement.hold).await;
            }
            drop(entered);
        });
    }

    /// Says that a call whose event a sweeper wrote never left.
    pub(crate) async fn write_correction(&self, hold: AttemptId, stub: &AttemptStub) {
        let closed = Closed {
            revision: 2,
            ended_at_ms: self.clock.now_ms().max(stub.started_at_ms),
            measurement: Measurement::Exact.as_str().to_owned(),
            ending: Ending::Unreachable.as_str().to_owned(),
            status_code: 503,
            stub: Some(stub.clone()),
            ..Closed::default()
        };
        self.write_surely(hold, SpoolRecord { kind: Some(Kind::Closed(closed)) }).await;
    }
}

//! Records that must reach the spool however long that takes: nothing is settled before its end is written, and nothing
//! that is settled may be settled again.

use std::time::Duration;

use nullspend_core::id::AttemptId;
use nullspend_proto::internal::{AttemptStub, Closed, SpoolRecord, spool_record::Kind};
use tracing::error;

use crate::{DataPlane, convert, spool::SpoolError};

/// Between tries to write the spool.
const RETRY: Duration = Duration::from_millis(500);

impl DataPlane {
    /// Writes a record about `hold`. A full disk is waited for.
    pub(crate) async fn write_surely(&self, hold: AttemptId, mut record: SpoolRecord) {
        while let Err(cause) = self.spool.append_durably(&record).await {
            self.metrics.spool_refusals.inc();
            // What the record itself makes impossible no repeat will change: the money goes without its decoration.
            if matches!(cause, SpoolError::Record { .. }) && strip_texts(&mut record) {
                error!(%cause, attempt = %hold, "an event does not fit its record; it is written without texts");
                continue;
            }
            error!(%cause, attempt = %hold, "a record cannot be written yet");
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Notes that the ledger knows what `hold` cost. Nobody waits for that to be on the disk.
    pub(crate) async fn mark_settled(&self, hold: AttemptId) {
        let record = convert::settled(hold);
        if self.spool.append(&record).is_err() {
            // Its end may go now, since that can be what frees the disk: a mark without it does no harm.
            self.spool.forget(hold);
            self.write_surely(hold, record).await;
        }
    }
}

/// Takes out of an event what callers and providers may have made long; false when there was nothing.
pub(crate) fn strip_texts(record: &mut SpoolRecord) -> bool {
    let Some(Kind::Closed(closed)) = &mut record.kind else { return false };
    let stub = closed.stub.clone().map(|stub| AttemptStub {
        tags: <_>::default(),
        session_id: None,
        customer: None,
        trail: <_>::default(),
        ..stub
    });
    let plain = Closed {
        stub,
        provider_request_id: None,
        served_model: None,
        stop_reason: None,
        system_tags: <_>::default(),
        cost_detail_json: String::new(),
        ..closed.clone()
    };
    let shorter = plain != *closed;
    *closed = plain;
    shorter
}

//! What becomes of attempts that were in flight when the process died (design §5, "Start").

use nullspend_core::{
    attempt::{Ending, Measurement},
    clock::Clock,
};
use nullspend_proto::internal::{AttemptStub, Breakdown, Closed, SpoolRecord, Tokens, spool_record};

use super::{Replay, Spool, SpoolError};

/// The event of an attempt whose end nobody saw: the whole hold, marked `lapsed`.
#[must_use]
pub fn lapsed(stub: AttemptStub, ended_at_ms: i64) -> Closed {
    Closed {
        revision: 1,
        ended_at_ms: ended_at_ms.max(stub.started_at_ms),
        cost_nanos: stub.held_nanos,
        measurement: Measurement::Lapsed.as_str().to_owned(),
        ending: Ending::Crashed.as_str().to_owned(),
        tokens: Some(Tokens::default()),
        breakdown: Some(Breakdown::default()),
        stub: Some(stub),
        ..Closed::default()
    }
}

/// Closes every attempt of `replay` that was opened and never closed, and returns those ends. Repeating it after
/// another death changes nothing for the ends that were written.
///
/// # Errors
/// Whatever [`Spool::append`] refuses.
pub fn recover(replay: &Replay, spool: &Spool, clock: &dyn Clock) -> Result<Vec<Closed>, SpoolError> {
    let now_ms = clock.now_ms();
    let close = |stub: &AttemptStub| {
        let closed = lapsed(stub.clone(), now_ms);
        spool.append(&SpoolRecord { kind: Some(spool_record::Kind::Closed(closed.clone())) })?;
        Ok(closed)
    };
    replay.unclosed.iter().map(close).collect()
}

//! What is under way, read back for a ledger that lost it.

use std::{fs, io};

use nullspend_proto::internal::AttemptStub;

use super::{
    Spool, SpoolError, frame,
    frame::MAGIC,
    segment::{Segment, failed},
    state::Seen,
};

impl Spool {
    /// The attempts whose cost the ledger has not been told, as far as records were written before the call: open ones
    /// with all they hold, and closed ones that were not settled. Blocking.
    ///
    /// # Errors
    /// Whatever the disk refuses; a record that no longer reads back.
    pub fn unsettled(&self) -> Result<Vec<AttemptStub>, SpoolError> {
        loop {
            let segments: Vec<Segment> = self.shared.state().segments.iter().cloned().collect();
            let Some(seen) = read(&segments)? else { continue };
            // A segment that went meanwhile had its open attempts carried over, behind what was read.
            let oldest = |segment: Option<&Segment>| segment.map(|segment| segment.first_seq);
            if oldest(self.shared.state().segments.front()) == oldest(segments.first()) {
                return Ok(seen.into_unsettled());
            }
        }
    }
}

/// `None` when a segment was deleted meanwhile.
fn read(segments: &[Segment]) -> Result<Option<Seen>, SpoolError> {
    let mut seen = Seen::default();
    for segment in segments {
        let bytes = match fs::read(&segment.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &segment.path)(error)),
        };
        // What is behind is being written.
        let len = usize::try_from(segment.len).unwrap_or(usize::MAX).min(bytes.len());
        let mut at = MAGIC.len();
        while at < len {
            let frame =
                frame::read(&bytes[at..len]).ok_or(SpoolError::Record { what: "does not read back" })?;
            at += frame.len();
            seen.add(frame)?;
        }
    }
    Ok(Some(seen))
}

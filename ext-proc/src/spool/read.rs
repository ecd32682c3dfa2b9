//! Reading records back in order, for the reporter.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::PathBuf, sync::PoisonError};

use bytes::Bytes;
use nullspend_proto::internal::SequencedRecord;

use super::{
    Spool, SpoolError,
    frame::{self, HEADER, Kind, MAGIC, MAX_PAYLOAD},
    segment::failed,
};

/// Bytes read from a segment at once.
const CHUNK: usize = 256 << 10;

/// Where the last read ended, so that the next one need not look for its place.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    segment: u64,
    next_seq: u64,
    offset: u64,
}

/// Records to report, and where to go on.
#[derive(Debug, Default)]
pub struct SpoolBatch {
    /// `Closed` and `Denied` only, in order.
    pub records: Vec<SequencedRecord>,
    /// The number to read from next.
    pub next_seq: u64,
}

impl Spool {
    /// Reads reported records from number `seq` on, at most `max_records` of them and about `max_bytes`. Blocking.
    ///
    /// # Errors
    /// Whatever the disk refuses; a record that no longer reads back.
    pub fn read_from(
        &self,
        seq: u64,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<SpoolBatch, SpoolError> {
        let segments: Vec<(u64, PathBuf, u64)> = {
            let state = self.shared.state();
            let wanted = state.segments.iter().filter(|segment| segment.last_seq >= seq);
            wanted.map(|segment| (segment.first_seq, segment.path.clone(), segment.len)).collect()
        };
        let mut cursor = self.shared.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch = SpoolBatch { records: Vec::new(), next_seq: seq };
        let mut room = max_bytes;
        for (first_seq, path, len) in segments {
            if cursor.segment != first_seq || cursor.next_seq > seq.max(first_seq) {
                *cursor = Cursor { segment: first_seq, next_seq: first_seq, offset: MAGIC.len() as u64 };
            }
            let file = match File::open(&path) {
                Ok(file) => file,
                // Deleted meanwhile, so all of it was acknowledged.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed("open", &path)(error)),
            };
            let whole = read_segment(&file, &path, len, &mut cursor, &mut batch, max_records, &mut room)?;
            if !whole {
                break;
            }
        }
        Ok(batch)
    }
}

/// Reads on in one segment; true when its end was reached.
fn read_segment(
    file: &File,
    path: &std::path::Path,
    len: u64,
    cursor: &mut Cursor,
    batch: &mut SpoolBatch,
    max_records: usize,
    room: &mut usize,
) -> Result<bool, SpoolError> {
    let mut chunk = CHUNK;
    while cursor.offset < len {
        let left = usize::try_from(len - cursor.offset).unwrap_or(usize::MAX);
        let mut buffer = vec![0; left.min(chunk)];
        file.read_exact_at(&mut buffer, cursor.offset).map_err(failed("read", path))?;
        let mut at = 0;
        while let Some(frame) = frame::read(&buffer[at..]) {
            let reported = Kind::of(frame.payload).is_some_and(Kind::is_reported);
            if reported && frame.seq >= batch.next_seq {
                if batch.records.len() >= max_records || (frame.len() > *room && !batch.records.is_empty()) {
                    return Ok(false);
                }
                *room = room.saturating_sub(frame.len());
                // A copy: where few records are reported, each would keep a whole buffer in memory.
                let record = Bytes::copy_from_slice(frame.payload);
                batch.records.push(SequencedRecord { seq: frame.seq, record });
            }
            at += frame.len();
            cursor.offset += frame.len() as u64;
            cursor.next_seq = frame.seq + 1;
            batch.next_seq = batch.next_seq.max(cursor.next_seq);
        }
        // A frame may be longer than the chunk; nothing else may stop before the end.
        if at == 0 {
            let announced = frame::announced_len(&buffer).unwrap_or(MAX_PAYLOAD + HEADER + 1);
            if announced <= buffer.len() || announced > left {
                return Err(SpoolError::Record { what: "does not read back" });
            }
            chunk = announced;
        } else {
            chunk = CHUNK;
        }
    }
    Ok(true)
}

//! Messages that travel as bytes inside others.

use bytes::Bytes;
use prost::{DecodeError, Message as _};

use crate::internal::{SequencedRecord, SpoolRecord, Trail};

impl SequencedRecord {
    /// A record with its number in the spool.
    #[must_use]
    pub fn new(seq: u64, record: &SpoolRecord) -> Self {
        Self { seq, record: record.encode_to_vec().into() }
    }

    /// The record.
    ///
    /// # Errors
    /// The bytes are none.
    pub fn read(&self) -> Result<SpoolRecord, DecodeError> {
        SpoolRecord::decode(self.record.clone())
    }
}

impl Trail {
    /// As stubs and denials carry it.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }
}

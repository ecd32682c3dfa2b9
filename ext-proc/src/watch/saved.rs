//! The last policy on disk: `[u32 crc32 of the rest][i64 heard_ms][WatchResponse as a snapshot]`, little-endian.

use std::{fs, path::Path};

use nullspend_proto::internal::WatchResponse;
use prost::Message as _;

use crate::spool::{SpoolError, write_atomically};

/// Writes the snapshot, readable by the owner only: it holds hashes of keys.
pub(super) fn save(path: &Path, heard_ms: i64, snapshot: &WatchResponse) -> Result<(), SpoolError> {
    let mut bytes = vec![0; 4];
    bytes.extend_from_slice(&heard_ms.to_le_bytes());
    bytes.extend_from_slice(&snapshot.encode_to_vec());
    let crc = crc32fast::hash(&bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    write_atomically(path, &bytes)
}

/// The snapshot and when it was current, if a sound one is there.
pub(super) fn load(path: &Path) -> Option<(i64, WatchResponse)> {
    let bytes = fs::read(path).ok()?;
    let read = || {
        let crc = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
        let heard_ms = i64::from_le_bytes(bytes.get(4..12)?.try_into().ok()?);
        let snapshot = WatchResponse::decode(bytes.get(12..)?).ok()?;
        (crc32fast::hash(&bytes[4..]) == crc).then_some((heard_ms, snapshot))
    };
    let found = read();
    if found.is_none() {
        tracing::error!(path = %path.display(), "the saved policy is damaged: waiting for the control plane instead");
    }
    found
}

//! One record on disk: `[u32 length][u32 crc32][u64 seq][payload]`, little-endian; the length counts the payload,
//! the checksum covers seq and payload. A segment file is [`MAGIC`] and then frames.

/// First bytes of every segment file; the digit is the format's version.
pub(super) const MAGIC: &[u8; 8] = b"NSSPOOL1";
/// Bytes before a payload.
pub(super) const HEADER: usize = 16;
/// The largest payload: bigger lengths are damage, not records.
pub(super) const MAX_PAYLOAD: usize = 4 << 20;

/// What a record is, told from its first byte: the protobuf tag of `SpoolRecord`'s one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Opened,
    Closed,
    Denied,
    Settled,
}

impl Kind {
    /// `None`: a record of a newer version of the product.
    pub(super) fn of(payload: &[u8]) -> Option<Self> {
        match payload.first()? >> 3 {
            1 => Some(Self::Opened),
            2 => Some(Self::Closed),
            3 => Some(Self::Denied),
            4 => Some(Self::Settled),
            _ => None,
        }
    }

    /// Whether the control plane wants it; the others are for ourselves.
    pub(super) fn is_reported(self) -> bool {
        matches!(self, Self::Closed | Self::Denied)
    }
}

/// A frame found in a buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) seq: u64,
    pub(super) payload: &'a [u8],
}

impl Frame<'_> {
    /// Bytes on disk.
    pub(super) fn len(&self) -> usize {
        HEADER + self.payload.len()
    }
}

/// Appends one frame to `out`.
pub(super) fn write(out: &mut Vec<u8>, seq: u64, payload: &[u8]) {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&seq.to_le_bytes());
    crc.update(payload);
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&crc.finalize().to_le_bytes());
    out.extend_from_slice(&seq.to_le_bytes());
    out.extend_from_slice(payload);
}

/// The frame at the start of `bytes`, if a whole and sound one stands there.
pub(super) fn read(bytes: &[u8]) -> Option<Frame<'_>> {
    let length = u32_at(bytes, 0)? as usize;
    if length == 0 || length > MAX_PAYLOAD {
        return None;
    }
    let body = bytes.get(8..HEADER + length)?;
    if crc32fast::hash(body) != u32_at(bytes, 4)? {
        return None;
    }
    let seq = u64::from_le_bytes(body.get(..8)?.try_into().ok()?);
    Some(Frame { seq, payload: &body[8..] })
}

/// How long the frame at the start of `bytes` says it is, whether or not all of it is there.
pub(super) fn announced_len(bytes: &[u8]) -> Option<usize> {
    let length = u32_at(bytes, 0)? as usize;
    (length > 0 && length <= MAX_PAYLOAD).then_some(HEADER + length)
}

/// Offset of the next sound frame after a damaged place, with a seq above `after`.
pub(super) fn resync(bytes: &[u8], after: u64) -> Option<usize> {
    // The cheap look at the seq comes first: a checksum over every byte offset of a large segment takes minutes.
    let plausible = |at: usize| {
        let seq =
            bytes.get(at + 8..at + HEADER).and_then(|seq| Some(u64::from_le_bytes(seq.try_into().ok()?)));
        seq.is_some_and(|seq| seq > after && seq - after < 1 << 40)
    };
    (1..bytes.len()).find(|&at| plausible(at) && read(&bytes[at..]).is_some())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_reads_back_and_any_flipped_bit_or_missing_byte_is_noticed() {
        let mut bytes = Vec::new();
        write(&mut bytes, 7, b"payload");
        let frame = read(&bytes).unwrap();
        assert_eq!((frame.seq, frame.payload, frame.len()), (7, &b"payload"[..], bytes.len()));
        for bit in 0..bytes.len() * 8 {
            let mut broken = bytes.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&broken).is_none(), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut]).is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn resync_finds_the_next_sound_frame() {
        let mut bytes = vec![9; 5];
        write(&mut bytes, 3, b"x");
        assert_eq!(resync(&bytes, 2), Some(5));
        assert_eq!(resync(&bytes, 3), None);
    }
}

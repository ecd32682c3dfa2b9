//! Hashing for maps keyed by our own ids.
//!
//! Budget and attempt ids are UUIDs that we make, so nobody can choose them to collide, and a few multiplications
//! spread them well enough. The standard hasher costs more than the rest of a reserve.

use std::hash::{BuildHasherDefault, Hasher};

/// For `HashMap<Id, _, ById>`.
pub(super) type ById = BuildHasherDefault<IdHasher>;

/// Folds 8 bytes at a time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct IdHasher(u64);

/// A product whose halves are folded together: the upper one depends on the factor's upper bits, the lower one on its
/// lower bits, and maps look at both ends of a hash.
fn mix(word: u64) -> u64 {
    let product = u128::from(word) * 0x9e37_79b9_7f4a_7c15;
    (product as u64) ^ (product >> 64) as u64
}

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = mix(self.0.rotate_left(29) ^ u64::from_le_bytes(word));
        }
    }

    /// Lengths of byte strings: the same for every id.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        mix(self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, hash::BuildHasher};

    use uuid::Uuid;

    use super::*;
    use crate::id::AttemptId;

    /// Maps take a bucket from the lower bits and a tag from the upper seven: both must spread, also for ids that
    /// differ in few bits.
    #[test]
    fn ids_spread() {
        let hash = |n: u128| ById::default().hash_one(AttemptId(Uuid::from_u128(n)));
        for place in [0, 40, 64, 80, 100] {
            let hashes: Vec<u64> = (0..4096).map(|n| hash(n << place)).collect();
            let distinct =
                |bits: fn(u64) -> u64| hashes.iter().map(|h| bits(*h)).collect::<HashSet<_>>().len();
            assert_eq!(distinct(|h| h), 4096, "at bit {place}");
            assert_eq!(distinct(|h| h >> 57), 128, "tags at bit {place}");
            // 4096 random balls fill about 2589 of 4096 buckets.
            assert!(distinct(|h| h & 4095) > 2_300, "{} buckets at bit {place}", distinct(|h| h & 4095));
        }
    }
}

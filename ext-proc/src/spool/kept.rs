//! The records that must outlive their segment: beginnings without an end, and ends that the ledger was not told.

use std::collections::HashMap;

use uuid::Uuid;

/// Where an attempt's record is, and its bytes on disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) seq: u64,
    pub(super) bytes: u64,
}

/// One record for each attempt.
#[derive(Debug, Default)]
pub(super) struct Kept {
    places: HashMap<Uuid, Place>,
    bytes: u64,
}

impl Kept {
    pub(super) fn insert(&mut self, id: Uuid, place: Place) {
        let old = self.places.insert(id, place).map_or(0, |old| old.bytes);
        self.bytes = self.bytes + place.bytes - old;
    }

    pub(super) fn remove(&mut self, id: Uuid) {
        self.bytes -= self.places.remove(&id).map_or(0, |old| old.bytes);
    }

    pub(super) fn contains(&self, id: Uuid) -> bool {
        self.places.contains_key(&id)
    }

    /// Whether this very record is the one to keep.
    pub(super) fn is_at(&self, id: Uuid, seq: u64) -> bool {
        self.places.get(&id).is_some_and(|place| place.seq == seq)
    }

    /// Whether any of them has this number or a lower one.
    pub(super) fn any_up_to(&self, seq: u64) -> bool {
        self.places.values().any(|place| place.seq <= seq)
    }

    pub(super) fn len(&self) -> u64 {
        self.places.len() as u64
    }

    /// Bytes on disk of all of them.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl FromIterator<(Uuid, Place)> for Kept {
    fn from_iter<I: IntoIterator<Item = (Uuid, Place)>>(records: I) -> Self {
        let mut kept = Self::default();
        records.into_iter().for_each(|(id, place)| kept.insert(id, place));
        kept
    }
}

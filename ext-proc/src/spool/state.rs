//! What the spool knows of its files, behind one short mutex.

use std::{
    collections::{HashMap, VecDeque},
    fs::{self, File},
    io::Write as _,
    path::Path,
    sync::Arc,
};

use nullspend_proto::internal::{AttemptStub, Closed, Denied, Opened, Settled, SpoolRecord, spool_record};
use prost::Message as _;
use uuid::Uuid;

use super::{
    Replay, SpoolConfig, SpoolError, SpoolStats,
    frame::{self, Frame, HEADER, Kind, MAX_PAYLOAD},
    kept::{Kept, Place},
    segment::{self, Found, Segment},
};

/// Room kept for the end of each open attempt, beyond the size of its beginning: what a `Closed` adds to the stub,
/// and its `Settled`.
const CLOSING_BYTES: u64 = 2048;
/// What a new attempt must find room for at least: the beginning and the end of a usual one, so that "ready" means that
/// one passes.
const ATTEMPT_BYTES: u64 = 8 << 10;

#[derive(Debug)]
pub(super) struct State {
    /// Oldest first; the last is being written.
    pub(super) segments: VecDeque<Segment>,
    pub(super) active: Arc<File>,
    /// Full segments whose last bytes were not forced to the disk yet.
    pub(super) unsynced: Vec<Arc<File>>,
    /// A segment's name was not forced to the disk yet.
    pub(super) unsynced_name: bool,
    /// Attempts whose end is not written yet.
    pub(super) open: Kept,
    /// Ends whose cost the ledger has not been told.
    pub(super) unsettled: Kept,
    pub(super) bytes: u64,
    pub(super) stop_upkeep: bool,
    pub(super) persisted_ack: u64,
    next_seq: u64,
    unacked: VecDeque<(u64, i64)>,
    last_reported: u64,
    scratch: Vec<u8>,
    stopped: Option<String>,
    /// The disk had no room for the last write, nor since.
    pub(super) disk_full: bool,
    /// Something was refused for the configured maximum, and nothing was freed since.
    at_max: bool,
}

/// Reads the directory back.
pub(super) fn load(dir: &Path) -> Result<(State, Replay), SpoolError> {
    let persisted_ack = read_ack(dir);
    let mut seen = Seen { ack: persisted_ack, ..Seen::default() };
    let (segments, found) = segment::load(dir, persisted_ack, |frame| seen.add(frame))?;
    let mut segments = VecDeque::from(segments);
    let last_seq = segments.back().map_or(0, |segment| segment.last_seq);
    // A power failure may lose records that were reported already: their numbers are not used again.
    let next_seq = last_seq.max(persisted_ack) + 1;
    let goes_on = segments.back().filter(|newest| newest.last_seq + 1 == next_seq);
    let active = match goes_on {
        Some(newest) => segment::reopen(newest)?,
        None => {
            let (segment, file) = segment::create(dir, next_seq)?;
            segments.push_back(segment);
            file
        }
    };
    let state = State {
        bytes: segments.iter().map(|segment| segment.len).sum(),
        segments,
        active: Arc::new(active),
        unsynced: Vec::new(),
        // Also of a segment that goes on: who made it may have died before its name was on the disk.
        unsynced_name: true,
        open: seen.open.iter().map(|(id, (place, _))| (*id, *place)).collect(),
        unsettled: seen.unsettled.iter().map(|(id, (place, _))| (*id, *place)).collect(),
        stop_upkeep: false,
        persisted_ack,
        next_seq,
        unacked: seen.unacked.clone(),
        last_reported: seen.last_reported,
        scratch: Vec::new(),
        stopped: None,
        disk_full: false,
        at_max: false,
    };
    Ok((state, seen.into_replay(next_seq, found)))
}

fn read_ack(dir: &Path) -> u64 {
    // Without it everything is reported again, which changes nothing at the control plane.
    fs::read_to_string(dir.join("acked")).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// What a run of records comes to.
#[derive(Default)]
pub(super) struct Seen {
    ack: u64,
    open: HashMap<Uuid, (Place, AttemptStub)>,
    unsettled: HashMap<Uuid, (Place, Closed)>,
    unacked: VecDeque<(u64, i64)>,
    last_reported: u64,
}

impl Seen {
    pub(super) fn add(&mut self, frame: Frame<'_>) -> Result<(), SpoolError> {
        let record = SpoolRecord::decode(frame.payload)
            .map_err(|_| SpoolError::Record { what: "of this segment is sound but not readable" })?;
        let place = Place { seq: frame.seq, bytes: frame.len() as u64 };
        match record.kind {
            Some(spool_record::Kind::Opened(Opened { stub: Some(stub) })) => {
                self.open.insert(attempt_id(&stub.attempt_id)?, (place, stub));
            }
            // What the ledger has charged needs no settling, and whoever owns the attempt ends it himself.
            Some(spool_record::Kind::Closed(closed)) if closed.swept => {
                self.reported(frame.seq, closed.ended_at_ms);
            }
            Some(spool_record::Kind::Closed(closed)) => {
                self.reported(frame.seq, closed.ended_at_ms);
                let id = attempt_id(closed_id(&closed))?;
                self.open.remove(&id);
                self.unsettled.insert(id, (place, closed));
            }
            Some(spool_record::Kind::Denied(Denied { at_ms, .. })) => self.reported(frame.seq, at_ms),
            Some(spool_record::Kind::Settled(Settled { attempt_id: id })) => {
                self.unsettled.remove(&attempt_id(&id)?);
            }
            Some(spool_record::Kind::Opened(Opened { stub: None })) | None => {}
        }
        Ok(())
    }

    fn reported(&mut self, seq: u64, at_ms: i64) {
        self.last_reported = seq;
        if seq > self.ack {
            self.unacked.push_back((seq, at_ms));
        }
    }

    /// The attempts whose cost the ledger has not been told: open ones, and closed ones that were not settled.
    pub(super) fn into_unsettled(self) -> Vec<AttemptStub> {
        let open = self.open.into_values().map(|(_, stub)| stub);
        open.chain(self.unsettled.into_values().filter_map(|(_, closed)| closed.stub)).collect()
    }

    fn into_replay(self, next_seq: u64, found: Found) -> Replay {
        let mut open: Vec<_> = self.open.into_values().collect();
        open.sort_unstable_by_key(|(place, _)| place.seq);
        let mut unsettled: Vec<_> = self.unsettled.into_values().collect();
        unsettled.sort_unstable_by_key(|(place, _)| place.seq);
        Replay {
            unclosed: open.into_iter().map(|(_, stub)| stub).collect(),
            unsettled: unsettled.into_iter().map(|(_, closed)| closed).collect(),
            next_seq,
            torn_bytes: found.torn_bytes,
            damaged_places: found.damaged_places,
            missing_seqs: found.missing_seqs,
        }
    }
}

pub(super) fn attempt_id(text: &str) -> Result<Uuid, SpoolError> {
    Uuid::try_parse(text).map_err(|_| SpoolError::Record { what: "names no valid attempt id" })
}

pub(super) fn closed_id(closed: &Closed) -> &str {
    closed.stub.as_ref().map_or("", |stub| &stub.attempt_id)
}

/// A record ready to be written: its bytes, and what it changes beside the file.
pub(super) struct Entry {
    payload: Vec<u8>,
    effect: Effect,
}

enum Effect {
    Open(Uuid),
    Close(Uuid, i64),
    Sweep(i64),
    Deny(i64),
    Settle(Uuid),
}

impl Entry {
    pub(super) fn of(record: &SpoolRecord) -> Result<Self, SpoolError> {
        let effect = match &record.kind {
            Some(spool_record::Kind::Opened(Opened { stub: Some(stub) })) => {
                Effect::Open(attempt_id(&stub.attempt_id)?)
            }
            Some(spool_record::Kind::Closed(closed)) if closed.swept => {
                attempt_id(closed_id(closed))?;
                Effect::Sweep(closed.ended_at_ms)
            }
            Some(spool_record::Kind::Closed(closed)) => {
                Effect::Close(attempt_id(closed_id(closed))?, closed.ended_at_ms)
            }
            Some(spool_record::Kind::Denied(denied)) => Effect::Deny(denied.at_ms),
            Some(spool_record::Kind::Settled(settled)) => Effect::Settle(attempt_id(&settled.attempt_id)?),
            Some(spool_record::Kind::Opened(Opened { stub: None })) | None => {
                return Err(SpoolError::Record { what: "is empty" });
            }
        };
        let payload = record.encode_to_vec();
        if payload.len() > MAX_PAYLOAD {
            return Err(SpoolError::Record { what: "is too large" });
        }
        Ok(Self { payload, effect })
    }

    pub(super) fn is_reported(&self) -> bool {
        Kind::of(&self.payload).is_some_and(Kind::is_reported)
    }

    /// Bytes on disk.
    fn bytes(&self) -> u64 {
        (HEADER + self.payload.len()) as u64
    }
}

impl State {
    /// Writes a record and gives it the next number.
    pub(super) fn append(
        &mut self,
        entry: &Entry,
        config: &SpoolConfig,
        dir: &Path,
    ) -> Result<u64, SpoolError> {
        self.check_room(entry, config, dir)?;
        let seq = self.write(&entry.payload, config, dir)?;
        let place = Place { seq, bytes: entry.bytes() };
        match entry.effect {
            Effect::Open(id) => self.open.insert(id, place),
            Effect::Close(id, at_ms) => {
                self.open.remove(id);
                self.unsettled.insert(id, place);
                self.unacked.push_back((seq, at_ms));
            }
            Effect::Sweep(at_ms) | Effect::Deny(at_ms) => self.unacked.push_back((seq, at_ms)),
            Effect::Settle(id) => self.unsettled.remove(id),
        }
        if entry.is_reported() {
            self.last_reported = seq;
        }
        Ok(seq)
    }

    /// Refuses what may be refused, early enough that the end of every open attempt still fits.
    fn check_room(&mut self, entry: &Entry, config: &SpoolConfig, dir: &Path) -> Result<(), SpoolError> {
        let needed = match entry.effect {
            // The end of an attempt repeats its beginning.
            Effect::Open(_) => (2 * entry.bytes() + CLOSING_BYTES).max(ATTEMPT_BYTES),
            Effect::Deny(_) => entry.bytes(),
            Effect::Close(..) | Effect::Sweep(_) | Effect::Settle(_) => return Ok(()),
        };
        if needed <= self.room(config) {
            self.note_room(config);
            return Ok(());
        }
        if self.is_at_max(config) && !std::mem::replace(&mut self.at_max, true) {
            let max_bytes = config.max_bytes;
            tracing::error!(
                max_bytes,
                "the spool is full: nothing new passes until the control plane has taken more of it"
            );
        }
        Err(SpoolError::Full { path: dir.to_owned() })
    }

    /// Bytes below the configured maximum that no open attempt will need.
    fn room(&self, config: &SpoolConfig) -> u64 {
        let kept = self.open.bytes() + self.open.len() * CLOSING_BYTES;
        config.max_bytes.saturating_sub(self.bytes + kept)
    }

    /// Whether the configured maximum lets no new attempt pass.
    pub(super) fn is_at_max(&self, config: &SpoolConfig) -> bool {
        self.room(config) < ATTEMPT_BYTES
    }

    /// The oldest segment is deleted.
    pub(super) fn drop_oldest(&mut self, config: &SpoolConfig) {
        self.bytes -= self.segments.pop_front().map_or(0, |oldest| oldest.len);
        self.note_room(config);
    }

    /// Tells once that there is room again.
    fn note_room(&mut self, config: &SpoolConfig) {
        if self.at_max && !self.is_at_max(config) {
            self.at_max = false;
            tracing::warn!("the spool has room again");
        }
    }

    /// Writes one frame, whole or not at all.
    pub(super) fn write(
        &mut self,
        payload: &[u8],
        config: &SpoolConfig,
        dir: &Path,
    ) -> Result<u64, SpoolError> {
        if let Some(reason) = self.stopped() {
            return Err(SpoolError::Stopped { reason });
        }
        let written = self.go_on(config, dir).and_then(|()| self.write_frame(payload));
        match &written {
            Ok(_) => self.has_room(),
            Err(error @ SpoolError::Full { .. }) if !std::mem::replace(&mut self.disk_full, true) => {
                tracing::error!(%error, "nothing new passes until the disk has room");
            }
            Err(_) => {}
        }
        written
    }

    /// Starts the next segment when the newest is full.
    fn go_on(&mut self, config: &SpoolConfig, dir: &Path) -> Result<(), SpoolError> {
        let full =
            |active: &Segment| active.len >= config.segment_bytes && active.last_seq >= active.first_seq;
        if self.segments.back().is_none_or(full) {
            let (segment, file) = segment::create(dir, self.next_seq)?;
            self.bytes += segment.len;
            self.segments.push_back(segment);
            let full = std::mem::replace(&mut self.active, Arc::new(file));
            self.unsynced.push(full);
            self.unsynced_name = true;
        }
        Ok(())
    }

    fn write_frame(&mut self, payload: &[u8]) -> Result<u64, SpoolError> {
        let seq = self.next_seq;
        let Some(active) = self.segments.back_mut() else {
            return Err(SpoolError::Stopped { reason: "it has no segment".to_owned() });
        };
        self.scratch.clear();
        frame::write(&mut self.scratch, seq, payload);
        if let Err(error) = (&*self.active).write_all(&self.scratch) {
            if let Err(undo) = self.active.set_len(active.len) {
                self.stopped = Some(format!("half a record could not be taken back: {undo}"));
            }
            return Err(SpoolError::from_write(&active.path, error));
        }
        let bytes = self.scratch.len() as u64;
        active.len += bytes;
        active.last_seq = seq;
        self.bytes += bytes;
        self.next_seq += 1;
        Ok(seq)
    }

    /// Something could be written.
    pub(super) fn has_room(&mut self) {
        if std::mem::take(&mut self.disk_full) {
            tracing::warn!("the spool's disk has room again");
        }
    }

    pub(super) fn ack(&mut self, seq: u64) {
        while self.unacked.front().is_some_and(|&(unacked, _)| unacked <= seq) {
            self.unacked.pop_front();
        }
    }

    /// Everything up to here needs no more reporting: our own records count as soon as nothing waits before them.
    pub(super) fn acked(&self) -> u64 {
        self.unacked.front().map_or(self.next_seq, |&(seq, _)| seq) - 1
    }

    pub(super) fn last_seq(&self) -> u64 {
        self.next_seq - 1
    }

    pub(super) fn last_reported(&self) -> u64 {
        self.last_reported
    }

    pub(super) fn stopped(&self) -> Option<String> {
        self.stopped.clone()
    }

    /// No more writes: what is on the disk is unknown.
    pub(super) fn stop(&mut self, reason: String) {
        self.stopped.get_or_insert(reason);
    }

    pub(super) fn stats(&self) -> SpoolStats {
        SpoolStats {
            depth: self.unacked.len() as u64,
            oldest_at_ms: self.unacked.front().map(|&(_, at_ms)| at_ms),
            bytes: self.bytes,
            open_attempts: self.open.len(),
            unsettled: self.unsettled.len(),
        }
    }
}

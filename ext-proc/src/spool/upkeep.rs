//! The spool's own thread: forces records to the disk, persists the acknowledgement, deletes finished segments.

use std::{
    fs::{self, File},
    io,
    sync::{Arc, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use nullspend_proto::internal::{Opened, SpoolRecord, spool_record};
use prost::Message as _;

use super::{
    Fsync, Shared, SpoolError,
    frame::{self, Kind, MAGIC},
    kept::{Kept, Place},
    segment::{Segment, failed, sync_dir, write_atomically},
    state::{State, attempt_id, closed_id},
};

/// Longest time between two rounds.
const IDLE: Duration = Duration::from_millis(500);

/// More than any record that ends an attempt.
const PROBE_BYTES: usize = 64 << 10;

/// How much a round does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// Only what the fsync policy asks for.
    Sync,
    /// Also the acknowledgement and finished segments.
    Full,
}

pub(super) fn start(shared: Arc<Shared>) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("spool".to_owned()).spawn(move || run(&shared))
}

fn run(shared: &Shared) {
    let pause = match shared.config.fsync {
        Fsync::Interval(ms) => Duration::from_millis(ms.max(1)).min(IDLE),
        Fsync::Never | Fsync::Always => IDLE,
    };
    let mut since_full = Duration::ZERO;
    loop {
        let (stop, woken) = {
            let state = shared.state();
            let pending = |state: &mut State| {
                let behind = *shared.synced.borrow() < state.last_seq();
                let sync_now = shared.config.fsync == Fsync::Always && behind && state.stopped().is_none();
                !state.stop_upkeep && !sync_now
            };
            let (state, wait) =
                shared.work.wait_timeout_while(state, pause, pending).unwrap_or_else(PoisonError::into_inner);
            (state.stop_upkeep, !wait.timed_out())
        };
        // A woken round counts as the millisecond an fsync takes, or a busy spool would never get to delete.
        since_full += if woken { Duration::from_millis(1) } else { pause };
        let full = stop || since_full >= IDLE;
        if full {
            since_full = Duration::ZERO;
        }
        if let Err(error) = round(shared, if full { Depth::Full } else { Depth::Sync }) {
            tracing::error!(error = %error, source = ?std::error::Error::source(&error), "spool upkeep failed");
        }
        if stop {
            return;
        }
    }
}

/// One round of upkeep.
pub(super) fn round(shared: &Shared, depth: Depth) -> Result<(), SpoolError> {
    if depth == Depth::Sync && shared.config.fsync == Fsync::Never {
        return Ok(());
    }
    if depth == Depth::Sync || shared.config.fsync != Fsync::Never {
        force(shared)?;
    }
    if depth == Depth::Full {
        look_for_room(shared);
        // A full disk refuses the acknowledgement, and what is acknowledged must go for it to have room again: without
        // it the next start reports some records twice, which changes nothing.
        let persisted = persist_ack(shared);
        while drop_oldest(shared)? {}
        persisted?;
    }
    Ok(())
}

/// Forces everything written so far to the disk.
fn force(shared: &Shared) -> Result<(), SpoolError> {
    let (files, name, last_seq) = {
        let mut state = shared.state();
        let mut files = std::mem::take(&mut state.unsynced);
        if *shared.synced.borrow() < state.last_seq() {
            files.push(Arc::clone(&state.active));
        }
        (files, std::mem::take(&mut state.unsynced_name), state.last_seq())
    };
    let named = if name { shared.names.sync_all() } else { Ok(()) };
    let forced = named.and_then(|()| files.iter().try_for_each(|file: &Arc<File>| file.sync_data()));
    if let Err(source) = forced {
        // After a failed fsync the kernel may drop the pages and report success next time: trust nothing.
        shared.state().stop(format!("fsync failed: {source}"));
        shared.synced.send_replace(last_seq);
        return Err(SpoolError::Io { what: "force to the disk", path: shared.dir.clone(), source });
    }
    if *shared.synced.borrow() < last_seq {
        shared.synced.send_replace(last_seq);
    }
    Ok(())
}

fn persist_ack(shared: &Shared) -> Result<(), SpoolError> {
    let acked = {
        let state = shared.state();
        if state.acked() == state.persisted_ack {
            return Ok(());
        }
        state.acked()
    };
    write_atomically(&shared.dir.join("acked"), format!("{acked}\n").as_bytes())?;
    shared.state().persisted_ack = acked;
    Ok(())
}

/// Tries whether a full disk takes anything again: a data plane that is not ready gets no calls that would show it.
fn look_for_room(shared: &Shared) {
    if !shared.state().disk_full {
        return;
    }
    let probe = shared.dir.join("room");
    let written = fs::write(&probe, [0; PROBE_BYTES]);
    // Left behind it would only be written over.
    let _ = fs::remove_file(&probe);
    if written.is_ok() {
        shared.state().has_room();
    }
}

/// Deletes the oldest segment if it is full and everything in it is acknowledged, after carrying over what must be kept
/// of it. True when one was deleted.
fn drop_oldest(shared: &Shared) -> Result<bool, SpoolError> {
    let (oldest, keeps) = {
        let state = shared.state();
        let Some(oldest) = state.segments.front() else { return Ok(false) };
        if state.segments.len() < 2 || oldest.last_seq > state.acked() {
            return Ok(false);
        }
        let keeps = state.open.any_up_to(oldest.last_seq) || state.unsettled.any_up_to(oldest.last_seq);
        let kept_bytes = state.open.bytes() + state.unsettled.bytes();
        // Carrying is worth it only while at least half of the bytes are waste: otherwise long streams would be
        // copied round and round.
        if keeps && state.bytes < 2 * (kept_bytes + shared.config.segment_bytes) {
            return Ok(false);
        }
        (oldest.clone(), keeps)
    };
    if keeps {
        carry_over(shared, &oldest)?;
    }
    // What was carried, and the ends of what was not, must not be lost together with the segment.
    force(shared)?;
    fs::remove_file(&oldest.path).map_err(failed("delete", &oldest.path))?;
    shared.state().drop_oldest(&shared.config);
    sync_dir(&shared.dir)?;
    Ok(true)
}

/// Appends to the newest segment what `segment` has of attempts that are still open, or whose cost the ledger was not
/// told. An end so carried was reported: it is not waited for again, and being reported twice changes nothing.
fn carry_over(shared: &Shared, segment: &Segment) -> Result<(), SpoolError> {
    let bytes = fs::read(&segment.path).map_err(failed("read", &segment.path))?;
    let mut at = MAGIC.len();
    while let Some(found) = bytes.get(at..).and_then(frame::read) {
        at += found.len();
        if !matches!(Kind::of(found.payload), Some(Kind::Opened | Kind::Closed)) {
            continue;
        }
        let Ok(record) = SpoolRecord::decode(found.payload) else { continue };
        let (id, kept): (_, fn(&mut State) -> &mut Kept) = match &record.kind {
            Some(spool_record::Kind::Opened(Opened { stub: Some(stub) })) => {
                (attempt_id(&stub.attempt_id)?, |state| &mut state.open)
            }
            Some(spool_record::Kind::Closed(closed)) => {
                (attempt_id(closed_id(closed))?, |state| &mut state.unsettled)
            }
            _ => continue,
        };
        let mut state = shared.state();
        // Looked up under the same lock that appends what follows: a closed attempt is never opened again, a settled one
        // never unsettled.
        if kept(&mut state).is_at(id, found.seq) {
            let seq = state.write(found.payload, &shared.config, &shared.dir)?;
            kept(&mut state).insert(id, Place { seq, bytes: found.len() as u64 });
        }
    }
    Ok(())
}

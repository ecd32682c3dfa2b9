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
    segment::{Segment, failed, sync_dir, write_atomically},
    state::{OpenAttempt, State, attempt_id},
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
        persist_ack(shared)?;
        while drop_oldest(shared)? {}
    }
    Ok(())
}

/// Forces everything written so far to the disk.
fn force(shared: &Shared) -> Result<(), SpoolError> {
    let (files, last_seq) = {
        let mut state = shared.state();
        let mut files = std::mem::take(&mut state.unsynced);
        if *shared.synced.borrow() < state.last_seq() {
            files.push(Arc::clone(&state.active));
        }
        (files, state.last_seq())
    };
    let forced = files.iter().try_for_each(|file: &Arc<File>| file.sync_data());
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

/// Deletes the oldest segment if it is full and everything in it is acknowledged, after carrying its open attempts
/// over. True when one was deleted.
fn drop_oldest(shared: &Shared) -> Result<bool, SpoolError> {
    let (oldest, has_open) = {
        let state = shared.state();
        let Some(oldest) = state.segments.front() else { return Ok(false) };
        if state.segments.len() < 2 || oldest.last_seq > state.persisted_ack {
            return Ok(false);
        }
        // The next start must tell the ledger what this one could not.
        if state.unsettled.values().any(|seq| *seq <= oldest.last_seq) {
            return Ok(false);
        }
        let in_oldest = |open: &OpenAttempt| open.seq <= oldest.last_seq;
        let has_open = state.open.values().any(in_oldest);
        // Carrying is worth it only while at least half of the bytes are waste: otherwise long streams would be
        // copied round and round.
        if has_open && state.bytes < 2 * (state.open_bytes + shared.config.segment_bytes) {
            return Ok(false);
        }
        (oldest.clone(), has_open)
    };
    if has_open {
        carry_over(shared, &oldest)?;
    }
    // What was carried, and the ends of what was not, must not be lost together with the segment.
    force(shared)?;
    fs::remove_file(&oldest.path).map_err(failed("delete", &oldest.path))?;
    let mut state = shared.state();
    state.segments.pop_front();
    state.bytes -= oldest.len;
    drop(state);
    sync_dir(&shared.dir)?;
    Ok(true)
}

/// Appends the still open attempts of `segment` to the newest one.
fn carry_over(shared: &Shared, segment: &Segment) -> Result<(), SpoolError> {
    let bytes = fs::read(&segment.path).map_err(failed("read", &segment.path))?;
    let mut at = MAGIC.len();
    while let Some(found) = bytes.get(at..).and_then(frame::read) {
        at += found.len();
        if Kind::of(found.payload) != Some(Kind::Opened) {
            continue;
        }
        let record = SpoolRecord::decode(found.payload);
        let Ok(Some(spool_record::Kind::Opened(Opened { stub: Some(stub) }))) = record.map(|r| r.kind) else {
            continue;
        };
        let id = attempt_id(&stub.attempt_id)?;
        let mut state = shared.state();
        // Looked up under the same lock that appends its end: a closed attempt is never opened again.
        if state.open.get(&id).is_some_and(|open| open.seq == found.seq) {
            let seq = state.write(found.payload, &shared.config, &shared.dir)?;
            if let Some(open) = state.open.get_mut(&id) {
                open.seq = seq;
            }
        }
    }
    Ok(())
}

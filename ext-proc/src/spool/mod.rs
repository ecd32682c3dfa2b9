//! The spool: what the data plane must not forget, on its own disk (design §5, "Durable order").
//!
//! Every attempt is `Opened` here before Envoy may forward it and `Closed` here before the ledger settles it.
//! `Closed` and `Denied` records wait until the control plane has acknowledged them. Segments are deleted from the
//! oldest on, once all their records are acknowledged; attempts still open, and ends that the ledger was not told, are
//! carried over to the newest segment first. So a record of an attempt's end never goes before the record of its beginning.

mod frame;
mod kept;
mod read;
mod recover;
mod segment;
mod state;
mod unsettled;
mod upkeep;

#[cfg(test)]
mod tests;

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use nullspend_core::id::{AttemptId, Ids};
use nullspend_proto::internal::{AttemptStub, Closed, SpoolRecord};
use tokio::sync::watch;

pub use read::SpoolBatch;
pub use recover::{lapsed, recover};
pub(crate) use segment::write_atomically;
use state::{Entry, State};

/// When written records are forced to the disk. A process that dies loses nothing under any policy; a machine that
/// loses power loses what was not forced yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Left to the operating system.
    Never,
    /// At least this often, in milliseconds.
    Interval(u64),
    /// [`Spool::append_durably`] waits for it; concurrent appends share one.
    Always,
}

/// How a spool uses its disk.
#[derive(Clone, Debug)]
pub struct SpoolConfig {
    /// A segment that reaches this many bytes is followed by a new one.
    pub segment_bytes: u64,
    /// Bytes of all segments at which new attempts and denials are refused. Ends of open attempts are not.
    pub max_bytes: u64,
    /// When records are forced to the disk.
    pub fsync: Fsync,
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self { segment_bytes: 8 << 20, max_bytes: 1 << 30, fsync: Fsync::Interval(50) }
    }
}

/// Why the spool cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// No room: the configured maximum is reached or the disk is full. Nothing was written.
    #[error("the spool is full ({path}): free disk space, raise its maximum, or let the control plane catch up", path = .path.display())]
    Full {
        /// The spool's directory or segment.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {what} {path}", path = .path.display())]
    Io {
        /// The operation.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// Another process has the directory open.
    #[error("the spool {path} is in use by another process: stop it, or give this one a directory of its own", path = .path.display())]
    InUse {
        /// The spool's directory.
        path: PathBuf,
    },
    /// Written by a newer version of the product.
    #[error("{path} was written by a newer version: start that version, or let it drain the spool first", path = .path.display())]
    NewerFormat {
        /// The segment.
        path: PathBuf,
    },
    /// A record that cannot be written or read back: empty, too large, or without a valid attempt id.
    #[error("spool record {what}")]
    Record {
        /// What is wrong with it.
        what: &'static str,
    },
    /// An earlier write could not be undone or forced to the disk: what the files hold is no longer known.
    #[error("the spool stopped after an earlier disk failure ({reason}): restart once the disk works again")]
    Stopped {
        /// The earlier failure.
        reason: String,
    },
}

impl SpoolError {
    fn from_write(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path },
            _ => Self::Io { what: "write", path, source },
        }
    }
}

/// What a spool held when it was opened.
#[derive(Debug, Default)]
pub struct Replay {
    /// Attempts that were opened and never closed: the process died with them. See [`recover`].
    pub unclosed: Vec<AttemptStub>,
    /// Ends whose cost may not have reached the ledger. Settling is idempotent.
    pub unsettled: Vec<Closed>,
    /// The number the next record gets.
    pub next_seq: u64,
    /// Bytes of a half-written record that were cut off the tail.
    pub torn_bytes: u64,
    /// Damaged places that were skipped; the files are kept aside as `*.corrupt`.
    pub damaged_places: u64,
    /// Numbers missing between segments: a file was taken away.
    pub missing_seqs: u64,
}

/// What waits in the spool, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpoolStats {
    /// Records the control plane has not acknowledged.
    pub depth: u64,
    /// Unix milliseconds of the oldest of them.
    pub oldest_at_ms: Option<i64>,
    /// Bytes of all segments.
    pub bytes: u64,
    /// Attempts opened and not closed.
    pub open_attempts: u64,
    /// Attempts closed whose cost the ledger has not been told.
    pub unsettled: u64,
}

/// An append-only log in a directory of its own. Cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct Spool {
    shared: Arc<Shared>,
    upkeep: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    /// The directory itself, to force the names of new segments: open, so that it cannot fail for want of descriptors.
    names: File,
    config: SpoolConfig,
    dataplane_id: String,
    state: Mutex<State>,
    /// Woken for [`upkeep`]: something to force, persist or delete.
    work: std::sync::Condvar,
    reported: watch::Sender<u64>,
    acked: watch::Sender<u64>,
    synced: watch::Sender<u64>,
    cursor: Mutex<read::Cursor>,
    /// Held locked for as long as the spool is open.
    _lock: File,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spool {
    /// Opens (or creates) the spool in `dir` and reads back what it holds. Blocking.
    ///
    /// # Errors
    /// [`SpoolError::InUse`] when another process has it, and whatever the disk refuses.
    pub fn open(dir: &Path, config: SpoolConfig, ids: &dyn Ids) -> Result<(Arc<Self>, Replay), SpoolError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(segment::failed("create", dir))?;
        let lock = lock(dir)?;
        let dataplane_id = dataplane_id(dir, ids)?;
        let (state, replay) = state::load(dir)?;
        let (last, acked) = (state.last_reported(), state.acked());
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            names: File::open(dir).map_err(segment::failed("open", dir))?,
            config,
            dataplane_id,
            reported: watch::Sender::new(last),
            acked: watch::Sender::new(acked),
            synced: watch::Sender::new(state.last_seq()),
            state: Mutex::new(state),
            work: std::sync::Condvar::new(),
            cursor: Mutex::default(),
            _lock: lock,
        });
        let upkeep = upkeep::start(Arc::clone(&shared)).map_err(segment::failed("start upkeep of", dir))?;
        Ok((Arc::new(Self { shared, upkeep: Some(upkeep) }), replay))
    }

    /// Who this data plane is, across restarts: a UUID kept in the directory.
    #[must_use]
    pub fn dataplane_id(&self) -> &str {
        &self.shared.dataplane_id
    }

    /// The directory, which also holds the last policy snapshot.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// Appends a record and returns its number once the operating system has it: a death of the process no longer
    /// loses it.
    ///
    /// # Errors
    /// [`SpoolError::Full`] for `Opened` and `Denied` when the maximum is reached, for any record when the disk is
    /// full; nothing was written then.
    pub fn append(&self, record: &SpoolRecord) -> Result<u64, SpoolError> {
        let entry = Entry::of(record)?;
        let seq = self.shared.state().append(&entry, &self.shared.config, &self.shared.dir)?;
        if entry.is_reported() {
            raise(&self.shared.reported, seq);
        }
        if self.shared.config.fsync == Fsync::Always {
            self.shared.work.notify_one();
        }
        Ok(seq)
    }

    /// Like [`Spool::append`], and under [`Fsync::Always`] waits until the record is on the disk.
    ///
    /// # Errors
    /// As [`Spool::append`]; [`SpoolError::Stopped`] when forcing it to the disk failed.
    pub async fn append_durably(&self, record: &SpoolRecord) -> Result<u64, SpoolError> {
        let seq = self.append(record)?;
        if self.shared.config.fsync == Fsync::Always {
            let mut synced = self.shared.synced.subscribe();
            // The sender lives in `shared`, so waiting can only end with the value.
            let _ = synced.wait_for(|&synced| synced >= seq).await;
            if let Some(reason) = self.shared.state().stopped() {
                return Err(SpoolError::Stopped { reason });
            }
        }
        Ok(seq)
    }

    /// Whether an end of the attempt is written whose cost the ledger may not have been told.
    #[must_use]
    pub fn is_unsettled(&self, attempt: AttemptId) -> bool {
        self.shared.state().unsettled.contains(attempt.0)
    }

    /// The ledger has been told an attempt's cost, and no mark can be written yet: its record may go all the same.
    pub fn forget(&self, attempt: AttemptId) {
        self.shared.state().unsettled.remove(attempt.0);
    }

    /// Marks every reported record up to `seq` as durable at the control plane.
    pub fn ack(&self, seq: u64) {
        let acked = {
            let mut state = self.shared.state();
            state.ack(seq);
            state.acked()
        };
        raise(&self.shared.acked, acked);
    }

    /// The number of the newest record the control plane should get; changes wake the receiver.
    #[must_use]
    pub fn reported(&self) -> watch::Receiver<u64> {
        self.shared.reported.subscribe()
    }

    /// Everything up to this number needs no more reporting; changes wake the receiver.
    #[must_use]
    pub fn acked(&self) -> watch::Receiver<u64> {
        self.shared.acked.subscribe()
    }

    /// Waits until everything appended so far is acknowledged. A reporter must be running.
    pub async fn drained(&self) {
        let target = *self.shared.reported.borrow();
        let mut acked = self.acked();
        let _ = acked.wait_for(|&acked| acked >= target).await;
    }

    /// Records the control plane has not acknowledged.
    #[must_use]
    pub fn depth(&self) -> u64 {
        self.stats().depth
    }

    /// Age of the oldest unacknowledged record, 0 when there is none.
    #[must_use]
    pub fn oldest_age_ms(&self, now_ms: i64) -> i64 {
        self.stats().oldest_at_ms.map_or(0, |at| now_ms.saturating_sub(at).max(0))
    }

    /// Why a new attempt could not be recorded now; `None` when it could.
    #[must_use]
    pub fn refuses(&self) -> Option<String> {
        let state = self.shared.state();
        if let Some(reason) = state.stopped() {
            return Some(SpoolError::Stopped { reason }.to_string());
        }
        let full = state.disk_full || state.is_at_max(&self.shared.config);
        full.then(|| SpoolError::Full { path: self.shared.dir.clone() }.to_string())
    }

    /// What waits, for metrics.
    #[must_use]
    pub fn stats(&self) -> SpoolStats {
        self.shared.state().stats()
    }

    /// Forces everything to the disk, persists the acknowledgement and deletes what is done with. Blocking; the
    /// upkeep thread does the same by itself.
    ///
    /// # Errors
    /// Whatever the disk refuses.
    pub fn tidy(&self) -> Result<(), SpoolError> {
        upkeep::round(&self.shared, upkeep::Depth::Full)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.shared.state().stop_upkeep = true;
        self.shared.work.notify_one();
        if let Some(upkeep) = self.upkeep.take() {
            // It ends after one last round; a panic in it was already reported by the runtime's hook.
            let _ = upkeep.join();
        }
    }
}

fn lock(dir: &Path) -> Result<File, SpoolError> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(segment::failed("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(SpoolError::InUse { path: dir.to_owned() }),
        Err(fs::TryLockError::Error(source)) => Err(SpoolError::Io { what: "lock", path, source }),
    }
}

fn dataplane_id(dir: &Path, ids: &dyn Ids) -> Result<String, SpoolError> {
    let path = dir.join("dataplane_id");
    match fs::read_to_string(&path) {
        Ok(text) if uuid::Uuid::try_parse(text.trim()).is_ok() => Ok(text.trim().to_owned()),
        Ok(_) => Err(SpoolError::Io {
            what: "understand",
            path,
            source: io::Error::new(io::ErrorKind::InvalidData, "not a UUID"),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = ids.v4().hyphenated().to_string();
            write_atomically(&path, format!("{id}\n").as_bytes())?;
            Ok(id)
        }
        Err(source) => Err(SpoolError::Io { what: "read", path, source }),
    }
}

/// Publishes a number that only grows, whatever order its writers come in.
fn raise(published: &watch::Sender<u64>, value: u64) {
    published.send_if_modified(|current| {
        let grows = value > *current;
        *current = (*current).max(value);
        grows
    });
}

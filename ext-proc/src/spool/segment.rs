//! Segment files: naming, creating, and reading them back after any kind of death.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::{
    SpoolError,
    frame::{self, Frame, MAGIC},
};

/// A segment file known to the spool.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// The seq its first record has or will have; also its name.
    pub(super) first_seq: u64,
    /// The seq of its last record; `first_seq - 1` while empty.
    pub(super) last_seq: u64,
    pub(super) path: PathBuf,
    /// Bytes written and sound.
    pub(super) len: u64,
}

/// What reading a directory's segments brought to light besides records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) torn_bytes: u64,
    pub(super) damaged_places: u64,
    pub(super) missing_seqs: u64,
}

/// Maps an I/O failure to the error of an operation on `path`.
pub(super) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    let path = path.to_owned();
    move |source| SpoolError::Io { what, path, source }
}

/// Makes a rename, creation or deletion in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), SpoolError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("make durable", dir))
}

/// Replaces `path` by `bytes` so that a reader finds the old or the new content, whatever happens.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), SpoolError> {
    let next = path.with_extension("tmp");
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&next, path)
    };
    write().map_err(failed("write", path))?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Starts an empty segment whose first record will be `first_seq`. Its name is not on the disk before [`sync_dir`].
pub(super) fn create(dir: &Path, first_seq: u64) -> Result<(Segment, File), SpoolError> {
    let path = dir.join(format!("{first_seq:020}.seg"));
    // What an earlier try left behind has no record: its first number was not given yet.
    let _ = fs::remove_file(&path);
    let start = || {
        let mut file = OpenOptions::new().append(true).read(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(MAGIC)?;
        Ok(file)
    };
    let file = start().map_err(|source| SpoolError::from_write(&path, source))?;
    let len = MAGIC.len() as u64;
    Ok((Segment { first_seq, last_seq: first_seq - 1, path, len }, file))
}

/// Reopens the newest segment for appending.
pub(super) fn reopen(segment: &Segment) -> Result<File, SpoolError> {
    OpenOptions::new().append(true).read(true).open(&segment.path).map_err(failed("open", &segment.path))
}

/// Reads every segment of `dir`, oldest first, handing each sound record to `visit`.
///
/// A tail that a death left half-written is cut off. Damage with sound records after it is skipped, and the
/// file as it was is kept beside as `*.corrupt`. Both are counted in [`Found`], like numbers above `acked` that no
/// file holds.
pub(super) fn load(
    dir: &Path,
    acked: u64,
    mut visit: impl FnMut(Frame<'_>) -> Result<(), SpoolError>,
) -> Result<(Vec<Segment>, Found), SpoolError> {
    let mut names: Vec<(u64, PathBuf)> = fs::read_dir(dir)
        .map_err(failed("list", dir))?
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            (path.extension()? == "seg").then_some(())?;
            Some((path.file_stem()?.to_str()?.parse().ok()?, path))
        })
        .collect();
    names.sort_unstable();
    let (mut segments, mut found) = (Vec::<Segment>::new(), Found::default());
    let count = names.len();
    for (index, (first_seq, path)) in names.into_iter().enumerate() {
        if let Some(before) = segments.last() {
            found.missing_seqs += first_seq.saturating_sub(before.last_seq.max(acked) + 1);
        }
        segments.push(load_one(first_seq, path, index + 1 == count, &mut found, &mut visit)?);
    }
    Ok((segments, found))
}

fn load_one(
    first_seq: u64,
    path: PathBuf,
    newest: bool,
    found: &mut Found,
    visit: &mut impl FnMut(Frame<'_>) -> Result<(), SpoolError>,
) -> Result<Segment, SpoolError> {
    let bytes = fs::read(&path).map_err(failed("read", &path))?;
    let mut last_seq = first_seq - 1;
    let mut sound = MAGIC.to_vec();
    let (mut at, mut damaged, mut torn) = (MAGIC.len(), false, 0);
    if !bytes.starts_with(MAGIC) {
        if bytes.len() >= MAGIC.len() && bytes.starts_with(&MAGIC[..7]) {
            return Err(SpoolError::NewerFormat { path });
        }
        (at, damaged) = (0, bytes.len() > MAGIC.len());
    }
    while at < bytes.len() {
        let rest = &bytes[at..];
        if let Some(frame) = frame::read(rest).filter(|frame| frame.seq > last_seq) {
            visit(frame)?;
            sound.extend_from_slice(&rest[..frame.len()]);
            last_seq = frame.seq;
            at += frame.len();
        } else if let Some(next) = frame::resync(rest, last_seq) {
            damaged = true;
            found.damaged_places += 1;
            at += next;
        } else {
            torn = rest.len() as u64;
            break;
        }
    }
    // Only the newest segment was being written when the process died: a short tail elsewhere is damage.
    if torn > 0 && !newest {
        damaged = true;
        found.damaged_places += 1;
    } else {
        found.torn_bytes += torn;
    }
    if damaged {
        let kept = path.with_extension("corrupt");
        tracing::error!(segment = %path.display(), kept = %kept.display(), "spool segment is damaged: kept aside, sound records go on");
        write_atomically(&kept, &bytes)?;
    }
    if sound != bytes {
        write_atomically(&path, &sound)?;
    }
    Ok(Segment { first_seq, last_seq, path, len: sound.len() as u64 })
}

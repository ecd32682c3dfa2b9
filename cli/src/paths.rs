//! Where everything of one data directory lies, and the lock that makes it one process's.

use std::{
    collections::hash_map::DefaultHasher,
    env,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    hash::{Hash as _, Hasher as _},
    io::{self, Read as _, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

/// Longest path a unix socket may have on Linux, without the closing zero.
const LONGEST_SOCKET_PATH: usize = 107;
const LONGEST_SOCKET_NAME: &str = "control-plane-admin.sock";

/// A data directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Something in it cannot be made or read.
    #[error("cannot use {}; choose a directory this user may write with NULLSPEND_DATA_DIR", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process has it.
    #[error(
        "{} is in use by another nullspend{holder}; stop that one, or give this one a data directory of its own with \
         NULLSPEND_DATA_DIR",
        data_dir.display()
    )]
    InUse {
        /// The directory.
        data_dir: PathBuf,
        /// ` (pid N)` if known.
        holder: String,
    },
    /// The directory for sockets is somebody else's.
    #[error("{} must be a directory that only this user can enter; remove it or set XDG_RUNTIME_DIR", path.display())]
    Sockets {
        /// The directory.
        path: PathBuf,
    },
}

/// The files of one data directory.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The directory itself, absolute.
    pub data_dir: PathBuf,
    sockets: PathBuf,
}

impl Paths {
    /// Makes the directories that are missing, closed to other users.
    ///
    /// # Errors
    /// They cannot be made, or the sockets' one belongs to somebody else.
    pub fn prepare(data_dir: &Path) -> Result<Self, DataDirError> {
        let run = data_dir.join("run");
        for dir in [data_dir, &run, &data_dir.join("log"), &data_dir.join("spool")] {
            make_private(dir)?;
        }
        let fits = run.join(LONGEST_SOCKET_NAME).as_os_str().len() <= LONGEST_SOCKET_PATH;
        let sockets = if fits { run } else { short_directory(data_dir)? };
        Ok(Self { data_dir: data_dir.to_owned(), sockets })
    }

    /// SQLite's file.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.data_dir.join("nullspend.db")
    }

    /// The data plane's spool.
    #[must_use]
    pub fn spool(&self) -> PathBuf {
        self.data_dir.join("spool")
    }

    /// Envoy's access log.
    #[must_use]
    pub fn access_log(&self) -> PathBuf {
        self.data_dir.join("log/access.log")
    }

    /// Envoy's configuration.
    #[must_use]
    pub fn envoy_config(&self) -> PathBuf {
        self.data_dir.join("run/envoy.yaml")
    }

    /// Envoy's process id while it runs.
    #[must_use]
    pub fn envoy_pid(&self) -> PathBuf {
        self.data_dir.join("run/envoy.pid")
    }

    /// Written when requests are served: tools and tests wait for it.
    #[must_use]
    pub fn ingress(&self) -> PathBuf {
        self.data_dir.join("run/ingress.json")
    }

    /// Where the sockets are.
    #[must_use]
    pub fn sockets(&self) -> &Path {
        &self.sockets
    }

    /// The path of a socket, e.g. `internal` for `internal.sock`.
    #[must_use]
    pub fn socket(&self, name: &str) -> PathBuf {
        self.sockets.join(format!("{name}.sock"))
    }

    /// Takes the directory for this process until the lock is dropped, however the process ends.
    ///
    /// # Errors
    /// Another process has it.
    pub fn lock(&self) -> Result<Lock, DataDirError> {
        let path = self.data_dir.join("lock");
        let failed = |source| DataDirError::Io { path: path.clone(), source };
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let known = file.read_to_string(&mut text).is_ok() && text.trim().parse::<u32>().is_ok();
                let holder = if known { format!(" (pid {})", text.trim()) } else { String::new() };
                return Err(DataDirError::InUse { data_dir: self.data_dir.clone(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
        Ok(Lock { _file: file })
    }
}

/// Held while the data directory is this process's.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

fn make_private(dir: &Path) -> Result<(), DataDirError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| DataDirError::Io { path: dir.to_owned(), source })
}

/// A directory whose sockets' paths are short enough, always the same for one data directory.
fn short_directory(data_dir: &Path) -> Result<PathBuf, DataDirError> {
    let mut hasher = DefaultHasher::new();
    data_dir.as_os_str().as_bytes().hash(&mut hasher);
    let uid = rustix::process::getuid().as_raw();
    let base = env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|dir| dir.as_os_str().len() < 60 && dir.is_dir());
    let dir = base
        .unwrap_or_else(|| PathBuf::from("/tmp"))
        .join(format!("nullspend-{uid}-{:016x}", hasher.finish()));
    make_private(&dir)?;
    // Not fs::metadata: a link laid there by somebody else must not be followed.
    let about =
        fs::symlink_metadata(&dir).map_err(|source| DataDirError::Io { path: dir.clone(), source })?;
    if !about.is_dir() || about.uid() != uid || about.mode() & 0o077 != 0 {
        return Err(DataDirError::Sockets { path: dir });
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_second_process_is_told_who_has_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::prepare(&dir.path().join("data")).unwrap();
        let lock = paths.lock().unwrap();
        let refused = paths.lock().unwrap_err().to_string();
        let expected = format!("is in use by another nullspend (pid {})", std::process::id());
        assert!(refused.contains(&expected), "{refused}");
        drop(lock);
        paths.lock().unwrap();
    }

    #[test]
    fn directories_are_closed_to_other_users() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::prepare(&dir.path().join("a/b")).unwrap();
        for dir in [paths.data_dir.clone(), paths.spool(), paths.sockets().to_owned()] {
            assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o077, 0, "{}", dir.display());
        }
    }

    #[test]
    fn sockets_move_to_a_short_path_when_the_data_directory_s_is_too_long() {
        let dir = tempfile::tempdir().unwrap();
        let near = Paths::prepare(&dir.path().join("d")).unwrap();
        assert!(near.sockets().starts_with(&near.data_dir));
        let far = Paths::prepare(&dir.path().join("x".repeat(100))).unwrap();
        assert!(far.socket("control-plane-admin").as_os_str().len() <= LONGEST_SOCKET_PATH);
        assert!(!far.sockets().starts_with(dir.path()));
        assert_eq!(Paths::prepare(&far.data_dir).unwrap().sockets(), far.sockets());
        fs::remove_dir(far.sockets()).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let error = Paths::prepare(Path::new("/proc/nullspend")).unwrap_err();
        assert!(error.to_string().contains("cannot use /proc/nullspend"), "{error}");
    }
}

//! The operator's price catalogue file: put in force at the start and whenever it changes. One that cannot be used
//! leaves the prices as they are.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::{
    app::{App, Unusable},
    metrics::Metrics,
};

/// How often the file is looked at. Its text is compared, not its time: a mounted file may change without a newer time.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Longest file: data planes get it in one message.
const MAX_BYTES: u64 = 16 << 20;

/// A catalogue file that is not put in force.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueFileError {
    /// It cannot be read.
    #[error("cannot read the price catalogue {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its catalogue cannot be used.
    #[error("the price catalogue {} cannot be used", path.display())]
    Use {
        /// The file.
        path: PathBuf,
        /// What to change.
        #[source]
        source: Unusable,
    },
}

/// What the file was when it was last looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Unreadable(io::ErrorKind),
    Text([u8; 32]),
}

/// The file, between two looks.
pub(crate) struct CatalogueFile {
    path: PathBuf,
    seen: Option<Seen>,
}

impl CatalogueFile {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), seen: None }
    }

    /// Puts the file's catalogue in force unless the last look saw the same file; answers whether it was not in force
    /// before.
    pub(crate) async fn look(&mut self, app: &App) -> Option<Result<bool, CatalogueFileError>> {
        let read = read(&self.path).await;
        let seen = Some(match &read {
            Ok(text) => Seen::Text(Sha256::digest(text).into()),
            Err(error) => Seen::Unreadable(error.kind()),
        });
        if seen == self.seen {
            return None;
        }
        let path = self.path.clone();
        let text = match read {
            Ok(text) => text,
            Err(source) => {
                self.seen = seen;
                return Some(Err(CatalogueFileError::Read { path, source }));
            }
        };
        let put = app.put_catalogue(&text).await;
        // A database that does not answer says nothing of the file, which is tried again.
        if !matches!(put, Err(Unusable::Store(_))) {
            self.seen = seen;
        }
        Some(put.map_err(|source| CatalogueFileError::Use { path, source }))
    }

    /// Looks at the file until `stop`.
    pub(crate) async fn follow(mut self, app: Arc<App>, metrics: Arc<Metrics>, stop: CancellationToken) {
        loop {
            match self.look(&app).await {
                None => {}
                Some(Ok(changed)) => {
                    metrics.catalogue_current.set(1);
                    if changed {
                        metrics.catalogue_changes.inc();
                        tracing::info!(path = %self.path.display(), "the price catalogue changed and is in force");
                    }
                }
                Some(Err(error)) => {
                    metrics.catalogue_current.set(0);
                    metrics.catalogue_refusals.inc();
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, "the price catalogue stays as it was");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

async fn read(path: &Path) -> io::Result<String> {
    let bytes = tokio::fs::metadata(path).await?.len();
    if bytes > MAX_BYTES {
        let why = format!("it has {bytes} bytes, and at most {MAX_BYTES} can be sent to data planes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    tokio::fs::read_to_string(path).await
}

#[cfg(test)]
mod tests;

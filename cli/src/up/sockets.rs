//! The unix sockets of one data directory: bound afresh, closed to other users.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path, path::PathBuf};

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::{Channel, Endpoint};

/// Listens on `path`. The data directory's lock is held, so what stands there is a dead process's.
pub fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove the old socket {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("close {} to other users", path.display()))?;
    Ok(listener)
}

/// A gRPC channel to the socket, connected when it is first used.
pub fn channel(path: PathBuf) -> Channel {
    let connect = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://control-plane").connect_with_connector_lazy(connect)
}

//! Where the parts of the product find each other: `unix:/path` or `host:port`.

use std::{fmt, fs, io, os::unix::fs::PermissionsExt as _, path::Path, path::PathBuf, str::FromStr};

use anyhow::Context as _;
use axum::serve::ListenerExt as _;
use hyper_util::rt::TokioIo;
use nullspend_ext_proc::Listener;
use serde_json::{Value, json};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tonic::transport::{Channel, Endpoint};

/// An address of one of the product's own services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A unix socket, absolute.
    Unix(PathBuf),
    /// A host name or IP literal (without brackets) and a port.
    Tcp {
        /// Whom to connect to, or the local address to listen on.
        host: String,
        /// Port; 0 lets the kernel choose, for listeners only.
        port: u16,
    },
}

/// A text that is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write unix:/absolute/path, or a host and a port such as 0.0.0.0:9090 or [::1]:9090")]
pub struct BadAddress;

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() { Ok(Self::Unix(path)) } else { Err(BadAddress) };
        }
        let (host, port) = text.rsplit_once(':').ok_or(BadAddress)?;
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let host = match bare {
            Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => v6,
            None if !host.is_empty() && host.bytes().all(is_host_byte) => host,
            _ => return Err(BadAddress),
        };
        Ok(Self::Tcp { host: host.to_owned(), port: port.parse().map_err(|_| BadAddress)? })
    }
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl Address {
    /// Whether other machines may be meant.
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        matches!(self, Self::Tcp { .. })
    }

    /// Listens here. A unix socket is bound afresh and closed to other users: what stands at its path is a dead
    /// process's, since the data directory's lock is held.
    pub async fn bind(&self) -> anyhow::Result<Listener> {
        match self {
            Self::Unix(path) => bind_unix(path).map(Listener::Unix),
            Self::Tcp { host, port } => {
                let bound = TcpListener::bind((host.as_str(), *port)).await;
                bound.map(Listener::Tcp).with_context(|| format!("listen on {self}"))
            }
        }
    }

    /// A gRPC channel to this address, connected when it is first used and again whenever it broke.
    pub fn channel(&self) -> anyhow::Result<Channel> {
        Ok(match self {
            Self::Tcp { .. } => Endpoint::from_shared(format!("http://{self}"))
                .with_context(|| format!("{self} is no address to connect to"))?
                .tcp_nodelay(true)
                .connect_timeout(CONNECT_TIMEOUT)
                // A peer that vanished without a word must not look like a quiet one.
                .http2_keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE)
                .keep_alive_while_idle(true)
                .connect_lazy(),
            Self::Unix(path) => {
                let path = path.clone();
                let connect = tower::service_fn(move |_| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(TokioIo::new) }
                });
                Endpoint::from_static("http://control-plane").connect_with_connector_lazy(connect)
            }
        })
    }

    /// The address as Envoy's configuration writes it, and the type of cluster that can have it.
    #[must_use]
    pub fn envoy(&self) -> (&'static str, Value) {
        match self {
            Self::Unix(path) => ("STATIC", json!({ "pipe": { "path": path } })),
            Self::Tcp { host, port } => {
                let kind = if host.parse::<std::net::IpAddr>().is_ok() { "STATIC" } else { "STRICT_DNS" };
                (kind, json!({ "socket_address": { "address": host, "port_value": port } }))
            }
        }
    }
}

const CONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
const KEEP_ALIVE: std::time::Duration = std::time::Duration::from_secs(10);

fn bind_unix(path: &Path) -> anyhow::Result<UnixListener> {
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

/// A TCP listener whose answers are not held back for more bytes.
pub fn prompt(listener: TcpListener) -> impl axum::serve::Listener<Addr = std::net::SocketAddr> {
    listener.tap_io(|connection| {
        // Only slower without it.
        let _ = connection.set_nodelay(true);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_they_are_shown() {
        for text in ["unix:/run/a.sock", "0.0.0.0:9090", "[::1]:0", "control-plane.ns.svc.cluster.local:80"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in
            ["", "unix:a.sock", ":80", "host", "host:port", "http://host:80", "::1:80", "[x]:80", "h:70000"]
        {
            assert_eq!(text.parse::<Address>(), Err(BadAddress), "{text}");
        }
    }

    #[test]
    fn envoy_resolves_names_and_nothing_else() {
        let kind = |text: &str| text.parse::<Address>().unwrap().envoy().0;
        assert_eq!(kind("planes:80"), "STRICT_DNS");
        assert_eq!((kind("10.0.0.1:80"), kind("[::1]:80"), kind("unix:/x")), ("STATIC", "STATIC", "STATIC"));
    }
}

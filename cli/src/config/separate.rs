//! Where the planes listen and find each other when each is a process of its own.

use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use super::ConfigError;
use crate::{address::Address, paths::Paths};

/// Shortest join token: it guards everything data planes may do.
const JOIN_TOKEN_MIN_CHARS: usize = 32;

/// As written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawInternal {
    join_token: String,
}

/// As written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawControlPlane {
    listen: String,
    internal_listen: String,
    admin_listen: String,
}

/// As written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawExtProc {
    listen: String,
    admin_listen: String,
    control_plane: String,
}

/// Where `nullspend control-plane` listens; a socket of the data directory where nothing is set.
#[derive(Clone, Debug, Default)]
pub struct ControlPlaneAddresses {
    listen: Option<Address>,
    internal_listen: Option<Address>,
    admin_listen: Option<Address>,
}

impl ControlPlaneAddresses {
    /// gRPC and REST.
    #[must_use]
    pub fn listen(&self, paths: &Paths) -> Address {
        or_socket(self.listen.as_ref(), paths, "control-plane")
    }

    /// Data planes.
    #[must_use]
    pub fn internal(&self, paths: &Paths) -> Address {
        or_socket(self.internal_listen.as_ref(), paths, "internal")
    }

    /// Metrics.
    #[must_use]
    pub fn admin(&self, paths: &Paths) -> Address {
        or_socket(self.admin_listen.as_ref(), paths, "control-plane-admin")
    }
}

/// Where `nullspend ext-proc` listens, and whom it follows.
#[derive(Clone, Debug, Default)]
pub struct ExtProcAddresses {
    listen: Option<Address>,
    admin_listen: Option<Address>,
    /// The control plane's internal service.
    pub control_plane: Option<Address>,
}

impl ExtProcAddresses {
    /// Envoy.
    #[must_use]
    pub fn listen(&self, paths: &Paths) -> Address {
        or_socket(self.listen.as_ref(), paths, "ext-proc")
    }

    /// Metrics.
    #[must_use]
    pub fn admin(&self, paths: &Paths) -> Address {
        or_socket(self.admin_listen.as_ref(), paths, "ext-proc-admin")
    }
}

/// A configured address, else the socket of the data directory.
pub fn or_socket(address: Option<&Address>, paths: &Paths, socket: &str) -> Address {
    address.cloned().unwrap_or_else(|| Address::Unix(paths.socket(socket)))
}

/// Reads an address; empty is none.
pub fn address(key: &'static str, text: &str) -> Result<Option<Address>, ConfigError> {
    if text.is_empty() {
        return Ok(None);
    }
    let reason = |error| ConfigError::Value { key, reason: format!("is {text:?}; {error}") };
    text.parse().map(Some).map_err(reason)
}

/// Checks both planes' addresses and what lets data planes in.
pub fn check(
    control_plane: &RawControlPlane,
    ext_proc: &RawExtProc,
    internal: RawInternal,
) -> Result<(ControlPlaneAddresses, ExtProcAddresses, Option<SecretString>), ConfigError> {
    let control_plane = ControlPlaneAddresses {
        listen: address("control_plane.listen", &control_plane.listen)?,
        internal_listen: address("control_plane.internal_listen", &control_plane.internal_listen)?,
        admin_listen: address("control_plane.admin_listen", &control_plane.admin_listen)?,
    };
    let ext_proc = ExtProcAddresses {
        listen: address("ext_proc.listen", &ext_proc.listen)?,
        admin_listen: address("ext_proc.admin_listen", &ext_proc.admin_listen)?,
        control_plane: address("ext_proc.control_plane", &ext_proc.control_plane)?,
    };
    let join_token = join_token(internal.join_token)?;
    if join_token.is_none() && control_plane.internal_listen.as_ref().is_some_and(Address::is_tcp) {
        return Err(ConfigError::Value {
            key: "internal.join_token",
            reason: "is not set, and control_plane.internal_listen is open to the network: whoever connects there may \
                     read every key's hash and write events. Set the same token for both planes, e.g. from \
                     `openssl rand -hex 32`"
                .into(),
        });
    }
    Ok((control_plane, ext_proc, join_token))
}

fn join_token(text: String) -> Result<Option<SecretString>, ConfigError> {
    if text.is_empty() {
        return Ok(None);
    }
    let token = SecretString::from(text);
    let shown = token.expose_secret();
    if shown.len() < JOIN_TOKEN_MIN_CHARS || !shown.bytes().all(|byte| byte.is_ascii_graphic()) {
        let reason = "must be at least 32 visible ASCII characters, e.g. from `openssl rand -hex 32`".into();
        return Err(ConfigError::Value { key: "internal.join_token", reason });
    }
    Ok(Some(token))
}

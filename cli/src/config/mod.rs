//! What `nullspend` was asked to do: four layers merged ([`layers`]), then checked as a whole.

mod error;
pub mod layers;
mod separate;
pub mod upstreams;

use std::{
    fs,
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use nullspend_core::exchange::upstream::Upstream;
use nullspend_ext_proc::RateLimits;
use nullspend_ledger::RedisConfig;
use secrecy::SecretString;
use serde::Deserialize;
use toml::{Table, Value};

use crate::{address::Address, paths::Paths};

pub use error::ConfigError;
pub use separate::{ControlPlaneAddresses, ExtProcAddresses};

/// Everything the program needs to know to start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The one TCP address.
    pub listen: SocketAddr,
    /// Absolute.
    pub data_dir: PathBuf,
    /// The database; `None`: SQLite in the data directory. A secret, since it may hold a password.
    pub database_url: Option<SecretString>,
    /// The Redis that holds the ledger; `None`: this process does. A secret, since it may hold a password.
    pub redis_url: Option<SecretString>,
    /// Certificates of the authorities that its TLS trusts; `None`: the system's.
    pub redis_ca_file: Option<PathBuf>,
    /// What data planes must know to follow the control plane; `None` where only a private socket leads there.
    pub join_token: Option<SecretString>,
    /// Where a control plane of its own listens.
    pub control_plane: ControlPlaneAddresses,
    /// Where a data plane of its own listens and whom it follows.
    pub ext_proc: ExtProcAddresses,
    /// The raw owner key of the first start.
    pub bootstrap_key: Option<SecretString>,
    /// Log directives.
    pub log: String,
    /// Envoy.
    pub envoy: EnvoySettings,
    /// Longest request body, bytes.
    pub max_body_bytes: u32,
    /// Request bodies in memory at once, bytes.
    pub max_bodies_in_flight_bytes: usize,
    /// Calls that may come in a minute.
    pub rate_limits: RateLimits,
    /// Calls of the API that one key may make in a minute.
    pub api_calls_per_minute: Option<NonZeroU32>,
    /// How long SIGTERM waits for streams.
    pub shutdown_grace: Duration,
    /// How long a hold outlives an owner that stopped renewing it.
    pub lease_ms: u64,
    /// The spool.
    pub spool: SpoolSettings,
    /// The operator's price catalogue; `None`: the program's own.
    pub catalogue_file: Option<PathBuf>,
    /// Where calls may go, in order of preference.
    pub upstreams: Vec<Upstream>,
}

/// How to run Envoy.
#[derive(Clone, Debug)]
pub struct EnvoySettings {
    /// Its executable; `None`: `envoy` on PATH.
    pub binary: Option<PathBuf>,
    /// Worker threads.
    pub concurrency: usize,
    /// Where the access log goes.
    pub access_log: AccessLog,
    /// Client connections at most.
    pub max_connections: u32,
    /// Proxies before it whose `x-forwarded-for` is believed.
    pub trusted_proxies: u32,
    /// Certificate authorities for providers.
    pub ca_file: PathBuf,
    /// Where an Envoy before separate planes finds the control plane's API.
    control_plane: Option<Address>,
}

impl EnvoySettings {
    /// The control plane's gRPC and REST.
    #[must_use]
    pub fn control_plane(&self, paths: &Paths) -> Address {
        separate::or_socket(self.control_plane.as_ref(), paths, "control-plane")
    }
}

/// Where the access log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLog {
    /// `<data_dir>/log/access.log`.
    File,
    /// Standard output.
    Stdout,
    /// Nowhere.
    Off,
}

/// How the spool keeps events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoolSettings {
    /// When it is flushed to the disk.
    pub fsync: Fsync,
    /// Its size at most, bytes.
    pub max_bytes: u64,
}

/// When the spool is flushed to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Each record.
    Always,
    /// In groups, this often.
    Interval(Duration),
    /// When the kernel likes.
    Never,
}

/// What the layers are read from; tests hand in their own.
pub struct Sources<'a> {
    /// `--config` or `NULLSPEND_CONFIG`.
    pub file: Option<&'a Path>,
    /// The environment.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Dotted path, flag name, value.
    pub flags: Vec<(&'static str, &'static str, String)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    listen: String,
    data_dir: String,
    database_url: String,
    redis_url: String,
    redis_ca_file: String,
    internal: separate::RawInternal,
    control_plane: separate::RawControlPlane,
    ext_proc: separate::RawExtProc,
    bootstrap_key: String,
    log: String,
    envoy: RawEnvoy,
    limits: RawLimits,
    rate_limits: RawRateLimits,
    shutdown: RawShutdown,
    ledger: RawLedger,
    spool: RawSpool,
    prices: RawPrices,
    upstreams: Vec<upstreams::Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEnvoy {
    binary: String,
    concurrency: i64,
    access_log: String,
    max_connections: i64,
    trusted_proxies: i64,
    ca_file: String,
    control_plane: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    max_body_bytes: i64,
    max_bodies_in_flight_bytes: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRateLimits {
    ip_calls_per_minute: i64,
    key_calls_per_minute: i64,
    api_calls_per_minute: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawShutdown {
    grace_ms: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLedger {
    lease_ms: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSpool {
    fsync: String,
    fsync_interval_ms: i64,
    max_bytes: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPrices {
    catalogue_file: String,
}

/// The merged layers, before they are checked as a whole.
///
/// # Errors
/// A layer that cannot be read, or that names what does not exist.
pub fn merged(sources: &Sources<'_>) -> Result<Table, ConfigError> {
    let mut table = layers::defaults()?;
    if let Some(file) = sources.file {
        let text =
            fs::read_to_string(file).map_err(|source| ConfigError::Read { file: file.to_owned(), source })?;
        layers::apply_file(&mut table, &file.display().to_string(), &text)?;
    }
    layers::apply_environment(&mut table, sources.variable)?;
    for (path, flag, value) in &sources.flags {
        layers::apply_flag(&mut table, path, flag, value)?;
    }
    Ok(table)
}

/// Reads and checks the whole configuration.
///
/// # Errors
/// Any [`ConfigError`].
pub fn load(sources: &Sources<'_>) -> Result<Config, ConfigError> {
    let table = merged(sources)?;
    let raw: Raw = Value::Table(table).try_into().map_err(|source| ConfigError::Shape(Box::new(source)))?;
    check(raw, sources.variable)
}

fn check(raw: Raw, variable: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
    let listen = raw.listen.parse().map_err(|_| ConfigError::Value {
        key: "listen",
        reason: format!(
            "is {:?}; write an IP address and a port, e.g. 127.0.0.1:8080 or [::]:8080",
            raw.listen
        ),
    })?;
    let (control_plane, ext_proc, join_token) =
        separate::check(&raw.control_plane, &raw.ext_proc, raw.internal)?;
    let max_body_bytes = ranged("limits.max_body_bytes", raw.limits.max_body_bytes, 65_536, 1 << 30)?;
    Ok(Config {
        listen,
        data_dir: data_dir(&raw.data_dir, variable)?,
        database_url: database_url(raw.database_url)?,
        redis_url: redis_url(raw.redis_url)?,
        redis_ca_file: Some(raw.redis_ca_file).filter(|path| !path.is_empty()).map(PathBuf::from),
        join_token,
        control_plane,
        ext_proc,
        bootstrap_key: bootstrap_key(raw.bootstrap_key)?,
        log: raw.log,
        envoy: envoy_settings(&raw.envoy)?,
        max_body_bytes,
        max_bodies_in_flight_bytes: ranged(
            "limits.max_bodies_in_flight_bytes",
            raw.limits.max_bodies_in_flight_bytes,
            i64::from(max_body_bytes),
            1 << 40,
        )?,
        rate_limits: RateLimits {
            ip_calls_per_minute: calls(
                "rate_limits.ip_calls_per_minute",
                raw.rate_limits.ip_calls_per_minute,
            )?,
            key_calls_per_minute: calls(
                "rate_limits.key_calls_per_minute",
                raw.rate_limits.key_calls_per_minute,
            )?,
        },
        api_calls_per_minute: calls(
            "rate_limits.api_calls_per_minute",
            raw.rate_limits.api_calls_per_minute,
        )?,
        shutdown_grace: millis("shutdown.grace_ms", raw.shutdown.grace_ms, 0, 86_400_000)?,
        lease_ms: ranged("ledger.lease_ms", raw.ledger.lease_ms, 1_000, 3_600_000)?,
        spool: spool_settings(&raw.spool)?,
        catalogue_file: (!raw.prices.catalogue_file.is_empty())
            .then(|| PathBuf::from(raw.prices.catalogue_file)),
        upstreams: upstreams::check(raw.upstreams)?,
    })
}

/// A number of calls per minute; 0 is any number.
fn calls(key: &'static str, value: i64) -> Result<Option<NonZeroU32>, ConfigError> {
    Ok(NonZeroU32::new(ranged(key, value, 0, 1_000_000)?))
}

/// Half of the machine's cores, one at least: what Envoy gets where nothing else is said.
pub fn half_of_cores() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cores / 2).max(1)
}

fn envoy_settings(raw: &RawEnvoy) -> Result<EnvoySettings, ConfigError> {
    let access_log = match raw.access_log.as_str() {
        "file" => AccessLog::File,
        "stdout" => AccessLog::Stdout,
        "off" => AccessLog::Off,
        other => {
            let reason = format!("is {other:?}; write \"file\", \"stdout\" or \"off\"");
            return Err(ConfigError::Value { key: "envoy.access_log", reason });
        }
    };
    Ok(EnvoySettings {
        binary: (!raw.binary.is_empty()).then(|| PathBuf::from(&raw.binary)),
        concurrency: match ranged("envoy.concurrency", raw.concurrency, 0, 1_024)? {
            0 => half_of_cores(),
            threads => threads,
        },
        access_log,
        max_connections: ranged("envoy.max_connections", raw.max_connections, 1, 10_000_000)?,
        trusted_proxies: ranged("envoy.trusted_proxies", raw.trusted_proxies, 0, 16)?,
        ca_file: PathBuf::from(&raw.ca_file),
        control_plane: separate::address("envoy.control_plane", &raw.control_plane)?,
    })
}

fn spool_settings(raw: &RawSpool) -> Result<SpoolSettings, ConfigError> {
    let interval = millis("spool.fsync_interval_ms", raw.fsync_interval_ms, 1, 60_000)?;
    let fsync = match raw.fsync.as_str() {
        "always" => Fsync::Always,
        "interval" => Fsync::Interval(interval),
        "never" => Fsync::Never,
        other => {
            let reason = format!("is {other:?}; write \"always\", \"interval\" or \"never\"");
            return Err(ConfigError::Value { key: "spool.fsync", reason });
        }
    };
    let max_bytes = ranged("spool.max_bytes", raw.max_bytes, 64 << 20, i64::MAX)?;
    Ok(SpoolSettings { fsync, max_bytes })
}

fn data_dir(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<PathBuf, ConfigError> {
    let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let chosen = if text.is_empty() {
        set("XDG_DATA_HOME")
            .or_else(|| set("HOME").map(|home| home.join(".local/share")))
            .map(|base| base.join("nullspend"))
    } else {
        Some(PathBuf::from(text))
    };
    let chosen = chosen.ok_or_else(|| ConfigError::Value {
        key: "data_dir",
        reason:
            "is not set, and there is neither XDG_DATA_HOME nor HOME to place it in; set NULLSPEND_DATA_DIR"
                .into(),
    })?;
    std::path::absolute(&chosen).map_err(|source| ConfigError::Read { file: chosen, source })
}

fn database_url(text: String) -> Result<Option<SecretString>, ConfigError> {
    if text.is_empty() {
        return Ok(None);
    }
    let known = ["postgres://", "postgresql://", "sqlite:"];
    if !known.iter().any(|scheme| text.starts_with(scheme)) {
        // The text is not shown: it may be a password in the wrong place.
        let reason = "must begin with postgres:// (or postgresql://) or sqlite:".into();
        return Err(ConfigError::Value { key: "database_url", reason });
    }
    Ok(Some(SecretString::from(text)))
}

fn redis_url(text: String) -> Result<Option<SecretString>, ConfigError> {
    if text.is_empty() {
        return Ok(None);
    }
    let known = [
        "redis://",
        "rediss://",
        "redis+unix://",
        "redis-sentinel://",
        "rediss-sentinel://",
        "redis-cluster://",
        "rediss-cluster://",
    ];
    // The text is not shown: it may be a password in the wrong place.
    let refused = |reason| ConfigError::Value { key: "redis_url", reason };
    if !known.iter().any(|scheme| text.starts_with(scheme)) {
        return Err(refused(format!("must begin with one of {}", known.join(" "))));
    }
    let url = SecretString::from(text);
    RedisConfig::new(url.clone())
        .check()
        .map_err(|invalid| refused(format!("is not understood: {invalid}")))?;
    Ok(Some(url))
}

fn bootstrap_key(text: String) -> Result<Option<SecretString>, ConfigError> {
    if text.is_empty() {
        return Ok(None);
    }
    let hex = text.strip_prefix("ns_live_sk_").unwrap_or_default();
    if hex.len() != 32 || !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        let reason =
            "must be ns_live_sk_ and 32 lower-case hex digits, e.g. from `openssl rand -hex 16`".into();
        return Err(ConfigError::Value { key: "bootstrap_key", reason });
    }
    Ok(Some(SecretString::from(text)))
}

fn millis(key: &'static str, value: i64, least: i64, most: i64) -> Result<Duration, ConfigError> {
    ranged(key, value, least, most).map(Duration::from_millis)
}

fn ranged<T: TryFrom<i64>>(key: &'static str, value: i64, least: i64, most: i64) -> Result<T, ConfigError> {
    let fits = if (least..=most).contains(&value) { T::try_from(value).ok() } else { None };
    fits.ok_or_else(|| ConfigError::Value {
        key,
        reason: format!("is {value}; it must be {least} to {most}"),
    })
}

#[cfg(test)]
mod tests;

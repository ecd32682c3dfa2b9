//! What the ledger in Redis is told.

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use super::address::Place;

/// Where the server is, and how long to wait for it.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// `redis://` or `redis+unix://`, with user, password and database as usual;
    /// `redis-sentinel://host:port,host:port/master?db=0`, with the master's login before the hosts and the sentinels' as
    /// `sentinel_username` and `sentinel_password`; or `redis-cluster://host:port,host:port`. Over TLS they begin with
    /// `rediss`.
    pub url: SecretString,
    /// Certificates (PEM) of the authorities that TLS trusts; without, the system's.
    pub authorities: Option<Vec<u8>>,
    /// Begins every key, so that several installations can share a server: letters, digits, `-`, `_`, `.` and `:`.
    pub prefix: String,
    /// How long one operation may take.
    pub timeout: Duration,
    /// Failures in a row after which the server is left alone for a while.
    pub breaker_failures: u32,
    /// How long that is, between one attempt and the next.
    pub breaker_interval: Duration,
}

impl RedisConfig {
    /// With the usual times: 200 ms for an operation, a second's pause after 5 failures.
    #[must_use]
    pub fn new(url: SecretString) -> Self {
        Self {
            url,
            authorities: None,
            prefix: "nullspend".to_owned(),
            timeout: Duration::from_millis(200),
            breaker_failures: 5,
            breaker_interval: Duration::from_secs(1),
        }
    }

    /// Whether the URL can be used, without connecting.
    ///
    /// # Errors
    /// It cannot: why, and what to write.
    pub fn check(&self) -> Result<(), InvalidRedisConfig> {
        Place::of(self.url.expose_secret()).map(|_| ())
    }
}

/// Settings that cannot be used. Says nothing of the address itself, which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRedisConfig {
    /// The URL: why not.
    #[error(
        "the ledger's Redis URL cannot be used ({0}): write redis://host:port, redis+unix:///path, \
         redis-sentinel://host:port,host:port/master or redis-cluster://host:port,host:port; over TLS rediss in place \
         of redis"
    )]
    Url(String),
    /// The certificates: what to change.
    #[error("the certificate authorities of the ledger's Redis cannot be used: {0}")]
    Authorities(&'static str),
    /// The prefix of keys.
    #[error("the prefix of the ledger's keys may have letters, digits and -_.: only")]
    Prefix,
}

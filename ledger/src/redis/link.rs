//! The one connection, shared by all calls, which are pipelined over it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use nullspend_core::clock::Clock;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo, ProtocolVersion, RedisError, RedisResult,
    ServerErrorKind, Value, aio::MultiplexedConnection,
};
use secrecy::ExposeSecret;

use super::{Failure, InvalidRedisUrl, RedisConfig, breaker::Breaker};

/// How long connecting may take. It goes on in the background, so a call's own time may be shorter.
const CONNECT_WAIT: Duration = Duration::from_secs(2);

/// A connection that was looked at.
#[derive(Clone)]
pub(super) struct Live {
    pub(super) connection: MultiplexedConnection,
    /// Of the server's process, so that another one is noticed. Empty where INFO is forbidden.
    pub(super) run: String,
}

/// Connects when need be, and gives up in time.
pub(super) struct Link {
    client: Client,
    clock: Arc<dyn Clock>,
    timeout: Duration,
    breaker: Mutex<Breaker>,
    live: ArcSwapOption<Live>,
    connecting: tokio::sync::Mutex<()>,
    attempts: AtomicU64,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(config: &RedisConfig, clock: Arc<dyn Clock>) -> Result<Arc<Self>, InvalidRedisUrl> {
        let invalid = |cause: RedisError| InvalidRedisUrl(cause.category().to_owned());
        let info = config.url.expose_secret().into_connection_info().map_err(invalid)?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        if config.url.expose_secret().starts_with("rediss:") {
            // Fails when a provider is installed already, which is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        Ok(Arc::new(Self {
            client: Client::open(info.set_redis_settings(settings)).map_err(invalid)?,
            clock,
            timeout: config.timeout,
            breaker: Mutex::new(Breaker::new(config.breaker_failures, config.breaker_interval)),
            live: ArcSwapOption::empty(),
            connecting: tokio::sync::Mutex::default(),
            attempts: AtomicU64::new(0),
        }))
    }

    /// Makes a call, in bounded time.
    pub(super) async fn call<C>(self: &Arc<Self>, call: impl FnOnce(Live) -> C) -> Result<Value, Failure>
    where
        C: Future<Output = RedisResult<Value>>,
    {
        if !self.breaker(|breaker| breaker.admits(self.clock.monotonic_us())) {
            let cause = "it did not answer several times; it will be asked again soon".to_owned();
            return Err(Failure::NotAsked(cause));
        }
        let made = async {
            let live = self.live().await?;
            let called = call((*live).clone()).await;
            if let Err(cause) = &called
                && needs_another_connection(cause)
            {
                self.forget(&live);
            }
            called
        };
        match tokio::time::timeout(self.timeout, made).await {
            Ok(Ok(value)) => {
                self.breaker(Breaker::succeeded);
                Ok(value)
            }
            Ok(Err(cause)) => {
                if cause.is_io_error() {
                    self.breaker(|breaker| breaker.failed(self.clock.monotonic_us()));
                }
                Err(Failure::Away(cause.to_string()))
            }
            Err(_) => {
                // The connection may be dead without having been told.
                self.live.store(None);
                self.breaker(|breaker| breaker.failed(self.clock.monotonic_us()));
                Err(Failure::Away(format!("no answer within {:?}", self.timeout)))
            }
        }
    }

    fn breaker<T>(&self, ask: impl FnOnce(&mut Breaker) -> T) -> T {
        ask(&mut self.breaker.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn forget(&self, live: &Arc<Live>) {
        self.live.compare_and_swap(&Some(Arc::clone(live)), None);
    }

    async fn live(self: &Arc<Self>) -> RedisResult<Arc<Live>> {
        if let Some(live) = self.live.load_full() {
            return Ok(live);
        }
        let (link, seen) = (Arc::clone(self), self.attempts.load(Ordering::SeqCst));
        // On its own, so that the call's end does not end it.
        let connecting = tokio::spawn(async move { link.connect(seen).await });
        connecting
            .await
            .unwrap_or_else(|cause| Err((ErrorKind::Client, "connecting", cause.to_string()).into()))
    }

    /// Connects, unless somebody has tried since `seen` attempts.
    async fn connect(&self, seen: u64) -> RedisResult<Arc<Live>> {
        let _one_at_a_time = self.connecting.lock().await;
        if let Some(live) = self.live.load_full() {
            return Ok(live);
        }
        if self.attempts.load(Ordering::SeqCst) != seen {
            let cause = std::io::Error::new(std::io::ErrorKind::NotConnected, "connecting has just failed");
            return Err(cause.into());
        }
        let connected = tokio::time::timeout(CONNECT_WAIT, self.connected()).await;
        self.attempts.fetch_add(1, Ordering::SeqCst);
        let timed_out = || std::io::Error::new(std::io::ErrorKind::TimedOut, "connecting took too long");
        let live = Arc::new(connected.unwrap_or_else(|_| Err(timed_out().into()))?);
        self.live.store(Some(Arc::clone(&live)));
        Ok(live)
    }

    async fn connected(&self) -> RedisResult<Live> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_WAIT))
            .set_response_timeout(Some(CONNECT_WAIT));
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        let told: RedisResult<String> = redis::cmd("INFO").arg("server").query_async(&mut connection).await;
        let run = match told {
            Ok(info) => {
                info.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or_default().to_owned()
            }
            Err(cause) if cause.is_io_error() => return Err(cause),
            Err(cause) => {
                tracing::warn!(%cause, "the ledger's server does not say which process it is: a failover is noticed less surely");
                String::new()
            }
        };
        warn_of_settings(&mut connection).await;
        Ok(Live { connection, run })
    }
}

/// The server has gone, or is not the one that may be written to.
fn needs_another_connection(cause: &RedisError) -> bool {
    let kind = cause.kind();
    cause.is_io_error()
        || [ServerErrorKind::ReadOnly, ServerErrorKind::MasterDown, ServerErrorKind::BusyLoading]
            .into_iter()
            .any(|of_server| kind == ErrorKind::Server(of_server))
}

/// Warns of a server that may forget what it was told.
async fn warn_of_settings(connection: &mut MultiplexedConnection) {
    let mut setting = async |name: &str| -> Option<String> {
        let asked: RedisResult<Vec<String>> =
            redis::cmd("CONFIG").arg("GET").arg(name).query_async(&mut *connection).await;
        asked.ok()?.pop()
    };
    let Some(policy) = setting("maxmemory-policy").await else {
        tracing::warn!(
            "the ledger's server does not tell its settings: see that it has maxmemory-policy noeviction and persistence"
        );
        return;
    };
    if policy != "noeviction" && setting("maxmemory").await.is_none_or(|bytes| bytes != "0") {
        tracing::warn!(%policy, "the ledger's server may evict holds and counters: set maxmemory-policy noeviction");
    }
    let appends = setting("appendonly").await.is_some_and(|on| on == "yes");
    if !appends && setting("save").await.is_none_or(|points| points.is_empty()) {
        tracing::warn!(
            "the ledger's server keeps nothing on disk, so each of its restarts needs a rebuild: set appendonly yes"
        );
    }
}

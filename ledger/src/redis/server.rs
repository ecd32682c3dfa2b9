//! A server, its one connection, which all calls to it share, and whether it is left alone for a while.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nullspend_core::clock::Clock;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, RedisError, RedisResult, ServerErrorKind,
    aio::MultiplexedConnection, sentinel::SentinelClient,
};

use super::{RedisConfig, breaker::Breaker, kept::Kept};

/// How long connecting may take, and a command that belongs to it. It goes on in the background, so a call's own time
/// may be shorter.
pub(super) const CONNECT_WAIT: Duration = Duration::from_secs(2);

/// A connection that was looked at.
#[derive(Clone)]
pub(super) struct Live {
    pub(super) connection: MultiplexedConnection,
    /// Of the server's process, so that another one is noticed. Empty where INFO is forbidden.
    pub(super) run: String,
}

/// How its address is known.
pub(super) enum Door {
    Fixed(Client),
    /// Asked anew at each connection, so that a promoted server is found.
    Sentinels(tokio::sync::Mutex<SentinelClient>),
}

/// Stops asking one that failed several times in a row.
pub(super) struct Guard {
    clock: Arc<dyn Clock>,
    breaker: Mutex<Breaker>,
}

impl Guard {
    pub(super) fn new(config: &RedisConfig, clock: Arc<dyn Clock>) -> Self {
        Self { clock, breaker: Mutex::new(Breaker::new(config.breaker_failures, config.breaker_interval)) }
    }

    pub(super) fn admits(&self) -> bool {
        self.with(|breaker| breaker.admits(self.clock.monotonic_us()))
    }

    pub(super) fn succeeded(&self) {
        self.with(Breaker::succeeded);
    }

    pub(super) fn failed(&self) {
        self.with(|breaker| breaker.failed(self.clock.monotonic_us()));
    }

    fn with<T>(&self, ask: impl FnOnce(&mut Breaker) -> T) -> T {
        ask(&mut self.breaker.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Connects when need be.
pub(super) struct Server {
    door: Door,
    pub(super) guard: Guard,
    live: Arc<Kept<Live>>,
}

impl Server {
    pub(super) fn new(door: Door, guard: Guard) -> Arc<Self> {
        Arc::new(Self { door, guard, live: Arc::default() })
    }

    /// Makes a call. The caller bounds its time, and says [`Server::silent`] when it is over.
    pub(super) async fn call<C, T>(self: &Arc<Self>, call: impl FnOnce(Live) -> C) -> RedisResult<T>
    where
        C: Future<Output = RedisResult<T>>,
    {
        let server = Arc::clone(self);
        let connected = self.live.get(async move { server.connect().await }).await;
        let live = connected.inspect_err(|cause| self.note(cause))?;
        let called = call((*live).clone()).await;
        match &called {
            Ok(_) => self.guard.succeeded(),
            Err(cause) => {
                self.note(cause);
                if is_elsewhere(cause) {
                    self.live.forget(&live);
                }
            }
        }
        called
    }

    /// Errors that the server itself told are answers.
    fn note(&self, cause: &RedisError) {
        if cause.is_io_error() || cause.kind() == ErrorKind::MasterNameNotFoundBySentinel {
            self.guard.failed();
        }
    }

    /// It did not answer in time. The connection may be dead without having been told.
    pub(super) fn silent(&self) {
        self.live.forget_any();
        self.guard.failed();
    }

    async fn connect(&self) -> RedisResult<Live> {
        let connecting = async {
            let client = match &self.door {
                Door::Fixed(client) => client.clone(),
                Door::Sentinels(sentinels) => sentinels.lock().await.async_get_client().await?,
            };
            connected(&client).await
        };
        let timed_out = || io::Error::new(io::ErrorKind::TimedOut, "connecting took too long").into();
        // Sentinels are asked first, which may take as long again.
        let wait = if matches!(self.door, Door::Fixed(_)) { CONNECT_WAIT } else { 2 * CONNECT_WAIT };
        tokio::time::timeout(wait, connecting).await.unwrap_or_else(|_| Err(timed_out()))
    }
}

async fn connected(client: &Client) -> RedisResult<Live> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_WAIT))
        .set_response_timeout(Some(CONNECT_WAIT));
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    let told: RedisResult<String> = redis::cmd("INFO").arg("server").query_async(&mut connection).await;
    let run = match told {
        Ok(info) => info.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or_default().to_owned(),
        Err(cause) if cause.is_io_error() => return Err(cause),
        Err(cause) => {
            tracing::warn!(%cause, "the ledger's server does not say which process it is: a failover is noticed less surely");
            String::new()
        }
    };
    warn_of_settings(&mut connection).await;
    Ok(Live { connection, run })
}

/// The server has gone, or is not the one that may be written to.
pub(super) fn is_elsewhere(cause: &RedisError) -> bool {
    let kind = cause.kind();
    cause.is_io_error()
        || [ServerErrorKind::ReadOnly, ServerErrorKind::MasterDown, ServerErrorKind::BusyLoading]
            .into_iter()
            .any(|of_server| kind == ErrorKind::Server(of_server))
}

/// Warns of a server that may forget what it was told.
async fn warn_of_settings(connection: &mut MultiplexedConnection) {
    let mut setting = async |name: &str| -> Option<String> {
        let asked: RedisResult<HashMap<String, String>> =
            redis::cmd("CONFIG").arg("GET").arg(name).query_async(&mut *connection).await;
        asked.ok()?.remove(name)
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

//! How a call finds the server that keeps its key: the one server, the one that sentinels name, or its slot's.

use std::{sync::Arc, time::Duration};

use nullspend_core::clock::Clock;
use redis::{
    Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, ProtocolVersion,
    RedisConnectionInfo, RedisError, RedisResult, ServerErrorKind, TlsCertificates, TlsMode, Value,
    io::tcp::TcpSettings,
    sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType},
};
use secrecy::ExposeSecret as _;

pub(super) use super::server::Live;
use super::{
    Failure, InvalidRedisConfig, RedisConfig,
    address::{Node, Place, Several},
    cluster::{Cluster, slot_of},
    server::{Door, Guard, Server},
};

/// How each of several servers is talked to.
#[derive(Clone)]
pub(super) struct Manner {
    login: RedisConnectionInfo,
    tls: bool,
    /// Certificates (PEM) of the authorities that TLS trusts; without, the system's.
    authorities: Option<Vec<u8>>,
}

impl Manner {
    fn of(several: &Several, authorities: Option<&Vec<u8>>) -> Self {
        Self { login: several.login.clone(), tls: several.tls, authorities: authorities.cloned() }
    }

    pub(super) fn client(&self, node: &Node) -> RedisResult<Client> {
        let info = address(node, self.tls).into_connection_info()?.set_redis_settings(self.login.clone());
        client(info, self.authorities.as_ref())
    }
}

fn address(node: &Node, tls: bool) -> ConnectionAddr {
    let (host, port) = (node.host.clone(), node.port);
    if tls {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    }
}

/// Calls are small and answered at once: they must not wait for more to fill a packet.
fn tcp() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

fn client(info: ConnectionInfo, authorities: Option<&Vec<u8>>) -> RedisResult<Client> {
    let info = info.set_tcp_settings(tcp());
    match authorities {
        Some(authorities) => Client::build_with_tls(info, certificates(authorities)),
        None => Client::open(info),
    }
}

fn certificates(authorities: &[u8]) -> TlsCertificates {
    TlsCertificates { client_tls: None, root_cert: Some(authorities.to_vec()) }
}

fn sentinel_client(
    sentinels: &Several,
    own_login: &RedisConnectionInfo,
    master: &str,
    authorities: Option<&Vec<u8>>,
) -> RedisResult<SentinelClient> {
    let (login, tls) = (&sentinels.login, sentinels.tls);
    let addresses = sentinels.nodes.iter().map(|node| address(node, tls));
    let mut builder = SentinelClientBuilder::new(addresses, master, SentinelServerType::Master)?
        .set_client_to_redis_db(login.db())
        .set_client_to_redis_protocol(ProtocolVersion::RESP3)
        .set_client_to_sentinel_protocol(ProtocolVersion::RESP3)
        .set_client_to_redis_tcp_settings(tcp())
        .set_client_to_sentinel_tcp_settings(tcp());
    if tls {
        builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
        if let Some(authorities) = authorities {
            builder = builder
                .set_client_to_redis_certificates(certificates(authorities))
                .set_client_to_sentinel_certificates(certificates(authorities));
        }
    }
    if let Some(user) = login.username() {
        builder = builder.set_client_to_redis_username(user);
    }
    if let Some(password) = login.password() {
        builder = builder.set_client_to_redis_password(password);
    }
    if let Some(user) = own_login.username() {
        builder = builder.set_client_to_sentinel_username(user);
    }
    if let Some(password) = own_login.password() {
        builder = builder.set_client_to_sentinel_password(password);
    }
    builder.build()
}

enum Servers {
    One(Arc<Server>),
    Cluster(Arc<Cluster>),
}

/// Why a call was not answered.
enum Failed {
    /// It was not made.
    LeftAlone,
    Because(RedisError),
}

/// Finds and calls servers, and gives up in time.
pub(super) struct Link {
    servers: Servers,
    timeout: Duration,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(config: &RedisConfig, clock: Arc<dyn Clock>) -> Result<Self, InvalidRedisConfig> {
        let place = Place::of(config.url.expose_secret())?;
        let authorities = config.authorities.as_ref();
        if place.tls() {
            // Fails when a provider is installed already, which is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        if let Some(authorities) = authorities {
            check_authorities(authorities, place.tls())?;
        }
        let invalid = |cause: RedisError| InvalidRedisConfig::Url(cause.category().to_owned());
        let guard = Guard::new(config, Arc::clone(&clock));
        let servers = match place {
            Place::One(info) => {
                let client = client(info, authorities).map_err(invalid)?;
                Servers::One(Server::new(Door::Fixed(client), guard))
            }
            Place::Sentinels { sentinels, own_login, master } => {
                let client =
                    sentinel_client(&sentinels, &own_login, &master, authorities).map_err(invalid)?;
                Servers::One(Server::new(Door::Sentinels(client.into()), guard))
            }
            Place::Cluster(several) => {
                let manner = Manner::of(&several, authorities);
                Servers::Cluster(Cluster::new(several.nodes, manner, config, clock))
            }
        };
        Ok(Self { servers, timeout: config.timeout })
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.servers, Servers::Cluster(_))
    }

    /// Makes a call to the server that keeps `key`, in bounded time. It is made once more where the first server
    /// refused it because another one keeps the key.
    pub(super) async fn call<C, T>(&self, key: &str, call: impl Fn(Live) -> C) -> Result<T, Failure>
    where
        C: Future<Output = RedisResult<T>>,
    {
        let mut asked = None;
        match tokio::time::timeout(self.timeout, Box::pin(self.made(key, call, &mut asked))).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Failed::LeftAlone)) => {
                let cause = "it did not answer several times; it will be asked again soon".to_owned();
                Err(Failure::NotAsked(cause))
            }
            Ok(Err(Failed::Because(cause))) => Err(self.told(&cause)),
            Err(_) => {
                self.silent(asked.as_deref());
                Err(Failure::Away(format!("no answer within {:?}", self.timeout)))
            }
        }
    }

    /// Sends one command to the server that keeps `key`; answers its reply and the run of that server.
    pub(super) async fn ask(&self, key: &str, command: &Cmd) -> Result<(Value, String), Failure> {
        self.call(key, |Live { mut connection, run }| async move {
            Ok((command.query_async(&mut connection).await?, run))
        })
        .await
    }

    async fn made<C, T>(
        &self,
        key: &str,
        call: impl Fn(Live) -> C,
        asked: &mut Option<Arc<Server>>,
    ) -> Result<T, Failed>
    where
        C: Future<Output = RedisResult<T>>,
    {
        let cluster = match &self.servers {
            Servers::One(server) => return ask(asked.insert(Arc::clone(server)), &call).await,
            Servers::Cluster(cluster) => cluster,
        };
        let (slot, mut again) = (slot_of(key), true);
        loop {
            *asked = None;
            if !cluster.may_be_asked() {
                return Err(Failed::LeftAlone);
            }
            let (map, server) = cluster.server(slot).await?;
            let called = ask(asked.insert(server), &call).await;
            match called {
                Err(Failed::Because(cause)) if cluster.failed(&map, &cause) && again => again = false,
                called => return called,
            }
        }
    }

    fn silent(&self, asked: Option<&Server>) {
        if let Servers::Cluster(cluster) = &self.servers {
            cluster.silent(asked.is_some());
        }
        if let Some(server) = asked {
            server.silent();
        }
    }

    fn told(&self, cause: &RedisError) -> Failure {
        match cause.kind() {
            ErrorKind::Server(ServerErrorKind::Moved) if !self.is_cluster() => Failure::NotAsked(
                "it is one server of a cluster: let redis_url begin with redis-cluster:// (rediss-cluster://)"
                    .to_owned(),
            ),
            ErrorKind::Server(ServerErrorKind::Ask | ServerErrorKind::TryAgain) => moving(),
            // Its data is not read yet, or it is no master now, or its cluster is cut: it looks at no call.
            ErrorKind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ClusterDown,
            ) => Failure::NotAsked(cause.to_string()),
            // A script that failed half-way, for a reason that nobody thought of.
            ErrorKind::Server(ServerErrorKind::ResponseError) => Failure::Away(cause.to_string()),
            // Told before a script runs.
            ErrorKind::Server(_) | ErrorKind::Extension => Failure::Refused(cause.to_string()),
            _ => Failure::Away(cause.to_string()),
        }
    }
}

/// Nothing is decided while an organisation's keys lie on two servers.
pub(super) fn moving() -> Failure {
    Failure::NotAsked("the organisation's slot is being moved to another server of the cluster".to_owned())
}

impl From<RedisError> for Failed {
    fn from(cause: RedisError) -> Self {
        Self::Because(cause)
    }
}

async fn ask<C, T>(server: &Arc<Server>, call: impl Fn(Live) -> C) -> Result<T, Failed>
where
    C: Future<Output = RedisResult<T>>,
{
    if !server.guard.admits() {
        return Err(Failed::LeftAlone);
    }
    Ok(server.call(call).await?)
}

fn check_authorities(pem: &[u8], tls: bool) -> Result<(), InvalidRedisConfig> {
    if !tls {
        return Err(InvalidRedisConfig::Authorities("they are for TLS: let redis_url begin with rediss"));
    }
    let begins = b"-----BEGIN CERTIFICATE-----";
    if !pem.windows(begins.len()).any(|some| some == begins) {
        return Err(InvalidRedisConfig::Authorities("the file has no certificate in PEM form"));
    }
    let node = Node { host: "host".to_owned(), port: 1 };
    let manner = Manner { login: RedisConnectionInfo::default(), tls: true, authorities: Some(pem.to_vec()) };
    match manner.client(&node) {
        Ok(_) => Ok(()),
        Err(_) => Err(InvalidRedisConfig::Authorities("one of the file's certificates cannot be read")),
    }
}

//! Servers reached over TCP: with TLS, watched by a sentinel, or in a cluster.

#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
};

use nullspend_ledger::RedisConfig;
use tempfile::TempDir;

use super::{Server, patient, until};

/// What every server here asks for.
pub const PASSWORD: &str = "p@ss/word";
/// As a URL has it.
pub const PASSWORD_IN_URL: &str = "p%40ss%2Fword";

/// An address of this machine that this process has for itself, so that its ports are nobody else's.
pub fn host() -> String {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    format!("127.{}.{middle}.{low}", 64 + high)
}

/// A port of [`host`] that was not given out before: below those that the system gives to clients, as is the one 1 000
/// above it, which is for the bus of a cluster's server.
pub fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(21_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// An authority made for a test, and a certificate of this process's address.
pub struct Authority(TempDir);

impl Authority {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("ns-tls-").tempdir().unwrap();
        std::fs::write(dir.path().join("extension"), format!("subjectAltName=IP:{}", host())).unwrap();
        for line in [
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key -out ca.pem -subj /CN=authority",
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out request -subj /CN=server",
            "x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem -extfile extension",
        ] {
            let made = Command::new("openssl").args(line.split(' ')).current_dir(dir.path()).output();
            let made = made.expect("openssl is missing: `cargo xtask test` installs it");
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        }
        Self(dir)
    }

    pub fn pem(&self) -> Vec<u8> {
        std::fs::read(self.0.path().join("ca.pem")).unwrap()
    }

    /// A server's arguments to speak TLS alone, on that port.
    pub fn arguments(&self, port: u16) -> Vec<String> {
        let file = |name: &str| self.0.path().join(name).display().to_string();
        let (certificate, key, authority, port) =
            (file("cert.pem"), file("key.pem"), file("ca.pem"), port.to_string());
        let pairs = [
            ("--port", "0"),
            ("--tls-port", &*port),
            ("--tls-cert-file", &certificate),
            ("--tls-key-file", &key),
            ("--tls-ca-cert-file", &authority),
            ("--tls-auth-clients", "no"),
            ("--tls-replication", "yes"),
            ("--tls-cluster", "yes"),
        ];
        pairs.iter().flat_map(|(name, value)| [(*name).to_owned(), (*value).to_owned()]).collect()
    }
}

/// Starts a server on [`host`] that asks for the password, with more arguments.
pub fn server(arguments: &[String]) -> Server {
    let host = host();
    let own = ["--bind", &host, "--requirepass", PASSWORD, "--masterauth", PASSWORD];
    let all: Vec<&str> = own.into_iter().chain(arguments.iter().map(String::as_str)).collect();
    Server::start(&all)
}

/// A server's arguments to listen on that port.
fn at(port: u16, authority: Option<&Authority>) -> Vec<String> {
    match authority {
        Some(authority) => authority.arguments(port),
        None => words(&format!("--port {port}")),
    }
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

/// A master, its replica, and a sentinel that watches them and asks for the password too.
pub struct Watched {
    pub servers: [Server; 2],
    sentinel: Mutex<Child>,
    sentinel_port: u16,
    scheme: &'static str,
    /// PEM.
    authorities: Option<Vec<u8>>,
    dir: TempDir,
}

impl Watched {
    pub fn start() -> Self {
        Self::watch("redis", None)
    }

    /// All of them speak TLS alone.
    pub fn start_tls(authority: &Authority) -> Self {
        Self::watch("rediss", Some(authority))
    }

    fn watch(scheme: &'static str, authority: Option<&Authority>) -> Self {
        let (host, ports, sentinel_port) = (host(), [port(), port()], port());
        let start = |port: u16, more: &str| {
            let own = format!("--replica-announce-ip {host} --repl-diskless-sync-delay 0{more}");
            server(&[at(port, authority), words(&own)].concat())
        };
        let replica_of = format!(" --replicaof {host} {}", ports[0]);
        let servers = [start(ports[0], ""), start(ports[1], &replica_of)];
        until("the replica follows", || info(&servers[1], "replication", "master_link_status") == "up");
        let dir = tempfile::Builder::new().prefix("ns-sentinel-").tempdir().unwrap();
        let line = |pair: &[String]| format!("{} {}\n", pair[0].trim_start_matches('-'), pair[1]);
        let listens: String = at(sentinel_port, authority).chunks(2).map(line).collect();
        let settings = format!(
            "{listens}bind {host}\ndir {dir}\nlogfile log\nrequirepass \"{PASSWORD}\"\n\
             sentinel monitor mymaster {host} {} 1\nsentinel auth-pass mymaster {PASSWORD}\n\
             sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 5000\n",
            ports[0],
            dir = dir.path().display(),
        );
        std::fs::write(dir.path().join("sentinel.conf"), settings).unwrap();
        let (sentinel, authorities) = (Mutex::new(sentinel(dir.path())), authority.map(Authority::pem));
        let watched = Self { servers, sentinel, sentinel_port, scheme, authorities, dir };
        until("the sentinel knows the replica", || watched.knows_the_replica());
        watched
    }

    /// The first of its sentinels is not there.
    pub fn config(&self) -> RedisConfig {
        let (host, scheme, absent, port) = (host(), self.scheme, port(), self.sentinel_port);
        let url = format!(
            "{scheme}-sentinel://:{PASSWORD_IN_URL}@{host}:{absent},{host}:{port}/mymaster\
             ?sentinel_password={PASSWORD_IN_URL}"
        );
        RedisConfig { authorities: self.authorities.clone(), ..patient(url) }
    }

    /// What it has found is in its settings, which it writes itself.
    fn knows_the_replica(&self) -> bool {
        let settings = std::fs::read_to_string(self.dir.path().join("sentinel.conf")).unwrap();
        settings.contains("sentinel known-replica mymaster")
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let sentinel = self.sentinel.get_mut().unwrap_or_else(PoisonError::into_inner);
        sentinel.kill().ok();
        sentinel.wait().ok();
    }
}

fn sentinel(dir: &Path) -> Child {
    let program = std::env::var("NULLSPEND_TEST_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
    Command::new(program)
        .arg(dir.join("sentinel.conf"))
        .arg("--sentinel")
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is missing: `cargo xtask test` installs it")
}

/// Waits until everything the master has acknowledged so far is on the replica.
pub fn in_step(master: &Server, replica: &Server) {
    let offset = |server: &Server, name: &str| info(server, "replication", name).parse::<u64>().unwrap();
    let goal = offset(master, "master_repl_offset");
    until("the replica has everything", || offset(replica, "slave_repl_offset") >= goal);
}

/// From now on a master acknowledges what no replica gets.
pub fn cut_off(master: &Server) {
    master.ask(&["ACL", "SETUSER", "default", "-psync", "-sync", "-replconf"]).unwrap();
    master.ask(&["CLIENT", "KILL", "TYPE", "replica"]).unwrap();
}

/// One line of INFO.
pub fn info(server: &Server, section: &str, name: &str) -> String {
    let told = server.text(&["INFO", section]);
    let line = told.lines().find_map(|line| line.trim_end().strip_prefix(&format!("{name}:")));
    line.unwrap_or_default().to_owned()
}

/// Waits until a replica has become a master. A sentinel closes every connection to a server that it promotes, so one
/// that is cut off has not answered yet.
pub fn promoted(server: &Server) {
    until("a promotion", || {
        let told =
            server.ask(&["ROLE"]).and_then(|told| Ok(redis::from_redis_value::<Vec<redis::Value>>(told)?));
        told.is_ok_and(|told| told.first() == Some(&redis::Value::BulkString(b"master".to_vec())))
    });
}

/// Masters that share the slots, and replicas.
pub struct Cluster {
    pub servers: Vec<Server>,
    pub ports: Vec<u16>,
    scheme: &'static str,
    /// PEM.
    authorities: Option<Vec<u8>>,
}

const SLOTS: u16 = 16_384;

impl Cluster {
    /// So many masters, which call a silent one dead after so long.
    pub fn start(masters: u16, timeout_ms: u32) -> Self {
        Self::form(masters, timeout_ms, "redis-cluster", None)
    }

    /// One that speaks TLS.
    pub fn start_tls(masters: u16, authority: &Authority) -> Self {
        Self::form(masters, 15_000, "rediss-cluster", Some(authority))
    }

    fn form(masters: u16, timeout_ms: u32, scheme: &'static str, authority: Option<&Authority>) -> Self {
        let authorities = authority.map(Authority::pem);
        let mut cluster = Self { servers: Vec::new(), ports: Vec::new(), scheme, authorities };
        for n in 0..masters {
            cluster.join(timeout_ms, authority);
            let master = &cluster.servers[usize::from(n)];
            let share = SLOTS.div_ceil(masters);
            let (first, last) = (n * share, (n * share + share - 1).min(SLOTS - 1));
            master.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()]).unwrap();
            master.ask(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]).unwrap();
        }
        cluster.meet();
        cluster
    }

    fn join(&mut self, timeout_ms: u32, authority: Option<&Authority>) {
        let (host, port) = (host(), port());
        let mut arguments =
            authority.map_or_else(|| words(&format!("--port {port}")), |authority| authority.arguments(port));
        arguments.extend(words(&format!(
            "--cluster-enabled yes --cluster-port {} --cluster-announce-ip {host} --cluster-node-timeout {timeout_ms} \
             --repl-diskless-sync-delay 0",
            port + 1_000
        )));
        self.servers.push(server(&arguments));
        self.ports.push(port);
    }

    fn meet(&self) {
        let host = host();
        for port in &self.ports[1..] {
            let (port, bus) = (port.to_string(), (port + 1_000).to_string());
            self.servers[0].ask(&["CLUSTER", "MEET", &host, &port, &bus]).unwrap();
        }
        let all = self.servers.len().to_string();
        until("the cluster is whole", || {
            self.servers.iter().all(|server| {
                let told = server.text(&["CLUSTER", "INFO"]);
                told.contains("cluster_state:ok") && told.contains(&format!("cluster_known_nodes:{all}\r"))
            })
        });
    }

    /// Adds a replica of that master.
    pub fn add_replica(&mut self, of: usize, timeout_ms: u32) -> usize {
        self.join(timeout_ms, None);
        self.meet();
        let (replica, id) = (self.servers.last().unwrap(), self.id(of));
        until("the replica knows its master", || replica.ask(&["CLUSTER", "REPLICATE", &id]).is_ok());
        until("the replica follows", || info(replica, "replication", "master_link_status") == "up");
        let own = replica.text(&["CLUSTER", "MYID"]);
        until("every server knows the replica", || {
            self.servers.iter().all(|server| {
                let told = server.text(&["CLUSTER", "NODES"]);
                told.lines().any(|line| line.starts_with(&own) && line.contains("slave"))
            })
        });
        self.servers.len() - 1
    }

    pub fn id(&self, server: usize) -> String {
        self.servers[server].text(&["CLUSTER", "MYID"])
    }

    /// The server that keeps a key.
    pub fn master_of(&self, key: &str) -> usize {
        let slot = self.slot_of(key);
        let masters = self.servers.len() - usize::from(self.servers.len() > 3);
        usize::from(slot / SLOTS.div_ceil(u16::try_from(masters).unwrap()))
    }

    pub fn slot_of(&self, key: &str) -> u16 {
        redis::from_redis_value(self.servers[0].ask(&["CLUSTER", "KEYSLOT", key]).unwrap()).unwrap()
    }

    /// The first of the servers it names is not there.
    pub fn config(&self) -> RedisConfig {
        let (host, scheme, last) = (host(), self.scheme, self.ports[self.ports.len() - 1]);
        let url = format!("{scheme}://:{PASSWORD_IN_URL}@{host}:{},{host}:{last}", port());
        RedisConfig { authorities: self.authorities.clone(), ..patient(url) }
    }

    /// How often a command was called on all servers.
    pub fn calls(&self, command: &str) -> u64 {
        self.servers.iter().map(|server| server.calls(command)).sum()
    }
}

//! A cluster: which of its servers has which keys.
//!
//! The `redis` crate's own cluster connection is not used: it reconnects by itself and does not tell which process
//! answered, while the ledger must know the run of the very server that keeps an organisation's slot, to notice what a
//! failover lost. So each server has a connection of its own, looked at when it is made, as a single server's is.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nullspend_core::clock::Clock;
use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind, Value, from_redis_value};
use tokio::task::JoinSet;

use super::{
    RedisConfig,
    address::Node,
    kept::Kept,
    link::Manner,
    server::{Door, Guard, Server, is_elsewhere},
};

/// How long a server may take to say what it knows of the cluster.
const ASK_WAIT: Duration = Duration::from_millis(500);

/// The slot of a key: of what stands in its first braces, if anything does.
pub(super) fn slot_of(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    crc16(tag.filter(|tag| !tag.is_empty()).unwrap_or(key).as_bytes()) % 16_384
}

/// CRC-16/XMODEM, which is what a cluster goes by.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

/// Who has which slots, in order, as one server sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct View {
    /// False while the server knows of slots that nobody serves, or is cut off.
    whole: bool,
    epoch: u64,
    ranges: Vec<(u16, u16, Node)>,
}

impl View {
    /// Of the answers to CLUSTER INFO and CLUSTER SLOTS. `host` is the one that was asked: a server may leave its own out.
    fn of(info: &str, slots: Value, host: &str) -> RedisResult<Self> {
        let told = |name: &str| info.lines().find_map(|line| line.trim_end().strip_prefix(name));
        let mut ranges = Vec::new();
        for range in from_redis_value::<Vec<Vec<Value>>>(slots)? {
            let mut range = range.into_iter();
            let (Some(first), Some(last), Some(Value::Array(master))) =
                (range.next(), range.next(), range.next())
            else {
                continue;
            };
            let mut master = master.into_iter();
            let (named, port) = (master.next().unwrap_or(Value::Nil), master.next().unwrap_or(Value::Nil));
            let named: Option<String> = from_redis_value(named)?;
            let named = named.filter(|name| !name.is_empty()).unwrap_or_else(|| host.to_owned());
            if named == "?" {
                continue;
            }
            let node = Node { host: named, port: from_redis_value(port)? };
            ranges.push((from_redis_value(first)?, from_redis_value(last)?, node));
        }
        ranges.sort_by_key(|range| range.0);
        Ok(Self {
            whole: told("cluster_state:") == Some("ok"),
            epoch: told("cluster_current_epoch:").and_then(|epoch| epoch.parse().ok()).unwrap_or(0),
            ranges,
        })
    }
}

/// The servers of slots.
pub(super) struct Map(Vec<(u16, u16, Arc<Server>)>);

impl Map {
    fn server(&self, slot: u16) -> Option<&Arc<Server>> {
        let after = self.0.partition_point(|(first, ..)| *first <= slot);
        let (_, last, server) = self.0.get(after.checked_sub(1)?)?;
        (slot <= *last).then_some(server)
    }
}

pub(super) struct Cluster {
    seeds: Vec<Node>,
    manner: Manner,
    config: RedisConfig,
    clock: Arc<dyn Clock>,
    /// Of learning who has which slots.
    guard: Guard,
    map: Arc<Kept<Map>>,
    servers: Mutex<HashMap<Node, Arc<Server>>>,
}

impl Cluster {
    pub(super) fn new(
        seeds: Vec<Node>,
        manner: Manner,
        config: &RedisConfig,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        let guard = Guard::new(config, Arc::clone(&clock));
        Arc::new(Self {
            seeds,
            manner,
            config: config.clone(),
            clock,
            guard,
            map: Arc::default(),
            servers: Mutex::default(),
        })
    }

    /// False while nobody is asked who has which slots, because nobody has answered that several times.
    pub(super) fn may_be_asked(&self) -> bool {
        self.map.is_there() || self.guard.admits()
    }

    /// The server of a slot, as far as is known.
    pub(super) async fn server(self: &Arc<Self>, slot: u16) -> RedisResult<(Arc<Map>, Arc<Server>)> {
        let cluster = Arc::clone(self);
        let map = self.map.get(async move { cluster.learn().await }).await?;
        let server = map.server(slot).map(Arc::clone);
        server.map(|server| (Arc::clone(&map), server)).ok_or_else(|| {
            self.map.forget(&map);
            io::Error::new(
                io::ErrorKind::NotConnected,
                "no server of the cluster has this organisation's slot",
            )
            .into()
        })
    }

    /// Learns of the failure of a call that went by the map; answers whether another server is to be asked now.
    pub(super) fn failed(&self, map: &Arc<Map>, cause: &RedisError) -> bool {
        let moved = cause.kind() == ErrorKind::Server(ServerErrorKind::Moved);
        if moved || is_elsewhere(cause) || cause.kind() == ErrorKind::Server(ServerErrorKind::ClusterDown) {
            self.map.forget(map);
        }
        moved
    }

    /// A server did not answer in time, so that another one may have its slots by now; or nobody told who has them.
    pub(super) fn silent(&self, a_server: bool) {
        self.map.forget_any();
        if !a_server {
            self.guard.failed();
        }
    }

    /// Asks every server that is known, all at once: the first one that sees the whole cluster is right, else the one
    /// that has heard of the latest change.
    async fn learn(&self) -> RedisResult<Map> {
        let mut asking = JoinSet::new();
        let known: HashSet<Node> = {
            let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
            servers.keys().chain(&self.seeds).cloned().collect()
        };
        for node in known {
            let server = self.known(&node)?;
            asking.spawn(async move { ask(&server, &node.host).await });
        }
        let nobody = io::Error::new(io::ErrorKind::NotConnected, "no server of the cluster answered");
        let mut best: RedisResult<View> = Err(nobody.into());
        while let Some(told) = asking.join_next().await {
            match told {
                Ok(Ok(view)) if view.whole => {
                    best = Ok(view);
                    break;
                }
                Ok(Ok(view)) if best.as_ref().is_ok_and(|best| best.epoch >= view.epoch) => {}
                Ok(Ok(view)) => best = Ok(view),
                Ok(Err(cause)) if best.is_err() => best = Err(cause),
                Ok(Err(_)) | Err(_) => {}
            }
        }
        let best = best.inspect_err(|_| self.guard.failed())?;
        self.guard.succeeded();
        self.map_of(best)
    }

    fn map_of(&self, view: View) -> RedisResult<Map> {
        let nodes: HashSet<Node> = view.ranges.iter().map(|range| range.2.clone()).collect();
        let served: RedisResult<Vec<_>> = view
            .ranges
            .into_iter()
            .map(|(first, last, node)| Ok((first, last, self.known(&node)?)))
            .collect();
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.retain(|node, _| nodes.contains(node) || self.seeds.contains(node));
        Ok(Map(served?))
    }

    /// The one of that address, with the connection it has.
    fn known(&self, node: &Node) -> RedisResult<Arc<Server>> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = servers.get(node) {
            return Ok(Arc::clone(server));
        }
        let guard = Guard::new(&self.config, Arc::clone(&self.clock));
        let server = Server::new(Door::Fixed(self.manner.client(node)?), guard);
        servers.insert(node.clone(), Arc::clone(&server));
        Ok(server)
    }
}

async fn ask(server: &Arc<Server>, host: &str) -> RedisResult<View> {
    let asked = server.call(async |mut live| {
        let mut both = redis::pipe();
        both.cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("SLOTS");
        both.query_async(&mut live.connection).await
    });
    let told = tokio::time::timeout(ASK_WAIT, asked).await.unwrap_or_else(|_| {
        server.silent();
        Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time").into())
    });
    let (info, slots): (String, Value) = from_redis_value(told?)?;
    View::of(&info, slots, host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_lies_in_the_slot_of_what_is_in_braces() {
        // The specification's check value, and what CLUSTER KEYSLOT answers.
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(slot_of("foo"), 12_182);
        assert_eq!(slot_of("nullspend:{foo}:meta"), 12_182);
        assert_eq!(slot_of("a{}b"), crc16(b"a{}b") % 16_384);
    }

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn range(first: i64, last: i64, host: Value, port: i64) -> Value {
        let master = Value::Array(vec![host, Value::Int(port), text("id"), Value::Array(vec![])]);
        Value::Array(vec![Value::Int(first), Value::Int(last), master])
    }

    #[test]
    fn a_server_may_leave_its_own_name_out_and_not_know_another_one() {
        let slots = Value::Array(vec![
            range(8_192, 16_383, text("other"), 7_001),
            range(0, 100, Value::Nil, 7_000),
            range(101, 101, text("?"), 7_002),
            range(200, 8_191, text(""), 7_000),
        ]);
        let info = "cluster_state:ok\r\ncluster_current_epoch:6\r\n";
        let node = |host: &str, port| Node { host: host.to_owned(), port };
        let ranges = vec![
            (0, 100, node("asked", 7_000)),
            (200, 8_191, node("asked", 7_000)),
            (8_192, 16_383, node("other", 7_001)),
        ];
        assert_eq!(View::of(info, slots, "asked").unwrap(), View { whole: true, epoch: 6, ranges });
        let cut_off = View::of("cluster_state:fail\r\n", Value::Array(vec![]), "asked").unwrap();
        assert_eq!(cut_off, View { whole: false, epoch: 0, ranges: vec![] });
    }

    #[test]
    fn a_slot_without_a_server_is_none() {
        let server = || {
            let clock = Arc::new(nullspend_core::clock::ManualClock::at(0));
            let guard = Guard::new(&RedisConfig::new(String::new().into()), clock);
            Server::new(Door::Fixed(redis::Client::open("redis://host").unwrap()), guard)
        };
        let (one, two) = (server(), server());
        let map = Map(vec![(0, 5, Arc::clone(&one)), (7, 9, Arc::clone(&two))]);
        for (slot, expected) in [(0, Some(&one)), (5, Some(&one)), (6, None), (7, Some(&two)), (10, None)] {
            assert_eq!(map.server(slot).map(Arc::as_ptr), expected.map(Arc::as_ptr), "{slot}");
        }
    }
}

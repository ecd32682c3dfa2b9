//! A Redis server for one test binary, or for one test, and ledgers on it.

#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

pub mod tcp;

use std::{
    any::Any,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nullspend_core::{clock::ManualClock, id::OrgId, ledger::Ledger};
use nullspend_ledger::{RedisConfig, RedisLedger, conformance::World};
use tempfile::TempDir;
use uuid::Uuid;

/// A server on a unix socket in a temporary directory; dropping it ends it.
pub struct Server {
    process: Mutex<Child>,
    arguments: Vec<String>,
    dir: TempDir,
}

impl Server {
    /// Starts one that keeps nothing on disk, with more arguments.
    pub fn start(arguments: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("ns-redis-").tempdir().unwrap();
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        let process = Mutex::new(spawn(&dir, &arguments));
        let server = Self { process, arguments, dir };
        server.wait();
        server
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Ends the process at once, as a crash does.
    pub fn kill(&self) {
        let mut process = self.process.lock().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
        std::fs::remove_file(self.socket()).ok();
    }

    /// Another process in the same place.
    pub fn start_again(&self) {
        *self.process.lock().unwrap() = spawn(&self.dir, &self.arguments);
        self.wait();
    }

    /// Sends a signal, by its name.
    pub fn signal(&self, name: &str) {
        let id = self.process.lock().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Waits until it serves: a server that loads its data accepts connections before.
    fn wait(&self) {
        until("redis-server is ready", || {
            UnixStream::connect(self.socket()).is_ok() && self.ask(&["PING"]).is_ok()
        });
    }

    /// Asks it something.
    pub fn ask(&self, command: &[&str]) -> redis::RedisResult<redis::Value> {
        let mut connection = redis::Client::open(self.url())?.get_connection()?;
        if let Some(at) = self.arguments.iter().position(|argument| argument == "--requirepass") {
            redis::cmd("AUTH").arg(&self.arguments[at + 1]).exec(&mut connection)?;
        }
        let mut asked = redis::cmd(command[0]);
        asked.arg(&command[1..]).query(&mut connection)
    }

    /// Asks it something that it answers with text.
    pub fn text(&self, command: &[&str]) -> String {
        redis::from_redis_value(self.ask(command).unwrap()).unwrap()
    }

    /// How often a command was called.
    pub fn calls(&self, command: &str) -> u64 {
        let told = self.text(&["INFO", "commandstats"]);
        let line = told.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
        line.and_then(|line| line.split(',').next()).map_or(0, |calls| calls.parse().unwrap())
    }

    /// A ledger's settings.
    pub fn config(&self) -> RedisConfig {
        patient(self.url())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let process = self.process.get_mut().unwrap_or_else(PoisonError::into_inner);
        process.kill().ok();
        process.wait().ok();
    }
}

fn spawn(dir: &TempDir, arguments: &[String]) -> Child {
    let program = std::env::var("NULLSPEND_TEST_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
    let socket = dir.path().join("s");
    Command::new(program)
        .args(["--port", "0", "--save", "", "--loglevel", "warning", "--enable-debug-command", "yes"])
        .arg("--unixsocket")
        .arg(&socket)
        .arg("--dir")
        .arg(dir.path())
        .args(arguments)
        .stdout(Stdio::null())
        .spawn()
        .expect(
            "redis-server is missing: `cargo xtask test` installs it (Debian: apt-get install redis-server)",
        )
}

/// Waits for a state, for 30 s at most.
pub fn until(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..6_000 {
        if is() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("not within 30 s: {what}");
}

/// What this test binary's worlds share, while there are any.
pub struct Shared<T>(Mutex<Weak<T>>);

impl<T> Shared<T> {
    pub const fn new() -> Self {
        Self(Mutex::new(Weak::new()))
    }

    pub fn get(&self, make: impl FnOnce() -> T) -> Arc<T> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let made = Arc::new(make());
            *shared = Arc::downgrade(&made);
            made
        })
    }
}

pub fn org(n: u128) -> OrgId {
    OrgId(Uuid::from_u128(n))
}

/// Makes an organisation's books, which have nothing in them.
pub async fn open(ledger: &RedisLedger, of: OrgId) {
    assert!(ledger.begin_rebuild(of).await.unwrap());
    ledger.finish_rebuild(of).await.unwrap();
}

/// A world on the shared server, whose scripts are changed.
pub async fn changed_world(change: &dyn Fn(String) -> String) -> World {
    static SHARED: Shared<Server> = Shared::new();
    let server = SHARED.get(|| Server::start(&[]));
    world_at(server.config(), server, change).await
}

/// A world at that place, apart from all others by its prefix. What is kept lives as long as it.
pub async fn world_at(
    config: RedisConfig,
    keep: Arc<dyn Any + Send + Sync>,
    change: &dyn Fn(String) -> String,
) -> World {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let prefix = format!("test{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let clock = Arc::new(ManualClock::at(0));
    let ledger = RedisLedger::of_tests(&RedisConfig { prefix, ..config }, clock.clone(), change).unwrap();
    for n in 1..=3 {
        open(&ledger, org(n)).await;
    }
    World { ledger: Arc::new(ledger), clock, server: Some(keep) }
}

/// Settings for that address, patient enough for a machine that is busy with other tests.
pub fn patient(url: String) -> RedisConfig {
    RedisConfig { timeout: Duration::from_secs(10), ..RedisConfig::new(url.into()) }
}

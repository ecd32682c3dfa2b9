//! The servers that tests run beside the product: PostgreSQL databases, and Redis servers of their own.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use nullspend_core::id::{Ids, RandomIds};
use tokio::{
    net::{TcpListener, TcpStream, UnixStream},
    process::{Child, Command},
    sync::watch,
    task::JoinHandle,
};

use crate::{console::eventually, program};

/// A new database on the server that `cargo xtask test` started; its URL.
pub async fn postgres_database() -> String {
    let server = std::env::var("NULLSPEND_TEST_POSTGRES").expect(
        "NULLSPEND_TEST_POSTGRES must be the URL of a PostgreSQL administrator; `cargo xtask test` sets it",
    );
    let name = format!("e2e_{}", RandomIds.v4().simple());
    let created =
        Command::new("psql").args([&server, "-qc", &format!("CREATE DATABASE {name}")]).output().await;
    let created = created.expect("psql is installed");
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    server.replacen("/postgres?", &format!("/{name}?"), 1)
}

/// A way to a PostgreSQL server that can be cut, so that a test takes it away from the product and from nobody else.
#[derive(Debug)]
pub struct Relay {
    database_url: String,
    port: u16,
    open: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Relay {
    /// A way to the server of this URL, which names the directory of its socket as `host`.
    pub async fn to_postgres(database_url: &str) -> Self {
        let directory = database_url.split_once("host=").expect("a socket's directory").1.to_owned();
        let socket = PathBuf::from(directory).join(".s.PGSQL.5432");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("its port").port();
        let open = watch::Sender::new(true);
        let state = open.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *state.borrow() {
                    tokio::spawn(relay(client, socket.clone(), state.subscribe()));
                }
            }
        });
        Self { database_url: database_url.to_owned(), port, open, accepting }
    }

    /// The database by this way.
    #[must_use]
    pub fn url(&self) -> String {
        let (before, _) = self.database_url.split_once('?').expect("a query");
        before.replacen("localhost", &format!("127.0.0.1:{}", self.port), 1)
    }

    /// Ends every connection, and every new one.
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    /// Lets connections pass again.
    pub fn mend(&self) {
        self.open.send_replace(true);
    }
}

async fn relay(mut client: TcpStream, socket: PathBuf, mut open: watch::Receiver<bool>) {
    let Ok(mut server) = UnixStream::connect(socket).await else { return };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        _ = open.wait_for(|open| !open) => {}
    }
}

/// A Redis server with a directory of its own, that writes every command to its log before it answers the next.
#[derive(Debug)]
pub struct Redis {
    server: Child,
    directory: PathBuf,
    env: Vec<(&'static str, String)>,
}

impl Redis {
    /// Starts one in `directory`, which exists, with that in its environment.
    pub async fn start_with(directory: &Path, env: &[(&'static str, String)]) -> Self {
        let mut redis =
            Self { server: spawn(directory, env), directory: directory.to_owned(), env: env.to_vec() };
        redis.ready().await;
        redis
    }

    /// How the product reaches it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// Ends it as a power cut would.
    pub async fn kill9(&mut self) {
        self.server.kill().await.expect("kill -9");
    }

    /// Starts it again on what it wrote.
    pub async fn restart(&mut self) {
        self.server = spawn(&self.directory, &self.env);
        self.ready().await;
    }

    /// Stops it from answering, with its connections open.
    pub fn pause(&self) {
        program::signal(self.pid(), "STOP");
    }

    /// Lets it go on after [`Self::pause`].
    pub fn go_on(&self) {
        program::signal(self.pid(), "CONT");
    }

    /// One command; its answer as text.
    pub async fn command(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli").arg("-s").arg(self.socket()).args(arguments).output().await;
        let output = output.expect("redis-cli is installed");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn pid(&self) -> u32 {
        self.server.id().expect("Redis runs")
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("redis.sock")
    }

    async fn ready(&mut self) {
        eventually("an answer from Redis", async || (self.command(&["PING"]).await == "PONG").then_some(()))
            .await;
    }
}

fn spawn(directory: &Path, env: &[(&'static str, String)]) -> Child {
    let program = std::env::var("NULLSPEND_TEST_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
    Command::new(program)
        .envs(env.iter().map(|(name, value)| (name, value)))
        .args(["--port", "0", "--unixsocket"])
        .arg(directory.join("redis.sock"))
        .args([
            "--appendonly",
            "yes",
            "--appendfsync",
            "everysec",
            "--save",
            "",
            "--maxmemory-policy",
            "noeviction",
        ])
        .arg("--dir")
        .arg(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("redis-server is installed; `cargo xtask test` installs it")
}

//! The servers that tests run beside the product: PostgreSQL databases, and Redis servers of their own.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use nullspend_core::id::{Ids, RandomIds};
use tokio::process::{Child, Command};

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

/// A Redis server with a directory of its own, that writes every command to its log before it answers the next.
#[derive(Debug)]
pub struct Redis {
    server: Child,
    directory: PathBuf,
}

impl Redis {
    /// Starts one in `directory`, which exists.
    pub async fn start(directory: &Path) -> Self {
        let mut redis = Self { server: spawn(directory), directory: directory.to_owned() };
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
        self.server = spawn(&self.directory);
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

fn spawn(directory: &Path) -> Child {
    Command::new("redis-server")
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

//! The program, its Envoy and a fake provider, in a directory of their own.

use std::{collections::BTreeMap, fs, ops::Deref, path::PathBuf, process::ExitStatus};

use bytes::Bytes;
use http::Method;
use nullspend_core::id::{Ids, RandomIds};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Child;

use crate::{
    console::{Console, DEADLINE, eventually},
    http::Http,
    program,
    provider::FakeProvider,
};

/// What a stack starts with.
#[derive(Debug, Default)]
pub struct Builder {
    env: BTreeMap<String, String>,
    upstream: Option<String>,
}

impl Builder {
    /// Sets an environment variable of the program.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Sends provider traffic elsewhere than to the fake provider.
    #[must_use]
    pub fn upstream(mut self, url: &str) -> Self {
        self.upstream = Some(url.to_owned());
        self
    }

    /// Starts everything and waits until the ingress is ready.
    pub async fn start(self) -> Stack {
        let directory = tempfile::Builder::new().prefix("ns").tempdir().expect("a temporary directory");
        self.start_in(directory).await
    }

    /// The same in a directory that something was prepared in.
    pub async fn start_in(self, directory: TempDir) -> Stack {
        let provider = FakeProvider::start().await.expect("a fake provider");
        let owner = format!("ns_live_sk_{}", RandomIds.v4().simple());
        let upstream = self.upstream.unwrap_or_else(|| provider.url());
        let mut env = self.env;
        for (name, value) in [
            ("NULLSPEND_LISTEN", "127.0.0.1:0"),
            ("NULLSPEND_UPSTREAM_OPENAI", upstream.as_str()),
            ("NULLSPEND_UPSTREAM_ANTHROPIC", upstream.as_str()),
            ("NULLSPEND_BOOTSTRAP_KEY", owner.as_str()),
        ] {
            env.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
        let child = program::start("up", directory.path(), &env);
        let mut stack =
            Stack { child, directory, env, provider, console: Console::new(String::new(), owner) };
        stack.ready().await;
        stack
    }
}

/// A running product.
#[derive(Debug)]
pub struct Stack {
    child: Child,
    directory: TempDir,
    env: BTreeMap<String, String>,
    /// Where its provider traffic goes.
    pub provider: FakeProvider,
    console: Console,
}

/// What a client can do with it.
impl Deref for Stack {
    type Target = Console;

    fn deref(&self) -> &Console {
        &self.console
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (name, text) in self.logs() {
                let lines: Vec<&str> = text.lines().collect();
                let last = lines.get(lines.len().saturating_sub(60)..).unwrap_or_default();
                eprintln!("--- {name}\n{}", last.join("\n"));
            }
        }
    }
}

impl Stack {
    /// A stack with nothing special about it.
    pub async fn start() -> Self {
        Builder::default().start().await
    }

    /// A stack with settings of its own.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// What the program wrote to its outputs, by file name.
    #[must_use]
    pub fn logs(&self) -> BTreeMap<String, String> {
        let read = |name: &str| fs::read(self.directory.path().join(name)).unwrap_or_default();
        ["out.log", "err.log"]
            .into_iter()
            .map(|name| (name.to_owned(), String::from_utf8_lossy(&read(name)).into_owned()))
            .collect()
    }

    /// Every regular file of the stack's directory.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let (mut found, mut open) = (Vec::new(), vec![self.directory.path().to_owned()]);
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => open.push(entry.path()),
                    Ok(kind) if kind.is_file() => found.push(entry.path()),
                    _ => {}
                }
            }
        }
        found
    }

    async fn ready(&mut self) {
        let ingress = self.data().join("run/ingress.json");
        let child = &mut self.child;
        let directory = self.directory.path();
        self.console.url = eventually("run/ingress.json", async || {
            if let Ok(Some(status)) = child.try_wait() {
                let log = fs::read_to_string(directory.join("err.log")).unwrap_or_default();
                panic!("the program ended while starting ({status}):\n{log}");
            }
            let text = fs::read(&ingress).ok()?;
            let value: Value = serde_json::from_slice(&text).ok()?;
            value["url"].as_str().map(|url| url.trim_end_matches('/').to_owned())
        })
        .await;
        let http = Http::default();
        let ready = format!("{}/health/ready", self.console.url);
        eventually("/health/ready", async || {
            let live = http.open(&Method::GET, &ready, &[], Bytes::new()).await.ok()?;
            (live.status == 200).then_some(())
        })
        .await;
        self.console.http = http;
    }

    /// The process id of the program.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().expect("the program runs")
    }

    /// Ends the program as a power cut would.
    pub async fn kill9(&mut self) {
        self.child.kill().await.expect("kill -9");
    }

    /// Asks the program to end and does not wait.
    pub fn terminate(&self) {
        program::signal(self.pid(), "TERM");
    }

    /// Waits until the program has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(DEADLINE, self.child.wait()).await;
        ended.expect("the program does not end").expect("its exit status")
    }

    /// Starts the program again on the same data, after [`Self::kill9`] or [`Self::ended`].
    pub async fn restart(&mut self) {
        let _ = fs::remove_file(self.data().join("run/ingress.json"));
        self.child = program::start("up", self.directory.path(), &self.env);
        self.ready().await;
    }
}

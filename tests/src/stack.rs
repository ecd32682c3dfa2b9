//! The program, its Envoy and a fake provider, in a directory of their own.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use bytes::Bytes;
use http::Method;
use nullspend_core::id::{Ids, RandomIds};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{
    http::{Http, Live, Reply},
    provider::FakeProvider,
};

/// How long anything that must happen may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// Asks `probe` until it has an answer; fails naming what was awaited.
pub async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let polling = async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    tokio::time::timeout(DEADLINE, polling).await.unwrap_or_else(|_| panic!("waited in vain for: {what}"))
}

/// The program under test: `NULLSPEND_BIN`, else the one beside this test in the target directory.
fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("NULLSPEND_BIN") {
        return PathBuf::from(path);
    }
    sibling("nullspend")
}

/// A program of the workspace, built into the target directory of the running one.
#[must_use]
pub fn sibling(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the own path");
    // Tests lie in target/<profile>/deps, programs in target/<profile>.
    let built =
        own.ancestors().skip(1).take(2).map(|directory| directory.join(name)).find(|path| path.exists());
    built.unwrap_or_else(|| {
        panic!("no {name} beside {}: build the workspace first, or set NULLSPEND_BIN", own.display())
    })
}

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
        let provider = FakeProvider::start().await.expect("a fake provider");
        let directory = tempfile::Builder::new().prefix("ns").tempdir().expect("a temporary directory");
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
        let child = spawn(directory.path(), &env);
        let mut stack =
            Stack { child, directory, env, provider, owner, url: String::new(), http: Http::default() };
        stack.ready().await;
        stack
    }
}

fn spawn(directory: &Path, env: &BTreeMap<String, String>) -> Child {
    let log = |name: &str| -> File {
        let path = directory.join(name);
        OpenOptions::new().create(true).append(true).open(path).expect("a log file")
    };
    let mut command = Command::new(program());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("NULLSPEND_") && name != "NULLSPEND_ENVOY" {
            command.env_remove(name);
        }
    }
    command
        .arg("up")
        .envs(env)
        .env("NULLSPEND_DATA_DIR", directory.join("data"))
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(log("out.log"))
        .stderr(log("err.log"))
        .kill_on_drop(true);
    command.spawn().expect("the program starts")
}

/// A running product.
#[derive(Debug)]
pub struct Stack {
    child: Child,
    directory: TempDir,
    env: BTreeMap<String, String>,
    /// Where its provider traffic goes.
    pub provider: FakeProvider,
    /// The bootstrap key (role owner).
    pub owner: String,
    /// The ingress.
    pub url: String,
    /// A client that keeps connections.
    pub http: Http,
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

/// An agent key.
#[derive(Clone, Debug)]
pub struct Agent {
    /// The prefixed id.
    pub id: String,
    /// The raw key.
    pub key: String,
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
        self.url = eventually("run/ingress.json", async || {
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
        let ready = format!("{}/health/ready", self.url);
        eventually("/health/ready", async || {
            let live = http.open(&Method::GET, &ready, &[], Bytes::new()).await.ok()?;
            (live.status == 200).then_some(())
        })
        .await;
        self.http = http;
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
        let command = format!("kill -TERM {}", self.pid());
        let sent = std::process::Command::new("sh").args(["-c", &command]).status().expect("sh runs");
        assert!(sent.success(), "no process to terminate");
    }

    /// Waits until the program has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(DEADLINE, self.child.wait()).await;
        ended.expect("the program does not end").expect("its exit status")
    }

    /// Starts the program again on the same data, after [`Self::kill9`] or [`Self::ended`].
    pub async fn restart(&mut self) {
        let _ = fs::remove_file(self.data().join("run/ingress.json"));
        self.child = spawn(self.directory.path(), &self.env);
        self.ready().await;
    }

    /// Calls the API with a NullSpend key.
    pub async fn api(&self, key: &str, method: Method, path: &str, body: Value) -> Reply {
        let url = format!("{}{path}", self.url);
        let headers = [("x-nullspend-key", key), ("content-type", "application/json")];
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        self.http.send(&method, &url, &headers, body).await
    }

    /// Creates an agent key; `settings` are added to the request.
    pub async fn agent_with(&self, settings: Value) -> Agent {
        let mut request = serde_json::json!({"name": "agent", "role": "agent"});
        if let (Some(request), Some(settings)) = (request.as_object_mut(), settings.as_object()) {
            request.extend(settings.clone());
        }
        let made = self.api(&self.owner, Method::POST, "/api/keys", request).await.expect_status(201).json();
        let text = |name: &str| made["data"][name].as_str().expect("a created key").to_owned();
        Agent { id: text("id"), key: text("rawKey") }
    }

    /// Creates an agent key.
    pub async fn agent(&self) -> Agent {
        self.agent_with(Value::Null).await
    }

    /// Creates or changes a budget; the budget.
    pub async fn budget(&self, request: Value) -> Value {
        self.api(&self.owner, Method::POST, "/api/budgets", request).await.expect_status(201).json()["data"]
            .clone()
    }

    /// A `strict_block` budget of one key, in micro-dollars.
    pub async fn limit_key(&self, agent: &Agent, microdollars: i64) -> Value {
        self.budget(serde_json::json!({"entityType": "api_key", "entityId": agent.id,
            "maxBudgetMicrodollars": microdollars, "policy": "strict_block"}))
            .await
    }

    /// The budget as it stands.
    pub async fn budget_now(&self, budget: &Value) -> Value {
        let path = format!("/api/budgets/{}", budget["id"].as_str().expect("a budget's id"));
        self.api(&self.owner, Method::GET, &path, Value::Null).await.expect_status(200).json()["data"].clone()
    }

    /// All cost events, newest first, through every page.
    pub async fn events(&self) -> Vec<Value> {
        let (mut events, mut query) = (Vec::new(), "limit=100".to_owned());
        loop {
            let path = format!("/api/cost-events?{query}");
            let page = self.api(&self.owner, Method::GET, &path, Value::Null).await.expect_status(200).json();
            events.extend(page["data"].as_array().expect("a list of events").iter().cloned());
            if page["cursor"].is_null() {
                return events;
            }
            query = format!("limit=100&cursor={}", encode(&page["cursor"].to_string()));
        }
    }

    /// Waits until there are at least `count` events; exactly that many must come.
    pub async fn wait_events(&self, count: usize) -> Vec<Value> {
        let events = eventually(&format!("{count} events"), async || {
            let events = self.events().await;
            (events.len() >= count).then_some(events)
        })
        .await;
        assert_eq!(events.len(), count, "more events than calls: {events:#?}");
        events
    }

    /// Waits until nothing is held in this budget, and returns it.
    pub async fn wait_no_holds(&self, budget: &Value) -> Value {
        eventually("holds of 0", async || {
            let now = self.budget_now(budget).await;
            (now["heldNanodollars"] == "0").then_some(now)
        })
        .await
    }

    /// Calls a provider route with the given NullSpend key and returns at the response headers.
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn open(
        &self,
        http: &Http,
        key: &str,
        path: &str,
        body: Value,
    ) -> Result<Live, hyper_util::client::legacy::Error> {
        let headers = provider_headers(key);
        http.open(&Method::POST, &format!("{}{path}", self.url), &headers, body.to_string()).await
    }

    /// Calls a provider route and reads the whole answer.
    pub async fn call(&self, key: &str, path: &str, body: Value) -> Reply {
        self.call_with(key, path, &[], body).await
    }

    /// The same with more headers.
    pub async fn call_with(&self, key: &str, path: &str, more: &[(&str, &str)], body: Value) -> Reply {
        let headers = [&provider_headers(key)[..], more].concat();
        self.http.send(&Method::POST, &format!("{}{path}", self.url), &headers, body.to_string()).await
    }
}

/// Headers of a provider call; the credential suits both providers.
fn provider_headers(key: &str) -> [(&str, &str); 3] {
    [
        ("x-nullspend-key", key),
        ("content-type", "application/json"),
        ("authorization", "Bearer sk-provider-credential"),
    ]
}

/// Percent-encodes a query value.
#[must_use]
pub fn encode(text: &str) -> String {
    text.bytes()
        .map(
            |byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            },
        )
        .collect()
}

/// Nano-dollars of a decimal-string field.
#[must_use]
pub fn nanos(value: &Value) -> i64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no nano-dollars: {value}"))
}

/// The living child processes of a process: the Envoy of ours.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|child| parent_of(*child) == Some(pid))
        .collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?;
    if state == "Z" { None } else { fields.next()?.parse().ok() }
}

/// Whether a process runs; one that is only waiting to be reaped does not.
#[must_use]
pub fn alive(pid: u32) -> bool {
    parent_of(pid).is_some()
}

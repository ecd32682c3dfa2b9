//! The arms, each a running Envoy with what stands behind it.

use std::{
    fs, io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
};

use crate::{
    program::{children, sibling},
    servers::Redis,
    stack::Stack,
};

/// The provider, in a process of its own so that its processor time is nobody else's.
pub(super) struct Provider {
    url: String,
    _process: Child,
}

impl Provider {
    pub(super) async fn start() -> io::Result<Self> {
        let mut command = Command::new(sibling("fake-provider"));
        command.arg("--forget").stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn()?;
        let output = process.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
        let url = BufReader::new(output).lines().next_line().await?;
        Ok(Self {
            url: url.ok_or_else(|| io::Error::other("the fake provider said nothing"))?,
            _process: process,
        })
    }

    fn port(&self) -> io::Result<u16> {
        let port = self.url.rsplit(':').next().unwrap_or_default();
        port.parse().map_err(io::Error::other)
    }
}

/// Something to put load on.
pub(super) struct Arm {
    pub(super) name: &'static str,
    pub(super) url: String,
    pub(super) headers: Vec<(String, String)>,
    /// Envoy's process.
    pub(super) envoy: u32,
    /// The process that does our part.
    pub(super) ours: Option<u32>,
    _processes: Vec<Child>,
    _directory: Option<TempDir>,
    _stack: Option<Box<Stack>>,
    /// The ledger's server, where there is one.
    redis: Option<Redis>,
}

impl Arm {
    /// (a) Envoy that only forwards.
    pub(super) async fn bare(provider: &Provider) -> io::Result<Self> {
        let (directory, port) = (tempfile::tempdir()?, free_port()?);
        let config = directory.path().join("envoy.json");
        fs::write(&config, bare_config(port, provider.port()?).to_string())?;
        let envoy = spawn_envoy(&config, directory.path(), port).await?;
        Ok(Self {
            name: "(a) bare Envoy",
            url: format!("http://127.0.0.1:{port}"),
            headers: headers("none"),
            envoy: id(&envoy)?,
            ours: None,
            _processes: vec![envoy],
            _directory: Some(directory),
            _stack: None,
            redis: None,
        })
    }

    /// (b) Our Envoy configuration, as the program writes it, with an ext_proc that does nothing.
    pub(super) async fn no_op(provider: &Provider) -> io::Result<Self> {
        let (directory, port) = (tempfile::tempdir()?, free_port()?);
        let stack = Stack::builder().upstream(&provider.url).start().await;
        let rendered = fs::read_to_string(stack.data().join("run/envoy.yaml"))?;
        let old_port = stack.url.rsplit(':').next().unwrap_or_default().to_owned();
        drop(stack);
        let config = directory.path().join("envoy.yaml");
        let socket = directory.path().join("noop.sock");
        fs::write(&config, moved(&rendered, directory.path(), &socket, [&old_port, &port.to_string()]))?;
        let mut command = Command::new(sibling("noop-ext-proc"));
        let no_op = command.arg(&socket).args(["--cluster", "openai"]).kill_on_drop(true).spawn()?;
        let envoy = spawn_envoy(&config, directory.path(), port).await?;
        Ok(Self {
            name: "(b) no-op ext_proc",
            url: format!("http://127.0.0.1:{port}"),
            headers: headers("none"),
            envoy: id(&envoy)?,
            ours: Some(id(&no_op)?),
            _processes: vec![envoy, no_op],
            _directory: Some(directory),
            _stack: None,
            redis: None,
        })
    }

    /// (c) The whole product: a key, three budgets that match, exact settling, the durable spool.
    pub(super) async fn product(provider: &Provider) -> io::Result<Self> {
        Self::of_product("(c) the product", provider, None).await
    }

    /// (d) The same with its ledger on Redis.
    pub(super) async fn on_redis(provider: &Provider) -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let redis = Redis::start_with(directory.path(), &[]).await;
        let product = Self::of_product("(d) the product on Redis", provider, Some(redis)).await?;
        Ok(Self { _directory: Some(directory), ..product })
    }

    async fn of_product(name: &'static str, provider: &Provider, redis: Option<Redis>) -> io::Result<Self> {
        let redis_url = redis.as_ref().map(Redis::url).unwrap_or_default();
        let builder = Stack::builder().upstream(&provider.url).env("NULLSPEND_REDIS_URL", &redis_url);
        let stack = builder.env("NULLSPEND_LOG", "warn").start().await;
        let agent = stack.agent().await;
        for (kind, entity) in [("org", ""), ("api_key", agent.id.as_str()), ("tag", "team=bench")] {
            let budget = json!({"entityType": kind, "entityId": entity, "policy": "strict_block",
                "maxBudgetMicrodollars": 1_000_000_000_000_i64});
            stack.budget(budget).await;
        }
        let envoy = children(stack.pid()).first().copied();
        Ok(Self {
            name,
            url: stack.url.clone(),
            headers: headers(&agent.key),
            envoy: envoy.ok_or_else(|| io::Error::other("the product runs no Envoy"))?,
            ours: Some(stack.pid()),
            _processes: Vec::new(),
            _directory: None,
            _stack: Some(Box::new(stack)),
            redis,
        })
    }

    /// Scripts that the ledger's server has run so far: each is one round trip.
    pub(super) async fn redis_calls(&self) -> Option<f64> {
        let told = self.redis.as_ref()?.command(&["INFO", "commandstats"]).await;
        let calls = told.lines().filter_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
        let calls = calls.filter_map(|rest| rest.split(',').next()?.parse::<f64>().ok());
        Some(calls.sum())
    }
}

/// The same for every arm, so that all of them carry the same bytes.
fn headers(key: &str) -> Vec<(String, String)> {
    let pairs = [
        ("content-type", "application/json"),
        ("authorization", "Bearer sk-bench"),
        ("x-nullspend-tags", r#"{"team":"bench"}"#),
        ("x-nullspend-key", key),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

/// The program's Envoy configuration, moved to other sockets, another port and another log.
fn moved(rendered: &str, directory: &Path, ext_proc: &Path, [old_port, port]: [&str; 2]) -> String {
    let parts: Vec<String> = rendered
        .split('"')
        .enumerate()
        .map(|(index, part)| {
            let quoted = index % 2 == 1;
            let name = part.rsplit('/').next().unwrap_or_default();
            match name {
                _ if !quoted || !part.starts_with('/') => part.to_owned(),
                _ if name.ends_with(".sock") && name.contains("ext-proc") => ext_proc.display().to_string(),
                _ if name.ends_with(".sock") || name.ends_with(".log") => {
                    directory.join(name).display().to_string()
                }
                _ => part.to_owned(),
            }
        })
        .collect();
    parts.join("\"").replacen(&format!("port_value: {old_port}"), &format!("port_value: {port}"), 1)
}

fn bare_config(port: u16, provider: u16) -> serde_json::Value {
    let router = json!({"name": "envoy.filters.http.router", "typed_config":
        {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}});
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bare", "http_filters": [router],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes":
            [{"match": {"prefix": "/"}, "route": {"cluster": "provider", "timeout": "0s"}}]}]}});
    let address = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    json!({"static_resources": {
        "listeners": [{"name": "bare", "address": address(port), "filter_chains": [{"filters":
            [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}]}],
        "clusters": [{"name": "provider", "connect_timeout": "1s", "circuit_breakers": {"thresholds":
            [{"max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000}]},
            "load_assignment": {"cluster_name": "provider", "endpoints":
                [{"lb_endpoints": [{"endpoint": {"address": address(provider)}}]}]}}]}})
}

async fn spawn_envoy(config: &Path, directory: &Path, port: u16) -> io::Result<Child> {
    let program = std::env::var_os("NULLSPEND_ENVOY").map_or_else(|| PathBuf::from("envoy"), PathBuf::from);
    let log = fs::File::create(directory.join("envoy.log"))?;
    let mut command = Command::new(program);
    // One worker, as the product starts it on a machine of two cores.
    command.arg("-c").arg(config).args([
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "--log-level",
        "warn",
    ]);
    let child = command.stdout(Stdio::null()).stderr(log).kill_on_drop(true).spawn()?;
    for _ in 0..400 {
        if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            return Ok(child);
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let said = fs::read_to_string(directory.join("envoy.log")).unwrap_or_default();
    Err(io::Error::other(format!("Envoy does not listen:\n{said}")))
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn id(child: &Child) -> io::Result<u32> {
    child.id().ok_or_else(|| io::Error::other("the process is gone"))
}

//! The product as several processes: a control plane or more, any number of data planes with an Envoy each, one Redis.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use nullspend_core::id::{Ids, RandomIds};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    net::UnixStream,
    process::{Child, Command},
};

use crate::{
    console::{Console, eventually},
    http::Http,
    program,
    provider::FakeProvider,
    servers::Redis,
    time::ShiftedClock,
};

/// What a cluster starts with.
#[derive(Debug, Default)]
pub struct Builder {
    env: BTreeMap<String, String>,
    shift_s: Option<i64>,
    more_controls: usize,
}

impl Builder {
    /// Sets an environment variable of every process of the product.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Lets the product and its Redis go by a clock so many seconds beside the real one.
    #[must_use]
    pub fn shifted(mut self, shift_s: i64) -> Self {
        self.shift_s = Some(shift_s);
        self
    }

    /// Starts two control planes, which nodes follow in turn. They need a database that takes both.
    #[must_use]
    pub fn two_control_planes(mut self) -> Self {
        self.more_controls = 1;
        self
    }

    /// Starts everything and waits until every node is ready.
    pub async fn start(self, nodes: usize) -> Cluster {
        let provider = FakeProvider::start().await.expect("a fake provider");
        let directory = tempfile::Builder::new().prefix("ns").tempdir().expect("a temporary directory");
        let place = |name: &str| -> PathBuf {
            let path = directory.path().join(name);
            fs::create_dir(&path).expect("a directory");
            path
        };
        let clock = self.shift_s.map(|shift_s| ShiftedClock::new(directory.path().join("shift"), shift_s));
        let time: Vec<_> = clock.iter().flat_map(ShiftedClock::env).collect();
        let redis = Redis::start_with(&place("redis"), &time).await;
        let owner = format!("ns_live_sk_{}", RandomIds.v4().simple());
        let mut env = self.env;
        env.extend(time.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        for (name, value) in [
            ("NULLSPEND_LISTEN", "127.0.0.1:0".to_owned()),
            ("NULLSPEND_UPSTREAM_OPENAI", provider.url()),
            ("NULLSPEND_UPSTREAM_ANTHROPIC", provider.url()),
            ("NULLSPEND_BOOTSTRAP_KEY", owner.clone()),
            ("NULLSPEND_REDIS_URL", redis.url()),
        ] {
            env.entry(name.to_owned()).or_insert(value);
        }
        let mut controls = Vec::new();
        for number in 0..=self.more_controls {
            let place = place(&format!("control{number}"));
            let mut control = Control { process: program::start("control-plane", &place, &env), place };
            control.ready().await;
            controls.push(control);
        }
        let mut cluster =
            Cluster { controls, nodes: Vec::new(), env, directory, clock, redis, provider, owner };
        for number in 0..nodes {
            cluster.add_node(number).await;
        }
        cluster
    }
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    controls: Vec<Control>,
    /// The data planes.
    pub nodes: Vec<Node>,
    env: BTreeMap<String, String>,
    directory: TempDir,
    clock: Option<ShiftedClock>,
    /// Its ledger.
    pub redis: Redis,
    /// Where its provider traffic goes.
    pub provider: FakeProvider,
    /// The bootstrap key (role owner).
    pub owner: String,
}

#[derive(Debug)]
struct Control {
    process: Child,
    place: PathBuf,
}

/// One data plane and the Envoy before it.
#[derive(Debug)]
pub struct Node {
    plane: Child,
    envoy: Child,
    place: PathBuf,
    /// The settings of both, with the control plane that they follow.
    env: BTreeMap<String, String>,
    /// Its ingress.
    pub console: Console,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let controls = self.controls.iter().map(|control| &control.place);
            let places = self.nodes.iter().map(|node| &node.place).chain(controls);
            for log in places.map(|place| place.join("err.log")) {
                let text = fs::read_to_string(&log).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let last = lines.get(lines.len().saturating_sub(40)..).unwrap_or_default();
                eprintln!("--- {}\n{}", log.display(), last.join("\n"));
            }
        }
    }
}

impl Cluster {
    /// A cluster with nothing special about it.
    pub async fn start(nodes: usize) -> Self {
        Builder::default().start(nodes).await
    }

    /// A cluster with settings of its own.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Adds a data plane with its Envoy and waits until it is ready.
    async fn add_node(&mut self, number: usize) {
        let place = self.directory.path().join(format!("node{number}"));
        fs::create_dir_all(place.join("data/run")).expect("a directory");
        let control = &self.controls[number % self.controls.len()];
        let mut env = self.env.clone();
        for (name, socket) in [
            ("NULLSPEND_EXT_PROC_CONTROL_PLANE", "internal"),
            ("NULLSPEND_ENVOY_CONTROL_PLANE", "control-plane"),
        ] {
            env.entry(name.to_owned())
                .or_insert_with(|| format!("unix:{}", control.socket(socket).display()));
        }
        let plane = program::start("ext-proc", &place, &env);
        let envoy = start_envoy(&place, &env).await;
        let url = ingress(&place.join("data/run/envoy.sock")).await;
        let node = Node { plane, envoy, place, env, console: Console::new(url, self.owner.clone()) };
        node.ready().await;
        self.nodes.push(node);
    }

    /// Runs a command of the program beside the control plane, which must succeed; what it printed.
    pub async fn run(&self, arguments: &[&str]) -> String {
        let (command, more) = arguments.split_first().expect("a command");
        let ran = program::prepared(command, &self.controls[0].place, &self.env).args(more).output().await;
        let ran = ran.expect("the program runs");
        let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success(), "{arguments:?}: {out}{err}");
        out.into_owned()
    }

    /// Shifts the clock of a cluster that was started with one beside the real one.
    pub fn shift(&self, shift_s: i64) {
        self.clock.as_ref().expect("a shifted clock").shift(shift_s);
    }

    /// Lines of the (first) control plane's log that contain a text.
    #[must_use]
    pub fn log_lines(&self, text: &str) -> Vec<String> {
        let log = fs::read_to_string(self.controls[0].place.join("err.log")).unwrap_or_default();
        log.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }

    /// Who a data plane is to the control plane.
    #[must_use]
    pub fn dataplane_id(&self, number: usize) -> String {
        let file = self.nodes[number].place.join("data/spool/dataplane_id");
        fs::read_to_string(file).expect("an id").trim().to_owned()
    }

    /// Ends the (first) control plane as a power cut would.
    pub async fn kill9_control(&mut self) {
        self.controls[0].process.kill().await.expect("kill -9");
    }

    /// Starts it again.
    pub async fn restart_control(&mut self) {
        let control = &mut self.controls[0];
        control.process = program::start("control-plane", &control.place, &self.env);
        control.ready().await;
    }

    /// Ends a data plane as a power cut would; its Envoy stays and answers 503.
    pub async fn kill9_node(&mut self, number: usize) {
        self.nodes[number].plane.kill().await.expect("kill -9");
    }

    /// Starts a data plane again on its own spool.
    pub async fn restart_node(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        node.plane = program::start("ext-proc", &node.place, &node.env);
        node.ready().await;
    }
}

impl Control {
    fn socket(&self, name: &str) -> PathBuf {
        self.place.join(format!("data/run/{name}.sock"))
    }

    async fn ready(&mut self) {
        let (socket, place) = (self.socket("control-plane"), &self.place);
        let process = &mut self.process;
        eventually("the control plane's API", async || {
            if let Ok(Some(status)) = process.try_wait() {
                let log = fs::read_to_string(place.join("err.log")).unwrap_or_default();
                panic!("the control plane ended while starting ({status}):\n{log}");
            }
            get(&socket, "/api/openapi.json").await.map(drop)
        })
        .await;
    }
}

impl Node {
    /// The process of its data plane.
    #[must_use]
    pub fn plane_pid(&self) -> u32 {
        self.plane.id().expect("the data plane runs")
    }

    /// The process of its Envoy.
    #[must_use]
    pub fn envoy_pid(&self) -> u32 {
        self.envoy.id().expect("Envoy runs")
    }

    async fn ready(&self) {
        let (http, url) = (Http::default(), format!("{}/health/ready", self.console.url));
        eventually("/health/ready", async || {
            let live = http.open(&http::Method::GET, &url, &[], bytes::Bytes::new()).await.ok()?;
            (live.status == 200).then_some(())
        })
        .await;
    }
}

async fn start_envoy(place: &Path, env: &BTreeMap<String, String>) -> Child {
    let printed = program::prepared("envoy-config", place, env).output().await.expect("the program runs");
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let config = place.join("envoy.yaml");
    fs::write(&config, printed.stdout).expect("a file");
    let envoy = std::env::var("NULLSPEND_ENVOY").unwrap_or_else(|_| "envoy".to_owned());
    let log = File::create(place.join("envoy.log")).expect("a log file");
    Command::new(envoy)
        .args(["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warn", "-c"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log file"))
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .expect("Envoy starts")
}

/// The ingress of the Envoy whose admin socket this is.
async fn ingress(admin: &Path) -> String {
    eventually("Envoy's port", async || {
        let text = get(admin, "/listeners?format=json").await?;
        let listeners: Value = serde_json::from_str(&text).ok()?;
        let port =
            listeners["listener_statuses"][0]["local_address"]["socket_address"]["port_value"].as_u64()?;
        Some(format!("http://127.0.0.1:{port}"))
    })
    .await
}

/// The body of a 200 from a unix socket.
async fn get(socket: &Path, path: &str) -> Option<String> {
    let stream = TokioIo::new(UnixStream::connect(socket).await.ok()?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.ok()?;
    let driving = tokio::spawn(connection);
    let request = Request::get(path).header("host", "x").body(Empty::<Bytes>::new()).ok()?;
    let answer = sender.send_request(request).await.ok()?;
    let found = answer.status() == StatusCode::OK;
    let body = answer.into_body().collect().await.ok()?.to_bytes();
    driving.abort();
    found.then(|| String::from_utf8_lossy(&body).into_owned())
}

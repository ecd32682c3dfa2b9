//! `cargo xtask up`: Envoy, a build, and the product; with `--demo` a provider that costs nothing.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::{
    run::{cache, cargo, run, step, target},
    tools,
};

/// The demo's owner key; its database is made anew each time and listens on loopback.
const DEMO_OWNER: &str = "ns_live_sk_de300000000000000000000000000000";

/// Builds and runs until Ctrl-C.
pub fn up(demo: bool, release: bool) -> anyhow::Result<()> {
    let envoy = tools::envoy()?;
    step("Building NullSpend (the first time takes some minutes)");
    let mut build = cargo();
    build.args(["build", "--package", "nullspend-cli", "--bin", "nullspend"]);
    if demo {
        build.args(["--package", "nullspend-e2e", "--bin", "fake-provider"]);
    }
    if release {
        build.arg("--release");
    }
    run(&mut build)?;
    let programs = target().join(if release { "release" } else { "debug" });
    if demo {
        return demo_up(&programs, &envoy);
    }
    // In our place, so that a signal to this process reaches the product and drains it.
    let error = Command::new(programs.join("nullspend")).arg("up").env("NULLSPEND_ENVOY", envoy).exec();
    Err(error).context("run nullspend")
}

/// Ends a child with us.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn demo_up(programs: &Path, envoy: &Path) -> anyhow::Result<()> {
    let data = cache().join("demo");
    // A demo begins with an empty ledger.
    let _ = fs::remove_dir_all(&data);
    let provider_url = data.join("provider.url");
    fs::create_dir_all(&data)?;
    step("Starting the fake provider and NullSpend");
    let provider = Command::new(programs.join("fake-provider"))
        .args(["--listen", "127.0.0.1:0"])
        .stdout(fs::File::create(&provider_url)?)
        .spawn()
        .context("start the fake provider")?;
    let _provider = Ended(provider);
    let provider =
        wait_for(&provider_url, |text| text.trim().starts_with("http").then(|| text.trim().to_owned()))?;
    let mut product = Command::new(programs.join("nullspend"))
        .arg("up")
        .env("NULLSPEND_ENVOY", envoy)
        .env("NULLSPEND_DATA_DIR", &data)
        .env("NULLSPEND_BOOTSTRAP_KEY", DEMO_OWNER)
        .env("NULLSPEND_UPSTREAM_OPENAI", &provider)
        .env("NULLSPEND_UPSTREAM_ANTHROPIC", &provider)
        .env("NULLSPEND_LOG", "warn")
        .spawn()
        .context("start nullspend")?;
    let shown = wait_for(&data.join("run/ingress.json"), |text| {
        let ingress: Value = serde_json::from_str(text).ok()?;
        ingress["url"].as_str().map(ToOwned::to_owned)
    })
    .and_then(|url| show(&url));
    if let Err(error) = shown {
        let _ = product.kill();
        let _ = product.wait();
        return Err(error);
    }
    println!("\nThe demo runs until Ctrl-C; its data is in {}", data.display());
    let status = product.wait().context("wait for nullspend")?;
    if status.success() { Ok(()) } else { bail!("nullspend ended: {status}") }
}

/// A tracked call, a denied one, and how to repeat them.
fn show(url: &str) -> anyhow::Result<()> {
    let call =
        json!({"model": "gpt-4o-mini", "max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}]});
    let (rich, poor) = (agent(url, "demo")?, agent(url, "demo-poor")?);
    let budget = json!({"entityType": "api_key", "entityId": poor.0, "maxBudgetMicrodollars": 1, "policy": "strict_block"});
    post(url, "/api/budgets", DEMO_OWNER, &budget)?;
    println!("\n--- a tracked call (agent key {})", rich.1);
    println!("{}", post(url, "/v1/chat/completions", &rich.1, &call)?);
    println!("\n--- the same call by a key whose budget is 0.000001 dollars: denied before it is forwarded");
    println!("{}", post(url, "/v1/chat/completions", &poor.1, &call)?);
    println!("\n--- what it cost: curl '{url}/api/cost-events?limit=1' -H 'X-NullSpend-Key: {DEMO_OWNER}'");
    println!("{}", request(url, "GET", "/api/cost-events?limit=1", DEMO_OWNER, "")?);
    for (what, key) in [("tracked", &rich.1), ("denied", &poor.1)] {
        println!(
            "\n# {what}:\ncurl -i {url}/v1/chat/completions -H 'X-NullSpend-Key: {key}' \
             -H 'Authorization: Bearer any' -H 'Content-Type: application/json' -d '{call}'"
        );
    }
    Ok(())
}

/// A new agent key: its id and its raw text.
fn agent(url: &str, name: &str) -> anyhow::Result<(String, String)> {
    let made = post(url, "/api/keys", DEMO_OWNER, &json!({"name": name}))?;
    let body = made.split_once("\r\n\r\n").map_or(made.as_str(), |(_, body)| body);
    let key: Value = serde_json::from_str(body).with_context(|| format!("a key was not created: {made}"))?;
    let text =
        |field: &str| key["data"][field].as_str().map(ToOwned::to_owned).context("a key without a secret");
    Ok((text("id")?, text("rawKey")?))
}

fn post(url: &str, path: &str, key: &str, body: &Value) -> anyhow::Result<String> {
    request(url, "POST", path, key, &body.to_string())
}

/// One HTTP/1.1 exchange; status line, headers and body as they came.
fn request(url: &str, method: &str, path: &str, key: &str, body: &str) -> anyhow::Result<String> {
    let address = url.strip_prefix("http://").context("the demo listens without TLS")?;
    let mut stream = TcpStream::connect(address).with_context(|| format!("connect to {url}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\nx-nullspend-key: {key}\r\n\
         authorization: Bearer any\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn wait_for<T>(file: &Path, read: impl Fn(&str) -> Option<T>) -> anyhow::Result<T> {
    for _ in 0..1200 {
        if let Some(found) = fs::read_to_string(file).ok().and_then(|text| read(&text)) {
            return Ok(found);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("{} was not written within a minute; see the messages above", file.display())
}

//! What `up` prints once it serves: where, and on the first start with which keys.

use std::fs;

use anyhow::Context as _;
use nullspend_control_plane::app::Bootstrap;
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::{config::Config, paths::Paths};

/// Writes `run/ingress.json` and prints what to do next. Keys are shown on the first start only, on stdout only.
pub fn announce(config: &Config, paths: &Paths, first: Option<Bootstrap>) -> anyhow::Result<()> {
    let url = url(config);
    match first {
        Some(keys) => println!("{}", first_start(config, paths, &url, &keys)),
        None => println!("NullSpend serves {url}\ndata in {}", paths.data_dir.display()),
    }
    let text = json!({ "url": url, "pid": std::process::id() }).to_string();
    let (file, draft) = (paths.ingress(), paths.ingress().with_extension("tmp"));
    fs::write(&draft, text)
        .and_then(|()| fs::rename(&draft, &file))
        .with_context(|| format!("write {}", file.display()))
}

/// Prints where a control plane of its own listens, and on the first start with which keys.
pub fn control_plane(config: &Config, paths: &Paths, first: Option<Bootstrap>) {
    let at = &config.control_plane;
    println!("control plane serves its API at {}, data planes at {}", at.listen(paths), at.internal(paths));
    if let Some(keys) = first {
        println!("\n{}\nThe keys are shown this once.", key_lines(config, &keys));
    }
}

fn key_lines(config: &Config, keys: &Bootstrap) -> String {
    let agent = keys.agent_key.expose_secret();
    let owner = match &config.bootstrap_key {
        Some(_) => "the one you gave in NULLSPEND_BOOTSTRAP_KEY",
        None => keys.owner_key.expose_secret(),
    };
    format!("  owner key   {owner}\n  agent key   {agent}")
}

/// How a client on this machine reaches the ingress.
fn url(config: &Config) -> String {
    let ip = config.listen.ip();
    let host = match ip {
        ip if ip.is_unspecified() => "127.0.0.1".to_owned(),
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
        ip @ std::net::IpAddr::V4(_) => ip.to_string(),
    };
    format!("http://{host}:{}", config.listen.port())
}

fn first_start(config: &Config, paths: &Paths, url: &str, keys: &Bootstrap) -> String {
    let agent = keys.agent_key.expose_secret();
    let keys = key_lines(config, keys);
    let data = paths.data_dir.display();
    format!(
        r#"NullSpend serves {url}

{keys}
  data in     {data}

The keys are shown this once. Agents call with the agent key and their own provider key:

  curl {url}/v1/chat/completions -H 'X-NullSpend-Key: {agent}' \
    -H "Authorization: Bearer $OPENAI_API_KEY" -H 'Content-Type: application/json' \
    -d '{{"model":"gpt-4o-mini","messages":[{{"role":"user","content":"Hello"}}]}}'

  # Python, OpenAI
  client = openai.OpenAI(base_url="{url}/v1", default_headers={{"X-NullSpend-Key": "{agent}"}})

  # Python, Anthropic
  client = anthropic.Anthropic(base_url="{url}", default_headers={{"X-NullSpend-Key": "{agent}"}})

Administrators use the owner key, e.g. a budget of one dollar a day for everything:

  curl {url}/api/budgets -H 'X-NullSpend-Key: <owner key>' -H 'Content-Type: application/json' \
    -d '{{"entityType":"org","maxBudgetMicrodollars":1000000,"resetInterval":"daily","policy":"strict_block"}}'
"#
    )
}

//! The official SDKs and the published client, unmodified, through the ingress.

use std::path::{Path, PathBuf};

use nullspend_e2e::{console::eventually, provider::State, stack::Stack, tap::Tap};
use serde_json::Value;
use tokio::process::Command;

use crate::sum_nanos;

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// A directory that `cargo xtask test` prepares; a developer may have it under `.cache`.
fn prepared(variable: &str, usual: &str) -> PathBuf {
    let path = std::env::var_os(variable).map_or_else(|| workspace().join(usual), PathBuf::from);
    assert!(path.exists(), "{} is missing: run `cargo xtask test` once, or set {variable}", path.display());
    path
}

/// A Python program under `tests`.
pub fn python(script: &str) -> Command {
    let mut command = Command::new(prepared("NULLSPEND_TEST_VENV", ".cache/venv").join("bin/python"));
    command.arg(workspace().join("tests").join(script)).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

pub fn node(script: &str) -> Command {
    let modules = prepared("NULLSPEND_TEST_NODE_MODULES", ".cache/node/node_modules");
    let mut command = Command::new("node");
    command.arg(workspace().join("tests/sdk/node").join(script)).env("NULLSPEND_TEST_NODE_MODULES", modules);
    command
}

/// Runs a program of SDK scenarios and checks what it left: one request for the denial, exact events, no holds.
async fn check(mut program: Command, denials: usize) -> Stack {
    let stack = Stack::start().await;
    let (agent, poor) = (stack.agent().await, stack.agent().await);
    let budget = stack.limit_key(&agent, 1_000_000_000).await;
    let empty = stack.limit_key(&poor, 1).await;
    let tap = Tap::start(&stack.url).await.expect("a tap");
    let ran = program
        .env("E2E_URL", &stack.url)
        .env("E2E_KEY", &agent.key)
        .env("E2E_POOR_KEY", &poor.key)
        .env("E2E_TAP", tap.url())
        .env("E2E_PROVIDER", stack.provider.url())
        .kill_on_drop(true)
        .output();
    let ran = tokio::time::timeout(std::time::Duration::from_secs(240), ran)
        .await
        .expect("it ends")
        .expect("it runs");
    let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}");
    assert_eq!(tap.posts(), denials, "a denied call must be sent once");
    stack.wait_no_holds(&budget).await;
    assert_eq!(stack.budget_now(&empty).await["spendNanodollars"], "0", "a denied call costs nothing");
    stack
}

/// Every call that the provider saw through the proxy has one event, and together they cost what was billed.
async fn assert_billed_exactly(stack: &Stack) {
    let calls = stack.provider.calls();
    assert!(calls.iter().all(|call| matches!(call.state, State::Finished | State::Refused)), "{calls:#?}");
    let leaked = calls.iter().find(|call| call.headers.keys().any(|name| name.starts_with("x-nullspend")));
    assert!(leaked.is_none(), "{leaked:#?}");
    assert!(
        calls.iter().all(|call| call
            .credential
            .as_deref()
            .is_some_and(|sent| sent.ends_with("sk-provider-credential")))
    );
    let events = eventually("an event of every call", async || {
        let events = proxied(stack).await;
        (events.len() >= calls.len()).then_some(events)
    })
    .await;
    assert_eq!(events.len(), calls.len());
    assert_eq!(sum_nanos(&events), stack.provider.billed_nanos());
}

async fn proxied(stack: &Stack) -> Vec<Value> {
    stack.events().await.into_iter().filter(|event| event["source"] == "proxy").collect()
}

#[tokio::test]
async fn openai_python() {
    assert_billed_exactly(&check(python("sdk/python/openai_sdk.py"), 1).await).await;
}

#[tokio::test]
async fn anthropic_python() {
    assert_billed_exactly(&check(python("sdk/python/anthropic_sdk.py"), 1).await).await;
}

#[tokio::test]
async fn openai_node() {
    assert_billed_exactly(&check(node("openai_sdk.mjs"), 1).await).await;
}

#[tokio::test]
async fn anthropic_node() {
    assert_billed_exactly(&check(node("anthropic_sdk.mjs"), 1).await).await;
}

#[tokio::test]
async fn nullspend_python_client() {
    let stack = check(python("sdk/python/nullspend_sdk.py"), 0).await;
    let (direct, through): (Vec<_>, Vec<_>) =
        stack.provider.calls().into_iter().partition(|call| call.headers.contains_key("x-nullspend-key"));
    assert!(direct.len() <= 1 && !through.is_empty(), "{direct:#?} {through:#?}");
    let events = stack.events().await;
    assert!(events.iter().any(|event| event["source"] == "api"));
    assert!(events.iter().any(|event| event["source"] == "proxy"));
}

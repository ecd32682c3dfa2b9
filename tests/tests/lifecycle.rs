//! Starting, stopping, restarting: nothing is lost, nothing is run twice.

use std::{fs, process::Stdio};

use http::Method;
use nullspend_e2e::{
    console::{eventually, nanos},
    program::children,
    provider::State,
    stack::Stack,
};
use serde_json::Value;

use crate::{CHAT, request, sum_nanos};

#[tokio::test]
async fn a_polite_end_lets_streams_finish_and_keeps_everything() {
    let mut stack = Stack::start().await;
    let agent = stack.agent().await;
    let budget = stack.limit_key(&agent, 10_000_000).await;
    let body = request(CHAT, "[[fake tokens=6 chunks=6 gate=g gate_at=3]]", true);
    let mut stream = stack.open(&stack.http, &agent.key, CHAT, body).await.expect("an answer");
    stream.read_until("word").await;
    stack.terminate();
    let url = format!("{}/health/ready", stack.url);
    eventually("no longer ready", async || {
        let fresh = nullspend_e2e::http::Http::default();
        match fresh.open(&Method::GET, &url, &[], "").await {
            Ok(live) => (live.status != 200).then_some(()),
            Err(_) => Some(()),
        }
    })
    .await;
    stack.provider.open_gate("g");
    let (rest, whole) = stream.rest().await;
    assert!(whole && rest.contains("[DONE]"), "{rest}");
    assert_eq!(stack.ended().await.code(), Some(0));
    assert_eq!(stack.provider.calls()[0].state, State::Finished);

    let printed = |stack: &Stack| stack.logs()["out.log"].matches("ns_live_sk_").count();
    let keys = printed(&stack);
    assert!(keys > 0, "the first start prints an agent key: {}", stack.logs()["out.log"]);
    stack.restart().await;
    assert_eq!(printed(&stack), keys, "later starts print no key");
    let events = stack.wait_events(1).await;
    assert_eq!(events[0]["measurement"], "exact", "{:#}", events[0]);
    assert_eq!(sum_nanos(&events), stack.provider.billed_nanos());
    assert_eq!(nanos(&stack.wait_no_holds(&budget).await["spendNanodollars"]), stack.provider.billed_nanos());
    let again = stack.call(&agent.key, CHAT, request(CHAT, "hello", false)).await;
    assert_eq!(again.status.as_u16(), 200, "keys survive");
}

#[tokio::test]
async fn a_second_instance_on_the_same_data_is_refused_with_a_sentence() {
    let stack = Stack::start().await;
    let program = fs::read_link(format!("/proc/{}/exe", stack.pid())).expect("the program's path");
    let second = tokio::process::Command::new(program)
        .arg("up")
        .env("NULLSPEND_DATA_DIR", stack.data())
        .env("NULLSPEND_LISTEN", "127.0.0.1:0")
        .stdin(Stdio::null())
        .output();
    let second = tokio::time::timeout(std::time::Duration::from_secs(30), second)
        .await
        .expect("it ends")
        .expect("it runs");
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    let data = stack.data().display().to_string();
    assert!(said.contains(&data), "names the directory: {said}");
    let _ = stack
        .http
        .send(&Method::GET, &format!("{}/health/ready", stack.url), &[], "")
        .await
        .expect_status(200);
}

#[tokio::test]
async fn an_envoy_that_dies_is_started_again() {
    let stack = Stack::start().await;
    let agent = stack.agent().await;
    let envoys = children(stack.pid());
    assert_eq!(envoys.len(), 1, "{envoys:?}");
    let killed = std::process::Command::new("sh").args(["-c", &format!("kill -KILL {}", envoys[0])]).status();
    assert!(killed.is_ok_and(|status| status.success()));
    let path = stack.data().join("run/ingress.json");
    let reply = eventually("a call that passes again", async || {
        let text = fs::read(&path).ok()?;
        let url = serde_json::from_slice::<Value>(&text).ok()?["url"].as_str()?.to_owned();
        let headers = [
            ("x-nullspend-key", agent.key.as_str()),
            ("authorization", "Bearer x"),
            ("content-type", "application/json"),
        ];
        let body = request(CHAT, "hello", false).to_string();
        let live = nullspend_e2e::http::Http::default()
            .open(&Method::POST, &format!("{url}{CHAT}"), &headers, body)
            .await;
        live.ok().filter(|live| live.status == 200)
    })
    .await;
    assert!(reply.rest().await.1);
}

#[tokio::test]
async fn another_node_is_kept_from_the_ledger_until_it_takes_over() {
    let mut stack = Stack::start().await;
    let program = fs::read_link(format!("/proc/{}/exe", stack.pid())).expect("the program's path");
    stack.terminate();
    assert!(stack.ended().await.success());
    // Another machine on the same database has another id.
    fs::remove_file(stack.data().join("node-id")).expect("the node's id");
    let data = stack.data();
    let run = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(&program);
        command.args(arguments).env("NULLSPEND_DATA_DIR", &data).env("NULLSPEND_LISTEN", "127.0.0.1:0");
        let ran =
            tokio::time::timeout(std::time::Duration::from_secs(30), command.stdin(Stdio::null()).output());
        let ran = ran.await.expect("it ends").expect("it runs");
        (ran.status.success(), String::from_utf8_lossy(&ran.stderr).into_owned())
    };
    let (started, said) = run(&["up"]).await;
    assert!(!started && said.contains("nullspend ledger take-over"), "{said}");
    let (taken, said) = run(&["ledger", "take-over"]).await;
    assert!(!taken && said.contains("--yes"), "{said}");
    assert!(run(&["ledger", "take-over", "--yes"]).await.0);
    stack.restart().await;
}

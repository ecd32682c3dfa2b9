//! How soon a freeze stops an agent everywhere: two data planes on one Redis, agents that never pause, one call to
//! `/api/freezes`.

use std::{error::Error, sync::Arc};

use http::Method;
use nullspend_core::clock::{Clock as _, SystemClock};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    cluster::Cluster,
    console::{Agent, Console},
    load::Percentiles,
};

const NODES: usize = 2;

/// What was measured, in microseconds from the moment the call to freeze was sent.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct FreezeFigures {
    /// How often something was frozen.
    pub rounds: usize,
    /// Until the call was answered.
    pub answered: Percentiles,
    /// Until the agents of every node had a refusal in hand.
    pub refused: Percentiles,
    /// Calls that passed although they were sent after the freeze was answered.
    pub passed_after: usize,
}

impl FreezeFigures {
    /// A sentence and the figures.
    #[must_use]
    pub fn as_text(&self) -> String {
        let Self { rounds, answered, refused, passed_after } = self;
        format!(
            "\n### A freeze, {NODES} data planes, {rounds} rounds\n\n| from the call being sent until | p50 µs | p99 µs |\n\
             |---|--:|--:|\n| it is answered | {} | {} |\n| agents of every data plane are refused | {} | {} |\n\n\
             Calls that were sent after the answer and passed: {passed_after}\n",
            answered.p50, answered.p99, refused.p50, refused.p99
        )
    }
}

/// Calls without a pause until one is refused; when that refusal was in hand, and when each call that passed was sent.
async fn call_until_frozen(
    console: Console,
    agent: Agent,
    clock: Arc<SystemClock>,
) -> Result<(u64, Vec<u64>), String> {
    let mut sent = Vec::new();
    loop {
        let at_us = clock.monotonic_us();
        let body = json!({"model": "gpt-4o-mini", "max_tokens": 20,
            "messages": [{"role": "user", "content": "[[fake tokens=5]]"}]});
        let reply = console.call(&agent.key, "/v1/chat/completions", body).await;
        match reply.status.as_u16() {
            200 => sent.push(at_us),
            403 if reply.code() == "frozen" => return Ok((clock.monotonic_us(), sent)),
            status => return Err(format!("{status}: {}", String::from_utf8_lossy(&reply.body))),
        }
    }
}

/// Freezes and lifts `rounds` times.
///
/// # Errors
/// When a call ends in any other way than passed or frozen.
pub async fn run(rounds: usize) -> Result<FreezeFigures, Box<dyn Error>> {
    let cluster = Cluster::builder().env("NULLSPEND_LOG", "error").start(NODES).await;
    let clock = Arc::new(SystemClock::new());
    let console = cluster.nodes.first().ok_or("no node")?.console.clone();
    let agent = console.agent().await;
    console
        .budget(json!({"entityType": "org", "policy": "strict_block", "maxBudgetMicrodollars": 1_000_000_000_i64}))
        .await;
    let (mut answered, mut refused, mut passed_after) = (Vec::new(), Vec::new(), 0);
    for _ in 0..rounds {
        let mut agents = JoinSet::new();
        for node in &cluster.nodes {
            // The calls before it warm the connections up, and show that the last freeze is lifted everywhere.
            let (console, agent) = (node.console.clone(), agent.clone());
            let reply = console.call(
                &agent.key,
                "/v1/chat/completions",
                json!({"model": "gpt-4o-mini",
                "max_tokens": 20, "messages": [{"role": "user", "content": "[[fake tokens=5]]"}]}),
            );
            if reply.await.status != 200 {
                return Err("a call does not pass although nothing is frozen".into());
            }
            agents.spawn(call_until_frozen(console, agent, Arc::clone(&clock)));
        }
        let freeze = json!({"entityType": "api_key", "entityId": agent.id, "reason": "bench"});
        let sent_us = clock.monotonic_us();
        let made = console.api(&console.owner, Method::POST, "/api/freezes", freeze).await;
        let answered_us = clock.monotonic_us();
        if made.status != 201 || made.json()["enforced"] != true {
            return Err(format!("not frozen: {}", String::from_utf8_lossy(&made.body)).into());
        }
        let mut last_us = sent_us;
        while let Some(done) = agents.join_next().await {
            let (refused_us, passed) = done??;
            last_us = last_us.max(refused_us);
            passed_after += passed.iter().filter(|&&at_us| at_us > answered_us).count();
        }
        answered.push(answered_us - sent_us);
        refused.push(last_us - sent_us);
        let id = made.json()["data"]["id"].as_str().unwrap_or_default().to_owned();
        let lifted =
            console.api(&console.owner, Method::DELETE, &format!("/api/freezes/{id}"), Value::Null).await;
        if lifted.status != 200 {
            return Err("the freeze cannot be lifted".into());
        }
    }
    let (answered, refused) = (Percentiles::of(answered), Percentiles::of(refused));
    Ok(FreezeFigures { rounds, answered, refused, passed_after })
}

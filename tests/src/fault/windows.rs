//! A window ends under load, and clocks step back.

use std::collections::HashSet;

use nullspend_core::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};

use super::{
    HEADERS,
    audit::{Audit, audit},
    five_budgets,
    fleet::{Fleet, Mix},
};
use crate::{
    cluster::Cluster,
    console::{Console, eventually, nanos},
    http::Http,
};

const DAY_S: i64 = 86_400;
const LIMIT_MICRODOLLARS: i64 = 100_000;
const AGENTS: usize = 30;

fn mix(seed: u64) -> Mix {
    Mix { leave: false, pace_ms: 2, headers: HEADERS.to_vec(), seed }
}

/// A shift after which midnight (UTC) comes in so many seconds.
fn before_midnight(seconds: i64) -> i64 {
    let now_s = SystemClock::new().now_ms() / 1000;
    DAY_S - now_s % DAY_S - seconds
}

/// Two nodes reach a daily limit, midnight comes, and they reach it again; streams that began before count before.
pub async fn midnight_under_load() -> String {
    let cluster = Cluster::builder().shifted(before_midnight(40)).start(2).await;
    let console = cluster.nodes[0].console.clone();
    let agent = console.agent().await;
    let budget = console
        .budget(json!({"entityType": "api_key", "entityId": agent.id, "policy": "strict_block",
            "resetInterval": "daily", "maxBudgetMicrodollars": LIMIT_MICRODOLLARS}))
        .await;
    let consoles: Vec<Console> = cluster.nodes.iter().map(|node| node.console.clone()).collect();
    let mut streams = Vec::new();
    for console in &consoles {
        let body = json!({"model": "gpt-4o", "stream": true, "max_tokens": 90,
            "messages": [{"role": "user", "content": "[[fake tokens=80 chunks=8 gate=morning gate_at=4]]"}]});
        let opened = console.open(&Http::default(), &agent.key, "/v1/chat/completions", body).await;
        let mut live = opened.expect("an answer");
        live.read_until("word").await;
        streams.push(live);
    }
    let evening = Fleet::new(consoles.clone(), agent.clone(), mix(1)).start(AGENTS).ended().await;
    let before: HashSet<String> = traces(&console.events().await);
    let start = async || console.budget_now(&budget).await["currentPeriodStart"].clone();
    let yesterday = start().await;
    eventually("midnight", async || (start().await != yesterday).then_some(())).await;
    let morning = Fleet::new(consoles, agent, mix(2)).start(AGENTS).ended().await;
    cluster.provider.open_gate("morning");
    for stream in streams {
        assert!(stream.rest().await.1);
    }
    let limit = LIMIT_MICRODOLLARS * 1000;
    let passed = evening.iter().chain(&morning).filter(|seen| seen.complete).count() + 2;
    let events = console.wait_events(passed).await;
    let late: HashSet<&str> = morning.iter().map(|seen| seen.trace.as_str()).collect();
    let of_morning = |event: &&Value| event["traceId"].as_str().is_some_and(|trace| late.contains(trace));
    let sum = |morning: bool| -> i64 {
        let chosen = events.iter().filter(|event| of_morning(event) == morning);
        chosen.map(|event| nanos(&event["costNanodollars"])).sum()
    };
    let (of_evening, of_morning) = (sum(false), sum(true));
    assert!(of_evening <= limit && of_morning <= limit, "{of_evening} and {of_morning} of {limit}");
    assert!(of_morning * 10 > limit * 7, "a new day has a new budget: {of_morning}");
    assert!(before.len() + 2 <= events.len(), "the streams ended in the morning");
    let today = console.wait_no_holds(&budget).await;
    assert_eq!(nanos(&today["spendNanodollars"]), of_morning, "what began yesterday is yesterday's");
    format!("{passed} calls; ${:.6} of $0.10 before midnight, ${:.6} after", usd(of_evening), usd(of_morning))
}

fn usd(nanos: i64) -> f64 {
    // Shown only; every comparison is in whole nano-dollars.
    i32::try_from(nanos / 1000).map_or(0.0, |micro| f64::from(micro) / 1e6)
}

fn traces(events: &[Value]) -> HashSet<String> {
    events.iter().filter_map(|event| event["traceId"].as_str().map(str::to_owned)).collect()
}

/// Every clock but the agents' steps back by an hour, past midnight, under load.
pub async fn clocks_step_back() -> Audit {
    // Half an hour past midnight.
    let shift_s = before_midnight(-1800);
    let cluster = Cluster::builder().shifted(shift_s).start(2).await;
    let console = cluster.nodes[0].console.clone();
    let agent = console.agent().await;
    let budgets = five_budgets(&console, &agent, 1_000_000_000).await;
    let consoles = cluster.nodes.iter().map(|node| node.console.clone()).collect();
    let running = Fleet::new(consoles, agent, mix(3)).start(AGENTS);
    let goes_on = async || {
        let before = cluster.provider.calls().len();
        eventually("more calls", async || (cluster.provider.calls().len() > before + AGENTS).then_some(()))
            .await;
    };
    goes_on().await;
    cluster.shift(shift_s - 3600);
    for _ in 0..5 {
        goes_on().await;
    }
    let seen = running.stop().await;
    audit(&console, &cluster.provider, &budgets, &seen).await
}

//! Budgets and keys change under load.

use std::time::Duration;

use http::Method;
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
    console::{eventually, nanos},
};

const AGENTS: usize = 24;

/// Limits are lowered below what is spent and raised again, budgets come and go, and at last the key is revoked; afterwards
/// nothing passes. The figure is how long after the answer of the revocation the last call was accepted.
pub async fn changed_under_load(rounds: usize) -> (Audit, Duration) {
    let cluster = Cluster::start(2).await;
    let console = cluster.nodes[0].console.clone();
    let agent = console.agent().await;
    let budgets = five_budgets(&console, &agent, 1_000_000_000).await;
    let consoles: Vec<_> = cluster.nodes.iter().map(|node| node.console.clone()).collect();
    let mix = Mix { leave: false, pace_ms: 2, headers: HEADERS.to_vec(), seed: 7 };
    let running = Fleet::new(consoles, agent.clone(), mix).start(AGENTS);
    let goes_on = async || {
        let before = cluster.provider.calls().len();
        eventually("more calls", async || (cluster.provider.calls().len() > before + AGENTS).then_some(()))
            .await;
    };
    for round in 0..rounds {
        goes_on().await;
        // A soft budget, so that agents go on; it comes, is raised and goes.
        let place = json!({"entityType": "tag", "entityId": "team=storm", "name": format!("round-{round}"),
            "policy": "soft_block", "maxBudgetMicrodollars": 1});
        let made = console.budget(place.clone()).await;
        let mut raised = place.clone();
        raised["maxBudgetMicrodollars"] = json!(5_000_000);
        console.budget(raised.clone()).await;
        // Another interval begins another generation: what was spent before does not count.
        raised["resetInterval"] = json!("daily");
        console.budget(raised).await;
        let path = format!("/api/budgets/{}", made["id"].as_str().expect("an id"));
        let gone = console.api(&console.owner, Method::DELETE, &path, Value::Null).await;
        assert!(gone.status.is_success(), "{gone:?}");
    }
    goes_on().await;
    let clock = SystemClock::new();
    let path = format!("/api/keys/{}", agent.id);
    let revoked = console.api(&console.owner, Method::DELETE, &path, Value::Null).await;
    assert_eq!(revoked.status.as_u16(), 200);
    let revoked_at = clock.now_ms();
    let seen = running.stop().await;
    let audit = audit(&console, &cluster.provider, &budgets, &seen).await;
    let events = console.events().await;
    let started = |event: &Value| event["startedAt"].as_str().map(str::to_owned);
    let last = events.iter().filter_map(started).max().unwrap_or_default();
    let last_ms = last.parse::<jiff::Timestamp>().map_or(0, |at| at.as_millisecond());
    let late = Duration::from_millis(u64::try_from(last_ms - revoked_at).unwrap_or(0));
    assert!(late <= Duration::from_secs(1), "accepted {late:?} after the key was revoked");
    (audit, late)
}

/// A limit lowered below what is spent: no call passes any more, and what is under way ends as it was held.
pub async fn lowered_below_spend() -> Audit {
    let cluster = Cluster::start(2).await;
    let console = cluster.nodes[0].console.clone();
    let agent = console.agent().await;
    let mut budgets = five_budgets(&console, &agent, 1_000_000_000).await;
    let consoles: Vec<_> = cluster.nodes.iter().map(|node| node.console.clone()).collect();
    let mix = Mix { leave: true, pace_ms: 2, headers: HEADERS.to_vec(), seed: 8 };
    let running = Fleet::new(consoles, agent.clone(), mix).start(AGENTS);
    eventually("some spend", async || {
        (nanos(&console.budget_now(&budgets[4]).await["spendNanodollars"]) > 50_000_000).then_some(())
    })
    .await;
    budgets[4] = console.limit_key(&agent, 1).await;
    let lowered_at = cluster.provider.calls().len();
    let seen = running.ended().await;
    let audit = audit(&console, &cluster.provider, &budgets, &seen).await;
    assert!(audit.denied >= AGENTS && audit.calls <= lowered_at + AGENTS, "{lowered_at}: {audit:?}");
    audit
}

/// Thresholds of one budget under a crowd on several nodes: each is told once. Their number.
pub async fn thresholds_once(nodes: usize, agents: usize) -> (Audit, usize) {
    let cluster = Cluster::start(nodes).await;
    let console = cluster.nodes[0].console.clone();
    let agent = console.agent().await;
    let budget = console
        .budget(json!({"entityType": "api_key", "entityId": agent.id, "policy": "strict_block",
            "maxBudgetMicrodollars": 200_000, "thresholdPercentages": [25, 50, 75, 90]}))
        .await;
    let consoles = cluster.nodes.iter().map(|node| node.console.clone()).collect();
    let mix = Mix { leave: false, pace_ms: 0, headers: HEADERS.to_vec(), seed: 9 };
    let seen = Fleet::new(consoles, agent, mix).start(agents).ended().await;
    let audit = audit(&console, &cluster.provider, std::slice::from_ref(&budget), &seen).await;
    audit.within(200_000_000);
    let told = cluster.log_lines("a budget has reached a threshold");
    (audit, told.len())
}

//! The fault suite: real processes under load while what they depend on dies, hangs, forgets or fills up.
//!
//! Each scenario is a function of its size: small ones are promises of the usual suite, large ones are run by
//! `cargo xtask fault`, which prints their figures.

pub mod audit;
pub mod budgets;
pub mod crowd;
pub mod disks;
pub mod endings;
pub mod fleet;
pub mod kills;
pub mod outages;
pub mod windows;

use http::Method;
use serde_json::{Value, json};

use crate::console::{Agent, Console};

/// Tags and customer of every call of the suite, so that each kind of budget matches all of them.
pub const HEADERS: [(&str, &str); 3] = [
    ("x-nullspend-tags", r#"{"team":"storm"}"#),
    ("x-nullspend-customer", "acme"),
    ("x-nullspend-session", "one"),
];

/// Five budgets of one key that match all its calls; the key's own is the tightest.
pub async fn five_budgets(console: &Console, agent: &Agent, limit_microdollars: i64) -> Vec<Value> {
    let me =
        console.api(&agent.key, Method::GET, "/api/auth/introspect", Value::Null).await.expect_status(200);
    let me = me.json()["data"].clone();
    let user = me["userId"].as_str().expect("the key's owner");
    let mut budgets = Vec::new();
    for (entity_type, entity_id, more) in [
        ("org", "", 4),
        ("user", user, 3),
        ("tag", "team=storm", 2),
        ("customer", "acme", 1),
        ("api_key", agent.id.as_str(), 0),
    ] {
        let limit = limit_microdollars + more * limit_microdollars / 100;
        budgets.push(
            console
                .budget(json!({"entityType": entity_type, "entityId": entity_id, "policy": "strict_block",
                    "maxBudgetMicrodollars": limit}))
                .await,
        );
    }
    budgets
}

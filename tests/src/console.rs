//! The product as its clients see it: agents that call providers, administrators that call the API.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::Value;

use crate::http::{Http, Live, Reply};

/// How long anything that must happen may take on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Asks `probe` until it has an answer; fails naming what was awaited.
pub async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let polling = async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    tokio::time::timeout(DEADLINE, polling).await.unwrap_or_else(|_| panic!("waited in vain for: {what}"))
}

/// An agent key.
#[derive(Clone, Debug)]
pub struct Agent {
    /// The prefixed id.
    pub id: String,
    /// The raw key.
    pub key: String,
}

/// One ingress with its owner's key.
#[derive(Clone, Debug)]
pub struct Console {
    /// The ingress.
    pub url: String,
    /// The bootstrap key (role owner).
    pub owner: String,
    /// A client that keeps connections.
    pub http: Http,
}

impl Console {
    /// A console with a connection pool of its own.
    #[must_use]
    pub fn new(url: String, owner: String) -> Self {
        Self { url, owner, http: Http::default() }
    }

    /// Calls the API with a NullSpend key.
    pub async fn api(&self, key: &str, method: Method, path: &str, body: Value) -> Reply {
        let url = format!("{}{path}", self.url);
        let headers = [("x-nullspend-key", key), ("content-type", "application/json")];
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        self.http.send(&method, &url, &headers, body).await
    }

    /// Creates an agent key; `settings` are added to the request.
    pub async fn agent_with(&self, settings: Value) -> Agent {
        let mut request = serde_json::json!({"name": "agent", "role": "agent"});
        if let (Some(request), Some(settings)) = (request.as_object_mut(), settings.as_object()) {
            request.extend(settings.clone());
        }
        let made = self.api(&self.owner, Method::POST, "/api/keys", request).await.expect_status(201).json();
        let text = |name: &str| made["data"][name].as_str().expect("a created key").to_owned();
        Agent { id: text("id"), key: text("rawKey") }
    }

    /// Creates an agent key.
    pub async fn agent(&self) -> Agent {
        self.agent_with(Value::Null).await
    }

    /// Creates or changes a budget; the budget.
    pub async fn budget(&self, request: Value) -> Value {
        self.api(&self.owner, Method::POST, "/api/budgets", request).await.expect_status(201).json()["data"]
            .clone()
    }

    /// A `strict_block` budget of one key, in micro-dollars.
    pub async fn limit_key(&self, agent: &Agent, microdollars: i64) -> Value {
        self.budget(serde_json::json!({"entityType": "api_key", "entityId": agent.id,
            "maxBudgetMicrodollars": microdollars, "policy": "strict_block"}))
            .await
    }

    /// The budget as it stands. Just after an outage a control plane asks its ledger once a second only: that is waited for.
    pub async fn budget_now(&self, budget: &Value) -> Value {
        eventually("an answer of the ledger", async || self.budget_if_known(budget).await).await
    }

    /// `None` while the ledger does not answer.
    async fn budget_if_known(&self, budget: &Value) -> Option<Value> {
        let path = format!("/api/budgets/{}", budget["id"].as_str().expect("a budget's id"));
        let reply = self.api(&self.owner, Method::GET, &path, Value::Null).await;
        let unknown = reply.status.as_u16() == 503 && reply.code() == "service_unavailable";
        (!unknown).then(|| reply.expect_status(200).json()["data"].clone())
    }

    /// All cost events, newest first, through every page.
    pub async fn events(&self) -> Vec<Value> {
        let (mut events, mut query) = (Vec::new(), "limit=100".to_owned());
        loop {
            let path = format!("/api/cost-events?{query}");
            let page = self.api(&self.owner, Method::GET, &path, Value::Null).await.expect_status(200).json();
            events.extend(page["data"].as_array().expect("a list of events").iter().cloned());
            if page["cursor"].is_null() {
                return events;
            }
            query = format!("limit=100&cursor={}", encode(&page["cursor"].to_string()));
        }
    }

    /// Waits until there are at least `count` events; exactly that many must come.
    pub async fn wait_events(&self, count: usize) -> Vec<Value> {
        let events = eventually(&format!("{count} events"), async || {
            let events = self.events().await;
            (events.len() >= count).then_some(events)
        })
        .await;
        assert_eq!(events.len(), count, "more events than calls: {events:#?}");
        events
    }

    /// Waits until nothing is held in this budget, and returns it.
    pub async fn wait_no_holds(&self, budget: &Value) -> Value {
        eventually("holds of 0", async || {
            let now = self.budget_now(budget).await;
            (now["heldNanodollars"] == "0").then_some(now)
        })
        .await
    }

    /// Calls a provider route with the given NullSpend key and returns at the response headers.
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn open(
        &self,
        http: &Http,
        key: &str,
        path: &str,
        body: Value,
    ) -> Result<Live, hyper_util::client::legacy::Error> {
        let headers = provider_headers(key);
        http.open(&Method::POST, &format!("{}{path}", self.url), &headers, body.to_string()).await
    }

    /// Calls a provider route and reads the whole answer.
    pub async fn call(&self, key: &str, path: &str, body: Value) -> Reply {
        self.call_with(key, path, &[], body).await
    }

    /// The same with more headers.
    pub async fn call_with(&self, key: &str, path: &str, more: &[(&str, &str)], body: Value) -> Reply {
        let headers = [&provider_headers(key)[..], more].concat();
        self.http.send(&Method::POST, &format!("{}{path}", self.url), &headers, body.to_string()).await
    }
}

/// Headers of a provider call; the credential suits both providers.
fn provider_headers(key: &str) -> [(&str, &str); 3] {
    [
        ("x-nullspend-key", key),
        ("content-type", "application/json"),
        ("authorization", "Bearer sk-provider-credential"),
    ]
}

/// Percent-encodes a query value.
#[must_use]
pub fn encode(text: &str) -> String {
    text.bytes()
        .map(
            |byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            },
        )
        .collect()
}

/// Nano-dollars of a decimal-string field.
#[must_use]
pub fn nanos(value: &Value) -> i64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no nano-dollars: {value}"))
}

//! The whole control plane over REST: what administrators and the published clients do.

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::serving_tests::World;

impl World {
    async fn rest(&self, key: &str, verb: &str, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let mut request = Request::builder().method(verb).uri(path).header("x-nullspend-key", key);
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map_or_else(axum::body::Body::empty, |body| body.to_string().into());
        let response = self.plane.front().handle(request.body(body).unwrap()).await;
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap())
    }
}

fn issue_paths(body: &Value) -> Vec<String> {
    assert_eq!(body["error"]["code"], "validation_error", "{body}");
    let issues = body["error"]["details"]["issues"].as_array().unwrap();
    issues.iter().map(|issue| issue["path"].to_string()).collect()
}

#[tokio::test]
async fn keys_live_their_life() {
    let world = World::new().await;
    let body = json!({"name":" ci ","defaultTags":{"team":"core"},"allowedModels":["gpt-4o"]});
    let (status, made) = world.rest("owner", "POST", "/api/keys", Some(body)).await;
    assert_eq!(status, 201, "{made}");
    let made = &made["data"];
    assert_eq!((&made["name"], &made["role"]), (&json!("ci"), &json!("agent")));
    let raw = made["rawKey"].as_str().unwrap();
    assert!(raw.starts_with("ns_live_sk_") && made["keyPrefix"] == raw[..19]);
    // The new key works at once, and only where agents may.
    assert_eq!(world.rest(raw, "GET", "/api/budgets/status", None).await.0, 200);
    assert_eq!(world.rest(raw, "GET", "/api/keys", None).await.0, 403);
    let (_, who) = world.rest(raw, "GET", "/api/auth/introspect", None).await;
    assert_eq!((&who["keyId"], &who["data"]["keyId"]), (&made["id"], &made["id"]));
    let path = format!("/api/keys/{}", made["id"].as_str().unwrap());
    let (status, changed) = world.rest("owner", "PATCH", &path, Some(json!({"allowedModels":null}))).await;
    assert_eq!((status, &changed["data"]["allowedModels"]), (StatusCode::OK, &Value::Null), "{changed}");
    let (status, refused) = world.rest("owner", "PATCH", &path, Some(json!({"name":null}))).await;
    assert_eq!((status, issue_paths(&refused)), (StatusCode::BAD_REQUEST, vec![r#"["name"]"#.to_owned()]));
    assert_eq!(world.rest("owner", "DELETE", &path, None).await.0, 200);
    assert_eq!(world.rest("owner", "DELETE", &path, None).await.0, 404);
    assert_eq!(world.rest(raw, "GET", "/api/budgets/status", None).await.0, 401);
}

#[tokio::test]
async fn budgets_and_reported_costs_meet() {
    let world = World::new().await;
    let budget = json!({"entityType":"tag","entityId":"team=core","maxBudgetMicrodollars":5_000_000,
        "resetInterval":"monthly","policy":"strict_block","thresholdPercentages":[50,80]});
    let (status, made) = world.rest("owner", "POST", "/api/budgets", Some(budget)).await;
    assert_eq!(status, 201, "{made}");
    assert_eq!(made["data"]["spendNanodollars"], "0");
    let event = json!({"provider":"openai","model":"gpt-4o","inputTokens":10,"outputTokens":5,
        "costMicrodollars":1_200,"tags":{"team":"core"},"idempotencyKey":"one","source":"sdk"});
    let (status, first) = world.rest("agent", "POST", "/api/cost-events", Some(event.clone())).await;
    assert_eq!(status, 201, "{first}");
    let (status, again) = world.rest("agent", "POST", "/api/cost-events", Some(event)).await;
    assert_eq!(
        (status, &again["data"]),
        (StatusCode::OK, &first["data"]),
        "a repeat is 200 with the first event"
    );
    let batch = json!({"events":[{"provider":"openai","model":"gpt-4o","inputTokens":1,"outputTokens":1,
        "costMicrodollars":34,"idempotencyKey":"two","tags":{"team":"core"}}]});
    let (status, answer) = world.rest("agent", "POST", "/api/cost-events/batch", Some(batch)).await;
    assert_eq!((status, &answer["inserted"]), (StatusCode::CREATED, &json!(1)), "{answer}");
    let path = format!("/api/budgets/{}", made["data"]["id"].as_str().unwrap());
    let (_, budget) = world.rest("owner", "GET", &path, None).await;
    assert_eq!(budget["data"]["spendMicrodollars"], 1_234, "{budget}");
    assert_eq!(budget["data"]["spendNanodollars"], "1234000");
    let (_, page) = world.rest("owner", "GET", "/api/cost-events?tag.team=core&limit=1", None).await;
    assert_eq!(page["data"].as_array().unwrap().len(), 1, "{page}");
    let cursor: String = form_urlencoded::byte_serialize(page["cursor"].to_string().as_bytes()).collect();
    let next = format!("/api/cost-events?tag.team=core&limit=1&cursor={cursor}");
    let (_, second) = world.rest("owner", "GET", &next, None).await;
    assert_ne!(second["data"][0]["id"], page["data"][0]["id"]);
    let (_, none) = world.rest("owner", "GET", "/api/cost-events?tag.team=other", None).await;
    assert_eq!(none["data"], json!([]));
    let (status, reset) = world.rest("owner", "POST", &path, None).await;
    assert_eq!((status, &reset["data"]["spendNanodollars"]), (StatusCode::OK, &json!("0")), "{reset}");
    let (status, gone) = world.rest("owner", "DELETE", &path, None).await;
    assert_eq!((status, gone), (StatusCode::OK, json!({"deleted":true})));
}

#[tokio::test]
async fn the_use_cases_tell_all_their_issues() {
    let world = World::new().await;
    let budget = json!({"entityType":"tag","entityId":"nonsense","maxBudgetMicrodollars":0,
        "timeZone":"Mars/Base","thresholdPercentages":[80,50]});
    let (status, refused) = world.rest("owner", "POST", "/api/budgets", Some(budget)).await;
    assert_eq!(status, 400);
    let paths = issue_paths(&refused);
    for field in ["entityId", "maxBudgetMicrodollars", "timeZone", "thresholdPercentages"] {
        assert!(paths.iter().any(|path| path.contains(field)), "{field} in {paths:?}");
    }
    let event = json!({"events":[{"provider":"openai","model":"m","inputTokens":-1,"outputTokens":1,
        "costMicrodollars":1},{"provider":"","model":"m","inputTokens":1,"outputTokens":1,"costMicrodollars":1}]});
    let (status, refused) = world.rest("agent", "POST", "/api/cost-events/batch", Some(event)).await;
    assert_eq!(status, 400, "{refused}");
    let paths = issue_paths(&refused);
    assert!(paths.contains(&r#"["events",0,"inputTokens"]"#.to_owned()), "{paths:?}");
    assert!(paths.contains(&r#"["events",1,"provider"]"#.to_owned()), "{paths:?}");
}

#[tokio::test]
async fn health_and_policy_answer() {
    let world = World::new().await;
    let (status, health) = world.rest("", "GET", "/api/health", None).await;
    assert_eq!((status, health), (StatusCode::OK, json!({"status":"ok"})));
    for path in ["/api/policy", "/v1/policy"] {
        let (status, policy) = world.rest("agent", "GET", path, None).await;
        assert_eq!((status, &policy["budget"]), (StatusCode::OK, &Value::Null), "{policy}");
        assert!(policy["allowed_models"].is_array() && policy["restrictions_active"] == true, "{policy}");
    }
}

//! The whole control plane over REST: what administrators and the published clients do.

use std::num::NonZeroU32;

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::serving_tests::World;

impl World {
    pub(crate) async fn rest(
        &self,
        key: &str,
        verb: &str,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
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

#[tokio::test]
async fn every_answer_to_a_known_key_tells_where_it_stands() {
    let world = World::limiting(NonZeroU32::new(9)).await;
    let mut left = 9;
    for (key, verb, path, body, status) in [
        ("owner", "GET", "/api/keys", "", 200),
        ("owner", "GET", "/api/keys?nonsense=1", "", 400),
        ("owner", "POST", "/api/keys", "{", 400),
        ("owner", "POST", "/api/keys", r#"{"name":7}"#, 400),
        ("owner", "GET", "/api/budgets/nonsense", "", 400),
        ("agent", "GET", "/api/keys", "", 403),
    ] {
        left = if key == "owner" { left - 1 } else { 8 };
        let request = Request::builder().method(verb).uri(path).header("x-nullspend-key", key);
        let request = request.header("content-type", "application/json").body(body.into()).unwrap();
        let response = world.plane.front().handle(request).await;
        assert_eq!(response.status(), status, "{verb} {path} {body}");
        let told = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(told("x-ratelimit-limit").as_deref(), Some("9"), "{verb} {path} {body}");
        assert_eq!(told("x-ratelimit-remaining"), Some(left.to_string()), "{verb} {path} {body}");
        assert!(told("x-ratelimit-reset").is_some());
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

#[tokio::test]
async fn prices_are_read_as_they_are_written() {
    let world = World::new().await;
    let body = json!({"provider":"openai","model":"house","scope":"organization","reason":"ours","reasoning":true,
        "aliases":["house-1"],"patterns":["house-{yyyy-mm-dd}"],"effectiveFrom":"2025-01-01T00:00:00.000Z",
        "tiers":[{"tier":"standard","usdPerMillionTokens":{"input":"0.40","output":"1.60"},
            "above":{"tokens":200_000,"picodollarsPerToken":{"input":800_000,"output":3_200_000}}},
            {"tier":"batch","picodollarsPerToken":{"input":0,"output":0}}],
        "limits":{"maxOutput":4_096},"feesPicodollars":{"web_search":10_000_000_000_i64},
        "modifiersPercent":{"regional_host":110}});
    let (status, made) = world.rest("owner", "POST", "/api/prices", Some(body.clone())).await;
    assert_eq!(status, 201, "{made}");
    let made = &made["data"];
    for field in [
        "provider",
        "model",
        "scope",
        "reason",
        "reasoning",
        "aliases",
        "patterns",
        "effectiveFrom",
        "feesPicodollars",
        "modifiersPercent",
    ] {
        assert_eq!(made[field], body[field], "{field}");
    }
    assert_eq!(made["limits"], json!({"context":null,"maxInput":null,"maxOutput":4096,"imageTokens":null}));
    assert_eq!((&made["version"], &made["effectiveUntil"]), (&json!("1"), &Value::Null));
    let standard = &made["tiers"][0];
    assert_eq!(standard["picodollarsPerToken"], json!({"input":400_000,"output":1_600_000}));
    assert_eq!(standard["usdPerMillionTokens"], json!({"input":"0.4","output":"1.6"}));
    assert_eq!(standard["above"]["usdPerMillionTokens"], json!({"input":"0.8","output":"3.2"}));
    assert_eq!(made["tiers"][1]["tier"], "batch");
    let path = format!("/api/prices/{}", made["id"].as_str().unwrap());
    assert_eq!(&world.rest("owner", "GET", &path, None).await.1["data"], made);

    // What an answer shows can be sent back.
    let end = json!({"effectiveUntil": made["effectiveFrom"]});
    assert_eq!(
        world.rest("owner", "POST", &format!("{path}/end"), Some(end)).await.1["data"]["version"],
        "2"
    );
    let mut again = body.clone();
    again["tiers"] = made["tiers"].clone();
    again["limits"] = made["limits"].clone();
    let (status, again) = world.rest("owner", "POST", "/api/prices", Some(again)).await;
    assert_eq!((status, &again["data"]["tiers"]), (StatusCode::CREATED, &made["tiers"]), "{again}");

    let at = "provider=openai&model=house-2025-02-03&at=2025-02-03T00:00:00.000Z";
    let (_, found) = world.rest("agent", "GET", &format!("/api/prices/resolve?{at}"), None).await;
    assert_eq!(found["error"]["code"], "forbidden", "{found}");
    let (_, found) = world.rest("owner", "GET", &format!("/api/prices/resolve?{at}"), None).await;
    assert_eq!(
        (&found["data"]["price"]["id"], &found["data"]["price"]["matched"]),
        (&again["data"]["id"], &json!("pattern"))
    );
}

#[tokio::test]
async fn every_problem_of_a_price_is_told_with_its_place() {
    let world = World::new().await;
    let body = json!({"provider":"openai","model":"house","feesPicodollars":{"tea":5},"limits":{"context":-1},
        "tiers":[{"tier":"standard","usdPerMillionTokens":{"input":"0.0000001","output":"1e3","tea":"1"}},
            {"tier":"golden"},{"tier":"batch","picodollarsPerToken":{"input":-5,"output":1},
            "usdPerMillionTokens":{"output":"7"}}]});
    let (status, refused) = world.rest("owner", "POST", "/api/prices", Some(body)).await;
    assert_eq!(status, 400);
    let mut paths = issue_paths(&refused);
    paths.sort();
    let expected = [
        r#"["feesPicodollars"]"#,
        r#"["limits","context"]"#,
        r#"["tiers",0,"usdPerMillionTokens","input"]"#,
        r#"["tiers",0,"usdPerMillionTokens","output"]"#,
        r#"["tiers",0,"usdPerMillionTokens","tea"]"#,
        r#"["tiers",1,"tier"]"#,
        r#"["tiers",2,"picodollarsPerToken","input"]"#,
        r#"["tiers",2,"usdPerMillionTokens","output"]"#,
    ];
    assert_eq!(paths, expected, "{refused}");
    let global = json!({"provider":"openai","model":"house","scope":"catalogue",
        "tiers":[{"tier":"standard","usdPerMillionTokens":{"input":"1","output":"1"}}]});
    let (_, refused) = world.rest("owner", "POST", "/api/prices", Some(global)).await;
    assert_eq!(issue_paths(&refused), [r#"["scope"]"#]);
    let span = json!({"from":"2025-01-02T00:00:00.000Z","until":"2025-01-01T00:00:00.000Z","eventIds":["x"]});
    let (_, refused) = world.rest("owner", "POST", "/api/prices/rerate", Some(span)).await;
    assert_eq!(issue_paths(&refused), [r#"["eventIds",0]"#]);
}

#[tokio::test]
async fn prices_are_listed_in_pages_that_lead_into_the_catalogue() {
    let world = World::new().await;
    let body = json!({"provider":"openai","model":"gpt-4o-mini",
        "tiers":[{"tier":"standard","usdPerMillionTokens":{"input":"0","output":"0"}}]});
    let (_, made) = world.rest("owner", "POST", "/api/prices", Some(body)).await;
    let (mut ids, mut query) = (Vec::new(), "source=all&provider=openai&limit=40".to_owned());
    loop {
        let (status, page) = world.rest("owner", "GET", &format!("/api/prices?{query}"), None).await;
        assert_eq!(status, 200, "{page}");
        ids.extend(
            page["data"].as_array().unwrap().iter().map(|price| price["id"].as_str().unwrap().to_owned()),
        );
        if page["cursor"].is_null() {
            break;
        }
        let cursor: String = form_urlencoded::byte_serialize(page["cursor"].to_string().as_bytes()).collect();
        query = format!("source=all&provider=openai&limit=40&cursor={cursor}");
    }
    assert_eq!(ids[0], made["data"]["id"]);
    assert!(ids.len() > 60 && ids[1..].is_sorted_by(|a, b| a > b), "{ids:?}");
    let (_, unpriced) =
        world.rest("owner", "PUT", "/api/prices/unpriced", Some(json!({"holdMicrodollars":5}))).await;
    assert_eq!(unpriced, json!({"data":{"holdMicrodollars":5}}));
    assert_eq!(world.rest("owner", "GET", "/api/prices/unpriced", None).await.1, unpriced);
    let (_, refused) =
        world.rest("owner", "PUT", "/api/prices/unpriced", Some(json!({"holdMicrodollars":0}))).await;
    assert_eq!(issue_paths(&refused), [r#"["holdMicrodollars"]"#]);
    let (_, refuses) =
        world.rest("owner", "PUT", "/api/prices/unpriced", Some(json!({"holdMicrodollars":null}))).await;
    assert_eq!(refuses["data"]["holdMicrodollars"], Value::Null);
}

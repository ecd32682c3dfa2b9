//! The kill switch: one call stops an organisation, user, key, tag, customer or model on every data plane.

use http::Method;
use nullspend_e2e::{
    cluster::Cluster,
    console::{Agent, Console, eventually},
    http::{Http, Reply},
    program::signal,
    servers::postgres_database,
    stack::Stack,
};
use serde_json::{Value, json};

use crate::{
    CHAT, MESSAGES,
    explain::{explain, words},
    request,
};

async fn freeze(console: &Console, entity_type: &str, entity_id: &str) -> Value {
    let body = json!({"entityType": entity_type, "entityId": entity_id, "reason": "runaway agent"});
    let made =
        console.api(&console.owner, Method::POST, "/api/freezes", body).await.expect_status(201).json();
    assert_eq!(made["enforced"], true, "{made}");
    made["data"].clone()
}

async fn lift(console: &Console, freeze: &Value) {
    let path = format!("/api/freezes/{}", freeze["id"].as_str().expect("an id"));
    let lifted = console.api(&console.owner, Method::DELETE, &path, Value::Null).await.expect_status(200);
    assert_eq!(lifted.json(), json!({"deleted": true}));
}

async fn call(console: &Console, agent: &Agent, headers: &[(&str, &str)]) -> Reply {
    console.call_with(&agent.key, CHAT, headers, request(CHAT, "hello [[fake tokens=5]]", false)).await
}

fn assert_frozen(reply: &Reply, freeze: &Value) {
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (403, "frozen"), "{reply:?}");
    assert_eq!((reply.header("x-nullspend-denied"), reply.header("x-should-retry")), ("1", "false"));
    let error = &reply.json()["error"];
    let expected = json!({"entity_type": freeze["entityType"], "entity_id": freeze["entityId"],
        "freeze_id": freeze["id"], "reason": "runaway agent", "since": freeze["createdAt"]});
    assert_eq!((&error["details"], &error["recovery"]["owner_action_required"]), (&expected, &json!(true)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freeze_through_one_node_stops_all_of_them_at_once() {
    let mut cluster = Cluster::start(2).await;
    let consoles: Vec<Console> = cluster.nodes.iter().map(|node| node.console.clone()).collect();
    let agent = consoles[0].agent().await;
    let budget = consoles[0].limit_key(&agent, 1_000_000).await;
    for console in &consoles {
        let _ = call(console, &agent, &[]).await.expect_status(200);
    }
    let stream = request(CHAT, "[[fake tokens=6 chunks=6 gate=go gate_at=4]]", true);
    let mut live = consoles[1].open(&Http::default(), &agent.key, CHAT, stream).await.expect("an answer");
    live.read_until("word").await;

    let by_key = freeze(&consoles[0], "api_key", &agent.id).await;
    for console in &consoles {
        assert_frozen(&call(console, &agent, &[]).await, &by_key);
    }
    cluster.provider.open_gate("go");
    let (text, whole) = live.rest().await;
    assert!(whole && text.contains("[DONE]"), "a call under way runs out: {text}");

    lift(&consoles[1], &by_key).await;
    for console in &consoles {
        let _ = call(console, &agent, &[]).await.expect_status(200);
    }
    // The model of the calls, by the base of the dated name that they send.
    let by_model = freeze(&consoles[1], "model", "gpt-4o-mini").await;
    let dated = json!({"model": "gpt-4o-mini-2024-07-18", "max_tokens": 9, "messages": []});
    for console in &consoles {
        assert_frozen(&console.call(&agent.key, CHAT, dated.clone()).await, &by_model);
    }
    let _ =
        consoles[0].call(&agent.key, MESSAGES, request(MESSAGES, "hello", false)).await.expect_status(200);
    consoles[0].wait_no_holds(&budget).await;
    cluster.kill9_control().await;
    for console in &consoles {
        assert_frozen(&call(console, &agent, &[]).await, &by_model);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_through_one_control_plane_is_in_force_on_the_nodes_of_another() {
    let database = postgres_database().await;
    let cluster =
        Cluster::builder().env("NULLSPEND_DATABASE_URL", &database).two_control_planes().start(2).await;
    let [near, far] = [0, 1].map(|node| &cluster.nodes[node].console);
    for _ in 0..4 {
        let agent = near.agent().await;
        let _ = call(far, &agent, &[]).await.expect_status(200);
        let by_key = freeze(near, "api_key", &agent.id).await;
        assert_frozen(&call(far, &agent, &[]).await, &by_key);
        lift(near, &by_key).await;
        let _ = call(far, &agent, &[]).await.expect_status(200);
        near.limit_key(&agent, 1).await;
        let denied = call(far, &agent, &[]).await.expect_status(429);
        assert_eq!(denied.code(), "budget_exceeded");
        let path = format!("/api/keys/{}", agent.id);
        let _ = near.api(&near.owner, Method::DELETE, &path, Value::Null).await.expect_status(200);
        let _ = call(far, &agent, &[]).await.expect_status(401);
    }
    // A data plane that does not answer is not in the promise, and the answer says so.
    let body = json!({"entityType": "customer", "entityId": "acme"});
    let far_plane = cluster.nodes[1].plane_pid();
    signal(far_plane, "STOP");
    let made = near.api(&near.owner, Method::POST, "/api/freezes", body.clone()).await;
    signal(far_plane, "CONT");
    assert_eq!(made.expect_status(201).json()["enforced"], false);
    eventually("a freeze that both have confirmed", async || {
        let again = near.api(&near.owner, Method::POST, "/api/freezes", body.clone()).await;
        (again.expect_status(201).json()["enforced"] == true).then_some(())
    })
    .await;
}

/// Entity type and id, headers of a call that it stops, and whether it stops calls without them: this key's, another key's.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], [bool; 2]);

#[tokio::test]
async fn each_kind_of_freeze_stops_its_own_calls_and_no_others() {
    let stack = Stack::start().await;
    let (frozen, free) = (stack.agent().await, stack.agent().await);
    let me = stack.api(&free.key, Method::GET, "/api/auth/introspect", Value::Null).await.expect_status(200);
    let user = me.json()["userId"].as_str().expect("a user").to_owned();
    let red = [("x-nullspend-tags", r#"{"team":"red"}"#)];
    let acme = [("x-nullspend-customer", "acme")];
    let none: [(&str, &str); 0] = [];
    let cases: [Case<'_>; 6] = [
        ("org", "", &none, [true, true]),
        ("user", &user, &none, [true, true]),
        ("api_key", &frozen.id, &none, [true, false]),
        ("tag", "team=red", &red, [false, false]),
        ("customer", "acme", &acme, [false, false]),
        ("model", "openai/gpt-4o-mini", &none, [true, true]),
    ];
    for (kind, id, headers, [own, other]) in cases {
        let made = freeze(&stack, kind, id).await;
        let listed =
            stack.api(&stack.owner, Method::GET, "/api/freezes", Value::Null).await.expect_status(200);
        assert_eq!(listed.json()["data"], json!([made]));
        let refused = call(&stack, &frozen, headers).await;
        assert_frozen(&refused, &made);
        let told = explain(&stack, refused.header("x-nullspend-trace-id")).await;
        let denied = &told["deniedBy"];
        assert_eq!((&denied["why"], &denied["freezeId"]), (&json!("freeze"), &made["id"]), "{told:#}");
        assert_eq!(words(&told).last(), Some(&"freeze"), "{told:#}");
        assert!(denied["message"].as_str().is_some_and(|text| text.contains("is in force")), "{told:#}");
        for (agent, stopped) in [(&frozen, own), (&free, other)] {
            let reply = call(&stack, agent, &[]).await;
            assert_eq!(reply.status.as_u16(), if stopped { 403 } else { 200 }, "{kind}");
        }
        lift(&stack, &made).await;
        let _ = call(&stack, &frozen, headers).await.expect_status(200);
    }
    let denials = eventually("denial records", async || {
        let path = "/api/cost-events?budgetStatus=denied&limit=100";
        let page = stack.api(&stack.owner, Method::GET, path, Value::Null).await.expect_status(200).json();
        page["data"].as_array().filter(|list| list.len() >= 6 + 4 + 3).cloned()
    })
    .await;
    assert_eq!(denials.len(), 6 + 4 + 3, "one for each refused call");
}

#[tokio::test]
async fn a_freeze_is_made_once_whoever_repeats_it_and_only_by_administrators() {
    let stack = Stack::start().await;
    let agent = stack.agent().await;
    let first = freeze(&stack, "customer", "acme").await;
    assert_eq!(freeze(&stack, "customer", "acme").await, first);
    let body = json!({"entityType": "org"});
    let refused = stack.api(&agent.key, Method::POST, "/api/freezes", body.clone()).await.expect_status(403);
    assert_eq!(refused.code(), "forbidden");
    let bad = json!({"entityType": "tag", "entityId": "team"});
    let bad = stack.api(&stack.owner, Method::POST, "/api/freezes", bad).await.expect_status(400);
    assert_eq!(bad.json()["error"]["details"]["issues"][0]["path"], json!(["entityId"]));
    let gone = format!("/api/freezes/{}", agent.id.replace("ns_key_", "ns_frz_"));
    let _ = stack.api(&stack.owner, Method::DELETE, &gone, Value::Null).await.expect_status(404);
}

//! Several data planes on one Redis that fails them: nothing passes unpaid, nothing is lost, nothing is charged twice.

use http::Method;
use nullspend_e2e::{
    cluster::Cluster,
    console::{Agent, Console, eventually, nanos},
    http::{Http, Live},
    provider::State,
};
use serde_json::{Value, json};

use crate::{
    CHAT,
    explain::{explain, words},
    request, sum_nanos,
};

/// Budgets are generous: these tests are about what is counted, not about what is denied.
const LIMIT_MICRODOLLARS: i64 = 100_000_000;

struct World {
    cluster: Cluster,
    agent: Agent,
    budget: Value,
}

impl World {
    async fn new(cluster: Cluster) -> Self {
        let console = &cluster.nodes[0].console;
        let agent = console.agent().await;
        let budget = console.limit_key(&agent, LIMIT_MICRODOLLARS).await;
        Self { agent, budget, cluster }
    }

    fn console(&self, node: usize) -> &Console {
        &self.cluster.nodes[node].console
    }

    async fn status(&self, node: usize) -> u16 {
        self.console(node).call(&self.agent.key, CHAT, request(CHAT, "hello", false)).await.status.as_u16()
    }

    async fn passes(&self, node: usize) {
        assert_eq!(self.status(node).await, 200, "node {node}");
    }

    /// A stream that has sent something and waits at its gate.
    async fn open_stream(&self, node: usize) -> Live {
        let body = request(CHAT, "[[fake tokens=6 chunks=6 gate=end gate_at=4]]", true);
        let mut live =
            self.console(node).open(&Http::default(), &self.agent.key, CHAT, body).await.expect("an answer");
        live.read_until("word").await;
        live
    }

    /// Waits until a call passes again.
    async fn recovers(&self, node: usize) {
        eventually("a call that passes", async || (self.status(node).await == 200).then_some(())).await;
    }

    /// Nothing is held, and budget, events and the provider's bill say the same.
    async fn settle_up(&self) -> i64 {
        let provider = &self.cluster.provider;
        let calls = provider.wait_until(|calls| calls.iter().all(|call| call.state == State::Finished)).await;
        let events = self.console(0).wait_events(calls.len()).await;
        let billed = provider.billed_nanos();
        assert_eq!(sum_nanos(&events), billed);
        // What passed on credit is held nowhere, and counted once the ledger is told.
        eventually("a budget that has spent what was billed", async || {
            let now = self.console(0).wait_no_holds(&self.budget).await;
            (nanos(&now["spendNanodollars"]) == billed).then_some(billed)
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flushed_redis_is_rebuilt_under_calls_that_go_on() {
    let world = World::new(Cluster::start(2).await).await;
    for node in [0, 1, 0, 1] {
        world.passes(node).await;
    }
    let streams = [world.open_stream(0).await, world.open_stream(1).await];
    let held = nanos(&world.console(1).budget_now(&world.budget).await["heldNanodollars"]);
    assert!(held > 0);
    for _ in 0..2 {
        world.cluster.redis.command(&["FLUSHALL", "SYNC"]).await;
        for node in 0..2 {
            world.recovers(node).await;
        }
    }
    let again = nanos(&world.console(1).budget_now(&world.budget).await["heldNanodollars"]);
    assert_eq!(again, held, "the open streams are held again");
    world.cluster.provider.open_gate("end");
    for stream in streams {
        assert!(stream.rest().await.1);
    }
    let spent = world.settle_up().await;
    world.cluster.redis.command(&["FLUSHALL", "SYNC"]).await;
    world.recovers(0).await;
    assert!(world.settle_up().await > spent, "what was spent stays spent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_waits_for_a_node_that_died_until_it_is_back_or_given_up() {
    let mut world = World::new(Cluster::start(2).await).await;
    world.passes(0).await;
    let stream = world.open_stream(1).await;
    world.cluster.kill9_node(1).await;
    drop(stream);
    world.cluster.redis.command(&["FLUSHALL", "SYNC"]).await;
    eventually("a refusal", async || (world.status(0).await == 503).then_some(())).await;
    world.cluster.restart_node(1).await;
    for node in 0..2 {
        world.recovers(node).await;
    }
    eventually("the event of the call that died, and its cost", async || {
        let events = world.console(0).events().await;
        let budget = world.console(0).wait_no_holds(&world.budget).await;
        let lapsed = events.iter().filter(|event| event["measurement"] == "lapsed").count();
        (lapsed == 1 && nanos(&budget["spendNanodollars"]) == sum_nanos(&events)).then_some(())
    })
    .await;

    world.cluster.kill9_node(1).await;
    let gone = world.cluster.dataplane_id(1);
    world.cluster.redis.command(&["FLUSHALL", "SYNC"]).await;
    eventually("a refusal", async || (world.status(0).await == 503).then_some(())).await;
    let told = world.cluster.run(&["ledger", "rebuild", "--without", &gone, "--yes"]).await;
    assert!(told.contains(&gone), "{told}");
    world.recovers(0).await;
    let verified = world.cluster.run(&["ledger", "verify"]).await;
    assert!(verified.contains("agree"), "{verified}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_restarts_without_its_control_plane() {
    let mut world = World::new(Cluster::start(2).await).await;
    world.passes(0).await;
    world.passes(1).await;
    world.cluster.kill9_control().await;
    world.cluster.kill9_node(1).await;
    world.cluster.restart_node(1).await;
    world.passes(1).await;
    world.passes(0).await;
    world.cluster.restart_control().await;
    world.settle_up().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_may_be_spent_on_credit_while_redis_is_silent_and_no_further() {
    const CREDIT_MICRODOLLARS: i64 = 1_000;
    let mut world = World::new(Cluster::start(2).await).await;
    world.budget = world
        .console(0)
        .budget(json!({"entityType": "api_key", "entityId": world.agent.id, "policy": "strict_block",
            "maxBudgetMicrodollars": LIMIT_MICRODOLLARS, "outageCreditMicrodollars": CREDIT_MICRODOLLARS}))
        .await;
    assert_eq!(world.budget["outageCreditMicrodollars"], CREDIT_MICRODOLLARS);
    world.passes(0).await;
    let bound =
        world.console(0).wait_events(1).await[0]["estimatedCostMicrodollars"].as_i64().expect("a bound");
    let affordable = CREDIT_MICRODOLLARS / (bound + 1)..=CREDIT_MICRODOLLARS / bound;
    world.cluster.redis.pause();
    let mut on_credit = Vec::new();
    for node in 0..2 {
        let (mut passed, mut last) = (0, String::new());
        let refused = loop {
            let called =
                world.console(node).call(&world.agent.key, CHAT, request(CHAT, "hello", false)).await;
            if called.status.as_u16() != 200 {
                break called;
            }
            assert!(called.header("x-nullspend-warning").contains("on_credit"), "{called:?}");
            passed += 1;
            last = called.header("x-nullspend-trace-id").to_owned();
        };
        on_credit.push(last);
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (503, "budget_unavailable"));
        assert!(affordable.contains(&passed), "{passed} calls of {bound} on {CREDIT_MICRODOLLARS}");
    }
    world.cluster.redis.go_on();
    for node in 0..2 {
        eventually("a call that is not on credit", async || {
            let called =
                world.console(node).call(&world.agent.key, CHAT, request(CHAT, "hello", false)).await;
            let held = called.status.as_u16() == 200 && called.header("x-nullspend-warning").is_empty();
            held.then_some(())
        })
        .await;
    }
    for trace in on_credit {
        let told = explain(world.console(0), &trace).await;
        assert!(words(&told).contains(&"credit"), "{told:#}");
        assert_eq!((&told["budgets"][0]["id"], &told["outcome"]), (&world.budget["id"], &json!("settled")));
        assert!(told["summary"].as_str().is_some_and(|text| text.contains("outageCredit")), "{told:#}");
    }
    world.settle_up().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_refused_by_a_silent_redis_cost_nothing() {
    let world = World::new(Cluster::start(1).await).await;
    world.passes(0).await;
    world.cluster.redis.pause();
    for _ in 0..8 {
        let refused = world
            .console(0)
            .call(&world.agent.key, CHAT, request(CHAT, "hello", false))
            .await
            .expect_status(503);
        assert_eq!(refused.code(), "budget_unavailable");
    }
    let ready = format!("{}/health/ready", world.console(0).url);
    let _ = world.console(0).http.send(&Method::GET, &ready, &[], "").await.expect_status(200);
    world.cluster.redis.go_on();
    world.recovers(0).await;
    world.settle_up().await;
    let path = format!("/api/budgets/{}", world.budget["id"].as_str().expect("an id"));
    let told = world.console(0).api(&world.console(0).owner, Method::GET, &path, json!(null)).await;
    assert_eq!(told.status.as_u16(), 200);
}

//! Two thousand streams at once: no limit of ours is in the way, and every one is settled exactly.

use std::sync::Arc;

use nullspend_e2e::{console::nanos, http::Http, provider::State, stack::Stack};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{CHAT, request, sum_nanos};

const STREAMS: usize = 2_000;
/// How many are opened at the same time: the promise is about streams that are open, not about a flood.
const OPENING: usize = 50;

/// This process is the clients and the provider, with a socket for each stream; many machines start it with 1024.
fn raise_open_files() {
    let own = std::process::id().to_string();
    let raised = std::process::Command::new("prlimit").args(["--pid", &own, "--nofile=8192:"]).output();
    let raised = raised.expect("prlimit (util-linux) is installed");
    assert!(raised.status.success(), "{}", String::from_utf8_lossy(&raised.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_streams_run_side_by_side() {
    raise_open_files();
    let stack = Stack::start().await;
    let agent = stack.agent().await;
    let budget = stack.limit_key(&agent, 1_000_000_000).await;
    let http = Arc::new(Http::new(true));
    let mut streams = JoinSet::new();
    let (url, opening) = (format!("{}{CHAT}", stack.url), Arc::new(Semaphore::new(OPENING)));
    for _ in 0..STREAMS {
        let (http, url, key, opening) =
            (Arc::clone(&http), url.clone(), agent.key.clone(), Arc::clone(&opening));
        streams.spawn(async move {
            let headers = [
                ("x-nullspend-key", key.as_str()),
                ("authorization", "Bearer sk-provider-credential"),
                ("content-type", "application/json"),
            ];
            let body = request(CHAT, "[[fake tokens=4 chunks=4 gate=crowd gate_at=3]]", true).to_string();
            let permit = opening.acquire().await.expect("an open semaphore");
            let live = http.open(&http::Method::POST, &url, &headers, body).await.expect("an answer");
            drop(permit);
            let status = live.status.as_u16();
            (status, live.rest().await.1)
        });
    }
    let half_way = |calls: &[nullspend_e2e::provider::Call]| {
        calls.iter().filter(|call| call.output_tokens == 2).count() == STREAMS
    };
    tokio::select! {
        _ = stack.provider.wait_until(half_way) => {}
        early = streams.join_next() => panic!("a stream ended before its time: {early:?}"),
    }
    assert!(nanos(&stack.budget_now(&budget).await["heldNanodollars"]) > 0);
    stack.provider.open_gate("crowd");
    while let Some(stream) = streams.join_next().await {
        assert_eq!(stream.expect("a client"), (200, true));
    }
    assert!(stack.provider.calls().iter().all(|call| call.state == State::Finished));
    let spent = nanos(&stack.wait_no_holds(&budget).await["spendNanodollars"]);
    assert_eq!(spent, stack.provider.billed_nanos());
    assert_eq!(sum_nanos(&stack.wait_events(STREAMS).await), spent);
}

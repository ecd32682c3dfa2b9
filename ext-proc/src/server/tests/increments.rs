//! `incrementalHold` as Envoy meets it: bytes wait for the ledger, and a stream without room is ended.

use nullspend_core::id::AttemptId;

use super::*;

/// Room for the input and first slice of [`asked`], and for some hundred tokens more.
const LIMIT: Nanos = Nanos(500_000);
/// Nano-dollars of one output token of gpt-4o-mini.
const OUTPUT: i64 = 600;

fn asked() -> Value {
    json!({"model": "gpt-4o-mini", "stream": true, "messages": [{"role": "user", "content": "hi"}]})
}

async fn world(limit: Nanos) -> World {
    let mut policy = snapshot(limit);
    policy.budgets[0].incremental_hold = true;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    World::timed(policy, Arc::clone(&clock), clock).await
}

fn delta(text: &str) -> String {
    format!(
        "data: {}\n\n",
        json!({"id": "c1", "model": "gpt-4o-mini", "choices": [{"index": 0, "delta": {"content": text}}]})
    )
}

async fn streaming(world: &mut World) -> Exchange {
    let mut exchange = world.request().await;
    let Answer::RequestBody(_) = exchange.send(&asked()).await else { panic!("not forwarded") };
    exchange.answer_head("text/event-stream").await;
    exchange
}

async fn held(world: &World) -> Nanos {
    let counter = CounterKey { budget: BudgetId(BUDGET), generation: 1, window_start_ms: 0 };
    world.ledger.balances(OrgId(ORG), &[counter]).await.unwrap()[0].held
}

/// What the spool would replay if the process died now.
pub(super) fn unclosed(world: &World) -> Vec<nullspend_proto::internal::AttemptStub> {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(world.dir.path().join("spool")).unwrap().flatten() {
        if entry.file_type().unwrap().is_file() && entry.file_name() != "lock" {
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    crate::spool::Spool::open(copy.path(), SpoolConfig::default(), &RandomIds).unwrap().1.unclosed
}

fn end_of(answer: Answer) -> (String, bool) {
    let Answer::ResponseBody(body) = answer else { panic!("no body: {answer:?}") };
    let Some(Mutation::StreamedResponse(chunk)) =
        body.response.and_then(|r| r.body_mutation).and_then(|m| m.mutation)
    else {
        panic!("nothing for the client")
    };
    (String::from_utf8(chunk.body).unwrap(), chunk.end_of_stream)
}

fn piece(text: &str) -> Phase {
    Phase::ResponseBody(HttpBody { body: text.as_bytes().to_vec(), ..HttpBody::default() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_pays_before_its_bytes_pass_and_its_record_says_so() {
    let mut world = world(Nanos(1_000_000_000)).await;
    let mut exchange = streaming(&mut world).await;
    let first = held(&world).await;
    let text = delta(&"word ".repeat(400));
    assert_eq!(exchange.answer_body(&text, false).await, text.as_bytes());
    let paid = held(&world).await;
    assert!(paid >= first + Nanos((2000 - 512) * OUTPUT), "{paid}");
    assert_eq!(unclosed(&world).iter().map(|stub| Nanos(stub.held_nanos)).collect::<Vec<_>>(), [paid]);

    let end = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1000,\"completion_tokens\":10}}\n\ndata: [DONE]\n\n";
    exchange.answer_body(end, true).await;
    assert_eq!(world.settled().await, Nanos(156_000));
    let records = world.records().await;
    let events = closed(&records);
    assert_eq!((events.len(), events[0].measurement.as_str()), (1, "exact"));
    assert_eq!(events[0].stub.as_ref().map(|stub| stub.held_nanos >= paid.0), Some(true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_without_room_ends_validly_and_stays_within_the_limit() {
    let mut world = world(LIMIT).await;
    let mut exchange = streaming(&mut world).await;
    let mut sent = String::new();
    loop {
        let (text, end_of_stream) = end_of(exchange.ask(piece(&delta("some more words "))).await);
        sent.push_str(&text);
        assert!(held(&world).await <= LIMIT);
        if end_of_stream {
            break;
        }
    }
    // What the provider had under way is not answered.
    exchange.tell(piece(&delta("too late"))).await;
    assert!(sent.ends_with("data: [DONE]\n\n") && sent.contains("\"finish_reason\":\"length\""), "{sent}");
    let budget = BudgetId(BUDGET).to_string();
    assert!(
        sent.contains(&format!(": nullspend {{\"budgetId\":\"{budget}\",\"code\":\"budget_exceeded\"}}\n\n")),
        "{sent}"
    );
    drop(exchange);
    let records = world.records().await;
    let settled = world.settled().await;
    assert!(settled > Nanos::ZERO && settled <= LIMIT, "{settled}");
    let events = closed(&records);
    assert_eq!((events.len(), events[0].cost_nanos, events[0].ending.as_str()), (1, settled.0, "aborted"));
    assert_eq!(events[0].system_tags["_ns_cut"], "budget_exceeded");
    let text = world.plane.scrape().await;
    assert!(text.contains("nullspend_streams_cut_total 1"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_does_not_take_more_ends_the_stream_too() {
    let mut world = world(Nanos(1_000_000_000)).await;
    let mut exchange = streaming(&mut world).await;
    let first = held(&world).await;
    let attempt: AttemptId = unclosed(&world)[0].attempt_id.parse().unwrap();
    // Numbers from here on are not known to this plane: all of its own come too late.
    world.ledger.extend(OrgId(ORG), &[attempt], 1 << 40, 30_000, Nanos::ZERO).await.unwrap();
    let (text, end_of_stream) = end_of(exchange.ask(piece(&delta(&"word ".repeat(400)))).await);
    assert!(
        end_of_stream && text.contains("\"code\":\"budget_unavailable\"") && !text.contains("word"),
        "{text}"
    );
    drop(exchange);
    world.records().await;
    assert!(world.settled().await <= first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_cannot_be_read_as_it_passes_breaks_when_its_bound_does_not_fit() {
    let mut world = world(LIMIT).await;
    let mut exchange = world.request().await;
    let Answer::RequestBody(_) = exchange.send(&asked()).await else { panic!("not forwarded") };
    let first = held(&world).await;
    exchange.answer_head("application/json").await;
    exchange.tell(piece(ANSWER)).await;
    assert!(exchange.answers.message().await.is_err(), "Envoy resets both sides");
    drop(exchange);
    world.records().await;
    assert!(world.settled().await <= first);
}

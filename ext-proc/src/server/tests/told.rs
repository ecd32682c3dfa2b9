//! What an answer tells its caller: where the time went, and what a stream cost.

use nullspend_core::clock::ManualClock;

use super::*;

/// A ledger that reads this clock takes its time: all clocks of the world go on meanwhile.
#[derive(Debug)]
struct Slow(Arc<ManualClock>);

const LEDGER_TAKES_MS: i64 = 40;

impl Clock for Slow {
    fn now_ms(&self) -> i64 {
        self.0.advance_ms(LEDGER_TAKES_MS);
        self.0.now_ms()
    }

    fn monotonic_us(&self) -> u64 {
        self.0.monotonic_us()
    }
}

fn header(answer: &Answer, name: &str) -> String {
    let Answer::ResponseHeaders(head) = answer else { panic!("no headers: {answer:?}") };
    let mutation = head.response.as_ref().and_then(|common| common.header_mutation.as_ref()).unwrap();
    let fields = mutation.set_headers.iter().filter_map(|field| field.header.as_ref());
    let found = fields.filter(|field| field.key == name).map(|field| field.raw_value.clone()).next_back();
    String::from_utf8(found.unwrap_or_default()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_ledger_shows_in_the_overhead_and_a_slow_provider_does_not() {
    let clock = Arc::new(ManualClock::at(1_795_000_000_000));
    let slow = Arc::new(Slow(Arc::clone(&clock)));
    let mut world = World::timed(snapshot(Nanos(1_000_000_000)), Arc::clone(&clock) as _, slow).await;
    let mut exchange = world.request().await;
    let Answer::RequestBody(_) = exchange.send(&chat(false)).await else { panic!("not forwarded") };
    clock.advance_ms(7_000);
    let head = exchange.answer_head("application/json").await;
    let overhead: i64 = header(&head, "x-nullspend-overhead-ms").parse().unwrap();
    assert!((LEDGER_TAKES_MS..7_000).contains(&overhead), "{overhead}");
    let timing = header(&head, "server-timing");
    let entry = |name: &str| -> f64 {
        let entry = timing.split(", ").find(|entry| entry.starts_with(&format!("{name};dur="))).unwrap();
        entry.split(&['=', ';'][..]).nth(2).unwrap().parse().unwrap()
    };
    assert!(entry("budget") >= 40.0 && entry("upstream") >= 7_000.0, "{timing}");
    assert!((entry("preflight") + entry("budget") - entry("overhead")).abs() < 0.01, "{timing}");
    assert!((entry("overhead") + entry("upstream") - entry("total")).abs() < 0.01, "{timing}");
}

const STREAM: &str = "data: {\"model\":\"gpt-4o-mini\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"},\"finish_reason\":\"stop\"}]}\n\n\
    data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1000,\"completion_tokens\":10}}\n\n\
    data: [DONE]\n\n";

const ASKED: [(&str, &str); 1] = [("x-nullspend-stream-cost", "1")];

/// What follows a stream's `[DONE]`.
async fn trailing(world: &mut World, asked: &[(&str, &str)], stream: &str) -> String {
    let mut exchange = world.request().await;
    let Answer::RequestBody(_) = exchange.send_with(asked, &chat(true)).await else {
        panic!("not forwarded")
    };
    exchange.answer_head("text/event-stream").await;
    let mut text = exchange.answer_body(stream, false).await;
    text.extend(exchange.answer_body("", true).await);
    let text = String::from_utf8(text).unwrap();
    text.split_once("data: [DONE]").expect("it is passed on").1.to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_with_its_cost_for_a_caller_that_asks() {
    let mut world = World::new(Nanos(1_000_000_000)).await;
    assert_eq!(trailing(&mut world, &[], STREAM).await, "\n\n");
    let told = trailing(&mut world, &ASKED, STREAM).await;
    let json = told
        .strip_prefix("\n\n: nullspend ")
        .and_then(|told| told.strip_suffix("\n\n"))
        .expect("one comment");
    let told: Value = serde_json::from_str(json).unwrap();
    // Two calls of 1000 x 150 + 10 x 600 nano-dollars; the second is settled before it is told.
    let expected = json!({"costMicrodollars": 156, "costNanodollars": "156000", "measurement": "exact",
        "remainingMicrodollars": 1_000_000 - 2 * 156});
    assert_eq!(told, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_comment_never_stands_inside_an_event() {
    let mut world = World::new(Nanos(1_000_000_000)).await;
    let cut = STREAM.trim_end_matches('\n');
    assert_eq!(trailing(&mut world, &ASKED, cut).await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_streams_are_told_their_cost_and_only_by_a_clear_word() {
    let mut world = World::new(Nanos(1_000_000_000)).await;
    let mut exchange = world.request().await;
    let Answer::RequestBody(_) = exchange.send_with(&ASKED, &chat(false)).await else {
        panic!("not forwarded")
    };
    exchange.answer_head("application/json").await;
    assert_eq!(exchange.answer_body(ANSWER, true).await, ANSWER.as_bytes());

    let mut exchange = world.request().await;
    let headers = [(":method", "POST"), (":path", "/v1/chat/completions"), ("x-nullspend-key", KEY)];
    let headers = [&headers[..], &[("x-nullspend-stream-cost", "yes")]].concat();
    let Answer::ImmediateResponse(refused) = exchange.ask(head(&headers)).await else { panic!("it went on") };
    assert_eq!(refused.status.unwrap().code, 400);
}

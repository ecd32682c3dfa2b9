//! `incrementalHold`: what is held of a stream, what passes meanwhile, and what it comes to when it is cut.

use super::*;
use crate::exchange::{Cut, Owed};

/// Nano-dollars of one output token of gpt-4o-mini.
pub(super) const OUTPUT: i64 = 600;

pub(super) fn incremental(enforcement: Enforcement) -> BudgetRule {
    BudgetRule { output: OutputPolicy { clamp: false, incremental: true }, ..budget(enforcement) }
}

fn policy(rules: impl IntoIterator<Item = BudgetRule>) -> Policy {
    let mut policy = policy_with(identity());
    rules.into_iter().for_each(|rule| policy.put_budget(rule));
    policy
}

/// A long stream as each API is asked for it.
pub(super) fn asking(path: &str) -> Value {
    match path {
        CHAT => {
            json!({"model": "gpt-4o-mini", "stream": true, "messages": [{"role": "user", "content": "hi"}]})
        }
        "/v1/responses" => json!({"model": "gpt-4o-mini", "stream": true, "input": "hi"}),
        _ => json!({"model": "claude-haiku-4-5", "stream": true, "max_tokens": 8000,
            "messages": [{"role": "user", "content": "hi"}]}),
    }
}

fn first_hold(policy: Policy, path: &str, body: &Value) -> Nanos {
    let stage = reserving(admit(policy, path, body.to_string().as_bytes()));
    stage.reserve(30_000, |_| Bytes::new()).amount
}

/// The stream of a call that was held.
pub(super) fn open(rule: BudgetRule, path: &str, body: &Value) -> Forwarded {
    let body = body.to_string().into_bytes();
    let stage = reserving(admit(policy([rule]), path, &body));
    let balance = Balance { limit: Nanos(1), settled: Nanos::ZERO, held: Nanos::ZERO };
    let outcome = ReserveOutcome::Reserved { balances: vec![balance], exceeded: vec![] };
    let Verdict::Open(opening) = stage.reserved(Ok(outcome), NOW) else { panic!("not open") };
    opening.opened(body, NOW).1
}

pub(super) fn streaming(path: &str) -> Forwarded {
    let mut forwarded = open(incremental(Enforcement::StrictBlock), path, &asking(path));
    forwarded.response_head(&response("200", "text/event-stream"), Origin::Provider, later(5));
    forwarded
}

/// A stream beside a budget of `room`, of which the first hold is a part.
pub(super) struct Budgeted {
    pub(super) forwarded: Forwarded,
    pub(super) room: Nanos,
    pub(super) sent: Vec<u8>,
    pub(super) asked: Vec<Owed>,
    pub(super) cut: bool,
}

impl Budgeted {
    pub(super) fn new(forwarded: Forwarded, room: Nanos) -> Self {
        Self { forwarded, room, sent: Vec::new(), asked: Vec::new(), cut: false }
    }

    /// A piece of the answer; what the host does about it.
    pub(super) fn push(&mut self, chunk: &[u8], end_of_stream: bool) {
        if self.cut {
            return;
        }
        self.sent.extend(self.forwarded.response_body(chunk.to_vec(), end_of_stream, later(6)));
        while let Some(owed) = self.forwarded.owes() {
            self.asked.push(owed);
            if self.forwarded.stub().held + owed.add <= self.room {
                self.sent.extend(self.forwarded.extended(owed));
            } else if self.forwarded.not_extended(owed) {
                self.cut = true;
                let words = self.forwarded.cut(Cut::BudgetExceeded, None, later(7));
                self.sent.extend(words.expect("a polite end"));
            }
        }
    }

    fn close(self) -> (String, Closing, Nanos) {
        let held = self.forwarded.stub().held;
        let end = if self.cut { End::Cut } else { End::Complete };
        (String::from_utf8(self.sent).unwrap(), close(self.forwarded, end), held)
    }
}

fn delta(text: &str) -> String {
    format!(
        "data: {}\n\n",
        json!({"id": "c1", "model": "gpt-4o-mini", "choices": [{"index": 0, "delta": {"content": text}}]})
    )
}

const END: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n\
    data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3}}\n\n\
    data: [DONE]\n\n";

/// Bytes of answer text among what a chat client was sent.
fn shown(sent: &str) -> usize {
    let events = sent.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
    let choices = events.filter_map(|data| serde_json::from_str::<Value>(data).ok());
    choices.map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map_or(0, str::len)).sum()
}

#[test]
fn a_stream_holds_a_slice_and_more_as_it_goes_on_and_is_charged_exactly() {
    let full = first_hold(policy([budget(Enforcement::StrictBlock)]), CHAT, &asking(CHAT));
    let forwarded = streaming(CHAT);
    let first = forwarded.stub().held;
    assert!(first.0 * 10 < full.0, "{first} of {full}");
    let mut stream = Budgeted::new(forwarded, full);
    let mut whole = String::new();
    for _ in 0..400 {
        let piece = delta("some words ");
        whole.push_str(&piece);
        stream.push(piece.as_bytes(), false);
        assert_eq!(stream.sent.len(), whole.len(), "nothing waits as long as there is room");
    }
    let asked = stream.asked.len();
    assert!((2..20).contains(&asked), "{asked} extensions for {} bytes", whole.len());
    stream.push(END.as_bytes(), true);
    let (sent, closing, held) = stream.close();
    assert_eq!(sent, whole + &END.replace(END.split_inclusive("\n\n").nth(1).unwrap(), ""));
    assert!(first < held && held < full);
    assert_eq!((closing.cost, closing.measurement), (Nanos(9 * 150 + 3 * OUTPUT), Measurement::Exact));
    assert_eq!(closing.ending, Ending::Complete);
}

#[test]
fn a_stream_without_room_is_ended_and_costs_no_more_than_was_held() {
    let forwarded = streaming(CHAT);
    let room = forwarded.stub().held + Nanos(1000 * OUTPUT);
    let mut stream = Budgeted::new(forwarded, room);
    (0..1000).for_each(|_| stream.push(delta("some words ").as_bytes(), false));
    assert!(stream.cut);
    let (sent, closing, held) = stream.close();
    assert!((1_300..=1_512).contains(&shown(&sent)), "512 + 1000 are paid for: {}", shown(&sent));
    assert!(
        sent.ends_with("data: [DONE]\n\n")
            && sent.contains(": nullspend {\"budgetId\":null,\"code\":\"budget_exceeded\"}")
    );
    assert!(sent.contains("\"finish_reason\":\"length\""), "{sent}");
    assert!(held <= room && closing.cost <= held && closing.cost > Nanos::ZERO, "{} of {held}", closing.cost);
    assert_eq!((closing.ending, closing.measurement), (Ending::Aborted, Measurement::Estimated));
    assert_eq!(closing.system_tags["_ns_cut"], "budget_exceeded");
}

#[test]
fn less_than_a_slice_is_asked_for_before_a_stream_ends() {
    let forwarded = streaming(CHAT);
    let room = forwarded.stub().held + Nanos(300 * OUTPUT);
    let mut stream = Budgeted::new(forwarded, room);
    let piece = delta(&"word ".repeat(140));
    stream.push(piece.as_bytes(), false);
    assert!(!stream.cut && stream.sent == piece.as_bytes(), "700 tokens fit, a slice more does not");
    assert!(stream.asked.len() > 1);
}

#[test]
fn the_whole_bound_is_held_where_slices_would_not_do() {
    let strict = Enforcement::StrictBlock;
    let other = BudgetRule {
        budget: BudgetId(Uuid::from_u128(10)),
        entity: Entity::ApiKey(identity().key),
        ..budget(strict)
    };
    let with = |more: Value| {
        let mut body = asking(CHAT);
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let audio = json!({"model": "gpt-4o-audio-preview", "modalities": ["text", "audio"]});
    let cases = [
        (vec![incremental(strict), other], asking(CHAT), "a budget that did not agree"),
        (vec![incremental(Enforcement::SoftBlock)], asking(CHAT), "nothing denies"),
        (vec![incremental(strict)], with(json!({"stream": false})), "no stream"),
        (vec![incremental(strict)], with(json!({"model": "gpt-5-mini"})), "hidden reasoning"),
        (vec![incremental(strict)], with(audio), "audio"),
        (vec![incremental(strict)], with(json!({"max_tokens": 100})), "less than a slice"),
    ];
    for (rules, body, why) in cases {
        let plain = rules.iter().map(|rule| BudgetRule { output: OutputPolicy::default(), ..rule.clone() });
        let full = first_hold(policy(plain.collect::<Vec<_>>()), CHAT, &body);
        assert_eq!(first_hold(policy(rules), CHAT, &body), full, "{why}");
    }
    let agreed = first_hold(policy([incremental(strict)]), CHAT, &asking(CHAT));
    assert!(agreed < first_hold(policy([budget(strict)]), CHAT, &asking(CHAT)));
}

#[test]
fn a_session_s_limit_must_agree_too_where_the_call_names_one() {
    let limits_sessions = |incremental| BudgetRule {
        budget: BudgetId(Uuid::from_u128(10)),
        entity: Entity::ApiKey(identity().key),
        session_limit: Some(Nanos(1_000_000)),
        output: OutputPolicy { clamp: false, incremental },
        ..budget(Enforcement::Warn)
    };
    let first_hold = |agrees, more: &[(&str, &str)]| {
        let policy = policy([incremental(Enforcement::StrictBlock), limits_sessions(agrees)]);
        let awaiting = start(policy, &headers(CHAT, more)).expect("accepted");
        let stage = reserving(awaiting.body(&settings(), asking(CHAT).to_string().as_bytes(), NOW));
        stage.reserve(30_000, |_| Bytes::new()).amount
    };
    let session = [("x-nullspend-session", "s-1")];
    let sliced = first_hold(true, &session);
    assert!(sliced < first_hold(false, &session), "it could end the stream");
    assert_eq!(first_hold(false, &[]), sliced, "it says nothing of a call without a session");
}

#[test]
fn an_answer_that_turns_out_to_hide_output_needs_its_whole_bound_at_once() {
    let path = "/v1/messages";
    let full = first_hold(policy([budget(Enforcement::StrictBlock)]), path, &asking(path));
    let thinking = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"thinking\",\"thinking\":\"\"}}\n\n";
    for event in [thinking, "data: what is this\n\n"] {
        let mut stream = Budgeted::new(streaming(path), full);
        stream.push(event.as_bytes(), false);
        assert_eq!((stream.sent.as_slice(), stream.forwarded.stub().held), (event.as_bytes(), full));

        let mut stream = Budgeted::new(streaming(path), full - Nanos(1));
        stream.push(event.as_bytes(), false);
        assert!(stream.cut && !String::from_utf8_lossy(&stream.sent).contains(event), "{event}");
    }
}

#[test]
fn an_answer_that_is_no_readable_stream_needs_its_whole_bound_before_a_byte_passes() {
    let mut encoded = response("200", "text/event-stream");
    encoded.0.push(("content-encoding".into(), b"gzip".to_vec()));
    for head in [response("200", "application/json"), encoded] {
        let mut forwarded = open(incremental(Enforcement::StrictBlock), CHAT, &asking(CHAT));
        forwarded.response_head(&head, Origin::Provider, later(5));
        assert_eq!(forwarded.response_body(b"{\"choices\"".to_vec(), false, later(6)), b"");
        let mut owed = forwarded.owes().expect("it wants to be held");
        let full = first_hold(policy([budget(Enforcement::StrictBlock)]), CHAT, &asking(CHAT));
        assert_eq!(forwarded.stub().held + owed.add, full);
        while !forwarded.not_extended(owed) {
            owed = forwarded.owes().expect("less will not do");
        }
        assert_eq!(forwarded.cut(Cut::BudgetExceeded, None, later(7)), None, "it can only break");
    }
}

#[test]
fn a_providers_error_passes_unpaid() {
    let mut forwarded = open(incremental(Enforcement::StrictBlock), CHAT, &asking(CHAT));
    forwarded.response_head(&response("500", "application/json"), Origin::Provider, later(5));
    let error = "x".repeat(100_000).into_bytes();
    assert_eq!(forwarded.response_body(error.clone(), true, later(6)), error);
    assert_eq!(forwarded.owes(), None);
}

#[test]
fn a_client_that_leaves_pays_for_what_came_and_waited_too() {
    let mut forwarded = streaming(CHAT);
    let held = forwarded.stub().held;
    let piece = delta(&"word ".repeat(1000)) + &delta("unread");
    assert_eq!(forwarded.response_body(piece.into_bytes(), false, later(6)), b"", "it is not paid for");
    let closing = close(forwarded, End::Broken);
    assert_eq!(closing.cost, held);
    assert!(closing.tokens.output > 1000, "{:?}", closing.tokens);
}

#[test]
fn what_does_not_even_fit_a_slice_is_clamped_where_that_is_allowed() {
    let both = OutputPolicy { clamp: true, incremental: true };
    let rule = BudgetRule { output: both, ..budget(Enforcement::StrictBlock) };
    let body = asking(CHAT);
    let stage = reserving(admit(policy([rule]), CHAT, body.to_string().as_bytes()));
    let slice = stage.reserve(30_000, |_| Bytes::new()).amount;
    let left = Balance { limit: slice - Nanos(1), settled: Nanos::ZERO, held: Nanos::ZERO };
    let denied =
        ReserveOutcome::Denied { scope: 0, why: Why::Budget, balances: vec![left], retry_after_ms: None };
    let Verdict::Tighten(counting) = stage.reserved(Ok(denied), NOW) else { panic!("not counted first") };
    // A text that cannot be counted leaves the loose bound.
    let Verdict::Lowered(stage) = counting.count(&[0xff], NOW) else { panic!("not clamped") };
    let outcome = ReserveOutcome::Reserved { balances: vec![left], exceeded: vec![] };
    let Verdict::Open(opening) = stage.reserved(Ok(outcome), NOW) else { panic!("not open") };
    let (forward, mut forwarded) = opening.opened(body.to_string().into_bytes(), NOW);
    assert!(forward.body.is_some());
    forwarded.response_head(&response("200", "text/event-stream"), Origin::Provider, later(5));
    let _ = forwarded.response_body(delta(&"word ".repeat(500)).into_bytes(), false, later(6));
    assert_eq!(forwarded.owes(), None, "all that it can cost is held");
}

proptest! {
    #[test]
    fn nothing_passes_that_is_not_paid_for(
        words in proptest::collection::vec("[a-zäΩ漢🦀 ]{0,90}", 1..40),
        room in 0_i64..3_000,
        mut cuts in proptest::collection::vec(0_usize..6_000, 0..12),
    ) {
        let forwarded = streaming(CHAT);
        let first = forwarded.stub().held;
        let input = first.0 - 512 * OUTPUT;
        let room = first + Nanos(room * OUTPUT);
        let whole: String = words.iter().map(|word| delta(word)).collect::<String>() + END;
        let kept = whole.replace(END.split_inclusive("\n\n").nth(1).unwrap(), "");
        cuts.sort_unstable();
        let mut stream = Budgeted::new(forwarded, room);
        let mut from = 0;
        for cut in cuts.into_iter().chain([whole.len()]) {
            let cut = cut.clamp(from, whole.len());
            stream.push(&whole.as_bytes()[from..cut], cut == whole.len());
            from = cut;
            let held = stream.forwarded.stub().held;
            prop_assert!(held <= room);
            if !stream.cut {
                let sent = String::from_utf8_lossy(&stream.sent);
                let paid = input + i64::try_from(shown(&sent)).unwrap() * OUTPUT;
                prop_assert!(paid <= held.0, "{paid} of {held}");
                prop_assert!(kept.starts_with(sent.as_ref()), "untouched bytes");
            }
        }
        let cut = stream.cut;
        let (sent, closing, held) = stream.close();
        prop_assert!(closing.cost > Nanos::ZERO && closing.cost <= held);
        prop_assert!(cut || sent == kept);
        prop_assert!(sent.ends_with("data: [DONE]\n\n"));
        let said = sent.split(": nullspend").next().unwrap();
        prop_assert!(kept.starts_with(said), "whole events, then ours");
    }
}

#[test]
fn an_event_without_end_is_not_kept_in_memory_for_ever() {
    let mut forwarded = streaming(CHAT);
    let chunk = vec![b'x'; 1 << 20];
    let mut pieces = 0;
    let owed = loop {
        assert!(
            forwarded.response_body(chunk.clone(), false, later(6)).is_empty(),
            "nothing of it is paid for"
        );
        pieces += 1;
        assert!(pieces <= 65, "64 MiB are enough for an event");
        if let Some(owed) = forwarded.owes().filter(|owed| owed.blocks) {
            break owed;
        }
    };
    assert_eq!(forwarded.extended(owed).len(), pieces << 20, "once the whole answer is held it passes");
}

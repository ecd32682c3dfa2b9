use proptest::prelude::*;
use serde_json::json;

use super::*;

const TRANSCRIPTS: [(Dialect, &[u8]); 8] = [
    (Dialect::Chat, include_bytes!("../../testdata/sse/s01_chat_include_usage.sse")),
    (Dialect::Chat, include_bytes!("../../testdata/sse/s03_chat_crlf_comments_nospace.sse")),
    (Dialect::Chat, include_bytes!("../../testdata/sse/s04_chat_utf8_split.sse")),
    (Dialect::Chat, include_bytes!("../../testdata/sse/s07_chat_decoy_n2.sse")),
    (Dialect::Chat, include_bytes!("../../testdata/sse/s08_chat_toolcalls_no_done_no_blank.sse")),
    (Dialect::Responses, include_bytes!("../../testdata/sse/s12_responses_completed.sse")),
    (Dialect::Messages, include_bytes!("../../testdata/sse/s17_anthropic_server_tool_cumulative.sse")),
    (Dialect::Gemini, include_bytes!("../../testdata/sse/s20_gemini_functioncall_decoy.sse")),
];

fn sse(dialect: Dialect, frames: &[&str]) -> Metered {
    let mut meter = Meter::new(dialect, "openai", BodyKind::Sse);
    for frame in frames {
        meter.push(format!("data: {frame}\n\n").as_bytes());
    }
    meter.finish()
}

fn body(dialect: Dialect, body: &Value) -> Metered {
    let mut meter = Meter::new(dialect, "openai", BodyKind::Json);
    for chunk in body.to_string().as_bytes().chunks(7) {
        meter.push(chunk);
    }
    meter.finish()
}

fn output(metered: &Metered) -> Option<u64> {
    metered.usage.as_ref().map(|usage| usage.counts.get(Class::Output))
}

#[test]
fn plain_answers_of_all_apis() {
    let chat = body(
        Dialect::Chat,
        &json!({"id": "c", "model": "gpt-4o-2024-08-06", "service_tier": "default", "choices": [{"index": 0,
            "message": {"content": "Hi", "tool_calls": [{"id": "t", "function": {"name": "f", "arguments": "{}"}}]},
            "finish_reason": "tool_calls"}], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}),
    );
    assert_eq!(
        (chat.usage_state, chat.terminal, output(&chat)),
        (UsageState::Final, Terminal::Complete, Some(5))
    );
    assert_eq!(chat.tool_calls, [ToolCall { name: "f".to_owned(), id: Some("t".to_owned()) }]);
    assert_eq!(chat.stop_reason.as_deref(), Some("tool_calls"));
    assert_eq!(chat.seen.parts().collect::<Vec<_>>(), [(0, "Hi")]);

    let responses = body(
        Dialect::Responses,
        &json!({"id": "r", "model": "gpt-5", "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"},
            "output": [{"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}, {"type": "file_search_call"}],
            "usage": {"input_tokens": 3, "output_tokens": 5}}),
    );
    assert_eq!((responses.usage_state, responses.terminal), (UsageState::Final, Terminal::Incomplete));
    assert_eq!(responses.stop_reason.as_deref(), Some("max_output_tokens"));
    assert_eq!(responses.usage.as_ref().map(|usage| usage.tools.file_searches), Some(1));
    assert!(responses.visible_output);

    let messages = body(
        Dialect::Messages,
        &json!({"id": "m", "type": "message", "model": "claude-opus-5", "stop_reason": "tool_use",
            "content": [{"type": "text", "text": "Hi"}, {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}],
            "usage": {"input_tokens": 3, "output_tokens": 5, "cache_read_input_tokens": 7}}),
    );
    assert_eq!((messages.usage_state, messages.terminal), (UsageState::Final, Terminal::Complete));
    assert_eq!(messages.usage.as_ref().map(|usage| usage.prompt), Some(10));
    assert_eq!(messages.tool_calls.len(), 1);
}

#[test]
fn bodies_that_are_no_answer() {
    for text in ["", "<html>", "[]", "null", "{\"usage\":{\"prompt_tokens\":1}", "{\"choices\":[]"] {
        let mut meter = Meter::new(Dialect::Chat, "openai", BodyKind::Json);
        meter.push(text.as_bytes());
        let metered = meter.finish();
        assert_eq!(
            (metered.usage_state, metered.terminal),
            (UsageState::Missing, Terminal::Truncated),
            "{text}"
        );
    }
    let error = body(Dialect::Messages, &json!({"type": "error", "error": {"type": "overloaded_error"}}));
    assert_eq!(error.terminal, Terminal::Error);
}

#[test]
fn zeros_after_the_real_usage_do_not_replace_it_but_zeros_alone_count() {
    let real = r#"{"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":2}}"#;
    let zero = r#"{"choices":[],"usage":{"prompt_tokens":0,"completion_tokens":0}}"#;
    assert_eq!(output(&sse(Dialect::Chat, &[zero, real, zero, "[DONE]"])), Some(2));
    let only = sse(Dialect::Chat, &[zero, "[DONE]"]);
    assert_eq!((only.usage_state, output(&only)), (UsageState::Final, Some(0)));
}

#[test]
fn running_totals_replace_each_other_and_are_partial_until_the_end() {
    let chunk = |n: u64, end: &str| {
        format!(
            r#"{{"choices":[{{"delta":{{"content":"x"}},"finish_reason":{end}}}],"usage":{{"prompt_tokens":5,"completion_tokens":{n}}}}}"#
        )
    };
    let (one, two, last) = (chunk(1, "null"), chunk(2, "null"), chunk(3, "\"stop\""));
    let cut = sse(Dialect::Chat, &[&one, &two]);
    assert_eq!(
        (cut.usage_state, cut.terminal, output(&cut)),
        (UsageState::Partial, Terminal::Truncated, Some(2))
    );
    let whole = sse(Dialect::Chat, &[&one, &two, &last]);
    assert_eq!((whole.usage_state, output(&whole)), (UsageState::Final, Some(3)));
}

#[test]
fn an_error_stays_an_error_and_nothing_counts_after_done() {
    let usage = r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":9}}"#;
    let error = sse(Dialect::Chat, &[r#"{"error":{"message":"x"}}"#, "[DONE]", usage]);
    assert_eq!(
        (error.terminal, error.saw_done, error.usage_state),
        (Terminal::Error, true, UsageState::Missing)
    );
}

#[test]
fn a_repeated_final_response_counts_once() {
    let done = r#"{"type":"response.completed","response":{"id":"r","status":"completed","output":[{"type":"web_search_call","action":{"type":"search"}}],"usage":{"input_tokens":5,"output_tokens":2}}}"#;
    let metered = sse(Dialect::Responses, &[done, done]);
    assert_eq!(output(&metered), Some(2));
    assert_eq!(metered.usage.map(|usage| usage.tools.web_searches), Some(1));
}

#[test]
fn thinking_hides_output() {
    let block = |kind: &str| {
        format!(r#"{{"type":"content_block_start","index":0,"content_block":{{"type":"{kind}"}}}}"#)
    };
    for (kind, hides) in [
        ("text", false),
        ("tool_use", false),
        ("thinking", true),
        ("redacted_thinking", true),
        ("server_tool_use", true),
    ] {
        assert_eq!(sse(Dialect::Messages, &[&block(kind)]).hides_output, hides, "{kind}");
    }
}

#[test]
fn a_call_of_a_tool_is_seen_when_it_begins_and_counted_once() {
    let item = r#"{"type":"function_call","call_id":"c1","name":"look_up","arguments":""}"#;
    let added = format!(r#"{{"type":"response.output_item.added","output_index":0,"item":{item}}}"#);
    let piece = r#"{"type":"response.function_call_arguments.delta","output_index":0,"delta":"{\"q\":1}"}"#;
    let cut = sse(Dialect::Responses, &[&added, piece]);
    assert_eq!((cut.tool_calls.len(), cut.seen.bytes(), cut.hides_output), (1, 7 + 7, false));
    let done = format!(r#"{{"type":"response.output_item.done","output_index":0,"item":{item}}}"#);
    let end = format!(
        r#"{{"type":"response.completed","response":{{"status":"completed","output":[{item}],"usage":{{"input_tokens":5,"output_tokens":2}}}}}}"#
    );
    let whole = sse(Dialect::Responses, &[&added, piece, &done, &end]);
    assert_eq!(whole.tool_calls, [ToolCall { name: "look_up".to_owned(), id: Some("c1".to_owned()) }]);
}

#[test]
fn what_stands_for_more_than_it_shows_hides_output() {
    let chat = |delta: &str| format!(r#"{{"choices":[{{"index":0,"delta":{delta}}}]}}"#);
    let gemini = |part: &str| format!(r#"{{"candidates":[{{"content":{{"parts":[{part}]}}}}]}}"#);
    for (dialect, frame, hides, bytes) in [
        (Dialect::Chat, chat(r#"{"content":"a","reasoning":"bc"}"#), false, 3),
        (Dialect::Chat, chat(r#"{"refusal":"no"}"#), false, 2),
        (Dialect::Chat, chat(r#"{"function_call":{"name":"f","arguments":"{}"}}"#), false, 3),
        (Dialect::Chat, chat(r#"{"reasoning_details":[{"type":"reasoning.text","text":"x"}]}"#), false, 0),
        (
            Dialect::Chat,
            chat(r#"{"reasoning_details":[{"type":"reasoning.encrypted","data":"x"}]}"#),
            true,
            0,
        ),
        (Dialect::Chat, chat(r#"{"audio":{"data":"x"}}"#), true, 0),
        (Dialect::Chat, chat(r#"{"audio":null,"images":[]}"#), false, 0),
        (Dialect::Chat, chat(r#"{"images":[{"type":"image_url"}]}"#), true, 0),
        (Dialect::Responses, r#"{"type":"response.reasoning_text.delta","delta":"ab"}"#.to_owned(), false, 2),
        (
            Dialect::Responses,
            r#"{"type":"response.reasoning_summary_text.delta","delta":"ab"}"#.to_owned(),
            true,
            2,
        ),
        (Dialect::Responses, r#"{"type":"response.output_audio.delta","delta":"ab"}"#.to_owned(), true, 0),
        (Dialect::Responses, r#"{"type":"response.refusal.delta","delta":"ab"}"#.to_owned(), false, 2),
        (Dialect::Gemini, gemini(r#"{"text":"ab"},{"text":"c","thought":true}"#), false, 3),
        (Dialect::Gemini, gemini(r#"{"executableCode":{"code":1}}"#), false, 10),
        (Dialect::Gemini, gemini(r#"{"codeExecutionResult":{"output":"3"}}"#), true, 0),
        (Dialect::Gemini, gemini(r#"{"inlineData":{"data":"3"}}"#), true, 0),
    ] {
        let metered = sse(dialect, &[&frame]);
        assert_eq!((metered.hides_output, metered.seen.bytes()), (hides, bytes), "{frame}");
    }
}

#[test]
fn odd_counts_are_read_and_flagged() {
    let usage = |raw: Value| Usage::from_raw(Dialect::Chat, "openai", &raw, &Extras::default());
    let read = usage(json!({"prompt_tokens": 1.2, "completion_tokens": [1]}));
    assert_eq!((read.counts.get(Class::Input), read.counts.get(Class::Output)), (2, 0));
    assert_eq!(
        read.flags.iter().collect::<Vec<_>>(),
        ["fraction:prompt_tokens", "malformed:completion_tokens"]
    );
    let both =
        usage(json!({"input_tokens": 0, "output_tokens": 0, "prompt_tokens": 8, "completion_tokens": 4}));
    assert_eq!((both.prompt, both.counts.get(Class::Output)), (8, 4));
    let audio = usage(json!({"prompt_tokens": 5, "prompt_tokens_details": {"audio_tokens": 9}}));
    assert_eq!(audio.counts.get(Class::AudioInput), 5);
    assert!(audio.flags.contains("inconsistent:audio_exceeds_prompt"));
}

#[test]
fn long_text_is_counted_and_not_kept() {
    let mut seen = Seen::default();
    let sentence = "The quick brown fox jumps over the lazy dog. ";
    for _ in 0..20_000 {
        seen.show(0, sentence);
    }
    assert!(seen.parts().map(|(_, text)| text.len()).sum::<usize>() <= 300 << 10);
    let tokens = seen.tokens();
    assert!((200_000..202_000).contains(&tokens), "{tokens}");
}

fn strip(stream: &[u8], cut: usize) -> Vec<u8> {
    let mut filter = StripUsageFrame::new();
    let mut out = Vec::new();
    for chunk in stream.chunks(cut) {
        out.extend(filter.push(chunk));
    }
    out.extend(filter.finish());
    out
}

#[test]
fn only_the_usage_frame_is_taken_out_in_any_cutting() {
    let usage = r#"data: {"id":"c","choices":[ ],"usage":{"prompt_tokens":1}}"#;
    for end in ["\n", "\r\n", "\r"] {
        let frame = |text: &str| format!("{text}{end}{end}");
        let before = frame(r#"data: {"choices":[],"prompt_filter_results":[],"usage":null}"#)
            + &frame(": comment")
            + &frame(&format!(
                "data: {{\"choices\":[{{\"delta\":{{\"content\":{:?}}}}}],\"usage\":{{}}}}",
                "x".repeat(99)
            ));
        let after = frame("data: [DONE]") + usage + end + "tail";
        let with = before.clone() + &frame(usage) + &after;
        for cut in 1..=with.len() {
            let stripped = String::from_utf8(strip(with.as_bytes(), cut)).unwrap();
            assert_eq!(stripped, before.clone() + &after, "{end:?} in chunks of {cut}");
        }
        let at_end = before.clone() + usage;
        assert_eq!(String::from_utf8(strip(at_end.as_bytes(), 5)).unwrap(), before);
    }
}

#[test]
fn whole_frames_pass_at_once_and_long_ones_are_not_held() {
    let mut filter = StripUsageFrame::new();
    let frame = b"data: {\"choices\":[{}]}\n\n";
    assert_eq!(filter.push(frame), frame);
    let long = vec![b'x'; 100 << 10];
    assert_eq!(filter.push(&long), long);
    assert_eq!(filter.push(b"\n\n"), b"\n\n");
    assert_eq!(filter.push(b"data: {\"choices\":[],\"usage\":{}}\n\n"), b"");
}

fn cuts(len: usize) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..=len, 0..12).prop_map(|mut cuts| {
        cuts.sort_unstable();
        cuts
    })
}

fn run(dialect: Dialect, kind: BodyKind, bytes: &[u8], cuts: &[usize]) -> String {
    let mut meter = Meter::new(dialect, "openai", kind);
    let mut from = 0;
    for cut in cuts.iter().copied().chain([bytes.len()]) {
        meter.push(&bytes[from..cut]);
        from = cut;
    }
    format!("{:?}", meter.finish())
}

/// Streams with the marks that matter, in any order.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "data: ",
        "data:",
        "\n",
        "\r",
        "\r\n",
        "\n\n",
        ": c",
        "event: x",
        "[DONE]",
        "{",
        "}",
        "\"usage\":",
        "\"choices\":[]",
        ",",
        "{\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":1}}",
        "{\"error\":{}}",
        "é",
        "\u{feff}",
        "null",
        "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":4}}",
        "{\"choices\":[{\"delta\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}]}",
    ]);
    prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #[test]
    fn metering_does_not_depend_on_the_cutting(which in 0..TRANSCRIPTS.len(), seed in cuts(600)) {
        let (dialect, bytes) = TRANSCRIPTS[which];
        let cuts: Vec<_> = seed.iter().map(|cut| cut * bytes.len() / 600).collect();
        prop_assert_eq!(run(dialect, BodyKind::Sse, bytes, &cuts), run(dialect, BodyKind::Sse, bytes, &[]));
    }

    #[test]
    fn no_stream_panics_or_depends_on_its_cutting(bytes in stream(), at in 0.0..1.0_f64) {
        let cut = (bytes.len() as f64 * at) as usize;
        for dialect in [Dialect::Chat, Dialect::Responses, Dialect::Messages, Dialect::Gemini] {
            for kind in [BodyKind::Sse, BodyKind::Json] {
                prop_assert_eq!(run(dialect, kind, &bytes, &[cut]), run(dialect, kind, &bytes, &[]));
            }
        }
        prop_assert_eq!(strip(&bytes, cut.max(1)), strip(&bytes, bytes.len().max(1)));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for dialect in [Dialect::Chat, Dialect::Responses, Dialect::Messages, Dialect::Gemini] {
            run(dialect, BodyKind::Sse, &bytes, &[]);
            run(dialect, BodyKind::Json, &bytes, &[]);
        }
    }

    #[test]
    fn a_usage_object_of_any_shape_never_panics(counts in prop::collection::vec(any::<i128>(), 8), odd in any::<f64>()) {
        let raw = format!(
            r#"{{"prompt_tokens":{},"completion_tokens":{},"input_tokens":{},"output_tokens":{},"cache_creation_input_tokens":{},
               "prompt_tokens_details":{{"cached_tokens":{},"audio_tokens":{}}},"promptTokenCount":{},"candidatesTokenCount":"{}"}}"#,
            counts[0], counts[1], counts[2], counts[3], counts[4], counts[5], counts[6], counts[7], odd
        );
        let raw: Value = serde_json::from_str(&raw).unwrap();
        for dialect in [Dialect::Chat, Dialect::Responses, Dialect::Messages, Dialect::Gemini] {
            let usage = Usage::from_raw(dialect, "xai", &raw, &Extras::default());
            prop_assert!(usage.prompt >= usage.counts.get(Class::CachedInput));
        }
    }
}

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn chat(body: &str) -> Result<RequestView, BadRequest> {
    RequestView::parse(Api::OpenAiChat, body.as_bytes())
}

fn view(api: Api, body: &Value) -> RequestView {
    RequestView::parse(api, body.to_string().as_bytes()).unwrap()
}

fn with_usage(view: &RequestView, body: &str) -> Option<Vec<u8>> {
    let include_usage = view.needs_include_usage();
    view.changed(body.as_bytes(), Changes { include_usage, max_output: None })
}

#[test]
fn bad_bodies_are_refused_with_the_field_at_fault() {
    let deep = format!(r#"{{"model":"m","x":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    let cases: [(&str, Option<&str>); 32] = [
        ("", None),
        ("hello", None),
        ("[]", None),
        ("\"x\"", None),
        ("{", None),
        (r#"{"model":"m"} x"#, None),
        (r#"{"model":"m",}"#, None),
        (&deep, None),
        ("{}", Some("model")),
        (r#"{"messages":[]}"#, Some("model")),
        (r#"{"model":""}"#, Some("model")),
        (r#"{"model":"  "}"#, Some("model")),
        (r#"{"model":null}"#, Some("model")),
        (r#"{"model":5}"#, Some("model")),
        (r#"{"model":["m"]}"#, Some("model")),
        (r#"{"model":"m","model":"n"}"#, Some("model")),
        (r#"{"model":"m","mod\u0065l":"n"}"#, Some("model")),
        (r#"{"model":"m","x":1,"x":2}"#, Some("x")),
        (r#"{"model":"m","max_tokens":-1}"#, Some("max_tokens")),
        (r#"{"model":"m","max_tokens":1.5}"#, Some("max_tokens")),
        (r#"{"model":"m","max_tokens":"5"}"#, Some("max_tokens")),
        (r#"{"model":"m","max_tokens":1e300}"#, Some("max_tokens")),
        (r#"{"model":"m","max_tokens":true}"#, Some("max_tokens")),
        (r#"{"model":"m","max_tokens":{}}"#, Some("max_tokens")),
        (r#"{"model":"m","max_completion_tokens":99999999999999999999}"#, Some("max_completion_tokens")),
        (r#"{"model":"m","n":0}"#, Some("n")),
        (r#"{"model":"m","n":-1}"#, Some("n")),
        (r#"{"model":"m","n":"2"}"#, Some("n")),
        (r#"{"model":"m","stream":"yes"}"#, Some("stream")),
        (r#"{"model":"m","stream":1}"#, Some("stream")),
        (r#"{"model":"m","stream_options":[]}"#, Some("stream_options")),
        (r#"{"model":"m","stream_options":{"include_usage":"x"}}"#, Some("stream_options.include_usage")),
    ];
    for (body, param) in cases {
        let error = chat(body).unwrap_err();
        assert_eq!(error.param.as_deref(), param, "{body}: {error}");
        assert!(!error.message.is_empty());
    }
    let invalid = RequestView::parse(Api::OpenAiChat, b"{\"model\":\"\xff\"}").unwrap_err();
    assert!(invalid.message.contains("UTF-8"));
    assert!(chat(&"[".repeat(3_000_000)).is_err());
}

#[test]
fn reads_what_decides_money() {
    let chat = view(
        Api::OpenAiChat,
        &json!({
            "model": "gpt-4o", "stream": true, "max_tokens": 7, "max_completion_tokens": null, "n": 3,
            "service_tier": "flex", "temperature": 0.25, "modalities": ["text", "audio"],
            "tools": [{"type": "function", "function": {"name": "f"}}], "messages": [{"role": "user", "content": "hi"}],
        }),
    );
    assert_eq!((chat.max_output, chat.choices, chat.stream, chat.audio_output), (Some(7), 3, true, true));
    assert_eq!((chat.service_tier.as_deref(), chat.temperature.as_deref()), (Some("flex"), Some("0.25")));
    assert_eq!((chat.tools, chat.hosted.len(), chat.tool_definition_tokens()), (1, 0, 12));

    let responses = view(
        Api::OpenAiResponses,
        &json!({
            "model": "gpt-5", "input": "hi", "max_output_tokens": 50, "max_tokens": 1, "previous_response_id": "r",
            "tools": [{"type": "web_search"}, {"type": "code_interpreter", "container": {"type": "auto"}}],
            "max_tool_calls": 4, "background": true, "reasoning": {"effort": "high", "summary": "none"},
        }),
    );
    assert_eq!((responses.max_output, responses.max_tool_calls), (Some(50), Some(4)));
    assert!(responses.server_state && responses.background && !responses.reasoning_off);
    let kinds: Vec<_> = responses.hosted.iter().map(|tool| tool.kind).collect();
    assert_eq!(kinds, [HostedKind::WebSearch, HostedKind::CodeContainer { sized: false }]);

    let messages = view(
        Api::AnthropicMessages,
        &json!({
            "model": "claude-sonnet-5", "max_tokens": 9, "speed": "fast", "inference_geo": "us",
            "thinking": {"type": "adaptive", "budget_tokens": 8}, "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
            "tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 2}, {"name": "f", "input_schema": {}}],
        }),
    );
    assert_eq!(
        (messages.max_output, messages.fast, messages.thinking, messages.thinking_budget),
        (Some(9), true, true, Some(8))
    );
    assert_eq!(messages.cache, CacheAsked::Long);
    assert_eq!(messages.hosted, [HostedTool { kind: HostedKind::WebSearch, max_uses: Some(2) }]);
    assert!(messages.hidden_tool_tokens > 804);
}

#[test]
fn cache_control_is_found_even_when_its_letters_are_escaped() {
    let asked = |part: &str| {
        let body = format!(
            r#"{{"model":"m","max_tokens":1,"system":[{{"type":"text","text":"a \u003c b \u0007",{part}}}]}}"#
        );
        RequestView::parse(Api::AnthropicMessages, body.as_bytes()).unwrap().cache
    };
    assert_eq!(asked(r#""x":1"#), CacheAsked::No);
    assert_eq!(asked(r#""cache_control":{"type":"ephemeral"}"#), CacheAsked::Short);
    assert_eq!(asked(r#""cache_control":{"type":"ephemeral","ttl":"1h"}"#), CacheAsked::Long);
    assert_eq!(asked(r#""cache\u005fcontrol":{"type":"ephemeral","ttl":"1h"}"#), CacheAsked::Long);
}

#[test]
fn images_count_by_number_and_only_where_the_provider_sees_them() {
    let data = format!("data:image/png;base64,{}", "A".repeat(5000));
    let chat = view(
        Api::OpenAiChat,
        &json!({"model": "gpt-4o", "messages": [{"role": "user", "content": [
            {"type": "text", "text": "look"},
            {"type": "image_url", "image_url": {"url": data}},
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
            {"type": "file", "file": {"file_id": "f"}},
        ]}]}),
    );
    assert_eq!(
        (chat.media.images.len(), chat.media.image_bytes, chat.media.documents),
        (2, data.len() as u64, 1)
    );
    assert_eq!((chat.media.audio_bytes, chat.media.audio_tokens), (4, u64::MAX));

    let image = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A".repeat(4000)}});
    let messages = view(
        Api::AnthropicMessages,
        &json!({"model": "m", "max_tokens": 1, "messages": [
            {"role": "user", "content": [image.clone(), {"type": "tool_result", "content": [image.clone()]}]},
            // The arguments of a tool are text, whatever they look like.
            {"role": "assistant", "content": [{"type": "tool_use", "id": "x", "name": "f", "input": image}]},
            {"role": "user", "content": [
                {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}},
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "plain"}},
            ]},
        ]}),
    );
    assert_eq!(
        (messages.media.images.len(), messages.media.image_bytes, messages.media.documents),
        (2, 8000, 1)
    );
}

#[test]
fn what_the_provider_keeps_is_known_from_every_reference_to_it() {
    let item = |item: Value| view(Api::OpenAiResponses, &json!({"model": "m", "input": [item]})).server_state;
    for reference in [
        json!({"type": "item_reference", "id": "i"}),
        json!({"id": "i"}),
        json!({"type": null, "id": "i"}),
        json!({"type": "reasoning", "id": "r", "summary": []}),
        json!({"type": "reasoning", "id": "r", "summary": [], "encrypted_content": null}),
        json!({"type": "web_search_call", "id": "w", "status": "completed"}),
        json!({"type": "file_search_call", "id": "f", "queries": [], "results": null}),
        json!({"type": "code_interpreter_call", "id": "c", "code": "1", "outputs": null}),
        json!({"role": "assistant", "content": null, "audio": {"id": "a"}}),
    ] {
        assert!(item(reference.clone()), "{reference}");
    }
    for whole in [
        json!({"id": "m", "role": "user", "content": "hi"}),
        json!({"type": "message", "id": "m", "role": "assistant", "content": []}),
        json!({"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "x"}),
        json!({"type": "file_search_call", "id": "f", "queries": [], "results": []}),
        json!({"type": "function_call", "id": "f", "name": "f", "arguments": "{}"}),
        json!({"type": "code_interpreter_call", "id": "c", "code": "1", "outputs": []}),
    ] {
        assert!(!item(whole.clone()), "{whole}");
    }
    let thread = |thread| view(Api::AnthropicMessages, &json!({"model": "m", "thread": thread})).server_state;
    assert!(thread(json!({"type": "continue", "previous_message_id": "m"})));
    assert!(!thread(json!({"type": "create"})));
    let image = view(
        Api::OpenAiResponses,
        &json!({"model": "m", "input": [{"type": "image_generation_call", "id": "i", "result": "A".repeat(900)}]}),
    );
    assert_eq!((image.media.images.len(), image.media.image_bytes), (1, 900));
}

#[test]
fn tools_are_found_wherever_they_are_handed_in() {
    let search = json!({"type": "web_search"});
    let hosted = |body: Value| view(Api::OpenAiResponses, &body).hosted.len();
    assert_eq!(
        hosted(
            json!({"model": "m", "input": [{"type": "additional_tools", "role": "developer", "tools": [search]}]})
        ),
        1
    );
    assert_eq!(
        hosted(json!({"model": "m", "input": [{"type": "tool_search_output", "tools": [search]}]})),
        1
    );
    let function = json!({"type": "function", "name": "f"});
    assert_eq!(
        hosted(json!({"model": "m", "tools": [{"type": "namespace", "name": "n", "tools": [function]}]})),
        0
    );
    assert_eq!(
        hosted(json!({"model": "m", "tools": [{"type": "namespace", "name": "n", "tools": [search]}]})),
        1
    );

    let definition =
        json!({"type": "advisor_20260301", "name": "advisor", "model": "claude-opus-5", "max_tokens": 7});
    let addition =
        json!({"type": "tool_addition", "tool": {"type": "tool_definition", "definition": definition}});
    let body = json!({"model": "m", "messages": [{"role": "user", "content": [addition]}]});
    let messages = view(Api::AnthropicMessages, &body);
    let advisor = Advisor { model: "claude-opus-5".into(), max_output: Some(7), max_uses: None };
    assert_eq!((messages.advisors, messages.hosted.len(), messages.tools), (vec![advisor], 1, 1));
    assert!(messages.hidden_tool_tokens > 804);
    // A reference to a tool that is listed elsewhere adds nothing.
    let reference = json!({"type": "tool_addition", "tool": {"type": "tool_reference", "name": "f"}});
    let body = json!({"model": "m", "messages": [{"role": "user", "content": [reference]}]});
    assert_eq!(view(Api::AnthropicMessages, &body).tools, 0);
}

#[test]
fn another_model_than_the_one_bounded_may_not_answer() {
    for (api, field) in [
        (Api::OpenAiChat, r#""models":["a"]"#),
        (Api::OpenAiResponses, r#""models":["a"]"#),
        (Api::AnthropicMessages, r#""fallbacks":[{"model":"claude-opus-5"}]"#),
        (Api::AnthropicMessages, r#""fallbacks":"default""#),
    ] {
        let body = format!(r#"{{"model":"m",{field}}}"#);
        let error = RequestView::parse(api, body.as_bytes()).unwrap_err();
        assert!(error.message.contains("another model"), "{body}");
    }
    assert!(RequestView::parse(Api::AnthropicMessages, br#"{"model":"m","fallbacks":null}"#).is_ok());
}

#[test]
fn a_longer_cache_is_found_where_a_part_asks_for_it() {
    let part = |ttl| json!({"type": "text", "text": "t", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": ttl}});
    let cache = |ttl| {
        view(Api::OpenAiChat, &json!({"model": "m", "messages": [{"role": "user", "content": [part(ttl)]}]}))
            .cache
    };
    assert_eq!((cache("30m"), cache("12h")), (CacheAsked::No, CacheAsked::Long));
    let advisor = json!({"type": "advisor_20260301", "caching": {"type": "ephemeral", "ttl": "1h"}});
    assert_eq!(
        view(Api::AnthropicMessages, &json!({"model": "m", "tools": [advisor]})).cache,
        CacheAsked::Long
    );
}

#[test]
fn include_usage_is_set_and_nothing_else_changes() {
    for (before, after) in [
        (
            r#"{"model":"m","stream":true}"#,
            r#"{"stream_options":{"include_usage":true},"model":"m","stream":true}"#,
        ),
        (
            "\n{ \"model\" :\"m\", \"stream\":true }",
            "\n{\"stream_options\":{\"include_usage\":true}, \"model\" :\"m\", \"stream\":true }",
        ),
        (
            r#"{"model":"m","stream":true,"stream_options":null}"#,
            r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#,
        ),
        (
            r#"{"model":"m","stream":true,"stream_options":{}}"#,
            r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#,
        ),
        (
            r#"{"model":"m","stream_options": { "x":1},"stream":true}"#,
            r#"{"model":"m","stream_options": {"include_usage":true, "x":1},"stream":true}"#,
        ),
        (
            r#"{"model":"m","stream":true,"stream_options":{"include_usage": false }}"#,
            r#"{"model":"m","stream":true,"stream_options":{"include_usage": true }}"#,
        ),
        (
            r#"{"model":"m","stream":true,"stream_options":{"include_usage":null,"x":{"y":[]}}}"#,
            r#"{"model":"m","stream":true,"stream_options":{"include_usage":true,"x":{"y":[]}}}"#,
        ),
    ] {
        let changed = with_usage(&chat(before).unwrap(), before).unwrap();
        assert_eq!(String::from_utf8(changed).unwrap(), after);
    }
    for body in [
        r#"{"model":"m"}"#,
        r#"{"model":"m","stream":false}"#,
        r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#,
    ] {
        assert_eq!(with_usage(&chat(body).unwrap(), body), None, "{body}");
    }
    let other = RequestView::parse(Api::OpenAiResponses, br#"{"model":"m","stream":true}"#).unwrap();
    assert_eq!(with_usage(&other, r#"{"model":"m","stream":true}"#), None);
}

#[test]
fn lowering_the_output_limit_changes_only_what_is_above_it() {
    let limit = |name| Some(OutputLimit { name, tokens: 50 });
    let cases = [
        (Api::OpenAiChat, "max_tokens", r#"{"model":"m"}"#, r#"{"max_tokens":50,"model":"m"}"#),
        (
            Api::OpenAiChat,
            "max_completion_tokens",
            r#"{"model":"m", "max_tokens" : 1000 ,"n":2}"#,
            r#"{"model":"m", "max_tokens" : 50 ,"n":2}"#,
        ),
        (
            Api::OpenAiChat,
            "max_completion_tokens",
            r#"{"max_completion_tokens":51,"model":"m","max_tokens":49}"#,
            r#"{"max_completion_tokens":50,"model":"m","max_tokens":49}"#,
        ),
        (
            Api::OpenAiChat,
            "max_completion_tokens",
            r#"{"model":"m","max_completion_tokens":null,"max_tokens":null}"#,
            r#"{"model":"m","max_completion_tokens":50,"max_tokens":null}"#,
        ),
        (
            Api::OpenAiResponses,
            "max_output_tokens",
            "{\n \"model\":\"m\",\"max_output_tokens\":\t99}",
            "{\n \"model\":\"m\",\"max_output_tokens\":\t50}",
        ),
        (
            Api::AnthropicMessages,
            "max_tokens",
            r#"{"max_tokens":4096,"model":"m"}"#,
            r#"{"max_tokens":50,"model":"m"}"#,
        ),
    ];
    for (api, name, before, after) in cases {
        let view = RequestView::parse(api, before.as_bytes()).unwrap();
        let changes = Changes { include_usage: false, max_output: limit(name) };
        let changed = view.changed(before.as_bytes(), changes).unwrap();
        assert_eq!(String::from_utf8(changed).unwrap(), after);
    }
    let both = r#"{"model":"m","stream":true,"stream_options":{},"max_tokens":100}"#;
    let changes = Changes { include_usage: true, max_output: limit("max_tokens") };
    assert_eq!(
        chat(both).unwrap().changed(both.as_bytes(), changes).unwrap(),
        br#"{"model":"m","stream":true,"stream_options":{"include_usage":true},"max_tokens":50}"#
    );
}

fn api() -> impl Strategy<Value = Api> {
    prop_oneof![Just(Api::OpenAiChat), Just(Api::OpenAiResponses), Just(Api::AnthropicMessages)]
}

/// JSON that looks like requests, with every field we read holding anything.
fn jsonish() -> impl Strategy<Value = Value> {
    let word = prop_oneof![
        "[a-z]{0,3}",
        prop::sample::select(vec![
            "image",
            "image_url",
            "document",
            "base64",
            "web_search",
            "tool_result",
            "data:image/x"
        ])
        .prop_map(str::to_owned),
    ];
    let key = prop::sample::select(vec![
        "model",
        "stream",
        "stream_options",
        "include_usage",
        "max_tokens",
        "n",
        "messages",
        "content",
        "type",
        "source",
        "data",
        "image_url",
        "url",
        "tools",
        "max_uses",
        "input",
        "thinking",
        "service_tier",
        "x",
        "file",
        "audio",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        word.prop_map(Value::from)
    ];
    leaf.prop_recursive(5, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(key.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(api in api(), body in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = RequestView::parse(api, &body);
    }

    #[test]
    fn requests_of_any_shape_never_panic_and_never_subtract_more_than_there_is(api in api(), body in jsonish()) {
        let text = body.to_string();
        if let Ok(view) = RequestView::parse(api, text.as_bytes()) {
            prop_assert!(view.media.image_bytes <= view.body_bytes);
            prop_assert_eq!(view.body_bytes, text.len() as u64);
        }
    }

    #[test]
    fn what_is_accepted_is_json(text in "[{}\\[\\]:,\"\\\\0-9a-eE.+\\-truefalsn ]{0,40}") {
        let body = format!("{{\"model\":\"m\",\"x\":{text}}}");
        let ours = chat(&body).is_ok();
        let theirs = serde_json::from_str::<Box<serde_json::value::RawValue>>(&body).is_ok();
        // We also refuse duplicates; nothing that is no JSON passes.
        prop_assert!(!ours || theirs, "{}", body);
    }

    #[test]
    fn setting_include_usage_changes_only_that(mut body in jsonish(), options in jsonish()) {
        let Some(map) = body.as_object_mut() else { return Ok(()) };
        map.insert("model".to_owned(), json!("m"));
        map.insert("stream".to_owned(), json!(true));
        map.insert("stream_options".to_owned(), options);
        let text = body.to_string();
        let Ok(view) = chat(&text) else { return Ok(()) };
        let Some(changed) = with_usage(&view, &text) else { return Ok(()) };
        let mut changed: Value = serde_json::from_slice(&changed).unwrap();
        prop_assert_eq!(&changed["stream_options"]["include_usage"], &json!(true));
        prop_assert!(chat(&changed.to_string()).unwrap().asked_for_usage());
        let mut original: Value = serde_json::from_str(&text).unwrap();
        for side in [&mut changed, &mut original] {
            if let Some(options) = side["stream_options"].as_object_mut() {
                options.remove("include_usage");
            }
        }
        if original["stream_options"].is_null() {
            original["stream_options"] = json!({});
        }
        prop_assert_eq!(changed, original);
    }
}

//! What must hold for any bytes: the bodies of the fuzz targets, one for each, which `core/tests/corpus.rs` shares.
//!
//! An input has no format of its own: it is what the target reads, and its last bytes also say where it is cut.

use nullspend_core::{
    attempt::{Api, Measurement},
    bound::{Bound, bound},
    cost::{CostContext, cost},
    money::Nanos,
    price::{Catalogue, Class, Lookup, Priced},
    request::{Changes, OutputLimit, RequestView},
    settle::settle,
    sse::Events,
    usage::{
        BodyKind, Dialect, Meter, Metered, StripUsageFrame, Usage, UsageState, Vendor,
        decode::{Decoder, Unread},
    },
};

/// 2026-11-23.
const NOW_MS: i64 = 1_795_392_000_000;

/// A target's name and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 8] = [
    ("sse", sse),
    ("usage_chat", usage_chat),
    ("usage_responses", usage_responses),
    ("usage_messages", usage_messages),
    ("usage_gemini", usage_gemini),
    ("catalogue", catalogue),
    ("request", request),
    ("decode", decode),
];

/// Longer inputs are not fed byte by byte: that would be most of the time.
const BYTEWISE_MAX: usize = 512;

/// Pieces of `bytes`, cut where its last bytes say.
fn pieces(bytes: &[u8]) -> Vec<&[u8]> {
    let mut cuts: Vec<usize> = bytes
        .rchunks(2)
        .take(4)
        .map(|pair| pair.iter().fold(0, |at, byte| at << 8 | usize::from(*byte)) % (bytes.len() + 1))
        .collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect()
}

/// Cuttings that must all come to the same as the whole.
fn cuttings(bytes: &[u8]) -> Vec<Vec<&[u8]>> {
    let mut cuttings = vec![pieces(bytes)];
    if bytes.len() <= BYTEWISE_MAX {
        cuttings.push(bytes.chunks(1).collect());
    }
    cuttings
}

/// Events and stripped frames do not depend on the cutting; nothing is kept that does not come out again.
pub fn sse(bytes: &[u8]) {
    let whole = events(&[bytes]);
    let kept: usize = whole.iter().map(|event| event.len() + 1).sum();
    assert!(kept <= bytes.len() + 1, "events are longer than what they came in");
    let stripped = strip(&[bytes]);
    assert!(stripped.len() <= bytes.len(), "stripping adds nothing");
    for cutting in cuttings(bytes) {
        assert_eq!(events(&cutting), whole);
        assert_eq!(strip(&cutting), stripped);
    }
    if stripped.len() < bytes.len() {
        assert!(String::from_utf8_lossy(bytes).contains('{'), "only a frame of JSON is ever taken out");
    }
}

fn events(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
    let (mut found, mut parser) = (Vec::new(), Events::default());
    for piece in pieces {
        parser.push(piece, |data| found.push(data.to_vec()));
    }
    parser.finish(|data| found.push(data.to_vec()));
    found
}

fn strip(pieces: &[&[u8]]) -> Vec<u8> {
    let mut filter = StripUsageFrame::new();
    let mut out: Vec<u8> = pieces.iter().flat_map(|piece| filter.push(piece)).collect();
    out.extend(filter.finish());
    out
}

/// Chat completions, as any vendor may write them.
pub fn usage_chat(bytes: &[u8]) {
    let vendor = match bytes.last() {
        Some(byte) => Vendor::ALL[usize::from(*byte) % Vendor::ALL.len()],
        None => Vendor::OpenAi,
    };
    let body = br#"{"model":"gpt-4o-mini","stream":true,"max_tokens":50,"n":2,"messages":[{"role":"user","content":"hi"}]}"#;
    usage(Dialect::Chat, vendor, bytes, &Call::new("openai", Api::OpenAiChat, body));
}

/// Responses.
pub fn usage_responses(bytes: &[u8]) {
    let body = br#"{"model":"gpt-5.4","stream":true,"max_output_tokens":50,"reasoning":{"effort":"none"},"input":"hi"}"#;
    usage(Dialect::Responses, Vendor::OpenAi, bytes, &Call::new("openai", Api::OpenAiResponses, body));
}

/// Anthropic messages.
pub fn usage_messages(bytes: &[u8]) {
    let body = br#"{"model":"claude-haiku-4-5","stream":true,"max_tokens":50,"messages":[{"role":"user","content":"hi"}]}"#;
    usage(Dialect::Messages, Vendor::Anthropic, bytes, &Call::new("anthropic", Api::AnthropicMessages, body));
}

/// Gemini, which is read but cannot be called yet: priced like a chat.
pub fn usage_gemini(bytes: &[u8]) {
    let body = br#"{"model":"gemini-2.5-flash","max_tokens":50,"messages":[]}"#;
    usage(Dialect::Gemini, Vendor::Google, bytes, &Call::new("google", Api::OpenAiChat, body));
}

/// A call whose answer is fuzzed.
struct Call {
    priced: Priced,
    view: RequestView,
    bound: Bound,
}

impl Call {
    fn new(provider: &str, api: Api, body: &[u8]) -> Self {
        let Ok(view) = RequestView::parse(api, body) else { panic!("the request is valid") };
        let Lookup::Priced(priced) = Catalogue::shipped().lookup(provider, &view.model, NOW_MS) else {
            panic!("the model has a price")
        };
        let bound = bound(&priced, &view);
        Self { priced, view, bound }
    }
}

fn usage(dialect: Dialect, vendor: Vendor, bytes: &[u8], call: &Call) {
    for kind in [BodyKind::Sse, BodyKind::Json] {
        let metered = meter(dialect, vendor, kind, &[bytes]);
        let whole = format!("{metered:?}");
        for cutting in cuttings(bytes) {
            assert_eq!(format!("{:?}", meter(dialect, vendor, kind, &cutting)), whole);
        }
        if let Some(usage) = &metered.usage {
            costs(&call.priced, usage);
        }
        charges(call, &metered);
    }
}

fn meter(dialect: Dialect, vendor: Vendor, kind: BodyKind, pieces: &[&[u8]]) -> Metered {
    let mut meter = Meter::new(dialect, vendor, kind);
    for piece in pieces {
        meter.push(piece);
    }
    meter.finish()
}

/// A cost is not negative, is the sum of its parts, and does not fall when a token is added.
fn costs(priced: &Priced, usage: &Usage) {
    let context = CostContext::default();
    let once = cost(priced, usage, &context);
    assert!(once.pico >= 0 && once.nanos >= Nanos::ZERO);
    let parts = once.parts;
    assert_eq!(parts.input + parts.cached + parts.output + parts.fees, once.nanos);
    assert!(parts.reasoning <= parts.output && parts.tool_definition <= parts.input);
    assert!(usage.prompt >= usage.counts.get(Class::CachedInput));
    for class in Class::ALL {
        let mut more = usage.clone();
        more.counts.add(class, 1);
        more.prompt = more.prompt.saturating_add(u64::from(class.is_input()));
        assert!(cost(priced, &more, &context).pico >= once.pico, "one more {class:?} costs less");
    }
}

/// What is not exact is more than nothing, and at most the hold.
fn charges(call: &Call, metered: &Metered) {
    let held = call.bound.cost;
    let charge = settle(&call.priced, &call.view, &call.bound, held, metered, Some(20));
    if metered.usage_state == UsageState::Final {
        assert!(!charge.whole_hold && metered.usage.is_some());
    } else {
        assert_eq!(charge.measurement, Measurement::Estimated);
        assert!(charge.cost.nanos > Nanos::ZERO && charge.cost.nanos <= held, "{:?}", charge.cost);
    }
    let parts = charge.cost.parts;
    assert_eq!(parts.input + parts.cached + parts.output + parts.fees, charge.cost.nanos);
}

/// A catalogue is refused, or every price in it can be used.
pub fn catalogue(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(catalogue) = Catalogue::parse(text) else { return };
    let catalogue = std::sync::Arc::new(catalogue);
    let body = br#"{"model":"any","max_tokens":50,"messages":[{"role":"user","content":"hi"}]}"#;
    let Ok(view) = RequestView::parse(Api::OpenAiChat, body) else { panic!("the request is valid") };
    let mut usage = Usage { prompt: 12_000, ..Usage::default() };
    for class in Class::ALL {
        usage.counts.add(class, 1000);
    }
    for model in catalogue.models() {
        for at_ms in [i64::MIN, 0, NOW_MS, i64::MAX] {
            if let Lookup::Priced(priced) = catalogue.lookup(model.provider(), model.id(), at_ms) {
                assert_eq!(priced.id(), model.name(), "an id is found as itself");
                assert!(bound(&priced, &view).cost >= Nanos::ZERO);
                costs(&priced, &usage);
            }
        }
    }
}

/// What an output limit is lowered to.
const LOWERED_TOKENS: u64 = 7;

/// A request is refused with a reason, or bounded; what is changed before it is forwarded changes nothing else in it.
pub fn request(bytes: &[u8]) {
    for (api, provider, model, limit) in [
        (Api::OpenAiChat, "openai", "gpt-4o", "max_completion_tokens"),
        (Api::OpenAiResponses, "openai", "gpt-5.4", "max_output_tokens"),
        (Api::AnthropicMessages, "anthropic", "claude-haiku-4-5", "max_tokens"),
    ] {
        let view = match RequestView::parse(api, bytes) {
            Ok(view) => view,
            Err(refused) => {
                assert!(!refused.message.is_empty());
                continue;
            }
        };
        let Lookup::Priced(priced) = Catalogue::shipped().lookup(provider, model, NOW_MS) else {
            panic!("the model has a price")
        };
        let most = bound(&priced, &view);
        assert!(most.cost > Nanos::ZERO && most.input_tokens > 0, "{most:?}");
        let max_output = Some(OutputLimit { name: limit, tokens: LOWERED_TOKENS });
        for include_usage in [false, view.needs_include_usage()] {
            let changes = Changes { include_usage, max_output };
            if let Some(changed) = view.changed(bytes, changes) {
                let after = changed_as_told(api, bytes, &changed, changes);
                assert!(
                    bound(&priced, &after).output_tokens <= most.output_tokens,
                    "lowered, and bounded higher"
                );
            }
        }
    }
}

fn changed_as_told(api: Api, bytes: &[u8], changed: &[u8], changes: Changes) -> RequestView {
    let after = match RequestView::parse(api, changed) {
        Ok(after) => after,
        Err(refused) => panic!("what was spliced is not valid any more: {refused}"),
    };
    assert!(after.max_output.is_some_and(|tokens| tokens <= LOWERED_TOKENS));
    assert!(after.changed(changed, Changes { include_usage: false, ..changes }).is_none(), "lowered once");
    assert!(!changes.include_usage || after.asked_for_usage() && !after.needs_include_usage());
    assert_eq!(untouched(bytes), untouched(changed), "another field changed");
    after
}

/// A body without what may be changed in it.
fn untouched(body: &[u8]) -> serde_json::Value {
    let mut tree: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let Some(fields) = tree.as_object_mut() else { return tree };
    fields.retain(|name, value| {
        if let Some(options) = value.as_object_mut().filter(|_| name == "stream_options") {
            options.remove("include_usage");
        }
        let empty = value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
        let limit = ["max_completion_tokens", "max_tokens", "max_output_tokens"].contains(&name.as_str());
        !(limit || name == "stream_options" && empty)
    });
    tree
}

/// The first byte chooses the codings. Decoding is bounded and, as long as nothing is corrupt, does not depend on the
/// cutting.
pub fn decode(bytes: &[u8]) {
    let Some((first, encoded)) = bytes.split_first() else { return };
    let names = ["gzip", "deflate", "br", "zstd"];
    let name = |at: u8| names[usize::from(at) % names.len()];
    let header = if first & 16 == 0 {
        name(*first).to_owned()
    } else {
        format!("{}, {}", name(*first), name(first >> 2))
    };
    let whole = decoded(&header, &[encoded]);
    let limit = (16 << 20) + 200 * (encoded.len() + 4096);
    assert!(whole.0.len() <= limit, "{} decoded", whole.0.len());
    for cutting in cuttings(encoded) {
        let cut = decoded(&header, &cutting);
        assert_eq!(cut.1, whole.1, "{header}");
        if whole.1.is_none() {
            assert!(cut.0 == whole.0, "{header}");
        }
    }
}

fn decoded(header: &str, pieces: &[&[u8]]) -> (Vec<u8>, Option<Unread>) {
    let mut decoder = Decoder::new(Vec::new(), header);
    for piece in pieces {
        decoder.push(piece);
    }
    decoder.flush();
    (std::mem::take(decoder.sink()), decoder.unread())
}

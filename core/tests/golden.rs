//! The golden usage vectors and transcripts of `core/testdata`: every bill to the pico-dollar.

#![allow(clippy::unwrap_used, reason = "a test: clippy does not see that its helpers are")]

use std::{collections::BTreeMap, fs, path::Path};

use nullspend_core::{
    cost::{self, Cost, CostContext},
    price::{Catalogue, Class, Lookup, Priced, Rates},
    usage::{BodyKind, Dialect, Meter, Metered},
};
use serde_json::{Map, Value, json};

fn data(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(path)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn priced(case: &Value) -> Option<Priced> {
    let (provider, model) = (text(case, "provider"), text(case, "model"));
    if let Some(rates) = case["pricing_override"]["rates"].as_object() {
        let mut own = Rates::default();
        for (class, nanos) in rates {
            own.set(Class::parse(class).unwrap(), nanos.as_u64().unwrap() * 1000);
        }
        return Some(Priced::flat(provider, model, own));
    }
    let at: jiff::Timestamp = text(case, "at").parse().unwrap();
    match Catalogue::shipped().lookup(provider, model, at.as_millisecond()) {
        Lookup::Priced(priced) => Some(priced),
        Lookup::Unpriced => None,
    }
}

fn context(case: &Value) -> CostContext {
    let request = &case["request"];
    CostContext {
        batch: request["processing"] == "batch",
        decisions: case["response"]["model_endpoint"] == "/v1/decisions",
        regional_host: text(request, "host").contains(".api.openai.com"),
        ..CostContext::default()
    }
}

fn price(case: &Value, metered: &Metered) -> (Option<Cost>, Vec<String>) {
    let usage = metered.usage.as_ref();
    let Some(usage) = usage else { return (None, vec!["usage_missing".to_owned()]) };
    let cost = if case["cost_policy"] == "provider_reported" {
        cost::provider_reported(usage)
    } else {
        match priced(case) {
            Some(priced) => Some(cost::cost(&priced, usage, &context(case))),
            None => return (None, vec!["unpriced_model".to_owned()]),
        }
    };
    let flags = cost.iter().flat_map(|cost| cost.flags.iter().cloned()).collect();
    (cost, flags)
}

fn check(id: &str, expect: &Value, cost: Option<&Cost>, flags: &[String]) {
    let pico = cost.map(|cost| cost.pico.to_string());
    assert_eq!(pico.as_deref(), expect["cost_pico"].as_str(), "{id}: cost_pico {cost:?}");
    let breakdown: BTreeMap<_, _> =
        cost.iter().flat_map(|c| c.breakdown_pico.iter().map(|(k, v)| (*k, v.to_string()))).collect();
    assert_eq!(json!(breakdown), expect["breakdown_pico"], "{id}: breakdown");
    assert_eq!(json!(flags), expect["flags"], "{id}: flags");
    if let Some(cost) = cost {
        let parts = cost.parts;
        assert_eq!(parts.input + parts.cached + parts.output + parts.fees, cost.nanos, "{id}: parts");
    }
}

/// The body of a plain answer with this usage and whatever else the vector says about it.
fn body(case: &Value, dialect: Dialect) -> Vec<u8> {
    let mut body: Map<String, Value> = case["response"].as_object().cloned().unwrap_or_default();
    let usage = case["usage"].clone();
    match dialect {
        Dialect::Gemini => {
            let grounding = body.remove("groundingMetadata").unwrap_or_default();
            body.insert(
                "candidates".to_owned(),
                json!([{"finishReason": "STOP", "groundingMetadata": grounding}]),
            );
            body.insert("usageMetadata".to_owned(), usage);
        }
        Dialect::Chat | Dialect::Responses | Dialect::Messages => {
            body.insert("usage".to_owned(), usage);
        }
    }
    Value::Object(body).to_string().into_bytes()
}

#[test]
fn usage_vectors() {
    let lines = fs::read_to_string(data("usage_vectors.jsonl")).unwrap();
    let mut seen = 0;
    for line in lines.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let dialect = Dialect::parse(text(&case, "api")).unwrap();
        let mut meter = Meter::new(dialect, text(&case, "provider"), BodyKind::Json);
        meter.push(&body(&case, dialect));
        let (cost, flags) = price(&case, &meter.finish());
        check(text(&case, "id"), &case["expect"], cost.as_ref(), &flags);
        seen += 1;
    }
    assert_eq!(seen, 70);
}

fn meter(case: &Value, bytes: &[u8], cuts: &[usize]) -> Metered {
    let dialect = Dialect::parse(text(case, "api")).unwrap();
    let mut meter = Meter::new(dialect, text(case, "provider"), BodyKind::Sse);
    let mut from = 0;
    for cut in cuts.iter().copied().chain([bytes.len()]) {
        meter.push(&bytes[from..cut]);
        from = cut;
    }
    meter.finish()
}

fn check_transcript(case: &Value, metered: &Metered) {
    let id = text(case, "id");
    assert_eq!(metered.raw_usage.clone().unwrap_or_default(), case["usage"], "{id}: usage");
    assert_eq!(metered.usage_state.as_str(), text(case, "usage_state"), "{id}");
    assert_eq!(metered.terminal.as_str(), text(case, "terminal"), "{id}");
    assert_eq!(metered.saw_done, case["saw_done"], "{id}: saw_done");
    assert_eq!(metered.json_events, case["json_events"], "{id}: json_events");
    assert_eq!(metered.served_model.as_deref(), case["response_model"].as_str(), "{id}");
    if let Some(tier) = case["response"]["service_tier"].as_str() {
        assert_eq!(metered.service_tier.as_deref(), Some(tier), "{id}");
    }
    if let Some(stop) = case["response"]["stop_reason"].as_str() {
        assert_eq!(metered.stop_reason.as_deref(), Some(stop), "{id}");
    }
    let shown: BTreeMap<_, _> = metered.seen.parts().map(|(owner, text)| (owner.to_string(), text)).collect();
    for (owner, expected) in case["text"].as_object().unwrap() {
        match expected.as_str() {
            Some(expected) => assert_eq!(shown[owner], expected, "{id}: text"),
            None => assert_eq!(json!(shown[owner].len()), expected["utf8_bytes"], "{id}: text"),
        }
    }
    assert_eq!(shown.len(), case["text"].as_object().unwrap().len(), "{id}: texts");
    let (cost, flags) = price(case, metered);
    let expect = match text(case, "usage_state") {
        "final" => &case["cost"],
        "partial" => &case["lower_bound_cost"],
        _ => return assert!(cost.is_none()),
    };
    check(id, expect, cost.as_ref(), &flags);
}

#[test]
fn transcripts_in_any_cutting() {
    let mut seen = 0;
    for entry in fs::read_dir(data("sse")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ext| ext != "json") {
            continue;
        }
        let case: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let bytes = fs::read(data("sse").join(text(&case, "file"))).unwrap();
        let listed: Vec<usize> = case["chunk_splits"]
            .as_array()
            .unwrap()
            .iter()
            .map(|cut| cut.as_u64().unwrap() as usize)
            .collect();
        let every = |step: usize| (step..bytes.len()).step_by(step).collect::<Vec<_>>();
        for cuts in [vec![], listed, every(1), every(7), every(1013)] {
            check_transcript(&case, &meter(&case, &bytes, &cuts));
        }
        seen += 1;
    }
    assert_eq!(seen, 20);
}

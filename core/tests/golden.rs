//! The golden usage vectors and transcripts of `core/testdata`: every bill to the pico-dollar.

#![allow(clippy::unwrap_used, reason = "a test: clippy does not see that its helpers are")]

use std::{collections::BTreeMap, fs, path::Path};

use base64::Engine as _;
use nullspend_core::{
    price::Catalogue,
    replay::{self, Costed, Record},
    usage::Metered,
};
use serde_json::{Value, json};

fn data(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(path)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn price(record: &Record, metered: &Metered) -> Costed {
    replay::cost(&Catalogue::shipped(), record, metered)
}

fn check(id: &str, expect: &Value, costed: &Costed) {
    let cost = costed.cost.as_ref();
    let pico = cost.map(|cost| cost.pico.to_string());
    assert_eq!(pico.as_deref(), expect["cost_pico"].as_str(), "{id}: cost_pico {cost:?}");
    let breakdown: BTreeMap<_, _> =
        cost.iter().flat_map(|c| c.breakdown_pico.iter().map(|(k, v)| (*k, v.to_string()))).collect();
    assert_eq!(json!(breakdown), expect["breakdown_pico"], "{id}: breakdown");
    assert_eq!(json!(costed.flags), expect["flags"], "{id}: flags");
    if let Some(cost) = cost {
        let parts = cost.parts;
        assert_eq!(parts.input + parts.cached + parts.output + parts.fees, cost.nanos, "{id}: parts");
    }
}

/// Runs a file of vectors; answers how many there were.
fn vectors(file: &str) -> usize {
    let lines = fs::read_to_string(data(file)).unwrap();
    let mut seen = 0;
    for line in lines.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let record = Record::read(line, 0).unwrap();
        check(text(&case, "id"), &case["expect"], &price(&record, &record.meter(&[])));
        let expected = case["expect"].as_object().unwrap().iter();
        let answer: Value = serde_json::from_str(&replay::cost_line(&Catalogue::shipped(), line, 0)).unwrap();
        for (name, value) in expected {
            assert_eq!(answer[name].to_string(), value.to_string(), "{}: {name}", case["id"]);
        }
        seen += 1;
    }
    seen
}

#[test]
fn usage_vectors() {
    assert_eq!(vectors("usage_vectors.jsonl"), 70);
    assert_eq!(vectors("more_vectors.jsonl"), 713);
}

fn check_transcript(case: &Value, record: &Record, metered: &Metered) {
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
    let costed = price(record, metered);
    let expect = match text(case, "usage_state") {
        "final" => &case["cost"],
        "partial" => &case["lower_bound_cost"],
        _ => return assert!(costed.cost.is_none()),
    };
    check(id, expect, &costed);
}

/// The answer of `nullspend cost` to a transcript.
fn check_line(case: &Value, line: &str) {
    let answer: Value = serde_json::from_str(&replay::cost_line(&Catalogue::shipped(), line, 0)).unwrap();
    for name in ["id", "usage_state", "terminal"] {
        assert_eq!(answer[name], case[name], "{}: {name}", case["id"]);
    }
    let members = |value: &Value| value.as_object().cloned().unwrap_or_default();
    for (name, value) in members(&case["cost"]) {
        assert_eq!(answer[&name], value, "{}: {name}", case["id"]);
    }
    if case["cost"].is_null() {
        assert!(answer["cost_pico"].is_null() && answer["cost_microdollars_ceil"].is_null(), "{answer}");
    }
    assert_eq!(answer["lower_bound_cost"], case["lower_bound_cost"], "{}", case["id"]);
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
        let line = json!({"id": case["id"], "provider": case["provider"], "api": case["api"], "model": case["model"],
            "at": case["at"], "sse_base64": base64::engine::general_purpose::STANDARD.encode(&bytes),
            "pricing_override": case["pricing_override"]})
        .to_string();
        let record = Record::read(&line, 0).unwrap();
        let listed: Vec<usize> = case["chunk_splits"]
            .as_array()
            .unwrap()
            .iter()
            .map(|cut| cut.as_u64().unwrap() as usize)
            .collect();
        let every = |step: usize| (step..bytes.len()).step_by(step).collect::<Vec<_>>();
        for cuts in [vec![], listed, every(1), every(7), every(1013)] {
            check_transcript(&case, &record, &record.meter(&cuts));
        }
        check_line(&case, &line);
        seen += 1;
    }
    assert_eq!(seen, 67);
}

//! Answers as the vendors of the OpenAI dialect write them (`core/testdata/vendors`): what each used, and what it costs.

#![allow(clippy::unwrap_used, reason = "a test: clippy does not see that its helpers are")]

use std::{collections::BTreeSet, fs, path::Path};

use nullspend_core::{
    cost::{self, CostContext},
    price::{Catalogue, Class, Lookup},
    usage::{BodyKind, Dialect, Meter, Metered, Vendor},
};
use serde_json::Value;

/// 2026-11-23; every answer is from `gpt-4o-mini`, at OpenAI's price.
const NOW_MS: i64 = 1_795_392_000_000;

fn meter(vendor: Vendor, kind: BodyKind, bytes: &[u8], step: usize) -> Metered {
    let mut meter = Meter::new(Dialect::Chat, vendor, kind);
    bytes.chunks(step).for_each(|chunk| meter.push(chunk));
    meter.finish()
}

fn check(name: &str, expected: &Value, metered: &Metered) {
    assert_eq!(metered.usage_state.as_str(), expected["usage_state"], "{name}: usage_state");
    assert_eq!(metered.terminal.as_str(), expected["terminal"], "{name}: terminal");
    if let Some(shown) = expected["shown"].as_str() {
        let text: String = metered.seen.parts().map(|(_, text)| text).collect();
        assert_eq!(text, shown, "{name}: shown");
    }
    let Some(usage) = &metered.usage else { return assert_eq!(expected["usage_state"], "missing", "{name}") };
    let cached = usage.counts.get(Class::CachedInput);
    let counts = [usage.prompt, cached, usage.counts.get(Class::Output), usage.reasoning];
    let wanted = ["input", "cached", "output", "reasoning"].map(|field| expected[field].as_u64().unwrap());
    assert_eq!(counts, wanted, "{name}: input, cached, output, reasoning");
    let flags: BTreeSet<&str> =
        expected["flags"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect();
    assert_eq!(usage.flags.iter().map(String::as_str).collect::<BTreeSet<_>>(), flags, "{name}: flags");
    let Lookup::Priced(priced) = Catalogue::shipped().lookup("openai", "gpt-4o-mini", NOW_MS) else {
        panic!("no price")
    };
    let pico = cost::cost(&priced, usage, &CostContext::default()).pico.to_string();
    assert_eq!(pico, expected["cost_pico"], "{name}: cost_pico");
    let reported = cost::provider_reported(usage).map(|cost| cost.pico.to_string());
    assert_eq!(reported.as_deref(), expected["reported_pico"].as_str(), "{name}: reported_pico");
}

#[test]
fn every_vendor_is_read_as_it_writes_in_any_cutting() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/vendors");
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        let Some(name) = file.strip_suffix(".expected.json") else { continue };
        let expected: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let vendor = Vendor::parse(expected["vendor"].as_str().unwrap()).unwrap();
        let stream = dir.join(format!("{name}.sse"));
        let kind = if stream.exists() { BodyKind::Sse } else { BodyKind::Json };
        let body = if kind == BodyKind::Sse { stream } else { dir.join(format!("{name}.json")) };
        let bytes = fs::read(body).unwrap();
        for step in [usize::MAX, 1, 7, 100] {
            check(name, &expected, &meter(vendor, kind, &bytes, step));
        }
        seen.insert((vendor.as_str(), kind == BodyKind::Sse));
    }
    let native = [Vendor::OpenAi, Vendor::Anthropic, Vendor::Google];
    for vendor in Vendor::ALL.into_iter().filter(|vendor| !native.contains(vendor)) {
        for stream in [false, true] {
            assert!(seen.contains(&(vendor.as_str(), stream)), "no example of {vendor:?}, stream {stream}");
        }
    }
}

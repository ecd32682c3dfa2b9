//! Usage of Anthropic Messages: `input_tokens` leaves the cached and written parts out.

use serde_json::Value;

use crate::price::Class;

use super::{
    Counts, Iteration,
    counts::{Extras, Reader, ServedTier, Usage, tier_named},
};

pub(super) fn normalise(raw: &Value, extras: &Extras) -> Usage {
    let mut usage = Usage::default();
    let mut read = Reader::new(raw, &mut usage.flags);
    (usage.counts, usage.prompt) = classes(&mut read, extras.long_cache);
    usage.reasoning = read.count(&["output_tokens_details", "thinking_tokens"]);
    usage.tools.web_searches = read.count(&["server_tool_use", "web_search_requests"]);
    let text = |key: &str| raw.get(key).and_then(Value::as_str).unwrap_or_default();
    usage.fast = text("speed") == "fast";
    usage.geo_us = text("inference_geo") == "us";
    usage.tier = match text("service_tier") {
        // Priority is capacity bought in advance, at the list price per token.
        "priority" => ServedTier::default(),
        word => tier_named(word),
    };
    let iterations = raw.get("iterations").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for iteration in iterations {
        usage.iterations.extend(read_iteration(iteration, extras, &mut usage.flags));
    }
    if !usage.iterations.is_empty() {
        usage.flags.insert("iterations".to_owned());
    }
    if extras.stop_reason.as_deref() == Some("refusal") && !extras.has_content {
        usage.not_billed = true;
        usage.flags.insert("refusal_before_output_not_billed".to_owned());
    }
    usage
}

/// A model call of its own; one that was declined without output is free.
fn read_iteration(
    raw: &Value,
    extras: &Extras,
    flags: &mut std::collections::BTreeSet<String>,
) -> Option<Iteration> {
    let mut read = Reader::new(raw, flags);
    let (counts, prompt) = classes(&mut read, extras.long_cache);
    let declined = raw.get("stop_reason").and_then(Value::as_str) == Some("refusal");
    if declined && counts.get(Class::Output) == 0 {
        return None;
    }
    let model = raw.get("model").and_then(Value::as_str).map(str::to_owned);
    Some(Iteration { model, counts, prompt })
}

fn classes(read: &mut Reader<'_>, long_cache: bool) -> (Counts, u64) {
    let input = read.count(&["input_tokens"]);
    let cached = read.count(&["cache_read_input_tokens"]);
    let total = read.count(&["cache_creation_input_tokens"]);
    let split = read.find(&["cache_creation"]).is_some_and(Value::is_object);
    let short = read.count(&["cache_creation", "ephemeral_5m_input_tokens"]);
    let long = read.count(&["cache_creation", "ephemeral_1h_input_tokens"]);
    let output = read.count(&["output_tokens"]);
    // The split can be that of the first step only; what it leaves out was written all the same.
    let told = short.saturating_add(long);
    let rest = total.saturating_sub(told);
    let (mut short, mut long) = (short, long);
    if long_cache {
        long = long.saturating_add(rest);
    } else {
        short = short.saturating_add(rest);
    }
    if split && rest > 0 {
        let life = if long_cache { "1h" } else { "5m" };
        read.flags.insert(format!("cache_write_remainder_at_{life}"));
    }
    let mut counts = Counts::default();
    counts.add(Class::Input, input);
    counts.add(Class::CachedInput, cached);
    counts.add(Class::CacheWrite5m, short);
    counts.add(Class::CacheWrite1h, long);
    counts.add(Class::Output, output);
    (counts, counts.sum(Class::is_input))
}

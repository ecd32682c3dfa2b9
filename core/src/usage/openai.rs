//! Usage of OpenAI chat completions and Responses: the prompt's count includes its cached and written parts.

use serde_json::Value;

use crate::price::Class;

use super::{
    Vendor,
    counts::{Reader, ServedTier, Usage, is_zero, tier_named},
};

pub(super) fn chat(vendor: Vendor, raw: &Value) -> Usage {
    let mut usage = Usage::default();
    let mut read = Reader::new(raw, &mut usage.flags);
    // Some proxies write both spellings, the other one as 0.
    let prompt = either(&mut read, "prompt_tokens", "input_tokens");
    let mut output = either(&mut read, "completion_tokens", "output_tokens");
    let input_details = details(raw, "prompt_tokens_details", "input_tokens_details");
    let output_details = details(raw, "completion_tokens_details", "output_tokens_details");
    // DeepSeek writes the same tokens at both places, and some proxies keep only its own name for them.
    let cached = read.count(&[input_details, "cached_tokens"]).max(read.count(&["prompt_cache_hit_tokens"]));
    let audio_in = read.count(&[input_details, "audio_tokens"]);
    let audio_out = read.count(&[output_details, "audio_tokens"]);
    let reasoning = read.count(&[output_details, "reasoning_tokens"]);
    if vendor.hides_reasoning_in_total() {
        let hidden = read.count(&["total_tokens"]).saturating_sub(prompt);
        if hidden > output {
            read.flags.insert("output_from_total".to_owned());
            output = hidden;
        }
    }
    let writes = Writes::read(&mut read, input_details);
    usage.reasoning = reasoning;
    fill_input(&mut usage, prompt, cached, writes, audio_in);
    fill_output(&mut usage, output, audio_out);
    usage.tier = served(raw);
    usage.reported_pico = reported(raw);
    usage
}

pub(super) fn responses(raw: &Value) -> Usage {
    let mut usage = Usage::default();
    let mut read = Reader::new(raw, &mut usage.flags);
    let prompt = either(&mut read, "input_tokens", "prompt_tokens");
    let output = either(&mut read, "output_tokens", "completion_tokens");
    let input_details = details(raw, "input_tokens_details", "prompt_tokens_details");
    let output_details = details(raw, "output_tokens_details", "completion_tokens_details");
    let cached = read.count(&[input_details, "cached_tokens"]);
    let audio_in = read.count(&[input_details, "audio_tokens"]);
    let audio_out = read.count(&[output_details, "audio_tokens"]);
    let reasoning = read.count(&[output_details, "reasoning_tokens"]);
    let writes = Writes::read(&mut read, input_details);
    usage.reasoning = reasoning;
    fill_input(&mut usage, prompt, cached, writes, audio_in);
    fill_output(&mut usage, output, audio_out);
    usage.tier = served(raw);
    usage.reported_pico = reported(raw);
    usage
}

fn either(read: &mut Reader<'_>, first: &str, second: &str) -> u64 {
    match read.optional(&[first]) {
        Some(count) if count > 0 => count,
        Some(_) | None if read.find(&[second]).is_some() => read.count(&[second]),
        Some(_) | None => 0,
    }
}

/// Of two spellings of a details object, the second if only it says anything: proxies write both, the other one as zeros.
fn details<'a>(raw: &Value, first: &'a str, second: &'a str) -> &'a str {
    let says = |name: &str| raw.get(name).is_some_and(|value| value.is_object() && !is_zero(value));
    if !says(first) && says(second) { second } else { first }
}

fn served(raw: &Value) -> ServedTier {
    raw.get("service_tier").and_then(Value::as_str).map(tier_named).unwrap_or_default()
}

/// Tokens written to a cache, by its life.
#[derive(Clone, Copy)]
struct Writes {
    total: u64,
    half_day: u64,
}

impl Writes {
    fn read(read: &mut Reader<'_>, details: &str) -> Self {
        let total = read.count(&[details, "cache_write_tokens"]);
        let split = "cache_write_tokens_details";
        let half_hour = read.count(&[details, split, "ttl_30m_tokens"]);
        let half_day = read.count(&[details, split, "ttl_12h_tokens"]);
        Self { total: total.max(half_hour.saturating_add(half_day)), half_day }
    }
}

fn fill_input(usage: &mut Usage, prompt: u64, cached: u64, writes: Writes, audio: u64) {
    let apart = cached.saturating_add(writes.total);
    if apart > prompt {
        usage.flags.insert("inconsistent:cache_exceeds_prompt".to_owned());
    }
    let fresh = prompt.saturating_sub(apart);
    if audio > fresh {
        usage.flags.insert("inconsistent:audio_exceeds_prompt".to_owned());
    }
    let audio = audio.min(fresh);
    usage.prompt = prompt.max(apart);
    let counts = &mut usage.counts;
    counts.add(Class::Input, fresh - audio);
    counts.add(Class::CachedInput, cached);
    counts.add(Class::CacheWrite30m, writes.total.saturating_sub(writes.half_day));
    counts.add(Class::CacheWrite12h, writes.half_day);
    counts.add(Class::AudioInput, audio);
}

fn fill_output(usage: &mut Usage, output: u64, audio: u64) {
    if audio > output {
        usage.flags.insert("inconsistent:audio_exceeds_output".to_owned());
    }
    let audio = audio.min(output);
    usage.counts.add(Class::Output, output - audio);
    usage.counts.add(Class::AudioOutput, audio);
}

/// The provider's own price (OpenRouter): dollars, plus what it paid upstream with the caller's own key.
fn reported(raw: &Value) -> Option<i128> {
    let cost = dollars(raw.get("cost")?)?;
    let upstream = raw.pointer("/cost_details/upstream_inference_cost").and_then(dollars).unwrap_or(0);
    // Older answers do not say whose key it was; only with the caller's own is the router's share below the whole.
    let own_key = raw.get("is_byok").and_then(Value::as_bool).unwrap_or(upstream > cost);
    if own_key { cost.checked_add(upstream) } else { Some(cost) }
}

/// Dollars as a decimal, to pico-dollars; the rest is cut off upwards.
fn dollars(value: &Value) -> Option<i128> {
    let text = value.as_number()?.to_string();
    let (digits, exponent) = match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok()?),
        None => (text.as_str(), 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let number: i128 = format!("{whole}{fraction}").parse().ok()?;
    let shift = exponent + 12 - i32::try_from(fraction.len()).ok()?;
    if number < 0 {
        return None;
    }
    let power = 10_i128.checked_pow(shift.unsigned_abs())?;
    if shift >= 0 { number.checked_mul(power) } else { Some((number + power - 1) / power) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_are_read_exactly() {
        for (text, pico) in [
            ("0.00142", 1_420_000_000),
            ("1", 1_000_000_000_000),
            ("1e-5", 10_000_000),
            ("0.0", 0),
            ("4.08e-4", 408_000_000),
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(dollars(&value), Some(pico), "{text}");
        }
        assert_eq!(dollars(&Value::from(-1.0)), None);
    }
}

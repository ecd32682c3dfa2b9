//! Usage of Gemini generateContent: thoughts come on top of the candidates' count.

use serde_json::Value;

use crate::price::Class;

use super::counts::{Reader, Usage, read_count, tier_named};

pub(super) fn normalise(raw: &Value) -> Usage {
    let mut usage = Usage::default();
    let mut read = Reader::new(raw, &mut usage.flags);
    let prompt = read.count(&["promptTokenCount"]);
    let tool_prompt = read.count(&["toolUsePromptTokenCount"]);
    let cached = read.count(&["cachedContentTokenCount"]);
    let candidates = read.count(&["candidatesTokenCount"]);
    let thoughts = read.count(&["thoughtsTokenCount"]);
    let audio = modality(&mut read, "promptTokensDetails", "AUDIO");
    let cached_audio = modality(&mut read, "cacheTokensDetails", "AUDIO").min(cached);
    let images = modality(&mut read, "candidatesTokensDetails", "IMAGE").min(candidates);
    let audio_out = modality(&mut read, "candidatesTokensDetails", "AUDIO").min(candidates - images);
    let video_out =
        modality(&mut read, "candidatesTokensDetails", "VIDEO").min(candidates - images - audio_out);
    if cached > prompt {
        read.flags.insert("inconsistent:cache_exceeds_prompt".to_owned());
    }
    let fresh = prompt.saturating_sub(cached);
    let fresh_audio = audio.saturating_sub(cached_audio).min(fresh);
    usage.reasoning = thoughts;
    usage.prompt = prompt.max(cached).saturating_add(tool_prompt);
    let counts = &mut usage.counts;
    counts.add(Class::Input, (fresh - fresh_audio).saturating_add(tool_prompt));
    counts.add(Class::AudioInput, fresh_audio);
    counts.add(Class::CachedInput, cached - cached_audio);
    counts.add(Class::CachedAudioInput, cached_audio);
    counts.add(Class::Output, (candidates - images - audio_out - video_out).saturating_add(thoughts));
    counts.add(Class::ImageOutput, images);
    counts.add(Class::AudioOutput, audio_out);
    counts.add(Class::VideoOutput, video_out);
    let tier = raw.get("serviceTier").or_else(|| raw.get("trafficType")).and_then(Value::as_str);
    usage.tier = tier.map(tier_named).unwrap_or_default();
    usage
}

fn modality(read: &mut Reader<'_>, details: &str, name: &str) -> u64 {
    let Some(parts) = read.find(&[details]).and_then(Value::as_array) else { return 0 };
    let mut total = 0_u64;
    for part in parts {
        if part.get("modality").and_then(Value::as_str) == Some(name)
            && let Some(count) = part.get("tokenCount")
        {
            total = total.saturating_add(read_count(count, "tokenCount", read.flags));
        }
    }
    total
}

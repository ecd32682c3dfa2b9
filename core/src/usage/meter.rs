//! Reads an answer while it passes, chunk by chunk.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::sse::Events;

use super::{
    Dialect, RawUsage,
    counts::{Extras, Usage},
    frame::{self, Frame, Mark},
    text::Seen,
};

/// The largest plain answer that is read; a larger one counts as unreadable.
const MAX_BODY_BYTES: usize = 64 << 20;
/// Tool calls that are remembered of one answer.
const MAX_TOOL_CALLS: usize = 256;

/// How the answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// One JSON object.
    Json,
    /// A stream of events.
    Sse,
}

/// How much of the usage came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageState {
    /// All of it.
    Final,
    /// Only what is known before the answer's end: a lower bound.
    Partial,
    /// Nothing. That is not the same as zero.
    Missing,
}

impl UsageState {
    /// The word in test vectors and on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Final => "final",
            Self::Partial => "partial",
            Self::Missing => "missing",
        }
    }
}

/// How the answer ended, by its own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terminal {
    /// Whole.
    Complete,
    /// Cut by a limit of the request; billed.
    Incomplete,
    /// The provider gave up and said so.
    Failed,
    /// An error instead of an answer or in its middle.
    Error,
    /// The bytes ended without a word.
    Truncated,
}

impl Terminal {
    /// The word in test vectors.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
            Self::Error => "error",
            Self::Truncated => "truncated",
        }
    }
}

/// A tool the model called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolCall {
    /// Its name.
    pub name: String,
    /// The call's id.
    pub id: Option<String>,
}

/// What an answer was found to hold.
#[derive(Clone, Debug)]
pub struct Metered {
    /// Normalised usage, when some came.
    pub usage: Option<Usage>,
    /// The same as the provider wrote it.
    pub raw_usage: Option<RawUsage>,
    /// How much of it came.
    pub usage_state: UsageState,
    /// How the answer ended.
    pub terminal: Terminal,
    /// `[DONE]` came.
    pub saw_done: bool,
    /// JSON objects read.
    pub json_events: u64,
    /// The provider's id of the answer.
    pub response_id: Option<String>,
    /// The model that answered.
    pub served_model: Option<String>,
    /// The tier that served, as written.
    pub service_tier: Option<String>,
    /// Why the model stopped.
    pub stop_reason: Option<String>,
    /// Tools it called.
    pub tool_calls: Vec<ToolCall>,
    /// Output that was seen.
    pub seen: Seen,
    /// There was some.
    pub visible_output: bool,
    /// There is output that cannot be seen: thinking, audio, hosted tools.
    pub hides_output: bool,
    /// Something of the answer was too large to read.
    pub too_large: bool,
}

/// Push parser of one answer. Memory stays bounded; any cutting of the bytes gives the same result.
#[derive(Debug)]
pub struct Meter {
    provider: String,
    kind: BodyKind,
    events: Events,
    body: Vec<u8>,
    too_large: bool,
    state: State,
}

#[derive(Debug)]
struct State {
    dialect: Dialect,
    usage: Option<Value>,
    usage_ended: bool,
    finished: bool,
    done: bool,
    mark: Mark,
    json_events: u64,
    id: Option<String>,
    model: Option<String>,
    extras: Extras,
    told_searches: Option<u64>,
    containers: BTreeSet<String>,
    tool_calls: Vec<ToolCall>,
    seen: Seen,
    hides: bool,
}

impl Meter {
    /// For the answer of `provider` in a dialect.
    #[must_use]
    pub fn new(dialect: impl Into<Dialect>, provider: &str, kind: BodyKind) -> Self {
        let state = State {
            dialect: dialect.into(),
            usage: None,
            usage_ended: false,
            finished: false,
            done: false,
            mark: Mark::None,
            json_events: 0,
            id: None,
            model: None,
            extras: Extras::default(),
            told_searches: None,
            containers: BTreeSet::new(),
            tool_calls: Vec::new(),
            seen: if kind == BodyKind::Json { Seen::of_whole_body() } else { Seen::default() },
            hides: false,
        };
        let provider = provider.to_owned();
        Self { provider, kind, events: Events::default(), body: Vec::new(), too_large: false, state }
    }

    /// The request asked for one-hour caching (Anthropic).
    #[must_use]
    pub fn with_long_cache(mut self, long_cache: bool) -> Self {
        self.state.extras.long_cache = long_cache;
        self
    }

    /// The tier that the answer's headers name (Gemini).
    pub fn header_tier(&mut self, tier: &str) {
        self.state.extras.service_tier = Some(tier.to_owned());
    }

    /// Reads the next bytes.
    pub fn push(&mut self, chunk: &[u8]) {
        match self.kind {
            BodyKind::Sse => self.events.push(chunk, |data| self.state.event(data)),
            BodyKind::Json if self.body.len() + chunk.len() > MAX_BODY_BYTES => {
                self.too_large = true;
                self.body = Vec::new();
            }
            BodyKind::Json if !self.too_large => self.body.extend_from_slice(chunk),
            BodyKind::Json => {}
        }
    }

    /// The usage and the answer are complete already: what is still to come changes nothing.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.state.usage_ended && self.state.usage.is_some() && self.state.finished
    }

    /// Output was seen so far.
    #[must_use]
    pub fn visible_output(&self) -> bool {
        self.state.seen.bytes() > 0
    }

    /// The bytes have ended, for whatever reason.
    #[must_use]
    pub fn finish(mut self) -> Metered {
        match self.kind {
            BodyKind::Sse => self.events.finish(|data| self.state.event(data)),
            BodyKind::Json => self.state.body(&self.body),
        }
        let too_large = self.too_large || self.events.dropped() > 0;
        self.state.metered(&self.provider, self.kind, too_large)
    }
}

impl State {
    fn event(&mut self, data: &[u8]) {
        if self.done {
            return;
        }
        if self.dialect == Dialect::Chat && data.trim_ascii() == b"[DONE]" {
            self.done = true;
            return;
        }
        let Some(frame) =
            std::str::from_utf8(data).ok().and_then(|text| frame::read(self.dialect, text, false))
        else {
            return;
        };
        self.apply(frame);
    }

    fn body(&mut self, body: &[u8]) {
        let text = std::str::from_utf8(body).ok();
        if let Some(frame) = text.and_then(|text| frame::read(self.dialect, text, true)) {
            if self.mark == Mark::None && frame.mark == Mark::None && !frame.no_choices {
                self.finished |=
                    matches!(self.dialect, Dialect::Chat | Dialect::Gemini) && frame.usage.is_some();
            }
            self.usage_ended |= frame.usage.is_some();
            self.apply(frame);
        }
    }

    fn apply(&mut self, frame: Frame<'_>) {
        self.json_events += 1;
        self.finished |= frame.finished;
        // An error is not undone by what follows it.
        if frame.mark > self.mark {
            self.mark = frame.mark;
        }
        self.merge_usage(frame.usage.or(frame.side_usage), frame.mark);
        let ends = match self.dialect {
            Dialect::Chat => frame.finished || self.finished || frame.no_choices,
            Dialect::Responses => matches!(frame.mark, Mark::Complete | Mark::Incomplete | Mark::Failed),
            Dialect::Messages | Dialect::Gemini => self.finished,
        };
        self.usage_ended |= ends && self.usage.is_some();
        set(&mut self.id, frame.id);
        set(&mut self.model, frame.model);
        set(&mut self.extras.service_tier, frame.tier);
        set(&mut self.extras.stop_reason, frame.stop);
        self.extras.has_content |= frame.content;
        self.hides |= frame.hides;
        for (owner, text) in &frame.texts {
            self.seen.show(*owner, text);
        }
        for text in &frame.other {
            self.seen.add(text);
        }
        let room = MAX_TOOL_CALLS.saturating_sub(self.tool_calls.len());
        self.tool_calls.extend(frame.tools.into_iter().take(room));
        let tools = &mut self.extras.tools;
        // The object that counts holds all calls, and can come twice: the larger count, never the sum.
        tools.web_searches = tools.web_searches.max(frame.web_searches);
        tools.file_searches = tools.file_searches.max(frame.file_searches);
        tools.images = tools.images.max(frame.images);
        tools.grounding_queries = tools.grounding_queries.max(frame.queries);
        self.told_searches = frame.told_searches.or(self.told_searches);
        self.containers.extend(frame.containers.into_iter().map(String::from));
    }

    fn merge_usage(&mut self, new: Option<Value>, mark: Mark) {
        let Some(new) = new else { return };
        match (self.dialect, &mut self.usage) {
            (Dialect::Messages | Dialect::Gemini, Some(Value::Object(old))) if mark != Mark::Start => {
                if let Value::Object(new) = new {
                    merge(old, new);
                }
            }
            // Totals so far: the last one is the whole. One that is all zero beside a real one is a proxy's filler.
            (Dialect::Chat | Dialect::Responses, Some(old)) if is_zero(&new) && !is_zero(old) => {}
            (_, usage) => *usage = Some(new),
        }
    }

    fn metered(mut self, provider: &str, kind: BodyKind, too_large: bool) -> Metered {
        let terminal = self.terminal(kind);
        let usage_state = match (&self.usage, self.usage_ended) {
            (None, _) => UsageState::Missing,
            (Some(_), true) => UsageState::Final,
            (Some(_), false) => UsageState::Partial,
        };
        let tools = &mut self.extras.tools;
        tools.containers = self.containers.len() as u64;
        tools.web_searches = self.told_searches.unwrap_or(tools.web_searches);
        let usage = self.usage.as_ref().map(|raw| Usage::from_raw(self.dialect, provider, raw, &self.extras));
        Metered {
            usage,
            raw_usage: self.usage,
            usage_state,
            terminal,
            saw_done: self.done,
            json_events: self.json_events,
            response_id: self.id,
            served_model: self.model,
            service_tier: self.extras.service_tier,
            stop_reason: self.extras.stop_reason,
            tool_calls: self.tool_calls,
            visible_output: self.seen.bytes() > 0,
            seen: self.seen,
            hides_output: self.hides,
            too_large,
        }
    }

    fn terminal(&self, kind: BodyKind) -> Terminal {
        match self.mark {
            Mark::Error => Terminal::Error,
            Mark::Failed => Terminal::Failed,
            Mark::Incomplete => Terminal::Incomplete,
            Mark::Complete => Terminal::Complete,
            Mark::None | Mark::Start if self.done || self.finished => Terminal::Complete,
            Mark::None | Mark::Start if kind == BodyKind::Json && self.usage.is_some() => Terminal::Complete,
            Mark::None | Mark::Start => Terminal::Truncated,
        }
    }
}

fn set(slot: &mut Option<String>, new: Option<std::borrow::Cow<'_, str>>) {
    if let Some(new) = new
        && slot.as_deref() != Some(new.as_ref())
    {
        *slot = Some(new.into_owned());
    }
}

/// Key by key, the later one wins; but `null` never does, and on the input side 0 never replaces a count.
fn merge(old: &mut Map<String, Value>, new: Map<String, Value>) {
    for (key, value) in new {
        let kept = old.get(&key);
        let keeps = value.is_null() && kept.is_some()
            || key != "output_tokens"
                && is_zero(&value)
                && kept.is_some_and(|kept| !is_zero(kept) && !kept.is_null());
        if !keeps {
            old.insert(key, value);
        }
    }
}

/// Holds numbers, and no other than 0.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Object(map) => !map.is_empty() && map.values().all(|v| is_zero(v) || v.is_null()),
        Value::Array(_) | Value::String(_) | Value::Bool(_) | Value::Null => false,
    }
}

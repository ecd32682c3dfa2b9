//! Reads an answer while it passes, chunk by chunk.

use std::{borrow::Cow, collections::BTreeSet, io};

use serde_json::{Map, Value};

use crate::{settle::FRAMING_TOKENS, sse::Events};

use super::{
    Dialect, RawUsage, Vendor,
    counts::{Extras, Usage, is_zero},
    decode::{Decoder, Unread},
    frame::{self, Frame, Mark},
    text::Seen,
};

/// The largest plain answer that is read; a larger one counts as unreadable.
const MAX_BODY_BYTES: usize = 64 << 20;
/// Tool calls that are remembered of one answer.
const MAX_TOOL_CALLS: usize = 256;
/// Choices whose end is waited for.
const MAX_CHOICES: usize = 1024;

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
    /// Something of the answer could not be read.
    pub unread: Option<Unread>,
}

/// Push parser of one answer. Memory stays bounded; any cutting of the bytes gives the same result.
#[derive(Debug)]
pub struct Meter {
    vendor: Vendor,
    input: Decoder<Reader>,
}

/// Reads the bytes once they are decoded.
#[derive(Debug)]
struct Reader {
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
    /// The answer said why it stopped: all of its choices did.
    finished: bool,
    open_choices: BTreeSet<u64>,
    ended_choices: BTreeSet<u64>,
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
    /// An event was no JSON that is understood.
    unparsed: bool,
}

impl Meter {
    /// For the answer of a vendor in a dialect.
    #[must_use]
    pub fn new(dialect: impl Into<Dialect>, vendor: impl Into<Vendor>, kind: BodyKind) -> Self {
        let reader = Reader::new(State::new(dialect.into(), kind), kind);
        Self { vendor: vendor.into(), input: Decoder::identity(reader) }
    }

    /// The request asked for one-hour caching (Anthropic).
    #[must_use]
    pub fn with_long_cache(mut self, long_cache: bool) -> Self {
        self.input.sink().state.extras.long_cache = long_cache;
        self
    }

    /// The answer's `content-encoding`: a decoded copy is read.
    #[must_use]
    pub fn with_encoding(mut self, content_encoding: &str) -> Self {
        let reader = self.input.sink().take();
        Self { vendor: self.vendor, input: Decoder::new(reader, content_encoding) }
    }

    /// The tier that the answer's headers name (Gemini).
    pub fn header_tier(&mut self, tier: &str) {
        self.input.sink().state.extras.service_tier = Some(tier.to_owned());
    }

    /// Reads the next bytes.
    pub fn push(&mut self, chunk: &[u8]) {
        self.input.push(chunk);
    }

    /// The most output tokens that what was read can stand for: a token of text is at least a byte of it, every event may
    /// stand for one that shows nothing, and a tool call has some framing. `None` where there may be output that was
    /// not shown, or not read.
    #[must_use]
    pub fn most_output_tokens(&mut self) -> Option<u64> {
        let reader = self.input.sink();
        let state = &reader.state;
        if state.hides || state.unparsed || reader.too_large || reader.events.dropped() > 0 {
            return None;
        }
        let calls = (state.tool_calls.len() as u64).saturating_mul(FRAMING_TOKENS);
        Some(state.seen.bytes().saturating_add(state.json_events).saturating_add(calls))
    }

    /// Tokens of the output that was seen, by OpenAI's current encoding.
    #[must_use]
    pub fn seen_tokens(&mut self) -> u64 {
        self.input.sink().state.seen.tokens()
    }

    /// The bytes have ended, for whatever reason.
    #[must_use]
    pub fn finish(mut self) -> Metered {
        self.input.flush();
        let undecoded = self.input.unread();
        let mut reader = self.input.sink().take();
        match reader.kind {
            BodyKind::Sse => reader.events.finish(|data| reader.state.event(data)),
            BodyKind::Json => reader.state.body(&reader.body),
        }
        let too_large = reader.too_large || reader.events.dropped() > 0;
        let unread = undecoded.or(too_large.then_some(Unread::TooLarge));
        reader.state.metered(self.vendor, reader.kind, unread)
    }
}

impl Reader {
    fn new(state: State, kind: BodyKind) -> Self {
        Self { kind, events: Events::default(), body: Vec::new(), too_large: false, state }
    }

    /// Leaves an empty one behind, whose readings nobody asks for.
    fn take(&mut self) -> Self {
        let empty = Self::new(State::new(self.state.dialect, self.kind), self.kind);
        std::mem::replace(self, empty)
    }
}

impl io::Write for Reader {
    fn write(&mut self, chunk: &[u8]) -> io::Result<usize> {
        match self.kind {
            BodyKind::Sse => self.events.push(chunk, |data| self.state.event(data)),
            BodyKind::Json if self.body.len() + chunk.len() > MAX_BODY_BYTES => {
                self.too_large = true;
                self.body = Vec::new();
            }
            BodyKind::Json if !self.too_large => self.body.extend_from_slice(chunk),
            BodyKind::Json => {}
        }
        Ok(chunk.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl State {
    fn new(dialect: Dialect, kind: BodyKind) -> Self {
        Self {
            dialect,
            usage: None,
            usage_ended: false,
            finished: false,
            open_choices: BTreeSet::new(),
            ended_choices: BTreeSet::new(),
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
            unparsed: false,
        }
    }

    fn event(&mut self, data: &[u8]) {
        if self.done {
            return;
        }
        if self.dialect == Dialect::Chat && data.trim_ascii() == b"[DONE]" {
            self.done = true;
            return;
        }
        let text = decoded(data);
        match frame::read(self.dialect, &text, false) {
            Some(frame) => self.apply(frame),
            None => self.unparsed = true,
        }
    }

    fn body(&mut self, body: &[u8]) {
        let text = decoded(body);
        if let Some(frame) = frame::read(self.dialect, &text, true) {
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
        self.end_choices(&frame);
        // An error is not undone by what follows it.
        if frame.mark > self.mark {
            self.mark = frame.mark;
        }
        let usage = frame.usage.or(frame.side_usage);
        let ends = match self.dialect {
            Dialect::Chat => self.finished || frame.no_choices && usage.is_some(),
            Dialect::Responses => matches!(frame.mark, Mark::Complete | Mark::Incomplete | Mark::Failed),
            Dialect::Messages | Dialect::Gemini => self.finished,
        };
        self.merge_usage(usage, frame.mark);
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
        // Responses name a call when it begins and again in the whole.
        let known =
            |call: &ToolCall| call.id.is_some() && self.tool_calls.iter().any(|old| old.id == call.id);
        let new: Vec<_> = frame.tools.into_iter().filter(|call| !known(call)).take(room).collect();
        self.tool_calls.extend(new);
        let tools = &mut self.extras.tools;
        // The object that counts holds all calls, and can come twice: the larger count, never the sum.
        tools.web_searches = tools.web_searches.max(frame.web_searches);
        tools.file_searches = tools.file_searches.max(frame.file_searches);
        tools.images = tools.images.max(frame.images);
        tools.grounding_queries = tools.grounding_queries.max(frame.queries);
        self.told_searches = frame.told_searches.or(self.told_searches);
        self.containers.extend(frame.containers.into_iter().map(String::from));
    }

    /// One choice may end long before another.
    fn end_choices(&mut self, frame: &Frame<'_>) {
        for (index, ended) in &frame.choices {
            if *ended {
                self.open_choices.remove(index);
                if self.ended_choices.len() < MAX_CHOICES {
                    self.ended_choices.insert(*index);
                }
            } else if !self.ended_choices.contains(index) && self.open_choices.len() < MAX_CHOICES {
                self.open_choices.insert(*index);
            }
        }
        self.finished = (self.finished || frame.finished) && self.open_choices.is_empty();
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

    fn metered(mut self, vendor: Vendor, kind: BodyKind, unread: Option<Unread>) -> Metered {
        let terminal = self.terminal(kind);
        let tools = &mut self.extras.tools;
        tools.containers = self.containers.len() as u64;
        tools.web_searches = self.told_searches.unwrap_or(tools.web_searches);
        let usage = self.usage.as_ref().map(|raw| Usage::from_raw(self.dialect, vendor, raw, &self.extras));
        let usage_state = match &usage {
            None => UsageState::Missing,
            // No output beside output that was seen is a proxy's filler, or the count of a beginning.
            Some(usage) if self.seen.bytes() > 0 && !usage.has_output() => UsageState::Partial,
            Some(_) if self.usage_ended => UsageState::Final,
            Some(_) => UsageState::Partial,
        };
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
            unread,
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

/// A character that is cut or broken must not lose the usage beside it.
fn decoded(data: &[u8]) -> Cow<'_, str> {
    // All of it at once: the lossy way looks at each character for itself.
    std::str::from_utf8(data).map_or_else(|_| String::from_utf8_lossy(data), Cow::Borrowed)
}

fn set(slot: &mut Option<String>, new: Option<Cow<'_, str>>) {
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

//! A provider request's body, read for what we act on and nothing else (design §5.2).
//!
//! Strict where a value decides money or routing, blind elsewhere: the rest is the provider's to judge.

mod growth;
mod media;
mod parts;
mod read;
mod splice;
mod texts;
mod tools;

use crate::{attempt::Api, tokenizer::Encoding};

pub use media::{Image, Media};
pub use tools::{Advisor, HostedKind, HostedTool};

/// A body that is refused with 400 `bad_request`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadRequest {
    /// What is wrong and what to change.
    pub message: String,
    /// The field at fault.
    pub param: Option<String>,
}

impl BadRequest {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), param: None }
    }

    pub(crate) fn field(param: &str, message: impl Into<String>) -> Self {
        Self { message: message.into(), param: Some(param.to_owned()) }
    }
}

/// The longest cache the request can make the provider write; longer ones cost more per token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum CacheAsked {
    /// The body does not ask; a provider that writes on its own still may.
    #[default]
    No,
    /// The provider's default life.
    Short,
    /// An hour (Anthropic), 12 hours or more (OpenAI).
    Long,
}

/// What we act on of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestView {
    /// The API it speaks.
    pub api: Api,
    /// The model as written.
    pub model: String,
    /// A stream is asked for.
    pub stream: bool,
    /// `stream_options.include_usage`, if written.
    pub include_usage: Option<bool>,
    /// The caller's own limit of output tokens, per answer.
    pub max_output: Option<u64>,
    /// Answers asked for: the larger of `n` and `best_of`.
    pub choices: u64,
    /// `service_tier`.
    pub service_tier: Option<String>,
    /// Anthropic `speed: fast`.
    pub fast: bool,
    /// Anthropic `inference_geo`.
    pub inference_geo: Option<String>,
    /// The call goes to a regional OpenAI host; known from the upstream, so the caller sets it.
    pub regional_host: bool,
    /// The upstream answers calls that name no `service_tier` at priority rates; the caller sets it, too.
    pub assume_priority: bool,
    /// Length of the body.
    pub body_bytes: u64,
    /// How many tokens fewer than bytes its texts have, once they were counted ([`Self::count_texts`]).
    pub counted_off: u64,
    /// Bytes that Unicode normalisation can add before the text is counted, where a tokenizer does that.
    pub growth_bytes: u64,
    /// What is not text.
    pub media: Media,
    /// Audio output is asked for.
    pub audio_output: bool,
    /// Entries of `tools`.
    pub tools: u64,
    /// Length of the JSON text of `tools`.
    pub tools_bytes: u64,
    /// Tokens of hidden instructions that Anthropic adds for the tools.
    pub hidden_tool_tokens: u64,
    /// Tools that the provider runs itself, over several steps.
    pub hosted: Vec<HostedTool>,
    /// Models that the answering one may ask.
    pub advisors: Vec<Advisor>,
    /// Length of OpenAI chat's `prediction`: what of it is wrong is billed as output on top.
    pub prediction_bytes: u64,
    /// OpenAI Responses `max_tool_calls`.
    pub max_tool_calls: Option<u64>,
    /// OpenAI chat `web_search_options`.
    pub web_search_options: bool,
    /// Caching asked for.
    pub cache: CacheAsked,
    /// Part of the prompt is kept by the provider and not in the body.
    pub server_state: bool,
    /// The provider goes on without the caller (Responses `background`).
    pub background: bool,
    /// Anthropic `thinking` is switched on.
    pub thinking: bool,
    /// Anthropic `thinking.budget_tokens`, part of the output.
    pub thinking_budget: Option<u64>,
    /// Reasoning is switched off in so many words.
    pub reasoning_off: bool,
    /// Anthropic context compaction: more model calls than the caller sees.
    pub compaction: bool,
    /// `temperature` as written.
    pub temperature: Option<String>,
    pub(crate) splice: splice::Points,
}

/// A limit of output tokens, per answer, as a provider is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputLimit {
    /// The field to add where the body has none.
    pub name: &'static str,
    /// Its value.
    pub tokens: u64,
}

/// What is changed of a body before it is forwarded: nothing else ever is (design law 6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Sets `stream_options.include_usage`.
    pub include_usage: bool,
    /// Lowers the output limits that are written, or adds one.
    pub max_output: Option<OutputLimit>,
}

impl RequestView {
    /// Reads a body.
    ///
    /// # Errors
    /// [`BadRequest`] says what to change: text that is not one JSON object in UTF-8, a field given twice, nesting
    /// beyond 128, or a model, limit, `n` or `stream` of the wrong kind.
    pub fn parse(api: Api, body: &[u8]) -> Result<Self, BadRequest> {
        read::parse(api, body)
    }

    /// Counts what OpenAI counts text by text, where its bytes alone are too loose a bound. `body` is the one this was
    /// read from.
    pub fn count_texts(&mut self, body: &[u8], encoding: Encoding) {
        let body = std::str::from_utf8(body).unwrap_or_default();
        let mut off = 0;
        // A body that was read before is valid; where half a surrogate pair leaves no text, its bytes stay.
        let _ = texts::visit(body, &mut |text| {
            let tokens = text.text().map_or(u64::MAX, |text| encoding.count(&text));
            off += (text.raw().len() as u64).saturating_sub(tokens);
        });
        self.counted_off = off;
    }

    /// The caller asked for usage in the stream itself.
    #[must_use]
    pub fn asked_for_usage(&self) -> bool {
        self.include_usage == Some(true)
    }

    /// The answer tells its usage only when asked to, and the caller does not ask.
    #[must_use]
    pub fn needs_include_usage(&self) -> bool {
        self.api == Api::OpenAiChat && self.stream && !self.asked_for_usage()
    }

    /// The body this was read from with the changes made, all other bytes untouched; `None` where there are none.
    #[must_use]
    pub fn changed(&self, body: &[u8], changes: Changes) -> Option<Vec<u8>> {
        let usage = changes.include_usage.then(|| self.splice.include_usage());
        let limits = changes.max_output.map(|limit| self.splice.max_output(limit.name, limit.tokens));
        let edits: Vec<splice::Edit> = usage.into_iter().chain(limits.into_iter().flatten()).collect();
        (!edits.is_empty()).then(|| splice::apply(body, edits))
    }

    /// Tokens of the tool definitions, as contract §3.1 estimates them for the breakdown.
    #[must_use]
    pub fn tool_definition_tokens(&self) -> u64 {
        self.tools_bytes.div_ceil(4)
    }
}

#[cfg(test)]
mod tests;

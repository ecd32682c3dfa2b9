//! What an answer says it used: read out of JSON bodies and event streams, and normalised to disjoint classes.

mod counts;
pub mod decode;
mod frame;
mod gemini;
mod messages;
mod meter;
mod openai;
mod strip;
mod text;
mod vendor;

use serde_json::Value;

use crate::{attempt::Api, price::Class};

pub use counts::{Extras, ServedTier, Usage};
pub use meter::{BodyKind, Meter, Metered, Terminal, ToolCall, UsageState};
pub use strip::StripUsageFrame;
pub use text::Seen;
pub use vendor::Vendor;

/// A dialect in which answers report usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// OpenAI chat completions, and the many that speak it.
    Chat,
    /// OpenAI Responses.
    Responses,
    /// Anthropic Messages.
    Messages,
    /// Gemini generateContent.
    Gemini,
}

impl Dialect {
    /// By the API's name in events and test vectors.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "chat.completions" => Self::Chat,
            "responses" => Self::Responses,
            "messages" => Self::Messages,
            "generateContent" => Self::Gemini,
            _ => return None,
        })
    }
}

impl From<Api> for Dialect {
    fn from(api: Api) -> Self {
        match api {
            Api::OpenAiChat => Self::Chat,
            Api::OpenAiResponses => Self::Responses,
            Api::AnthropicMessages => Self::Messages,
        }
    }
}

/// Calls of hosted tools that cost a fee.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolCalls {
    /// Web searches.
    pub web_searches: u64,
    /// File searches.
    pub file_searches: u64,
    /// Distinct code interpreter containers.
    pub containers: u64,
    /// Images made.
    pub images: u64,
    /// Google search queries (Gemini).
    pub grounding_queries: u64,
}

/// One model call of several that made an answer (Anthropic `iterations`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Iteration {
    /// Its model, when that is another one.
    pub model: Option<String>,
    /// Tokens by class.
    pub counts: Counts,
    /// All of its prompt, which chooses the band.
    pub prompt: u64,
}

/// Tokens by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts([u64; Class::COUNT]);

impl Counts {
    /// Tokens of a class.
    #[must_use]
    pub fn get(&self, class: Class) -> u64 {
        self.0[class as usize]
    }

    /// Adds tokens to a class; saturates.
    pub fn add(&mut self, class: Class, tokens: u64) {
        let slot = &mut self.0[class as usize];
        *slot = slot.saturating_add(tokens);
    }

    /// Tokens of all classes for which `of` holds; saturates.
    #[must_use]
    pub fn sum(&self, of: impl Fn(Class) -> bool) -> u64 {
        Class::ALL
            .into_iter()
            .filter(|class| of(*class))
            .fold(0, |sum, class| sum.saturating_add(self.get(class)))
    }
}

/// A usage object as the provider wrote it, after the merging of its frames.
pub type RawUsage = Value;

#[cfg(test)]
mod tests;

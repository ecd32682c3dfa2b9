//! Who answers, as far as it changes how usage is read.

/// A provider of the OpenAI dialect, or one of the others whose API is spoken natively.
///
/// Most habits need no name: usage on the last chunk or after it, in `x_groq`, in every chunk, in both spellings or as
/// zeros around the real object is read from anybody. Named are those whose numbers *mean* something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vendor {
    /// OpenAI.
    OpenAi,
    /// Anthropic.
    Anthropic,
    /// Google: Gemini, and its OpenAI-compatible endpoint.
    Google,
    /// Azure OpenAI.
    Azure,
    /// Groq.
    Groq,
    /// Together.
    Together,
    /// Fireworks.
    Fireworks,
    /// Mistral.
    Mistral,
    /// OpenRouter.
    OpenRouter,
    /// DeepSeek.
    DeepSeek,
    /// A server that runs vLLM.
    Vllm,
    /// xAI.
    Xai,
    /// Any other: one-api, new-api, LiteLLM and the like, which may stand before any of these.
    Compatible,
}

impl Vendor {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::OpenAi,
        Self::Anthropic,
        Self::Google,
        Self::Azure,
        Self::Groq,
        Self::Together,
        Self::Fireworks,
        Self::Mistral,
        Self::OpenRouter,
        Self::DeepSeek,
        Self::Vllm,
        Self::Xai,
        Self::Compatible,
    ];

    /// The name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Google => "google",
            Self::Azure => "azure",
            Self::Groq => "groq",
            Self::Together => "together",
            Self::Fireworks => "fireworks",
            Self::Mistral => "mistral",
            Self::OpenRouter => "openrouter",
            Self::DeepSeek => "deepseek",
            Self::Vllm => "vllm",
            Self::Xai => "xai",
            Self::Compatible => "compatible",
        }
    }

    /// The vendor of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|vendor| vendor.as_str() == name)
    }

    /// Its `completion_tokens` leaves hidden reasoning out, and only the total tells; or it may be such a one in disguise.
    pub(super) fn hides_reasoning_in_total(self) -> bool {
        matches!(self, Self::Google | Self::Xai | Self::Compatible)
    }

    /// It bills what the answer says it bills (`usage.cost`), so that this is the cost and no table's.
    #[must_use]
    pub fn names_its_price(self) -> bool {
        self == Self::OpenRouter
    }
}

impl From<&str> for Vendor {
    /// By a provider's name; an unknown one is compatible at most.
    fn from(name: &str) -> Self {
        Self::parse(name).unwrap_or(Self::Compatible)
    }
}

//! Token classes, service tiers and the rates of one price.

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, MapAccess, Visitor},
};

/// A disjoint class of tokens with a rate of its own (pricing units: pico-dollars per token).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Class {
    /// Text input that no cache served or stored.
    Input,
    /// Input read from the provider's cache.
    CachedInput,
    /// Input written to a cache that lives 5 minutes (Anthropic).
    CacheWrite5m,
    /// Input written to a cache that lives an hour (Anthropic).
    CacheWrite1h,
    /// Input written to a cache that lives 30 minutes (OpenAI).
    CacheWrite30m,
    /// Input written to a cache that lives 12 hours (OpenAI).
    CacheWrite12h,
    /// Audio input.
    AudioInput,
    /// Audio input read from the provider's cache.
    CachedAudioInput,
    /// Output, reasoning included.
    Output,
    /// Audio output.
    AudioOutput,
    /// Image output.
    ImageOutput,
    /// Video output.
    VideoOutput,
}

impl Class {
    /// How many there are.
    pub const COUNT: usize = 12;

    /// All of them, in the order of the breakdown.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Input,
        Self::CachedInput,
        Self::CacheWrite5m,
        Self::CacheWrite1h,
        Self::CacheWrite30m,
        Self::CacheWrite12h,
        Self::AudioInput,
        Self::CachedAudioInput,
        Self::Output,
        Self::AudioOutput,
        Self::ImageOutput,
        Self::VideoOutput,
    ];

    /// The name in the catalogue and in breakdowns.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::CachedInput => "cached_input",
            Self::CacheWrite5m => "cache_write_5m",
            Self::CacheWrite1h => "cache_write_1h",
            Self::CacheWrite30m => "cache_write_30m",
            Self::CacheWrite12h => "cache_write_12h",
            Self::AudioInput => "audio_input",
            Self::CachedAudioInput => "cached_audio_input",
            Self::Output => "output",
            Self::AudioOutput => "audio_output",
            Self::ImageOutput => "image_output",
            Self::VideoOutput => "video_output",
        }
    }

    /// The class of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == name)
    }

    /// Part of the prompt.
    #[must_use]
    pub fn is_input(self) -> bool {
        self < Self::Output
    }

    /// Whose rate is taken when the price has none for this class: what it is a variant of.
    fn parent(self) -> Option<Self> {
        match self {
            Self::Input | Self::Output => None,
            Self::CacheWrite1h => Some(Self::CacheWrite5m),
            Self::CacheWrite12h => Some(Self::CacheWrite30m),
            Self::CachedAudioInput => Some(Self::AudioInput),
            Self::CachedInput | Self::CacheWrite5m | Self::CacheWrite30m | Self::AudioInput => {
                Some(Self::Input)
            }
            Self::AudioOutput | Self::ImageOutput | Self::VideoOutput => Some(Self::Output),
        }
    }
}

impl From<Class> for &'static str {
    fn from(class: Class) -> Self {
        class.as_str()
    }
}

impl TryFrom<String> for Class {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::parse(&name).ok_or_else(|| format!("unknown token class `{name}`"))
    }
}

/// Rates of all classes a tier offers, in pico-dollars per token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates([Option<u64>; Class::COUNT]);

impl Rates {
    /// The rate of exactly this class.
    #[must_use]
    pub fn own(&self, class: Class) -> Option<u64> {
        self.0[class as usize]
    }

    /// Sets a rate.
    pub fn set(&mut self, class: Class, pico_per_token: u64) {
        self.0[class as usize] = Some(pico_per_token);
    }

    /// The rate that bills this class, and whether another class lent it.
    ///
    /// A missing cached or written class is billed as input, a missing 1 h write as a 5 m one (`core/catalogue/README.md`);
    /// a price always has `input` and `output`.
    #[must_use]
    pub fn billed(&self, class: Class) -> (u64, bool) {
        let mut at = class;
        loop {
            if let Some(rate) = self.own(at) {
                return (rate, at != class);
            }
            match at.parent() {
                Some(parent) => at = parent,
                None => return (0, true),
            }
        }
    }

    /// All rates with their classes.
    pub fn iter(&self) -> impl Iterator<Item = (Class, u64)> + '_ {
        Class::ALL.into_iter().filter_map(|class| Some((class, self.own(class)?)))
    }
}

impl Serialize for Rates {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(class, rate)| (class.as_str(), rate)))
    }
}

impl<'de> Deserialize<'de> for Rates {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Rates;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of token classes and whole pico-dollars per token")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Rates, A::Error> {
                let mut rates = Rates::default();
                while let Some(name) = map.next_key::<String>()? {
                    let class = Class::parse(&name)
                        .ok_or_else(|| A::Error::custom(format!("unknown token class `{name}`")))?;
                    if rates.own(class).is_some() {
                        return Err(A::Error::custom(format!("`{name}` is given twice")));
                    }
                    rates.set(class, map.next_value()?);
                }
                Ok(rates)
            }
        }
        deserializer.deserialize_map(Map)
    }
}

/// A way of serving that has rates of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// What everybody gets.
    Standard,
    /// Asynchronous batches.
    Batch,
    /// Cheaper and slower (OpenAI, Gemini).
    Flex,
    /// Faster and dearer (OpenAI, Gemini).
    Priority,
    /// Much faster and dearer (OpenAI).
    Ultrafast,
    /// Fast mode (Anthropic `speed: fast`).
    Fast,
    /// OpenAI's decisions endpoint.
    Decisions,
}

impl Tier {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Standard,
        Self::Batch,
        Self::Flex,
        Self::Priority,
        Self::Ultrafast,
        Self::Fast,
        Self::Decisions,
    ];

    /// The tier of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.as_str() == name)
    }

    /// The name in the catalogue.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Batch => "batch",
            Self::Flex => "flex",
            Self::Priority => "priority",
            Self::Ultrafast => "ultrafast",
            Self::Fast => "fast",
            Self::Decisions => "decisions",
        }
    }
}

/// Rates of one tier: below and, where the model has one, above its long-context threshold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TierRates {
    /// Up to the threshold, or always.
    pub rates: Rates,
    /// The dearer band; it holds for the whole request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub above: Option<Above>,
}

/// A long-context band.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Above {
    /// Prompts of more tokens than this (cache reads and writes count) pay these rates.
    pub tokens: u64,
    /// The rates of every token of such a request.
    pub rates: Rates,
}

impl TierRates {
    /// The rates for a prompt of so many tokens, and whether that is the long-context band.
    #[must_use]
    pub fn band(&self, prompt_tokens: u64) -> (&Rates, bool) {
        match &self.above {
            Some(above) if prompt_tokens > above.tokens => (&above.rates, true),
            _ => (&self.rates, false),
        }
    }
}

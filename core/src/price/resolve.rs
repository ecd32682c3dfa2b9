//! From the name a caller writes to a model of the catalogue.

/// How a name was resolved; the less direct, the more a caller should be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// An id or an alias of the catalogue.
    Exact,
    /// An anchored pattern of the catalogue.
    Pattern,
    /// A dated snapshot the catalogue does not list, at its base model's price.
    Snapshot,
    /// A fine-tune, at its base model's price.
    FineTune,
}

impl Match {
    /// All of them.
    const ALL: [Self; 4] = [Self::Exact, Self::Pattern, Self::Snapshot, Self::FineTune];

    /// The word in explanations.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Pattern => "pattern",
            Self::Snapshot => "snapshot",
            Self::FineTune => "fine_tune",
        }
    }

    /// The way of that word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|way| way.as_str() == word)
    }
}

/// The date shapes a pattern may hold: `9` stands for a digit.
const DATES: [(&str, &str); 3] =
    [("{yyyy-mm-dd}", "9999-99-99"), ("{yyyymmdd}", "99999999"), ("{mm-dd}", "99-99")];

/// A pattern holds exactly one date.
pub(super) fn is_pattern(pattern: &str) -> bool {
    DATES.iter().map(|(mark, _)| pattern.matches(mark).count()).sum::<usize>() == 1
        && pattern.matches('{').count() == 1
}

/// Whether the whole of `name` fits.
pub(super) fn fits(pattern: &str, name: &str) -> bool {
    DATES.iter().any(|(mark, shape)| {
        pattern.split_once(mark).is_some_and(|(before, after)| {
            name.strip_prefix(before)
                .and_then(|rest| rest.strip_suffix(after))
                .is_some_and(|date| has_shape(date, shape))
        })
    })
}

fn has_shape(text: &str, shape: &str) -> bool {
    text.len() == shape.len()
        && text.bytes().zip(shape.bytes()).all(|(t, s)| if s == b'9' { t.is_ascii_digit() } else { t == s })
}

/// `gpt-4o-2031-01-02` → `gpt-4o`, `claude-opus-5-20310102` → `claude-opus-5`, `…-latest` → `…`.
pub(super) fn undated(name: &str) -> Option<&str> {
    if let Some(base) = name.strip_suffix("-latest") {
        return Some(base);
    }
    ["-9999-99-99", "-99999999"].iter().find_map(|shape| {
        let at = name.len().checked_sub(shape.len())?;
        let date = name.get(at..)?;
        has_shape(date, shape).then_some(&name[..at])
    })
}

/// The base model of a fine-tune: `ft:gpt-4o-mini-2024-07-18:acme::id` → `gpt-4o-mini-2024-07-18`, and the older
/// `gpt-3.5-turbo:ft-acme`.
pub(super) fn fine_tuned(name: &str) -> Option<&str> {
    if let Some(rest) = name.strip_prefix("ft:") {
        return rest.split(':').next().filter(|base| !base.is_empty());
    }
    name.split_once(":ft-").map(|(base, _)| base)
}

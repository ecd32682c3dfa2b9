//! Changing single values of a body without touching any other byte of it (design law 6).

/// Where the body can be changed, as byte offsets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Points {
    /// Just after the opening brace of the body.
    pub open: usize,
    /// The value of `stream_options`, when it is there.
    pub options: Option<Span>,
    /// `stream_options` is an object: just after its opening brace.
    pub options_open: Option<usize>,
    /// `stream_options` is an object without members.
    pub options_empty: bool,
    /// The value of `include_usage` in it.
    pub include_usage: Option<Span>,
    /// The output limits that are there, in the order of [`LIMIT_NAMES`].
    pub limits: [Option<Limit>; 3],
}

/// The names of output limits.
pub(crate) const LIMIT_NAMES: [&str; 3] = ["max_completion_tokens", "max_tokens", "max_output_tokens"];

/// From and to, half-open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub start: usize,
    pub end: usize,
}

/// An output limit as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// Its value's place.
    pub at: Span,
    /// `None` is `null`.
    pub tokens: Option<u64>,
}

/// One change.
pub(crate) struct Edit {
    /// What is replaced; empty where something is added.
    at: Span,
    text: String,
}

impl Edit {
    fn replace(at: Span, text: impl Into<String>) -> Self {
        Self { at, text: text.into() }
    }

    fn insert(offset: usize, text: impl Into<String>) -> Self {
        Self::replace(Span { start: offset, end: offset }, text)
    }
}

impl Points {
    /// Sets `stream_options.include_usage`.
    pub(crate) fn include_usage(&self) -> Edit {
        match (self.include_usage, self.options_open, self.options) {
            (Some(value), _, _) => Edit::replace(value, "true"),
            (None, Some(open), _) if self.options_empty => Edit::insert(open, "\"include_usage\":true"),
            (None, Some(open), _) => Edit::insert(open, "\"include_usage\":true,"),
            (None, None, Some(null)) => Edit::replace(null, "{\"include_usage\":true}"),
            // A body that streams has at least the members `model` and `stream`, so a comma always fits.
            (None, None, None) => Edit::insert(self.open, "\"stream_options\":{\"include_usage\":true},"),
        }
    }

    /// Lowers every output limit above `tokens`; where none is written, adds the one called `name`.
    pub(crate) fn max_output(&self, name: &str, tokens: u64) -> Vec<Edit> {
        let written = self.limits.iter().flatten().filter(|limit| limit.tokens.is_some());
        if written.clone().next().is_some() {
            let above = written.filter(|limit| limit.tokens.is_some_and(|written| written > tokens));
            return above.map(|limit| Edit::replace(limit.at, tokens.to_string())).collect();
        }
        let null = LIMIT_NAMES.iter().zip(&self.limits).find(|(of, _)| **of == name).and_then(|(_, at)| *at);
        vec![match null {
            Some(null) => Edit::replace(null.at, tokens.to_string()),
            // Every body has the member `model`, so a comma always fits.
            None => Edit::insert(self.open, format!("\"{name}\":{tokens},")),
        }]
    }
}

/// The body with all changes made. They must not overlap, and belong to this body.
pub(crate) fn apply(body: &[u8], mut edits: Vec<Edit>) -> Vec<u8> {
    edits.sort_by_key(|edit| edit.at.start);
    let added: usize = edits.iter().map(|edit| edit.text.len()).sum();
    let mut changed = Vec::with_capacity(body.len() + added);
    let mut from = 0;
    for edit in edits {
        changed.extend_from_slice(body.get(from..edit.at.start).unwrap_or_default());
        changed.extend_from_slice(edit.text.as_bytes());
        from = edit.at.end;
    }
    changed.extend_from_slice(body.get(from..).unwrap_or_default());
    changed
}

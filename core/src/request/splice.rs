//! Setting `stream_options.include_usage` without touching any other byte of the body.

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
}

/// From and to, half-open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub start: usize,
    pub end: usize,
}

impl Points {
    pub(crate) fn include_usage(&self, body: &[u8]) -> Option<Vec<u8>> {
        let at = |offset| Span { start: offset, end: offset };
        let (span, text) = match (self.include_usage, self.options_open, self.options) {
            (Some(value), _, _) => (value, "true"),
            (None, Some(open), _) if self.options_empty => (at(open), "\"include_usage\":true"),
            (None, Some(open), _) => (at(open), "\"include_usage\":true,"),
            (None, None, Some(null)) => (null, "{\"include_usage\":true}"),
            // A body that streams has at least the members `model` and `stream`, so a comma always fits.
            (None, None, None) => (at(self.open), "\"stream_options\":{\"include_usage\":true},"),
        };
        let (before, after) = (body.get(..span.start)?, body.get(span.end..)?);
        let mut changed = Vec::with_capacity(body.len() + text.len());
        changed.extend_from_slice(before);
        changed.extend_from_slice(text.as_bytes());
        changed.extend_from_slice(after);
        Some(changed)
    }
}

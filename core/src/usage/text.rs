//! The text an answer has shown so far, kept to be counted if its usage never comes.

use crate::tokenizer;

/// Text beyond this is counted and dropped, so that a long stream does not keep all of it.
const KEEP_BYTES: usize = 256 << 10;

/// Text beyond this is not tokenised but counted by its bytes: no model answers with so much, so the limit of the
/// request decides before it, and counting more would only take CPU time.
const COUNT_BYTES: usize = 1 << 20;

/// Output that was seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    parts: Vec<(u64, String)>,
    other: String,
    kept: usize,
    counted: u64,
    bytes: u64,
    keeps_all: bool,
}

impl Seen {
    /// Of an answer in one piece, which is in memory as a whole anyway: nothing is counted before it is needed.
    pub(super) fn of_whole_body() -> Self {
        Self { keeps_all: true, ..Self::default() }
    }

    pub(super) fn show(&mut self, owner: u64, text: &str) {
        if text.is_empty() {
            return;
        }
        // Nobody sends so many choices; the cap keeps the search short.
        let room = self.parts.len() < 256;
        match self.parts.iter_mut().find(|(index, _)| *index == owner) {
            Some((_, part)) => part.push_str(text),
            None if room => self.parts.push((owner, text.to_owned())),
            None => self.other.push_str(text),
        }
        self.grow(text);
    }

    pub(super) fn add(&mut self, text: &str) {
        self.other.push_str(text);
        self.grow(text);
    }

    fn grow(&mut self, text: &str) {
        self.bytes += text.len() as u64;
        self.kept += text.len();
        if self.kept > KEEP_BYTES && !self.keeps_all {
            self.counted = self.tokens();
            self.parts.clear();
            self.other.clear();
            self.kept = 0;
        }
    }

    /// Bytes of it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Tokens of it by OpenAI's current encoding.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        let mut left = COUNT_BYTES;
        let texts = self.parts.iter().map(|(_, part)| part).chain([&self.other]);
        texts.fold(self.counted, |sum, text| {
            let (count, rest) = text.split_at(text.floor_char_boundary(left));
            left -= count.len();
            sum + tokenizer::count(count) + (rest.len() as u64).div_ceil(3)
        })
    }

    /// The visible text by choice, output or block, as far as it is still kept.
    pub fn parts(&self) -> impl Iterator<Item = (u64, &str)> {
        self.parts.iter().map(|(owner, part)| (*owner, part.as_str()))
    }
}

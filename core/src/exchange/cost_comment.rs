//! What a stream cost, told in a comment after its last event to callers that ask (`X-NullSpend-Stream-Cost: 1`).

use serde_json::json;

use crate::{attempt::Closing, ledger::Balance, money::Nanos};

/// The comment. `balances` are those of the call's budgets once it was settled; empty where there are none or nobody
/// could tell.
#[must_use]
pub fn cost_comment(closing: &Closing, balances: &[Balance]) -> Vec<u8> {
    let least = balances.iter().map(|balance| balance.remaining().max(Nanos::ZERO)).min();
    let told = json!({
        "costMicrodollars": closing.cost.microdollars_half_up(),
        "costNanodollars": closing.cost.0.to_string(),
        "measurement": closing.measurement.as_str(),
        "remainingMicrodollars": least.map(|least| least.0.div_euclid(1000)),
    });
    format!(": nullspend {told}\n\n").into_bytes()
}

/// The last bytes that went to the client: a comment may only stand between events.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tail {
    bytes: [u8; 4],
    seen: usize,
}

impl Tail {
    pub(super) fn push(&mut self, sent: &[u8]) {
        for byte in &sent[sent.len().saturating_sub(self.bytes.len())..] {
            self.bytes.rotate_left(1);
            self.bytes[self.bytes.len() - 1] = *byte;
        }
        self.seen = self.seen.saturating_add(sent.len());
    }

    /// Nothing was sent, or the last line was a blank one.
    pub(super) fn is_between_events(&self) -> bool {
        let bytes = &self.bytes[self.bytes.len() - self.seen.min(self.bytes.len())..];
        let line = bytes.strip_suffix(b"\r\n").or(bytes.strip_suffix(b"\n")).or(bytes.strip_suffix(b"\r"));
        bytes.is_empty()
            || line.is_some_and(|line| line.is_empty() || line.ends_with(b"\n") || line.ends_with(b"\r"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blank_line_ends_an_event_however_lines_end_and_chunks_fall() {
        for (text, between) in [
            ("", true),
            ("\n", true),
            ("data: x\n\n", true),
            ("data: x\r\n\r\n", true),
            ("data: x\r\r", true),
            ("data: x\n\r\n", true),
            ("data: x\r\n\n", true),
            ("data: x\r\n", false),
            ("data: x\n", false),
            ("data: x\r", false),
            ("data: x", false),
            ("x", false),
        ] {
            for size in 1..=text.len().max(1) {
                let mut tail = Tail::default();
                text.as_bytes().chunks(size).for_each(|chunk| tail.push(chunk));
                assert_eq!(tail.is_between_events(), between, "{text:?} in chunks of {size}");
            }
        }
    }
}

//! One proxied request as a state machine without I/O (design §5): each stage is a value that the next step consumes.
//!
//! ```text
//! begin(headers) ─▶ Known ─accept()─▶ AwaitingBody ─body()─▶ Reserving ─reserved()─▶ Opening ─opened()─▶ Forwarded ─close()─▶ Closing
//!        │                  │                         │                  │
//!        └──── Answered ◀───┴─────────────────────────┴──────────────────┘      (refused: nothing is forwarded, nothing is held)
//! ```
//!
//! The host (ext_proc today) carries out what a stage asks for: the ledger call of [`Reserving`], the spool record of
//! [`Opening`], the forwarding, and the settlement of the [`Closing`](crate::attempt::Closing).

mod admit;
pub mod answer;
mod begin;
mod clamp;
mod close;
mod cost_comment;
mod denial;
mod forwarded;
pub mod head;
mod increments;
mod last_words;
mod limits;
mod looping;
mod tighten;
mod trail;
pub mod upstream;

use std::sync::Arc;

pub use admit::{Admission, Opening, Reserving, Verdict};
pub use begin::{AwaitingBody, Begin, Known, begin};
pub use close::End;
pub use cost_comment::cost_comment;
pub use forwarded::{Forward, Forwarded, Origin, ResponseHead};
pub use increments::{Cut, Owed};
pub use limits::limit_client;
pub use tighten::Tightening;

use crate::{
    attempt::{Api, Denial},
    exchange::{answer::Answer, head::Attribution, upstream::Upstream},
    id::{ActionId, AttemptId},
    loops::Fingerprints,
    policy::KeyIdentity,
    trail::Steps,
};

/// What stays the same for every request of a data plane.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where requests may go.
    pub upstreams: upstream::Upstreams,
    /// How long a hold lives without renewal.
    pub lease_ms: i64,
    /// Largest request body.
    pub max_body_bytes: usize,
    /// By what repeated requests are known.
    pub fingerprints: Fingerprints,
}

/// The two clocks, read together by the host.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Unix milliseconds.
    pub ms: i64,
    /// Monotonic microseconds.
    pub us: u64,
}

impl Moment {
    /// Microseconds from `earlier` to this moment.
    #[must_use]
    pub fn us_since(self, earlier: Self) -> u64 {
        self.us.saturating_sub(earlier.us)
    }
}

/// A request that was answered here.
#[derive(Clone, Debug)]
pub struct Answered {
    /// What to send.
    pub answer: Answer,
    /// The API spoken, for metrics; `None` for routes of our own.
    pub api: Option<Api>,
    /// What to keep for explaining.
    pub denial: Option<Denial>,
}

/// What is known of a request once its headers were accepted.
#[derive(Clone, Debug)]
pub struct Call {
    /// The attempt.
    pub attempt: AttemptId,
    /// The API spoken.
    pub api: Api,
    /// Who calls.
    pub key: Arc<KeyIdentity>,
    /// 32 lower-case hex digits.
    pub trace_id: String,
    /// The caller's session.
    pub session_id: Option<String>,
    /// A stream ends with its cost in a comment.
    pub stream_cost: bool,
    /// Whether it may use what budgets keep back for final answers.
    pub finalize: bool,
    /// The action it belongs to.
    pub action: Option<ActionId>,
    /// Tags, customer, warnings.
    pub attribution: Attribution,
    /// `NullSpend-Version` of the answer.
    pub version: String,
    /// Where it goes.
    pub upstream: Upstream,
    /// Names of headers that must not reach the provider.
    pub private_headers: Vec<String>,
    /// When the headers came.
    pub started: Moment,
    /// Time spent on them.
    pub head_us: u64,
    /// What was done with it so far.
    pub steps: Steps,
}

impl Call {
    /// The headers that every answer to an accepted call carries.
    fn common_headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![("x-nullspend-trace-id", self.trace_id.clone())];
        if !self.attribution.tags.is_empty() {
            headers.push(("x-nullspend-effective-tags", ascii_json(&self.attribution.tags)));
        }
        if !self.attribution.warnings.is_empty() {
            let words: Vec<&str> = self.attribution.warnings.iter().map(|w| w.as_str()).collect();
            headers.push(("x-nullspend-warning", words.join(", ")));
        }
        headers
    }
}

/// JSON that is safe in a header: everything outside printable ASCII is escaped.
fn ascii_json(tags: &std::collections::BTreeMap<String, String>) -> String {
    let json = serde_json::to_string(tags).unwrap_or_default();
    let mut safe = String::with_capacity(json.len());
    let mut units = [0; 2];
    for c in json.chars() {
        if c.is_ascii() && !c.is_ascii_control() {
            safe.push(c);
        } else {
            for unit in c.encode_utf16(&mut units) {
                safe.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    safe
}

#[cfg(test)]
mod tests;

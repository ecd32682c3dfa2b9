//! `incrementalHold`: a stream holds its input and a first slice of output, and more as it goes on (design §7).
//!
//! Nothing passes that is not paid for. What was seen of an answer bounds what it can have cost: a token of text is at
//! least one byte of it, and every event may stand for one token that shows no text. So an event passes once the bound of
//! all bytes and events up to it is held. Where output may exist that nobody sees, no such bound is, and the
//! whole of it is held as ever: from the start for reasoning models and hosted tools, at once for an answer that turns
//! out to hide something.

use std::{collections::VecDeque, sync::Arc};

use serde_json::json;

use super::{Forwarded, Moment, admit::Admitted, last_words::LastWords};
use crate::{
    attempt::AttemptStub,
    bound::bound_of_output,
    id::BudgetId,
    money::Nanos,
    policy::{BudgetRule, Enforcement},
    settle::{FRAMING_TOKENS, hides_by_request},
    sse::{Frames, MAX_EVENT_BYTES},
    tokenizer,
    trail::{CutShort, Step, Trail},
    usage::Meter,
};

/// Output tokens that are held from the start, and the least that is added.
const SLICE_TOKENS: u64 = 512;
/// The most that is added at once; slices grow with the answer, so that a long one asks the ledger seldom.
const SLICE_MAX_TOKENS: u64 = 8_192;

/// Why a stream was ended by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// A budget had no more to give.
    BudgetExceeded,
    /// The ledger, or the record of the hold, could not be had.
    BudgetUnavailable,
}

impl Cut {
    /// The code on the wire and in the event.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BudgetExceeded => "budget_exceeded",
            Self::BudgetUnavailable => "budget_unavailable",
        }
    }
}

/// More that wants to be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owed {
    /// How much.
    pub add: Nanos,
    /// Bytes wait for it; otherwise it is asked for ahead.
    pub blocks: bool,
    /// The output tokens that are then paid for.
    tokens: u64,
}

/// A hold that grows with its stream.
#[derive(Debug)]
pub(super) struct Increments {
    /// Output tokens that are paid for, and the most there can be.
    paid: u64,
    most: u64,
    /// What the bytes that passed can stand for.
    passed: u64,
    /// The next addition: grows with what is granted, shrinks with what is not.
    slice: u64,
    frames: Frames,
    /// The next event, and what it and all before it can stand for, which is not paid.
    unpaid: Option<(Vec<u8>, u64)>,
    /// Events after it.
    waiting: VecDeque<Vec<u8>>,
    /// Framing of the choices, which no event shows.
    framing: u64,
    last_words: LastWords,
    /// No event stream, an encoded one, or one of events without end: it cannot be bounded while it passes.
    opaque: bool,
    cut: Option<Cut>,
}

impl Admitted {
    /// Holds a first slice only, if every budget that could deny the rest agreed to that.
    pub(super) fn slice(&mut self, rules: &[Arc<BudgetRule>]) {
        let (Some(price), Some(bound), None) = (&self.price, &self.bound, &self.clamp) else { return };
        let of_session = self.call.session_id.is_some();
        let denies = |rule: &&Arc<BudgetRule>| {
            rule.enforcement == Enforcement::StrictBlock || (of_session && rule.session_limit.is_some())
        };
        let mut denying = rules.iter().filter(denies).peekable();
        let agreed = denying.peek().is_some() && denying.all(|rule| rule.output.incremental);
        // Who names its own price may name one above what its bytes are worth to us.
        let shown = self.view.stream
            && !hides_by_request(price, &self.view)
            && !self.call.upstream.vendor.names_its_price();
        let sliced = agreed && shown && bound.output_tokens > SLICE_TOKENS;
        self.paid = sliced.then_some(SLICE_TOKENS);
        self.hold = self.paid.map_or(bound.cost, |tokens| bound_of_output(price, &self.view, tokens).cost);
    }
}

impl Increments {
    pub(super) fn of(admitted: &Admitted) -> Option<Self> {
        let (paid, bound) = (admitted.paid?, admitted.bound.as_ref()?);
        Some(Self {
            paid,
            most: bound.output_tokens,
            passed: 0,
            slice: SLICE_TOKENS,
            frames: Frames::default(),
            unpaid: None,
            waiting: VecDeque::new(),
            framing: admitted.view.choices.saturating_mul(FRAMING_TOKENS),
            last_words: LastWords::new(admitted.call.api),
            opaque: false,
            cut: None,
        })
    }

    pub(super) fn opaque(mut self, opaque: bool) -> Self {
        self.opaque = opaque;
        self
    }

    pub(super) fn why_cut(&self) -> Option<Cut> {
        self.cut
    }

    /// Takes bytes; gives those that are paid for.
    pub(super) fn push(&mut self, chunk: Vec<u8>, end_of_stream: bool, meter: &mut Meter) -> Vec<u8> {
        if self.opaque {
            self.waiting.extend(Some(chunk).filter(|chunk| !chunk.is_empty()));
        } else {
            self.frames.push(&chunk, |event| self.waiting.push_back(event));
            // An event that nobody would read passes when all of the stream is paid for.
            self.opaque = self.frames.held_bytes() > MAX_EVENT_BYTES;
            if end_of_stream || self.opaque {
                self.waiting.extend(self.frames.take_rest());
            }
        }
        self.pass(meter)
    }

    /// Everything that came has passed.
    pub(super) fn is_empty(&self) -> bool {
        self.unpaid.is_none() && self.waiting.is_empty()
    }

    /// What came and was not read, for an end in between.
    pub(super) fn take_unread(&mut self) -> Vec<u8> {
        let mut unread: Vec<u8> = std::mem::take(&mut self.waiting).into_iter().flatten().collect();
        unread.extend(self.frames.take_rest().unwrap_or_default());
        unread
    }

    fn pass(&mut self, meter: &mut Meter) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some((event, wanted)) = self.unpaid.take().or_else(|| self.next(meter)) {
            if wanted > self.paid {
                self.unpaid = Some((event, wanted));
                break;
            }
            self.passed = wanted;
            self.last_words.heard(&event);
            out.extend(event);
        }
        out
    }

    /// The next event, read.
    fn next(&mut self, meter: &mut Meter) -> Option<(Vec<u8>, u64)> {
        let event = self.waiting.pop_front()?;
        meter.push(&event);
        let read = meter.most_output_tokens().filter(|_| !self.opaque);
        let wanted = read.map_or(self.most, |tokens| tokens.saturating_add(self.framing).min(self.most));
        Some((event, wanted))
    }

    /// The output tokens to pay for next.
    fn target(&self) -> Option<u64> {
        let tokens = match &self.unpaid {
            Some((_, wanted)) => wanted.saturating_add(self.slice),
            // Ahead of what will be needed, so that nothing waits.
            None if self.slice > 0 && self.paid - self.passed < SLICE_TOKENS.max(self.slice) / 2 => {
                self.paid.saturating_add(self.slice)
            }
            None => return None,
        };
        Some(tokens.min(self.most)).filter(|tokens| *tokens > self.paid)
    }
}

impl Forwarded {
    /// What wants to be held now. What blocks is asked for before anything else passes, the rest when there is time.
    #[must_use]
    pub fn owes(&self) -> Option<Owed> {
        let increments = self.increments.as_ref().filter(|increments| increments.cut.is_none())?;
        let tokens = increments.target()?;
        let price = self.admitted.price.as_ref()?;
        let add = bound_of_output(price, &self.admitted.view, tokens).cost - self.stub.held;
        Some(Owed { add: add.max(Nanos::ZERO), blocks: increments.unpaid.is_some(), tokens })
    }

    /// The records of a hold that has grown by what is owed: written down before [`Forwarded::extended`].
    #[must_use]
    pub fn grown(&self, owed: Owed) -> (AttemptStub, Trail) {
        let stub = AttemptStub { held: self.stub.held + owed.add, ..self.stub.clone() };
        let trail = Trail { extensions: self.trail.extensions + 1, ..self.trail.clone() };
        (stub, trail)
    }

    /// It is held. The stub says so; write it down before these bytes pass.
    pub fn extended(&mut self, owed: Owed) -> Vec<u8> {
        let (Some(increments), Some(meter)) = (&mut self.increments, &mut self.meter) else {
            return Vec::new();
        };
        self.stub.held = self.stub.held + owed.add;
        self.trail.extensions += u32::from(owed.add > Nanos::ZERO);
        increments.paid = owed.tokens;
        increments.slice =
            (increments.slice.max(1) * 2).min((owed.tokens / 2).clamp(SLICE_TOKENS, SLICE_MAX_TOKENS));
        let passed = increments.pass(meter);
        self.pass(passed)
    }

    /// It is not. True when that ends the stream: less would not do.
    pub fn not_extended(&mut self, owed: Owed) -> bool {
        let Some(increments) = &mut self.increments else { return false };
        let ends = owed.blocks && increments.slice == 0;
        increments.slice /= 8;
        ends
    }

    /// Ends the stream: what the client gets last. `None` where no polite end exists, and the connection must break.
    pub fn cut(&mut self, why: Cut, budget: Option<BudgetId>, now: Moment) -> Option<Vec<u8>> {
        let (Some(increments), Some(meter)) = (&mut self.increments, &mut self.meter) else { return None };
        increments.cut = Some(why);
        self.trail.cut = Some(CutShort { code: why.as_str(), budget });
        self.trail.steps.note(Step::Cut);
        self.trail.steps.stamp(now.us);
        if increments.opaque {
            return None;
        }
        let price = self.admitted.price.as_ref()?;
        let seen = || tokenizer::scale(price, meter.seen_tokens());
        let mark = json!({ "code": why.as_str(), "budgetId": budget.map(|budget| budget.to_string()) });
        let mut words = format!(": nullspend {mark}\n\n").into_bytes();
        words.extend(increments.last_words.say(seen, now.ms / 1000));
        self.sent(&words);
        Some(words)
    }
}

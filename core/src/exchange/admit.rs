//! From body to verdict: parse, mandate, price, bound, reserve (design §5.2 to §5.4).

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Answered, AwaitingBody, Call, Moment, Settings,
    answer::{Answer, Refusal},
    clamp::Clamp,
    denial::BudgetDenial,
    head::Warning,
    tighten::Tightening,
};
use crate::{
    attempt::{AttemptStub, BudgetCharge, BudgetStatus, Denial},
    bound::{Bound, bound},
    id::BudgetId,
    ledger::{Balance, LedgerUnavailable, MAX_SCOPES, Reserve, ReserveOutcome, Scope, Why, scope_for},
    money::{MAX_EVENT, Nanos},
    policy::{BudgetRule, Policy},
    price::{Lookup, Priced, Prices},
    request::RequestView,
    trail::{BudgetSeen, DeniedBy, Step, Trail},
};

/// What a body leads to.
#[derive(Debug)]
pub enum Admission {
    /// Refused.
    Answer(Box<Answered>),
    /// Budgets match: take the bound out of them.
    Reserve(Box<Reserving>),
    /// No budget matches: nothing to hold.
    Open(Box<Opening>),
}

/// What the ledger's answer leads to.
#[derive(Debug)]
pub enum Verdict {
    /// Refused.
    Answer(Box<Answered>),
    /// Held.
    Open(Box<Opening>),
    /// It did not fit by its loose bound: [`Tightening::count`] off the async threads, then go on with its verdict.
    Tighten(Box<Tightening>),
    /// It did not fit and its hold is lower now, counted or asking for less output: reserve again.
    Lowered(Box<Reserving>),
    /// The ledger knows a newer limit: wait for the policy to reach `revision`, then [`Reserving::again`].
    Refresh {
        /// The stage, to go on with.
        reserving: Box<Reserving>,
        /// What the policy must reach.
        revision: u64,
    },
    /// The ledger's clock stands at `now_ms`, in another window: [`Reserving::again`] with it.
    Rewindow {
        /// The stage, to go on with.
        reserving: Box<Reserving>,
        /// The ledger's time.
        now_ms: i64,
    },
}

/// What is known after the body.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) call: Call,
    pub(super) view: RequestView,
    /// The prices of the whole attempt, whatever changes meanwhile.
    pub(super) prices: Prices,
    pub(super) price: Option<Priced>,
    /// `None` for a model without a price, whose organisation chose a flat hold.
    pub(super) bound: Option<Bound>,
    pub(super) hold: Nanos,
    /// The text was counted, or that was tried.
    pub(super) counted: bool,
    /// The output limit that was lowered to fit.
    pub(super) clamp: Option<Clamp>,
    /// Output tokens that the hold pays for, when it is to grow with the stream.
    pub(super) paid: Option<u64>,
    pub(super) body_at: Moment,
}

/// A bound that wants to be taken out of the matched budgets.
#[derive(Debug)]
pub struct Reserving {
    pub(super) admitted: Admitted,
    pub(super) rules: Vec<Arc<BudgetRule>>,
    pub(super) scopes: Vec<Scope>,
    retries: u8,
    /// The request's fingerprint, where a budget wants to know whether it is repeated.
    pub(super) fingerprint: Option<u64>,
}

/// The ledger may disagree once about limits and once about the window.
const RETRIES_MAX: u8 = 2;

/// Everything is held: the spool's `opened` record comes next, then [`Opening::opened`].
#[derive(Debug)]
pub struct Opening {
    pub(super) admitted: Admitted,
    /// The record to write before anything is forwarded.
    pub stub: AttemptStub,
    /// How it was decided.
    pub trail: Trail,
    /// The tightest matched budget, for headers.
    pub(super) tightest: Option<(Arc<BudgetRule>, Balance)>,
}

impl AwaitingBody {
    /// Decides what a body needs before it may be forwarded.
    #[must_use]
    pub fn body(self, settings: &Settings, body: &[u8], now: Moment) -> Admission {
        let Self { mut call, policy } = self;
        call.steps.note(Step::Body);
        call.steps.stamp(now.us);
        if body.len() > settings.max_body_bytes {
            return call.refuse(&Refusal::TooLarge { max_bytes: settings.max_body_bytes });
        }
        let mut view = match RequestView::parse(call.api, body) {
            Ok(view) => view,
            Err(bad) => return call.refuse(&Refusal::BadRequest { message: bad.message, param: bad.param }),
        };
        view.regional_host = call.upstream.is_regional_openai();
        view.assume_priority = call.upstream.assume_priority;
        let model = view.model.clone();
        if let Some(refusal) = call.refused(&policy, &view) {
            refusal.step().into_iter().for_each(|step| call.steps.note(step));
            return call.deny(&refusal, &model, now);
        }
        if call.key.allowed_models.is_some() {
            call.steps.note(Step::ModelMandate);
        }
        let prices = policy.prices().clone();
        call.steps.note(Step::Price);
        let found = prices.lookup(Some(call.key.org), &call.upstream.provider, &model, call.started.ms);
        let (price, bound, hold) = match found {
            Lookup::Priced(price) => {
                let bound = bound(&price, &view);
                let hold = bound.cost;
                (Some(price), Some(bound), hold)
            }
            Lookup::Unpriced => match policy.org(call.key.org).unpriced_hold {
                Some(hold) => (None, None, hold),
                None => {
                    let refusal = Refusal::InvalidModel {
                        model: model.clone(),
                        provider: call.upstream.provider.clone(),
                    };
                    return call.deny(&refusal, &model, now);
                }
            },
        };
        call.steps.note(Step::Bound);
        if hold > MAX_EVENT {
            let message =
                format!("this call may cost up to {hold}, more than one call may; lower max tokens or n");
            return call.refuse(&Refusal::BadRequest { message, param: None });
        }
        let admitted = Admitted {
            call,
            view,
            prices,
            price,
            bound,
            hold,
            counted: false,
            clamp: None,
            paid: None,
            body_at: now,
        };
        let mut admission = admitted.match_budgets(&policy, now.ms);
        if let Admission::Reserve(reserving) = &mut admission {
            reserving.take_fingerprint(&settings.fingerprints, body);
        }
        admission
    }
}

impl Opening {
    /// The refusal of a call whose key was revoked, or that was frozen, while it was decided. What it holds must be released
    /// then.
    #[must_use]
    pub fn refused(&self, policy: &Policy, now: Moment) -> Option<Box<Answered>> {
        let Admitted { call, view, .. } = &self.admitted;
        let refusal = call.refused(policy, view)?;
        let mut answered = call.denied(&refusal, &view.model, now);
        if let Some(denial) = &mut answered.denial {
            denial.trail = self.trail.clone();
            refusal.step().into_iter().for_each(|step| denial.trail.steps.note(step));
        }
        Some(answered)
    }
}

impl Call {
    fn refuse(&self, refusal: &Refusal) -> Admission {
        Admission::Answer(self.answered(refusal.answer(Some(self.api)), None))
    }

    /// A refusal by policy: it leaves a denial record.
    fn deny(&self, refusal: &Refusal, model: &str, now: Moment) -> Admission {
        Admission::Answer(self.denied(refusal, model, now))
    }

    fn denied(&self, refusal: &Refusal, model: &str, now: Moment) -> Box<Answered> {
        let answer = refusal.answer(Some(self.api));
        // A revoked key is as good as unknown, which leaves no record.
        let known = !matches!(refusal, Refusal::Unauthorized);
        let denial = known.then(|| self.denial(&answer, model, Nanos::ZERO, now.ms));
        self.answered(answer, denial)
    }

    pub(super) fn answered(&self, mut answer: Answer, denial: Option<Denial>) -> Box<Answered> {
        answer.headers.extend(self.common_headers());
        Box::new(Answered { answer, api: Some(self.api), denial })
    }
}

impl Admitted {
    fn match_budgets(mut self, policy: &Policy, now_ms: i64) -> Admission {
        if !policy.is_enforceable(self.call.key.org) {
            // A budget that this version cannot read must not pass for one that does not exist.
            return self.call.refuse(&Refusal::BudgetUnavailable);
        }
        let attribution = &self.call.attribution;
        let rules = policy.budgets_for(&self.call.key, &attribution.tags, attribution.customer.as_deref());
        self.call.steps.note(Step::Match);
        if rules.is_empty() {
            return Admission::Open(Box::new(self.open(&[], BudgetStatus::Skipped, Vec::new(), None)));
        }
        if rules.len() > MAX_SCOPES {
            let message = format!(
                "{} budgets match this call and at most {MAX_SCOPES} can be decided at once; delete some, or send fewer tags",
                rules.len()
            );
            return self.call.refuse(&Refusal::BadRequest { message, param: None });
        }
        self.slice(&rules);
        let scopes = rules.iter().map(|rule| scope_for(rule, now_ms)).collect();
        Admission::Reserve(Box::new(Reserving {
            admitted: self,
            rules,
            scopes,
            retries: 0,
            fingerprint: None,
        }))
    }

    fn open(
        mut self,
        scopes: &[Scope],
        budget_status: BudgetStatus,
        budgets: Vec<BudgetSeen>,
        tightest: Option<(Arc<BudgetRule>, Balance)>,
    ) -> Opening {
        let stub = self.stub(scopes, budget_status);
        let steps = std::mem::take(&mut self.call.steps);
        let trail = self.trail(steps, budgets);
        Opening { admitted: self, stub, trail, tightest }
    }

    fn stub(&self, scopes: &[Scope], budget_status: BudgetStatus) -> AttemptStub {
        let call = &self.call;
        let session = call.session_id.as_deref();
        let charges = scopes.iter().map(|scope| BudgetCharge::to_scope(scope, session)).collect();
        AttemptStub {
            attempt: call.attempt,
            org: call.key.org,
            key: call.key.key,
            user: call.key.user,
            provider: call.upstream.provider.clone(),
            model: self.view.model.clone(),
            api: call.api,
            upstream: call.upstream.name.clone(),
            trace_id: call.trace_id.clone(),
            session_id: call.session_id.clone(),
            customer: call.attribution.customer.clone(),
            action: call.action,
            tags: call.attribution.tags.clone(),
            started_at_ms: call.started.ms,
            held: self.hold,
            charges,
            budget_status,
            stream: self.view.stream,
            unpriced: self.price.is_none(),
            on_credit: false,
            finalize: call.finalize,
            price_id: self.price.as_ref().map(|price| price.id().to_owned()),
            price_version: self.price.as_ref().map(|price| price.version().to_owned()),
        }
    }
}

impl Reserving {
    /// The ledger operation to carry out. `encode` turns the stub into the bytes that whoever sweeps the hold can read.
    #[must_use]
    pub fn reserve(&self, lease_ms: i64, encode: impl FnOnce(&AttemptStub) -> Bytes) -> Reserve {
        let call = &self.admitted.call;
        // Only where it matters: most calls need no copy of it.
        let limited = self.scopes.iter().any(|scope| scope.session_limit.is_some());
        let session = call.session_id.as_deref().filter(|_| limited).map(Into::into);
        Reserve {
            hold: call.attempt,
            org: call.key.org,
            scopes: self.scopes.clone(),
            session,
            finalize: call.finalize,
            amount: self.admitted.hold,
            lease_ms,
            stub: encode(&self.admitted.stub(&self.scopes, BudgetStatus::Approved)),
        }
    }

    /// Goes on with the ledger's answer.
    #[must_use]
    pub fn reserved(
        mut self: Box<Self>,
        outcome: Result<ReserveOutcome, LedgerUnavailable>,
        now: Moment,
    ) -> Verdict {
        self.note(&outcome, now);
        self.concluded(outcome, now)
    }

    /// Goes on with an answer that was noted.
    pub(super) fn concluded(
        mut self: Box<Self>,
        outcome: Result<ReserveOutcome, LedgerUnavailable>,
        now: Moment,
    ) -> Verdict {
        if let Ok(denied) = &outcome
            && let Some(encoding) = self.countable(denied)
        {
            return self.tightening(outcome, encoding);
        }
        match outcome {
            Ok(ReserveOutcome::Reserved { balances, exceeded }) => {
                let status =
                    if exceeded.is_empty() { BudgetStatus::Approved } else { BudgetStatus::Exceeded };
                if status == BudgetStatus::Exceeded {
                    self.admitted.call.attribution.warnings.push(Warning::BudgetExceeded);
                }
                let tightest = tightest(&self.rules, &balances);
                let hold = self.admitted.hold;
                let seen = self.admitted.seen(&self.rules, &self.scopes, &balances, hold);
                Verdict::Open(Box::new(self.admitted.open(&self.scopes, status, seen, tightest)))
            }
            Ok(ReserveOutcome::Denied { why: Why::Budget, balances, .. })
                if self.admitted.clamp(&self.rules, &balances) =>
            {
                Verdict::Lowered(self)
            }
            Ok(ReserveOutcome::Denied { scope, why, balances, retry_after_ms }) => {
                self.denied(scope, why, &balances, retry_after_ms, now)
            }
            Ok(ReserveOutcome::StalePolicy { revision, .. }) if self.retries < RETRIES_MAX => {
                Verdict::Refresh { reserving: self, revision }
            }
            Ok(ReserveOutcome::WrongWindow { now_ms }) if self.retries < RETRIES_MAX => {
                Verdict::Rewindow { reserving: self, now_ms }
            }
            // A further disagreement, or a hold of this id that we did not make: not ours to decide, so fail closed.
            Ok(_) | Err(_) => self.unavailable(),
        }
    }

    /// The credit of every matched budget while the ledger does not answer, and what the call may cost in all.
    #[must_use]
    pub fn credit(&self) -> (Nanos, Vec<(BudgetId, Nanos)>) {
        let admitted = &self.admitted;
        // Nothing can be added to a hold that is not there, so all of it is taken at once.
        let whole = admitted.paid.and(admitted.bound.as_ref()).map_or(admitted.hold, |bound| bound.cost);
        (whole, self.rules.iter().map(|rule| (rule.budget, rule.outage_credit)).collect())
    }

    /// Goes on without the ledger, once the call's cost was taken out of that credit.
    #[must_use]
    pub fn on_credit(mut self: Box<Self>, now: Moment) -> Box<Opening> {
        self.admitted.call.steps.note(Step::Credit);
        self.admitted.call.steps.stamp(now.us);
        (self.admitted.hold, self.admitted.paid) = (self.credit().0, None);
        self.admitted.call.attribution.warnings.push(Warning::OnCredit);
        let mut opening = self.admitted.open(&self.scopes, BudgetStatus::Approved, Vec::new(), None);
        opening.stub.on_credit = true;
        Box::new(opening)
    }

    /// Matches budgets anew, for the retry that a stale policy or a wrong window allows.
    #[must_use]
    pub fn again(self: Box<Self>, policy: &Policy, now_ms: i64) -> Admission {
        let retries = self.retries + 1;
        match self.admitted.match_budgets(policy, now_ms) {
            Admission::Reserve(mut reserving) => {
                reserving.retries = retries;
                Admission::Reserve(reserving)
            }
            other => other,
        }
    }

    /// The refusal of a call that nobody can decide now.
    #[must_use]
    pub fn undecided(&self) -> Box<Answered> {
        let call = &self.admitted.call;
        call.answered(Refusal::BudgetUnavailable.answer(Some(call.api)), None)
    }

    fn unavailable(&self) -> Verdict {
        Verdict::Answer(self.undecided())
    }

    fn denied(
        &self,
        scope: usize,
        why: Why,
        balances: &[Balance],
        retry_after_ms: Option<i64>,
        now: Moment,
    ) -> Verdict {
        let (Some(rule), Some(&balance)) = (self.rules.get(scope), balances.get(scope)) else {
            return self.unavailable();
        };
        let call = &self.admitted.call;
        // What was asked for, not what clamping tried in vain.
        let estimated = self.admitted.clamp.map_or(self.admitted.hold, |clamp| clamp.full);
        let (session, finalize) = (call.session_id.as_deref(), call.finalize);
        let denial = BudgetDenial { rule, why, balance, estimated, session, finalize, retry_after_ms };
        let mut answer = denial.answer(call.api);
        let denied_by = DeniedBy { place: scope, why, retry_after_ms };
        let record = Denial {
            trail: self.denied_trail(balances, denied_by),
            ..call.denial(&answer, &self.admitted.view.model, estimated, now.ms)
        };
        if let Some((rule, balance)) = tightest(&self.rules, balances) {
            answer.headers.extend(budget_headers(&rule, balance));
        }
        Verdict::Answer(call.answered(answer, Some(record)))
    }
}

/// The matched budget with least left; ties by entity (contract §2.6).
fn tightest(rules: &[Arc<BudgetRule>], balances: &[Balance]) -> Option<(Arc<BudgetRule>, Balance)> {
    rules
        .iter()
        .zip(balances)
        .min_by_key(|(rule, balance)| {
            (balance.remaining().max(Nanos::ZERO), rule.entity.kind(), rule.entity.stored_id())
        })
        .map(|(rule, balance)| (Arc::clone(rule), *balance))
}

/// `X-NullSpend-Budget-*`: whole micro-dollars; what is left is rounded down, what is gone up.
pub(super) fn budget_headers(rule: &BudgetRule, balance: Balance) -> [(&'static str, String); 4] {
    let remaining = balance.remaining().max(Nanos::ZERO).0.div_euclid(1000);
    let spent = Nanos::from_pico_ceil(i128::from((balance.settled + balance.held).0)).0;
    [
        ("x-nullspend-budget-limit", balance.limit.microdollars_half_up().to_string()),
        ("x-nullspend-budget-spent", spent.to_string()),
        ("x-nullspend-budget-remaining", remaining.to_string()),
        ("x-nullspend-budget-entity", ascii(&format!("{}:{}", rule.entity.kind(), rule.entity.shown_id()))),
    ]
}

/// Header-safe text: tag values may hold anything.
fn ascii(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}

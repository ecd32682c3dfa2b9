//! Why a call was denied, or cost what it did (design law 8).

mod denied;
mod words;

use std::{collections::BTreeMap, time::Duration};

use nullspend_core::{
    id::{AttemptId, BudgetId},
    money::Nanos,
    policy::Role,
    trail::Trail,
};

use super::{App, AppError, Caller, Kind, check::is_trace, error::Issue};
use crate::store::{BudgetName, DenialRecord, EventRecord, EventRevision, Source, Traced};

pub use words::Said;
pub(crate) use words::is_alias;

/// How long the record of a call is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// How soon after new records, which may be of other calls.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What is to be explained.
#[derive(Clone, Debug)]
pub enum Explained {
    /// An event.
    Event(Box<EventRecord>),
    /// A denial, and the present name of its key.
    Denial(Box<DenialRecord>, Option<String>),
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Forwarded and settled.
    Settled,
    /// Charged in full, since its data plane died.
    Lapsed,
    /// It had lapsed, and the truth arrived later.
    Corrected,
    /// Refused.
    Denied,
    /// Spent elsewhere.
    Reported,
    /// The difference that a mended price made.
    Adjusted,
}

/// A call with everything that is known of how it was decided.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The call.
    pub of: Explained,
    /// What became of it.
    pub outcome: Outcome,
    /// How it was decided; `None` when nobody told.
    pub trail: Option<Trail>,
    /// Names of the budgets it counts towards.
    pub budgets: BTreeMap<BudgetId, BudgetName>,
    /// What its event said before.
    pub revisions: Vec<EventRevision>,
    /// How often a mended price changed it, and by how much in all.
    pub adjusted: (u32, Nanos),
    /// The sentences.
    pub said: Said,
}

/// How a call is named.
#[derive(Clone, Copy)]
enum Asked<'a> {
    Attempt(AttemptId),
    Trace(&'a str),
}

impl App {
    /// Explains an event or a denial by its id, or the newest call of a trace. Data planes tell of a call a moment after it
    /// ended: what is not known yet is waited for, up to a second.
    ///
    /// # Errors
    /// `not_found` when there is none in the caller's organisation; `validation_error` for what is no id.
    pub async fn explain(&self, caller: &Caller, id: &str) -> Result<Explanation, AppError> {
        caller.require(Role::Viewer)?;
        let asked = match (id.parse::<AttemptId>(), is_trace(id)) {
            (Ok(id), _) => Asked::Attempt(id),
            (Err(_), true) => Asked::Trace(id),
            (Err(_), false) => {
                let message = "must be ns_evt_<uuid>, a bare UUID, or a trace of 32 lower-case hex digits";
                let issue = Issue { path: vec!["id".into()], message: message.to_owned() };
                return Err(AppError::validation(vec![issue]));
            }
        };
        let of = match self.find(caller, asked).await? {
            Some(of) => of,
            None => self.find_soon(caller, asked).await?.ok_or_else(unknown)?,
        };
        match of {
            Explained::Event(event) => self.explain_event(caller, event).await,
            Explained::Denial(denial, key_name) => {
                let trail = self.store.trail(denial.id).await?;
                let stopped = match denied::freeze_of(&denial) {
                    Some(freeze) => self.store.freeze(caller.org, freeze).await?,
                    None => None,
                };
                let said = denied::of_denial(&denial, trail.as_ref(), stopped.as_ref());
                Ok(Explanation {
                    of: Explained::Denial(denial, key_name),
                    outcome: Outcome::Denied,
                    trail,
                    budgets: BTreeMap::new(),
                    revisions: Vec::new(),
                    adjusted: (0, Nanos::ZERO),
                    said,
                })
            }
        }
    }

    async fn find_soon(&self, caller: &Caller, asked: Asked<'_>) -> Result<Option<Explained>, AppError> {
        let mut records = self.records.subscribe();
        let found = async {
            loop {
                if let Some(found) = self.find(caller, asked).await? {
                    return Ok(Some(found));
                }
                // The sender lives as long as this does.
                let _ = records.changed().await;
                // Busy data planes report all the time: those records are looked through together.
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(found) => found,
            // Records that another control plane took wake nobody here.
            Err(_) => self.find(caller, asked).await,
        }
    }

    async fn find(&self, caller: &Caller, asked: Asked<'_>) -> Result<Option<Explained>, AppError> {
        let id = match asked {
            Asked::Attempt(id) => id,
            Asked::Trace(trace) => match self.store.newest_of_trace(caller.org, trace).await? {
                Some(Traced::Event(id) | Traced::Denial(id)) => id,
                None => return Ok(None),
            },
        };
        self.event_or_denial(caller, id).await
    }

    async fn event_or_denial(&self, caller: &Caller, id: AttemptId) -> Result<Option<Explained>, AppError> {
        if let Some(event) = self.store.event(caller.org, id).await? {
            return Ok(Some(Explained::Event(Box::new(event))));
        }
        let denial = self.store.denial(caller.org, id).await?;
        Ok(denial.map(|(denial, key_name)| Explained::Denial(Box::new(denial), key_name)))
    }

    async fn explain_event(&self, caller: &Caller, event: Box<EventRecord>) -> Result<Explanation, AppError> {
        let trail = self.store.trail(event.id).await?;
        let charged: Vec<BudgetId> = event.charges.iter().map(|charge| charge.counter.budget).collect();
        let budgets = self.store.budget_names(caller.org, &charged).await?;
        let revisions = self.store.event_revisions(event.id).await?;
        let adjusted = self.store.adjustments(&[event.id]).await?.remove(&event.id);
        let outcome = outcome(&event);
        let said = words::of_event(&event, outcome, trail.as_ref(), &revisions);
        Ok(Explanation {
            of: Explained::Event(event),
            outcome,
            trail,
            budgets,
            revisions,
            adjusted: adjusted.unwrap_or((0, Nanos::ZERO)),
            said,
        })
    }
}

fn outcome(event: &EventRecord) -> Outcome {
    match event.source {
        Source::Adjustment => Outcome::Adjusted,
        Source::Api | Source::Mcp => Outcome::Reported,
        Source::Proxy if event.measurement == "lapsed" => Outcome::Lapsed,
        Source::Proxy if event.revision > 1 => Outcome::Corrected,
        Source::Proxy => Outcome::Settled,
    }
}

fn unknown() -> AppError {
    let message = "No event and no denial of this id is known in your organisation. A call that is under way, or ended this \
                   second, is told of soon: ask again. Denials are kept for 7 days, and of very many in one minute some are \
                   only counted";
    AppError::new(Kind::NotFound, "not_found", message)
}

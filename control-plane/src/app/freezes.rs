//! The kill switch: freeze, list, lift.

use nullspend_core::{
    freeze::{Freeze, Target},
    id::FreezeId,
    policy::Role,
};

use super::{App, AppError, Caller, Kind, budgets::entity, check::Checks};
use crate::store::{FreezeRecord, Froze};

/// Freezes of one organisation at once; who needs more wants to freeze something larger.
const MAX_FREEZES: usize = 1_000;
const MAX_REASON: usize = 500;
const MAX_MODEL: usize = 200;

/// A freeze as asked for.
#[derive(Clone, Debug, Default)]
pub struct NewFreeze {
    /// `org`, `user`, `api_key`, `tag`, `customer` or `model`; `None` when the caller gave none of them.
    pub entity_type: Option<&'static str>,
    /// Prefixed or bare id, `key=value`, customer id, or model; for `org` empty means the caller's.
    pub entity_id: String,
    /// Why; may be empty.
    pub reason: String,
}

/// A freeze that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// The freeze.
    pub record: FreezeRecord,
    /// Whether every connected data plane has confirmed it.
    pub enforced: bool,
}

impl App {
    /// Freezes something, and waits until every connected data plane enforces it. What is frozen already stays as it was.
    ///
    /// # Errors
    /// `validation_error`, `forbidden`, `not_found`, `limit_exceeded`.
    pub async fn create_freeze(&self, caller: &Caller, new: NewFreeze) -> Result<Frozen, AppError> {
        caller.require(Role::Admin)?;
        let mut checks = Checks::default();
        checks.text("reason", &new.reason, 0, MAX_REASON);
        let target = target(&mut checks, caller, &new);
        checks.finish()?;
        let Some(target) = target else { return Err(AppError::validation(Vec::new())) };
        if let Target::Entity(entity) = &target
            && let Err(what) = self.find_entity(caller.org, entity).await?
        {
            return Err(AppError::not_found(what));
        }
        let freeze = Freeze {
            freeze: FreezeId(self.ids.v4()),
            org: caller.org,
            target,
            reason: new.reason,
            since_ms: self.clock.now_ms(),
        };
        let record = FreezeRecord { freeze, created_by: caller.by() };
        match self.store.put_freeze(&record, MAX_FREEZES).await? {
            Froze::Now(record, revision) => {
                tracing::warn!(freeze = %record.freeze.freeze, kind = record.freeze.target.kind(), by = record.created_by,
                    "frozen");
                Ok(Frozen { record, enforced: self.policy_changed(revision).await })
            }
            Froze::Before(record) => {
                let revision = self.store.policy_position().await?.revision;
                Ok(Frozen { record, enforced: self.policy_changed(revision).await })
            }
            Froze::Full => {
                let message = format!(
                    "The organisation has {MAX_FREEZES} freezes; lift some, or freeze something larger"
                );
                Err(AppError::new(Kind::Conflict, "limit_exceeded", message))
            }
        }
    }

    /// The organisation's freezes in force, oldest first.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn list_freezes(&self, caller: &Caller) -> Result<Vec<FreezeRecord>, AppError> {
        caller.require(Role::Viewer)?;
        Ok(self.store.list_freezes(caller.org).await?)
    }

    /// Lifts a freeze.
    ///
    /// # Errors
    /// `forbidden`, `not_found`.
    pub async fn lift_freeze(&self, caller: &Caller, freeze: FreezeId) -> Result<(), AppError> {
        caller.require(Role::Admin)?;
        let by = caller.by();
        let lifted = self.store.lift_freeze(caller.org, freeze, &by, self.clock.now_ms()).await?;
        let revision = lifted.ok_or_else(|| AppError::not_found("Freeze"))?;
        tracing::warn!(%freeze, by, "a freeze was lifted");
        self.policy_changed(revision).await;
        Ok(())
    }
}

fn target(checks: &mut Checks, caller: &Caller, new: &NewFreeze) -> Option<Target> {
    match new.entity_type {
        None => {
            checks.field("entityType", "must be one of org, user, api_key, tag, customer, model");
            None
        }
        Some("model") => {
            let name = new.entity_id.trim();
            checks.text("entityId", name, 1, MAX_MODEL);
            Some(Target::Model(name.to_owned()))
        }
        Some(kind) => entity(checks, caller, kind, &new.entity_id).map(Target::Entity),
    }
}

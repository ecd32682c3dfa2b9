//! The store as authentication and idempotency see it.

use std::sync::Arc;

use async_trait::async_trait;
use nullspend_core::{clock::Clock, policy::Role};

use crate::{
    app::Caller,
    auth::{Callers, LookupFailed},
    idempotency::{Answers, Claim, MemoryFailed, Remembered, Standing},
    metrics::Metrics,
    store::{IdempotencyBegin, IdempotencyKey, KeyAuth, Store, StoreError},
};

/// `last_used_at` is exact to this.
const TOUCH_EVERY_MS: i64 = 60_000;

/// A store, its clock, and where its failures are counted.
#[derive(Clone, Debug)]
pub(crate) struct Backing {
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Backing {
    fn failed(&self, error: StoreError) -> Box<dyn std::error::Error + Send + Sync> {
        self.metrics.store_errors.inc();
        Box::new(error)
    }
}

#[async_trait]
impl Callers for Backing {
    async fn by_key(&self, sha256: &[u8; 32]) -> Result<Option<Caller>, LookupFailed> {
        let found =
            self.store.key_by_sha256(sha256).await.map_err(|error| LookupFailed(self.failed(error)))?;
        let Some(found) = found else { return Ok(None) };
        let now_ms = self.clock.now_ms();
        if found.last_used_at_ms.is_none_or(|last| last + TOUCH_EVERY_MS <= now_ms) {
            let (this, key) = (self.clone(), found.identity.key);
            // Beside the call: nobody should wait for a date, nor fail for it.
            tokio::spawn(async move {
                if let Err(error) = this.store.touch_key(key, now_ms, TOUCH_EVERY_MS).await {
                    this.metrics.store_errors.inc();
                    tracing::debug!(error = &error as &dyn std::error::Error, "a key's use was not noted");
                }
            });
        }
        Ok(caller(found))
    }
}

/// No key does more than its owner may (design §8). An agent key does nothing that a role could widen, so that it
/// outlives its owner's membership; the data planes treat it alike.
fn caller(found: KeyAuth) -> Option<Caller> {
    let role = match (found.identity.role, found.owner_role) {
        (Role::Agent, _) => Role::Agent,
        (role, Some(owner)) => role.min(owner),
        (_, None) => return None,
    };
    Some(Caller { org: found.identity.org, user: found.identity.user, key: Some(found.identity), role })
}

fn named(claim: &Claim) -> IdempotencyKey<'_> {
    IdempotencyKey { org: claim.org, method: &claim.method, key: &claim.key }
}

#[async_trait]
impl Answers for Backing {
    async fn claim(&self, claim: &Claim) -> Result<Standing, MemoryFailed> {
        let begun =
            self.store.idempotency_begin(named(claim), &claim.request_sha256, self.clock.now_ms()).await;
        Ok(match begun.map_err(|error| MemoryFailed(self.failed(error)))? {
            IdempotencyBegin::Fresh => Standing::Claimed,
            IdempotencyBegin::InProgress => Standing::Running,
            IdempotencyBegin::Mismatch => Standing::Different,
            IdempotencyBegin::Replay { response, http_status } => Standing::Done(Remembered {
                message: response,
                http_status: u16::try_from(http_status).ok().filter(|status| *status != 0),
            }),
        })
    }

    async fn remember(&self, claim: &Claim, answer: &Remembered) -> Result<(), MemoryFailed> {
        let status = answer.http_status.map_or(0, i64::from);
        let finished = self.store.idempotency_finish(named(claim), &answer.message, status).await;
        finished.map_err(|error| MemoryFailed(self.failed(error)))
    }

    async fn release(&self, claim: &Claim) -> Result<(), MemoryFailed> {
        let abandoned = self.store.idempotency_abandon(named(claim)).await;
        abandoned.map_err(|error| MemoryFailed(self.failed(error)))
    }
}

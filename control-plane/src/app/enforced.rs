//! Whether a change of policy is enforced: by the data planes that follow this control plane, and by those that follow
//! the control planes beside it.

use std::time::Duration;

use tokio::time::Instant;

use super::{App, planes::RETURN};
use crate::store::StoreError;

/// How long a change waits for data planes to enforce it.
const PROPAGATION: Duration = Duration::from_secs(1);
/// How often others are asked meanwhile.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// How long a control plane that is not heard of is waited for. Longer than its data planes take to notice that it is gone
/// (20 s, the keep-alive of their connections), and than it serves them without a database (5 s): until then they may
/// count themselves connected.
const LEASE_MS: i64 = 30_000;
/// How often one is heard of.
const RENEW_EVERY: Duration = Duration::from_secs(3);

impl App {
    /// Wakes the policy streams and waits until every connected data plane enforces `revision`, so that a caller that
    /// was answered can rely on its change. A data plane that does not say so in time is not waited for: it gets the
    /// change as soon as it can.
    /// False: one did not, or its control plane cannot be asked.
    pub(super) async fn policy_changed(&self, revision: u64) -> bool {
        self.policy_changed.send_modify(|known| *known = revision.max(*known));
        let all = async {
            self.data_planes.enforced(revision).await;
            self.enforced_elsewhere(revision).await
        };
        let enforced = tokio::time::timeout(PROPAGATION, all).await.unwrap_or(false);
        if !enforced {
            tracing::warn!(revision, "a data plane has not confirmed a policy change within {PROPAGATION:?}");
        }
        enforced
    }

    async fn enforced_elsewhere(&self, revision: u64) -> bool {
        loop {
            match self.store.enforced_elsewhere(&self.id, revision).await {
                Ok(true) => return true,
                Ok(false) => tokio::time::sleep(ASK_EVERY).await,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "other control planes cannot be asked what they enforce");
                    return false;
                }
            }
        }
    }

    /// Tells the control planes beside this one that a data plane has come. To be done before it is sent any policy:
    /// from then on they wait for it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn data_plane_came(&self) -> Result<(), StoreError> {
        self.tell_enforced(true).await
    }

    /// Keeps telling them what the data planes of this one enforce, as long as this runs.
    pub async fn keep_telling_enforced(&self) {
        let mut changes = self.data_planes.changes();
        let mut renewal = Instant::now();
        loop {
            // By the time since the last one, not by silence: one data plane may go on confirming where another hangs.
            let renew = Instant::now() >= renewal;
            match self.tell_enforced(renew).await {
                Ok(()) if renew => renewal = Instant::now() + RENEW_EVERY,
                Ok(()) => {}
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(error, "what data planes enforce could not be noted");
                    renewal = Instant::now() + ASK_EVERY;
                }
            }
            let _ = tokio::time::timeout_at(renewal, changes.changed()).await;
        }
    }

    async fn tell_enforced(&self, renew: bool) -> Result<(), StoreError> {
        if !self.store.is_shared() {
            return Ok(());
        }
        // One at a time, so that what is told last is what was so last.
        let mut told = self.told_enforced.lock().await;
        let enforced = self.data_planes.all_enforce();
        match enforced {
            Some(revision) if renew || *told != enforced => {
                self.store.note_enforced(&self.id, revision, LEASE_MS).await?;
            }
            None if told.is_some() => self.store.forget_enforced(&self.id).await?,
            _ => {}
        }
        *told = enforced;
        Ok(())
    }

    /// Tells them that this control plane ends. Its data planes look for another one, and are waited for meanwhile.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn stop_telling_enforced(&self) -> Result<(), StoreError> {
        let mut told = self.told_enforced.lock().await;
        if told.take().is_none() {
            return Ok(());
        }
        match self.data_planes.all_enforce() {
            Some(revision) => {
                let lease_ms = i64::try_from(RETURN.as_millis()).unwrap_or(i64::MAX);
                self.store.note_enforced(&self.id, revision, lease_ms).await
            }
            None => self.store.forget_enforced(&self.id).await,
        }
    }
}

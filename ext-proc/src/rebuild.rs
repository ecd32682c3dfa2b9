//! The data plane's part in rebuilding a ledger that lost its books: everything reported, then everything it has under
//! way delivered (design §6, Rebuild).

use std::{collections::HashSet, sync::Arc};

use nullspend_proto::internal::{
    DeliverRequest, LeaveRequest, LedgerRebuild, data_plane_service_client::DataPlaneServiceClient,
};

use crate::{DataPlane, backoff::Backoff, join::ControlPlane};

impl DataPlane {
    /// Delivers what each rebuild asks for, until the data plane stops.
    pub(crate) async fn deliver(self: Arc<Self>, channel: ControlPlane) {
        let mut asked = self.watch.rebuilds();
        let mut done = HashSet::new();
        loop {
            let now: Vec<LedgerRebuild> = asked.borrow_and_update().clone();
            done.retain(|id| now.iter().any(|rebuild| rebuild.rebuild_id == *id));
            let mut backoff = Backoff::new(self.id());
            for rebuild in now {
                if done.contains(&rebuild.rebuild_id) {
                    continue;
                }
                // What a later message does not ask for any more needs no answer.
                while !asked.has_changed().unwrap_or(true) {
                    match self.deliver_one(&channel, &rebuild).await {
                        Ok(attempts) => {
                            tracing::info!(
                                org = rebuild.org_id,
                                attempts,
                                "told a rebuild of the ledger what is under way"
                            );
                            done.insert(rebuild.rebuild_id);
                            break;
                        }
                        Err(cause) => {
                            tracing::warn!(
                                org = rebuild.org_id,
                                cause,
                                "a rebuild of the ledger waits for this data plane"
                            );
                            tokio::time::sleep(backoff.pause()).await;
                        }
                    }
                }
            }
            if asked.changed().await.is_err() {
                return;
            }
        }
    }

    /// The order matters: what the ledger may have granted is in the spool, what ended is in the store, and only what
    /// is left is told. New calls are refused until the rebuild is done.
    async fn deliver_one(&self, channel: &ControlPlane, rebuild: &LedgerRebuild) -> Result<usize, String> {
        self.deciding.all_decided().await;
        drop(self.leases.write_events().await.map_err(|cause| cause.to_string())?);
        self.spool.drained().await;
        let spool = Arc::clone(&self.spool);
        let read = tokio::task::spawn_blocking(move || spool.unsettled()).await;
        let mut attempts = read.map_err(|cause| cause.to_string())?.map_err(|cause| cause.to_string())?;
        attempts.retain(|attempt| attempt.org_id == rebuild.org_id && !attempt.charges.is_empty());
        let count = attempts.len();
        let request = DeliverRequest {
            dataplane_id: self.id().to_owned(),
            rebuild_id: rebuild.rebuild_id.clone(),
            org_id: rebuild.org_id.clone(),
            attempts,
        };
        let delivered = DataPlaneServiceClient::new(channel.clone()).deliver(request).await;
        delivered.map(|_| count).map_err(|status| format!("{:?}: {}", status.code(), status.message()))
    }

    /// Tells the control plane that nothing is left here, when that is so. What it does not hear keeps a rebuild waiting
    /// for this data plane to come back, and does no other harm.
    pub async fn leave(&self) {
        // Nothing is swept any more: its event would say that this data plane is still there.
        let Ok(_unswept) = self.leases.write_events().await else { return };
        let left = self.spool.stats();
        if left.depth > 0 || left.open_attempts > 0 || left.unsettled > 0 || self.in_flight() > 0 {
            return;
        }
        let request = LeaveRequest { dataplane_id: self.id().to_owned() };
        let mut client = DataPlaneServiceClient::new(self.control_plane.clone());
        match tokio::time::timeout(crate::plane::LEAVE_WAIT, Box::pin(client.leave(request))).await {
            Ok(Ok(_)) => self.stop_background.cancel(),
            Ok(Err(status)) => {
                tracing::info!(code = ?status.code(), "the control plane was not told of this end");
            }
            Err(_) => tracing::info!("the control plane did not hear of this end in time"),
        }
    }
}

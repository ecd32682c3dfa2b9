//! The policy, kept current from the control plane and kept at all without it (design §3, law 7).

mod prices;
mod rows;
mod saved;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use futures::{FutureExt as _, StreamExt as _};
use nullspend_core::{clock::Clock, policy::Policy};
use nullspend_proto::internal::{
    ConfirmPolicyRequest, LedgerRebuild, WatchRequest, WatchResponse,
    data_plane_service_client::DataPlaneServiceClient,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{backoff::Backoff, join::ControlPlane, metrics::Metrics, spool::Spool};
use rows::{Applied, Rows};

/// How long after a refusal the disk is tried again.
const SAVE_AGAIN: Duration = Duration::from_secs(1);
/// Messages laid over each other before their policy is published.
const MERGED_AT_ONCE: usize = 64;

/// The policy in force, and how current it is.
pub struct PolicyWatch {
    policy: ArcSwap<Policy>,
    state: Mutex<State>,
    /// Counts published policies; 0 before the first.
    published: watch::Sender<u64>,
    /// What a restart would enforce, once anything was published.
    saved: watch::Sender<Option<Standing>>,
    /// Rebuilds of the ledger that wait for this data plane.
    rebuilds: watch::Sender<Vec<LedgerRebuild>>,
    path: PathBuf,
    dataplane_id: String,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

/// Where a policy stands.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Standing {
    history_id: String,
    revision: u64,
}

impl Standing {
    fn of(snapshot: &WatchResponse) -> Self {
        Self { history_id: snapshot.history_id.clone(), revision: snapshot.revision }
    }
}

#[derive(Default)]
struct State {
    rows: Rows,
    connected: bool,
    /// When the policy was last known to be current.
    heard_ms: Option<i64>,
    resync: bool,
}

impl fmt::Debug for PolicyWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyWatch").field("policy", &self.current()).finish_non_exhaustive()
    }
}

impl PolicyWatch {
    /// Starts from the snapshot beside the spool, if there is one. Blocking.
    #[must_use]
    pub fn load(spool: &Spool, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Arc<Self> {
        let path = spool.dir().join("policy.snapshot");
        let watch = Self {
            policy: ArcSwap::default(),
            state: Mutex::default(),
            published: watch::Sender::new(0),
            saved: watch::Sender::default(),
            rebuilds: watch::Sender::default(),
            dataplane_id: spool.dataplane_id().to_owned(),
            path,
            clock,
            metrics,
        };
        if let Some((heard_ms, snapshot)) = saved::load(&watch.path) {
            watch.saved.send_replace(Some(Standing::of(&snapshot)));
            watch.take([snapshot]);
            watch.state().heard_ms = Some(heard_ms);
        }
        Arc::new(watch)
    }

    /// The policy to decide by. Take it once for each request.
    #[must_use]
    pub fn current(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    /// Whether there is any policy to decide by.
    #[must_use]
    pub fn ready(&self) -> bool {
        *self.published.borrow() > 0
    }

    /// Rebuilds of the ledger that wait for what this data plane has under way.
    #[must_use]
    pub fn rebuilds(&self) -> watch::Receiver<Vec<LedgerRebuild>> {
        self.rebuilds.subscribe()
    }

    /// Whether the stream from the control plane is up.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.state().connected
    }

    /// Time since the policy was known to be current: 0 while connected, `None` before the first.
    #[must_use]
    pub fn age_ms(&self) -> Option<i64> {
        let state = self.state();
        let heard_ms = state.heard_ms?;
        Some(if state.connected { 0 } else { (self.clock.now_ms() - heard_ms).max(0) })
    }

    /// Rows of the policy that could not be understood. Their organisations are not enforceable.
    #[must_use]
    pub fn bad_rows(&self) -> u64 {
        self.state().rows.bad_rows()
    }

    /// Waits until the policy stands at `revision` or later; false when `timeout` came first.
    pub async fn wait_for(&self, revision: u64, timeout: Duration) -> bool {
        self.wait_until(|policy| policy.revision >= revision, timeout).await
    }

    /// Waits until the policy is as `wanted`; false when `timeout` came first.
    pub async fn wait_until(&self, wanted: impl Fn(&Policy) -> bool, timeout: Duration) -> bool {
        let mut published = self.published.subscribe();
        let met = published.wait_for(|&count| count > 0 && wanted(&self.policy.load()));
        matches!(tokio::time::timeout(timeout, met).await, Ok(Ok(_)))
    }

    /// How many wait for another policy; the task that saves it does always.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.published.receiver_count().saturating_sub(1)
    }

    /// Follows the control plane until `shutdown`, through any number of lost connections, and saves what it learns.
    pub async fn run(self: Arc<Self>, channel: ControlPlane, shutdown: CancellationToken) {
        let follow = shutdown.run_until_cancelled(self.follow(channel));
        tokio::join!(follow, self.save(&shutdown));
    }

    async fn follow(&self, channel: ControlPlane) {
        let mut client = DataPlaneServiceClient::new(channel).max_decoding_message_size(usize::MAX);
        let mut backoff = Backoff::new(&self.dataplane_id);
        loop {
            let ended = self.stream(&mut client, &mut backoff).await;
            {
                let mut state = self.state();
                if std::mem::take(&mut state.connected) {
                    state.heard_ms = Some(self.clock.now_ms());
                }
            }
            match ended {
                Ok(()) => tracing::info!("policy stream ended"),
                Err(status) => {
                    tracing::warn!(code = ?status.code(), message = status.message(), "policy stream failed");
                }
            }
            tokio::time::sleep(backoff.pause()).await;
        }
    }

    /// One stream, to its end.
    async fn stream(
        &self,
        client: &mut DataPlaneServiceClient<ControlPlane>,
        backoff: &mut Backoff,
    ) -> Result<(), tonic::Status> {
        let request = {
            let policy = self.current();
            let resync = std::mem::take(&mut self.state().resync);
            let dataplane_id = self.dataplane_id.clone();
            if resync || !self.ready() {
                WatchRequest { dataplane_id, ..WatchRequest::default() }
            } else {
                let (resume_revision, history_id) = (policy.revision, policy.history_id.clone());
                WatchRequest { dataplane_id, resume_revision, history_id }
            }
        };
        let mut stream = client.watch(request).await?.into_inner();
        {
            let mut state = self.state();
            // Until its first message a new stream says nothing about a policy that was never there.
            state.connected = self.ready();
            if state.connected {
                state.heard_ms = Some(self.clock.now_ms());
            }
        }
        let (mut heard, mut confirmed) = (false, None);
        let mut saved = self.saved.subscribe();
        loop {
            let standing = saved.borrow_and_update().clone();
            // A disk may take its time; what comes meanwhile is enforced, and confirmed once the disk has it too.
            if heard && standing != confirmed {
                self.confirm(client, standing.as_ref()).await?;
                confirmed = standing;
            }
            let first = tokio::select! {
                first = stream.next() => first,
                // The sender lives in `self`.
                _ = saved.changed() => continue,
            };
            let Some(first) = first else { return Ok(()) };
            let mut messages = vec![first?];
            while messages.len() < MERGED_AT_ONCE {
                match stream.next().now_or_never() {
                    Some(Some(Ok(message))) => messages.push(message),
                    Some(Some(Err(status))) => {
                        self.take(messages);
                        return Err(status);
                    }
                    Some(None) | None => break,
                }
            }
            if self.take(messages) == Applied::Resync {
                return Ok(());
            }
            backoff.reset();
            {
                let mut state = self.state();
                state.connected = true;
                state.heard_ms = Some(self.clock.now_ms());
            }
            heard = true;
        }
    }

    /// Tells the control plane what is enforced, and would be after a restart. A failure ends the stream: the next one begins
    /// by telling it.
    async fn confirm(
        &self,
        client: &mut DataPlaneServiceClient<ControlPlane>,
        standing: Option<&Standing>,
    ) -> Result<(), tonic::Status> {
        // Revisions of a history that is over say nothing of the present one.
        let Some(standing) = standing.filter(|standing| standing.history_id == self.current().history_id)
        else {
            return Ok(());
        };
        let confirmed = client.confirm_policy(ConfirmPolicyRequest {
            dataplane_id: self.dataplane_id.clone(),
            history_id: standing.history_id.clone(),
            revision: standing.revision,
        });
        confirmed.await.map(drop)
    }

    /// Lays messages over the policy and publishes it.
    fn take(&self, messages: impl IntoIterator<Item = WatchResponse>) -> Applied {
        let mut last = Applied::Ignored;
        let mut changed = false;
        {
            let mut state = self.state();
            let refused_before = state.rows.refused;
            for mut message in messages {
                let rebuilds = std::mem::take(&mut message.rebuilds);
                self.rebuilds.send_if_modified(|known| {
                    let changed = *known != rebuilds;
                    *known = rebuilds;
                    changed
                });
                last = state.rows.apply(message);
                changed |= last == Applied::Changed;
                if last == Applied::Resync {
                    state.resync = true;
                    break;
                }
            }
            self.metrics.policy_rows_refused.inc_by(state.rows.refused - refused_before);
            if changed {
                self.policy.store(Arc::new(state.rows.policy.clone()));
            }
        }
        if changed {
            self.published.send_modify(|count| *count += 1);
        }
        last
    }

    async fn save(&self, shutdown: &CancellationToken) {
        let mut published = self.published.subscribe();
        loop {
            let stopping = tokio::select! {
                changed = published.changed() => changed.is_err(),
                () = shutdown.cancelled() => true,
            };
            // Changes that come meanwhile are saved together.
            published.mark_unchanged();
            if let Some(standing) = self.save_now().await {
                self.saved.send_replace(Some(standing));
            } else {
                self.metrics.policy_save_failures.inc();
                if !stopping {
                    let _ = tokio::time::timeout(SAVE_AGAIN, shutdown.cancelled()).await;
                    published.mark_changed();
                }
            }
            if stopping {
                return;
            }
        }
    }

    /// What the disk has now; `None` when it refused it.
    async fn save_now(&self) -> Option<Standing> {
        let (heard_ms, snapshot) = {
            let state = self.state();
            let now_ms = state.connected.then(|| self.clock.now_ms());
            let heard_ms = now_ms.or(state.heard_ms).unwrap_or_else(|| self.clock.now_ms());
            (heard_ms, state.rows.snapshot())
        };
        let (path, standing) = (self.path.clone(), Standing::of(&snapshot));
        let saved = tokio::task::spawn_blocking(move || saved::save(&path, heard_ms, &snapshot)).await;
        match saved {
            Ok(Ok(())) => return Some(standing),
            Ok(Err(error)) => tracing::error!(error = %error, "the policy could not be saved yet"),
            Err(error) => tracing::error!(error = %error, "saving the policy failed"),
        }
        None
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

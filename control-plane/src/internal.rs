//! What data planes talk to: policy as it changes, and their records made durable (design §3).

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use nullspend_core::{
    freeze::Freeze,
    policy::{BudgetRule, KeyIdentity},
    price::PriceRow,
};
use nullspend_proto::internal::{
    self as wire, ConfirmPolicyRequest, ConfirmPolicyResponse, DeliverRequest, DeliverResponse, LeaveRequest,
    LeaveResponse, ReportRequest, ReportResponse, WatchRequest, WatchResponse,
    data_plane_service_server::DataPlaneService,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    app::App,
    metrics::Metrics,
    store::{KeyHash, PolicyDelta, RebuildRecord, StoreError},
};

/// How often the revision is looked up, for changes that other replicas made.
const POLL_EVERY: Duration = Duration::from_millis(250);
/// A database that is silent for so long ends the stream: the data plane must know that its policy may be old, before
/// other control planes no longer wait for it.
const STORE_WAIT: Duration = Duration::from_secs(5);

/// Messages that may wait for a slow data plane before its stream waits too.
const WAITING: usize = 4;

/// The planes' own service. Never served on the public listener.
#[derive(Clone, Debug)]
pub struct DataPlanes {
    app: Arc<App>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

impl DataPlanes {
    /// Streams end when `stop` is cancelled.
    #[must_use]
    pub fn new(app: Arc<App>, metrics: Arc<Metrics>, stop: CancellationToken) -> Self {
        Self { app, metrics, stop }
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl DataPlaneService for DataPlanes {
    type WatchStream = Answers<WatchResponse>;
    type ReportStream = Answers<ReportResponse>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let (sender, receiver) = mpsc::channel(WAITING);
        let this = self.clone();
        tokio::spawn(async move {
            this.metrics.watchers.inc();
            if let Err(status) = this.follow(&request, &sender).await {
                // Nobody listens any more when this fails.
                let _ = sender.send(Err(status)).await;
            }
            this.metrics.watchers.dec();
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn confirm_policy(
        &self,
        request: Request<ConfirmPolicyRequest>,
    ) -> Result<Response<ConfirmPolicyResponse>, Status> {
        let request = request.into_inner();
        self.app.data_planes().confirm(&request.dataplane_id, &request.history_id, request.revision);
        Ok(Response::new(ConfirmPolicyResponse {}))
    }

    async fn deliver(&self, request: Request<DeliverRequest>) -> Result<Response<DeliverResponse>, Status> {
        let kept = self.app.delivered(request.get_ref()).await;
        match kept {
            Ok(true) => Ok(Response::new(DeliverResponse {})),
            Ok(false) => Err(Status::failed_precondition("no rebuild of that id is under way")),
            Err(error) => {
                self.metrics.store_errors.inc();
                tracing::warn!(error = &error as &dyn std::error::Error, "a delivery could not be kept");
                Err(Status::unavailable("the delivery could not be kept"))
            }
        }
    }

    async fn leave(&self, request: Request<LeaveRequest>) -> Result<Response<LeaveResponse>, Status> {
        let now_ms = self.app.clock().now_ms();
        let dataplane = &request.get_ref().dataplane_id;
        let left = self.app.store().dataplane_left(dataplane, now_ms).await;
        left.map_err(|error| self.failed("the end of a data plane could not be noted", &error))?;
        self.app.data_planes().leave(dataplane);
        Ok(Response::new(LeaveResponse {}))
    }

    async fn report(
        &self,
        request: Request<Streaming<ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let mut batches = request.into_inner();
        let (sender, receiver) = mpsc::channel(WAITING);
        let this = self.clone();
        tokio::spawn(async move {
            loop {
                let batch = tokio::select! {
                    batch = batches.message() => batch,
                    () = this.stop.cancelled() => return,
                };
                let answer = match batch {
                    Ok(Some(batch)) => this.take(&batch).await,
                    Ok(None) => return,
                    Err(status) => {
                        tracing::debug!(?status, "a report stream broke");
                        return;
                    }
                };
                // The first batch that cannot be made durable ends the stream: order is kept, the data plane repeats.
                let failed = answer.is_err();
                if sender.send(answer).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl DataPlanes {
    async fn take(&self, batch: &ReportRequest) -> Result<ReportResponse, Status> {
        let now_ms = self.app.clock().now_ms();
        let report = self.app.store().ingest_records(&batch.dataplane_id, &batch.records, now_ms).await;
        let report = report.map_err(|error| self.failed("records could not be made durable", &error))?;
        self.app.records().send_modify(|batches| *batches = batches.wrapping_add(1));
        self.app.crossed(&report.crossed);
        self.metrics.reported_records.inc_by(batch.records.len() as u64);
        if report.quarantined > 0 {
            let (dataplane, count) = (&batch.dataplane_id, report.quarantined);
            self.metrics.quarantined_records.inc_by(i64::try_from(count).unwrap_or(i64::MAX));
            tracing::error!(
                dataplane,
                count,
                "records that make no sense were set aside in the quarantine table"
            );
        }
        Ok(ReportResponse { acked_seq: report.acked_seq })
    }

    /// Sends policy until the listener leaves. An outage of the store ends the stream, so that the data plane knows
    /// that what it holds may be old.
    async fn follow(
        &self,
        request: &WatchRequest,
        sender: &mpsc::Sender<Result<WatchResponse, Status>>,
    ) -> Result<(), Status> {
        let mut changes = self.app.policy_changes();
        let store = self.app.store();
        let came = store.dataplane_came(&request.dataplane_id, self.app.clock().now_ms());
        self.asked("a data plane could not be noted", came).await?;
        // What it goes on from may not be on its disk: it enforces nothing until it confirms.
        let connection = self.app.data_planes().connect(&request.dataplane_id);
        self.asked("a data plane could not be told of", self.app.data_plane_came()).await?;
        let (mut revision, mut history) = (request.resume_revision, request.history_id.clone());
        let (mut first, mut told) = (true, Vec::new());
        loop {
            changes.mark_unchanged();
            let at = self.asked("policy could not be read", store.policy_position()).await?;
            let rebuilds = self.asked("rebuilds could not be read", store.list_rebuilds()).await?;
            if first || told != rebuilds || at.history_id != history || at.revision != revision {
                let whole = at.history_id != history || at.revision < revision || revision == 0;
                let delta = async {
                    if whole { store.policy_snapshot().await } else { store.policy_since(revision).await }
                };
                let delta = self.asked("policy could not be read", delta).await?;
                (revision, history) = (delta.revision, delta.history_id.clone());
                connection.sends(&history, revision, whole);
                self.metrics.policy_revision.set(revision);
                if sender.send(Ok(message(delta, &rebuilds))).await.is_err() {
                    return Ok(());
                }
                told = rebuilds;
                first = false;
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep(POLL_EVERY) => {}
                () = sender.closed() => return Ok(()),
                () = self.stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Waits for the store, in bounded time.
    async fn asked<T>(
        &self,
        what: &'static str,
        asking: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, Status> {
        let Ok(answer) = tokio::time::timeout(STORE_WAIT, asking).await else {
            self.metrics.store_errors.inc();
            tracing::warn!("{what}: the database is silent");
            return Err(Status::unavailable(what));
        };
        answer.map_err(|error| self.failed(what, &error))
    }

    fn failed(&self, what: &'static str, error: &StoreError) -> Status {
        self.metrics.store_errors.inc();
        tracing::warn!(error = error as &dyn std::error::Error, "{what}");
        Status::unavailable(what)
    }
}

fn message(delta: PolicyDelta, rebuilds: &[RebuildRecord]) -> WatchResponse {
    WatchResponse {
        revision: delta.revision,
        history_id: delta.history_id,
        snapshot: delta.snapshot,
        orgs: delta
            .orgs
            .iter()
            .map(|(org, rule)| wire::OrgPolicy {
                org_id: org.bare(),
                unpriced_hold_nanos: rule.unpriced_hold.map(|hold| hold.0),
            })
            .collect(),
        keys: delta.keys.into_iter().map(|(hash, identity)| key(&hash, identity)).collect(),
        budgets: delta.budgets.iter().map(budget).collect(),
        revoked_key_ids: delta.revoked_keys.iter().map(|id| id.bare()).collect(),
        freezes: delta.freezes.iter().map(freeze).collect(),
        lifted_freeze_ids: delta.lifted_freezes.iter().map(|id| id.bare()).collect(),
        deleted_budget_ids: delta.deleted_budgets.iter().map(|id| id.bare()).collect(),
        prices: delta.prices.iter().map(price_row).collect(),
        catalogue: delta
            .catalogue
            .map(|catalogue| wire::PriceCatalogue { version: catalogue.version, text: catalogue.text }),
        rebuilds: rebuilds
            .iter()
            // What is under way while books are opened is told of by the ledger, once they are open.
            .filter(|rebuild| !rebuild.opening)
            .map(|rebuild| wire::LedgerRebuild { rebuild_id: rebuild.id.clone(), org_id: rebuild.org.bare() })
            .collect(),
    }
}

fn key(hash: &KeyHash, identity: KeyIdentity) -> wire::KeyPolicy {
    wire::KeyPolicy {
        key_id: identity.key.bare(),
        org_id: identity.org.bare(),
        user_id: identity.user.bare(),
        name: identity.name,
        key_sha256: hash.to_vec(),
        role: identity.role.as_str().to_owned(),
        default_tags: identity.default_tags,
        locked_tags: identity.locked_tags,
        required_tags: identity.required_tags,
        models_restricted: identity.allowed_models.is_some(),
        allowed_models: identity.allowed_models.unwrap_or_default(),
        providers_restricted: identity.allowed_providers.is_some(),
        allowed_providers: identity.allowed_providers.unwrap_or_default(),
        api_version: identity.api_version,
    }
}

fn freeze(freeze: &Freeze) -> wire::FreezeRule {
    wire::FreezeRule {
        freeze_id: freeze.freeze.bare(),
        org_id: freeze.org.bare(),
        entity_type: freeze.target.kind().to_owned(),
        entity_id: freeze.target.stored_id(),
        reason: freeze.reason.clone(),
        since_ms: freeze.since_ms,
    }
}

fn price_row(row: &PriceRow) -> wire::PriceRow {
    wire::PriceRow {
        price_id: row.id.bare(),
        version: row.version,
        org_id: row.org.map(|org| org.bare()).unwrap_or_default(),
        from_ms: row.from_ms,
        until_ms: row.until_ms,
        terms_json: row.terms.to_json(),
    }
}

fn budget(rule: &BudgetRule) -> wire::BudgetRule {
    wire::BudgetRule {
        budget_id: rule.budget.bare(),
        org_id: rule.org.bare(),
        entity_type: rule.entity.kind().to_owned(),
        entity_id: rule.entity.stored_id(),
        name: rule.name.clone(),
        limit_nanos: rule.limit.0,
        policy: rule.enforcement.as_str().to_owned(),
        interval: rule.interval.as_str().to_owned(),
        time_zone: rule.time_zone.name().to_owned(),
        generation: rule.generation,
        revision: rule.revision,
        session_limit_nanos: rule.session_limit.map(|limit| limit.0),
        velocity: rule.velocity.map(|velocity| wire::Velocity {
            limit_nanos: velocity.limit.0,
            window_ms: velocity.window_ms,
            cooldown_ms: velocity.cooldown_ms,
        }),
        finalization_reserve_nanos: rule.finalization_reserve.0,
        clamp_output: rule.output.clamp,
        incremental_hold: rule.output.incremental,
        loop_max_calls: rule.loop_max_calls,
        outage_credit_nanos: rule.outage_credit.0,
    }
}

//! The control plane put together: what the program builds, starts and stops.

use std::{fmt, num::NonZeroU32, path::PathBuf, sync::Arc, time::Duration};

use axum::serve::Listener;
use futures::{Stream, TryFutureExt as _};
use nullspend_core::{clock::Clock, id::Ids, ledger::Ledger, price::Catalogue};
use nullspend_proto::internal::data_plane_service_server::DataPlaneServiceServer;
use secrecy::SecretString;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    service::interceptor::InterceptedService,
    transport::{Server, server::Connected},
};

use crate::{
    Api,
    app::{App, AppError, Bootstrap, Compared, Unusable},
    auth::{Gatekeeper, Guarded, KeyLimit},
    backing::Backing,
    catalogue::{CatalogueFile, CatalogueFileError},
    gateway::Gateway,
    idempotency::Idempotent,
    internal::DataPlanes,
    jobs::housekeeping,
    join::JoinCheck,
    ledger_jobs,
    metrics::Metrics,
    reflection::{ReflectionError, add_reflection},
    schema::{Schema, SchemaError},
    server::{self, Front},
    store::{OpenError, Store, StoreError},
};

/// Largest message of a data plane: a batch of records, or what it has under way.
const MAX_INTERNAL_MESSAGE: usize = 64 * 1024 * 1024;
/// A data plane whose host is gone must not count as one that only does not confirm: it is asked for a sign of life so
/// often, and given up after as long without one.
const KEEP_ALIVE: Duration = Duration::from_secs(4);

/// What the control plane needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// `sqlite:PATH` or `postgres://…`. A secret: it may hold a password.
    pub database_url: SecretString,
    /// The operator's price catalogue; `None`: the program's own.
    pub catalogue_file: Option<PathBuf>,
    /// Calls of the API that one key may make in a minute; `None`: any number.
    pub api_calls_per_minute: Option<NonZeroU32>,
}

/// What the composition root chooses.
#[derive(Clone)]
pub struct Deps {
    /// The one ledger of all spend.
    pub ledger: Arc<dyn Ledger>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// New ids.
    pub ids: Arc<dyn Ids>,
}

impl fmt::Debug for Deps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deps").finish_non_exhaustive()
    }
}

/// The control plane could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The API definition asks for what the product cannot serve.
    #[error("the API definition cannot be served")]
    Schema(#[from] SchemaError),
    /// Reflection.
    #[error("reflection cannot be served")]
    Reflection(#[from] ReflectionError),
    /// The database.
    #[error("the database cannot be used")]
    Store(#[from] OpenError),
}

/// The in-process ledger of this database belongs to somebody else, or nobody can tell.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another node's.
    #[error(
        "this database belongs to node {owner}, whose spool may hold cost that was not reported yet; start that node, \
         or run `nullspend ledger take-over` here when it is gone for good"
    )]
    OtherNode {
        /// The owner's id.
        owner: String,
    },
    /// The database did not answer.
    #[error("claiming the database for this node")]
    Store(#[from] StoreError),
}

/// The price catalogue cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum LoadCatalogueError {
    /// The operator's.
    #[error(transparent)]
    File(#[from] CatalogueFileError),
    /// The program's own.
    #[error("the program's own price catalogue cannot be put in force")]
    Shipped(#[from] Unusable),
}

/// A built control plane. Nothing listens until one of the `serve_*` futures runs.
pub struct ControlPlane {
    app: Arc<App>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    front: Front,
    catalogue_file: Option<PathBuf>,
}

impl fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlPlane").finish_non_exhaustive()
    }
}

impl ControlPlane {
    /// Opens and migrates the store and builds the service stack.
    ///
    /// # Errors
    /// [`BuildError`] names the part that failed.
    pub async fn build(config: Config, deps: Deps) -> Result<Arc<Self>, BuildError> {
        let history_id = deps.ids.v4().hyphenated().to_string();
        let store = Store::open(&config.database_url, &history_id).await?;
        let schema = Arc::new(Schema::load()?);
        let metrics = Arc::new(Metrics::default());
        let clock = Arc::clone(&deps.clock);
        let app = App::new(store.clone(), deps.ledger, deps.clock, Arc::clone(&deps.ids));
        let app = Arc::new(app.counting(metrics.thresholds.clone()));
        let backing = Arc::new(Backing { store, clock: Arc::clone(&clock), metrics: Arc::clone(&metrics) });
        let (reporter, health) = tonic_health::server::health_reporter();
        for service in
            schema.methods.iter().map(|method| method.descriptor.parent_service().full_name().to_owned())
        {
            reporter.set_service_status(service, tonic_health::ServingStatus::Serving).await;
        }
        let routes = add_reflection(crate::grpc::routes(&app).add_service(health))?.prepare();
        let limit = config.api_calls_per_minute.map(|calls| KeyLimit::new(calls, Arc::clone(&clock)));
        let gatekeeper = Gatekeeper::new(Arc::clone(&schema), backing.clone()).limiting(limit);
        let idempotent = Idempotent::new(Arc::clone(&schema), backing, routes);
        let api = Api::new(Guarded::new(gatekeeper.clone(), idempotent));
        let gateway =
            Gateway::new(Arc::clone(&schema), gatekeeper, api.clone(), Arc::clone(&clock), deps.ids)?;
        let front = Front::new(api, gateway, schema, Arc::clone(&metrics));
        Ok(Arc::new(Self { app, clock, metrics, front, catalogue_file: config.catalogue_file }))
    }

    /// The use cases.
    #[must_use]
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Founds the first organisation with an owner and an agent key, on an empty database only. `owner_key` is the raw
    /// owner key to create; made up when absent. The raw keys are in the answer and nowhere else.
    ///
    /// # Errors
    /// When the key has not the form of one, or the database fails.
    pub async fn bootstrap(&self, owner_key: Option<SecretString>) -> Result<Option<Bootstrap>, AppError> {
        self.app.bootstrap(owner_key).await
    }

    /// Puts the price catalogue in force: the operator's file, else the program's own.
    ///
    /// # Errors
    /// When the file cannot be used, or the database fails.
    pub async fn load_catalogue(&self) -> Result<(), LoadCatalogueError> {
        match &self.catalogue_file {
            Some(path) => CatalogueFile::new(path).look(&self.app).await.transpose()?,
            None => Some(self.app.put_catalogue(Catalogue::shipped_text()).await?),
        };
        Ok(())
    }

    /// Fills the ledger of this process from the store: after spools were replayed, before the first decision.
    ///
    /// # Errors
    /// When the database or the ledger fails.
    pub async fn load_ledger(&self) -> Result<(), AppError> {
        self.app.retry_quarantine().await;
        self.app.load_ledger().await
    }

    /// Looks at the books of a ledger that outlives this process, and makes lost ones again; true when all are whole.
    ///
    /// # Errors
    /// When the database or the ledger does not answer.
    pub async fn look_at_ledger(&self) -> Result<bool, AppError> {
        let looked = self.app.rebuild_lost().await?;
        self.app.apply_all_limits().await?;
        Ok(looked.waiting.is_empty() && looked.unseen == 0)
    }

    /// Every window's settled total, as the ledger and as the store has it. See [`App::compare_ledger`].
    ///
    /// # Errors
    /// When the database or the ledger does not answer.
    pub async fn compare_ledger(&self) -> Result<Compared, AppError> {
        self.app.compare_ledger(ledger_jobs::PATIENCE).await
    }

    /// Gives the ledger's books up: whoever follows the ledger makes them again.
    ///
    /// # Errors
    /// When the database or the ledger does not answer.
    pub async fn give_up_ledger(&self) -> Result<(), AppError> {
        self.app.give_up_ledger().await
    }

    /// No rebuild waits for a data plane any more; false when nobody knows it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn write_off(&self, dataplane: &str) -> Result<bool, StoreError> {
        let known = self.app.store().dataplane_left(dataplane, self.clock.now_ms()).await?;
        if known {
            tracing::warn!(
                dataplane,
                "a data plane was written off: what only it knows is left out of rebuilds"
            );
        }
        Ok(known)
    }

    /// Makes lost books of such a ledger again, until `stop`; and takes in what earlier runs set aside, of which the ledger
    /// knows already.
    pub async fn follow_ledger(&self, stop: CancellationToken) {
        let looking = ledger_jobs::look(&self.app, &self.metrics);
        let working = async { tokio::join!(looking, self.app.retry_quarantine()) };
        let _ = stop.run_until_cancelled(Box::pin(working)).await;
        if let Err(error) = self.app.give_rebuilds_back().await {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "rebuilds that this control plane claimed wait until its claim is over");
        }
    }

    /// Compares the ledger with the store until `stop`.
    pub async fn watch_drift(&self, stop: CancellationToken) {
        let comparing = ledger_jobs::compare(&self.app, &self.metrics);
        let _ = stop.run_until_cancelled(Box::pin(comparing)).await;
    }

    /// Claims the database for the in-process ledger of `node_id` (kept in the data directory).
    ///
    /// # Errors
    /// [`ClaimError::OtherNode`] when another node claimed it before.
    pub async fn claim_node(&self, node_id: &str) -> Result<(), ClaimError> {
        let owner = self.app.store().claim_node(node_id, self.clock.now_ms()).await?;
        if owner == node_id { Ok(()) } else { Err(ClaimError::OtherNode { owner }) }
    }

    /// Makes `node_id` the owner of the database, whoever was; returns the owner before.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn take_over_node(&self, node_id: &str) -> Result<String, StoreError> {
        let (store, now_ms) = (self.app.store(), self.clock.now_ms());
        let before = store.claim_node(node_id, now_ms).await?;
        store.take_over_node(node_id, now_ms).await?;
        Ok(before)
    }

    /// Serves gRPC and REST, deletes what is too old, and follows the catalogue file, until `stop`.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub async fn serve_public<L>(&self, listener: L, stop: CancellationToken) -> std::io::Result<()>
    where
        L: Listener,
        L::Addr: fmt::Debug,
    {
        let mut jobs = JoinSet::new();
        let (app, metrics) = (&self.app, &self.metrics);
        jobs.spawn(housekeeping(Arc::clone(app), Arc::clone(metrics), stop.clone()));
        if let Some(path) = &self.catalogue_file {
            jobs.spawn(CatalogueFile::new(path).follow(Arc::clone(app), Arc::clone(metrics), stop.clone()));
        }
        let served = self.front.clone().serve(listener, stop).await;
        jobs.abort_all();
        served
    }

    /// The public side, for another kind of listener.
    #[must_use]
    pub fn front(&self) -> &Front {
        &self.front
    }

    /// Serves data planes that pass `join` until `stop`. Runs before [`serve_public`](Self::serve_public): spools are replayed before
    /// the ledger is loaded (design §5, start).
    ///
    /// # Errors
    /// When the listener fails for good.
    pub async fn serve_internal<S, Io>(
        &self,
        incoming: S,
        join: JoinCheck,
        stop: CancellationToken,
    ) -> std::io::Result<()>
    where
        S: Stream<Item = std::io::Result<Io>>,
        Io: AsyncRead + AsyncWrite + Connected + Send + Unpin + 'static,
    {
        let service = DataPlanes::new(Arc::clone(&self.app), Arc::clone(&self.metrics), stop.clone());
        let service = DataPlaneServiceServer::new(service)
            .max_decoding_message_size(MAX_INTERNAL_MESSAGE)
            // A whole policy is as large as there are keys and budgets.
            .max_encoding_message_size(usize::MAX);
        let mut jobs = JoinSet::new();
        let app = Arc::clone(&self.app);
        jobs.spawn(async move { app.keep_telling_enforced().await });
        let serving = Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE))
            .add_service(InterceptedService::new(service, join))
            .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        let served = server::until(Box::pin(serving.map_err(std::io::Error::other)), stop).await;
        jobs.shutdown().await;
        if let Err(error) = self.app.stop_telling_enforced().await {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "other control planes wait for this one until its lease ends");
        }
        served
    }

    /// Serves `/metrics` until `stop`.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub async fn serve_admin<L>(&self, listener: L, stop: CancellationToken) -> std::io::Result<()>
    where
        L: Listener,
        L::Addr: fmt::Debug,
    {
        server::serve_metrics(Arc::clone(&self.metrics), listener, stop).await
    }

    /// Closes the store, after everything else has stopped.
    pub async fn close(&self) {
        self.app.store().close().await;
    }
}

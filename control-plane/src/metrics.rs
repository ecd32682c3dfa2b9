//! Counters of the control plane, in Prometheus' text form.

use std::{fmt, sync::atomic::AtomicU64};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Labels of one kind of request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    transport: &'static str,
    method: String,
    status: String,
}

/// The control plane's counters.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    /// Records of data planes made durable.
    pub reported_records: Counter,
    /// Records that could not be taken in and are set aside in the quarantine table.
    pub quarantined_records: Gauge,
    /// Store operations that failed.
    pub store_errors: Counter,
    /// Thresholds that budgets have reached.
    pub thresholds: Counter,
    /// Revision of the policy that data planes were last sent.
    pub policy_revision: Gauge<u64, AtomicU64>,
    /// Data planes that are watching now.
    pub watchers: Gauge,
    /// Organisations whose books in the ledger were made again.
    pub ledger_rebuilds: Counter,
    /// Organisations whose calls are refused until data planes have told what they have under way.
    pub ledger_waiting: Gauge,
    /// By how much the ledger's settled totals differ from the store's, lastingly, in nano-dollars.
    pub ledger_drift_nanos: Gauge,
    /// Times that a changed catalogue file was put in force.
    pub catalogue_changes: Counter,
    /// Times that a changed catalogue file could not be used.
    pub catalogue_refusals: Counter,
    /// 0 while the catalogue file cannot be used as it is.
    pub catalogue_current: Gauge,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("nullspend_control");
        let requests = Family::<RequestLabels, Counter>::default();
        let (reported_records, store_errors) = (Counter::default(), Counter::default());
        let thresholds = Counter::default();
        registry.register("thresholds", "Thresholds that budgets have reached", thresholds.clone());
        let (policy_revision, watchers) = (Gauge::default(), Gauge::default());
        registry.register("requests", "Calls answered, by transport, method and status", requests.clone());
        registry.register(
            "reported_records",
            "Records of data planes made durable",
            reported_records.clone(),
        );
        let quarantined_records = Gauge::default();
        registry.register(
            "quarantined_records",
            "Records that could not be taken in and are set aside in the quarantine table",
            quarantined_records.clone(),
        );
        registry.register("store_errors", "Store operations that failed", store_errors.clone());
        registry.register(
            "policy_revision",
            "Policy revision last sent to a data plane",
            policy_revision.clone(),
        );
        registry.register("watchers", "Data planes watching policy now", watchers.clone());
        let mut metrics = Self {
            registry,
            requests,
            reported_records,
            quarantined_records,
            store_errors,
            thresholds,
            policy_revision,
            watchers,
            ledger_rebuilds: Counter::default(),
            ledger_waiting: Gauge::default(),
            ledger_drift_nanos: Gauge::default(),
            catalogue_changes: Counter::default(),
            catalogue_refusals: Counter::default(),
            catalogue_current: Gauge::default(),
        };
        metrics.register_catalogue();
        metrics.register_ledger();
        metrics
    }
}

impl Metrics {
    fn register_catalogue(&mut self) {
        let registry = &mut self.registry;
        for (name, help, counter) in [
            ("catalogue_changes", "Changed catalogue files put in force", &self.catalogue_changes),
            (
                "catalogue_refusals",
                "Changed catalogue files that could not be used",
                &self.catalogue_refusals,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        self.catalogue_current.set(1);
        registry.register(
            "catalogue_current",
            "0 while the catalogue file cannot be used as it is, and the prices before it stay",
            self.catalogue_current.clone(),
        );
    }

    fn register_ledger(&mut self) {
        let registry = &mut self.registry;
        let rebuilds = self.ledger_rebuilds.clone();
        registry.register("ledger_rebuilds", "Books of the ledger that were lost and made again", rebuilds);
        for (name, help, gauge) in [
            (
                "ledger_waiting",
                "Organisations refused until a rebuild of the ledger is done",
                &self.ledger_waiting,
            ),
            (
                "ledger_drift_nanodollars",
                "Settled totals of the ledger and of the store differ by so much, lastingly",
                &self.ledger_drift_nanos,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
    }

    /// Counts an answered call. `method` must come from a bounded set.
    pub(crate) fn request(&self, transport: &'static str, method: &str, status: &str) {
        let labels = RequestLabels { transport, method: method.to_owned(), status: status.to_owned() };
        self.requests.get_or_create(&labels).inc();
    }

    /// The text that Prometheus scrapes.
    ///
    /// # Errors
    /// When a metric cannot be written, which no metric here does.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

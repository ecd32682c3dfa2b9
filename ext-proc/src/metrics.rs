//! What the data plane tells Prometheus.

use std::sync::atomic::AtomicU64;

use nullspend_core::{
    attempt::{Api, Ending, Measurement},
    ledger::OpenHolds,
    money::Nanos,
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::{spool::SpoolStats, unpriced::Unpriced};

/// Upper bounds of the added latency's buckets, in seconds: from what a decision takes to what must not happen.
const LATENCY_BUCKETS: [f64; 14] =
    [5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 7.5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2.5e-2, 1e-1, 5e-1, 2.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    api: &'static str,
    status: &'static str,
    ending: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CodeLabel {
    code: String,
}

/// Numbers that are read at the moment of a scrape.
#[derive(Clone, Copy, Debug, Default)]
pub struct Observed {
    /// The spool.
    pub spool: SpoolStats,
    /// The ledger's open holds; `None` when it cannot be reached.
    pub holds: Option<OpenHolds>,
    /// Time since the policy was known to be current, in milliseconds; `None` before the first.
    pub policy_age_ms: Option<i64>,
    /// Revision of the policy.
    pub policy_revision: u64,
    /// Rows of the policy that could not be understood.
    pub policy_bad_rows: u64,
    /// The policy stream is up.
    pub policy_connected: bool,
    /// Now, in Unix milliseconds.
    pub now_ms: i64,
}

#[derive(Debug, Default)]
struct Gauges {
    open_holds: Gauge,
    oldest_hold: Gauge<f64, AtomicU64>,
    held: Gauge<f64, AtomicU64>,
    ledger_up: Gauge,
    open_attempts: Gauge,
    spool_depth: Gauge,
    spool_age: Gauge<f64, AtomicU64>,
    spool_bytes: Gauge,
    policy_age: Gauge<f64, AtomicU64>,
    policy_revision: Gauge,
    policy_bad_rows: Gauge,
    policy_connected: Gauge,
}

/// All counters of one data plane; shared by reference, no globals.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    denials: Family<CodeLabel, Counter>,
    measurements: [(Measurement, Counter); 3],
    unpriced_events: Counter,
    overages: Counter,
    overage_dollars: Counter<f64, AtomicU64>,
    added_latency: Histogram,
    gauges: Gauges,
    /// Calls of models without a price.
    pub(crate) unpriced: Unpriced,
    /// Denials that got no record because their key's minute was full.
    pub denials_suppressed: Counter,
    /// Records the spool could not take.
    pub spool_refusals: Counter,
    /// Records the control plane acknowledged.
    pub events_acked: Counter,
    /// Report streams that ended before they should.
    pub report_failures: Counter,
    /// Open holds whose renewal found them lapsed or unknown.
    pub leases_lost: Counter,
    /// Streams that ended because no more could be held for them.
    pub streams_cut: Counter,
    /// Ledger calls that did not reach it.
    pub ledger_failures: Counter,
    /// Reserves that were taken back because their answer did not come.
    pub reserves_given_up: Counter,
    /// Settlements taken as made, since the ledger had forgotten whether it carried them out.
    pub settlements_presumed: Counter,
    /// Calls that passed on their budgets' credit, since the ledger did not answer.
    pub calls_on_credit: Counter,
    /// Rows of the control plane's policy that were refused.
    pub policy_rows_refused: Counter,
    /// Policies that the disk did not take at once: a restart would not enforce them, so they are not confirmed.
    pub policy_save_failures: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All zero.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("nullspend"),
            requests: Family::default(),
            denials: Family::default(),
            measurements: [Measurement::Exact, Measurement::Estimated, Measurement::Lapsed]
                .map(|measurement| (measurement, Counter::default())),
            unpriced_events: Counter::default(),
            overages: Counter::default(),
            overage_dollars: Counter::default(),
            added_latency: Histogram::new(LATENCY_BUCKETS),
            gauges: Gauges::default(),
            unpriced: Unpriced::default(),
            denials_suppressed: Counter::default(),
            spool_refusals: Counter::default(),
            events_acked: Counter::default(),
            report_failures: Counter::default(),
            leases_lost: Counter::default(),
            streams_cut: Counter::default(),
            ledger_failures: Counter::default(),
            reserves_given_up: Counter::default(),
            settlements_presumed: Counter::default(),
            calls_on_credit: Counter::default(),
            policy_rows_refused: Counter::default(),
            policy_save_failures: Counter::default(),
        };
        metrics.register_counters();
        metrics.register_gauges();
        metrics
    }

    fn register_counters(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "requests",
            "Forwarded requests, by API, status class and ending",
            self.requests.clone(),
        );
        registry.register("denials", "Refused requests, by error code", self.denials.clone());
        registry.register(
            "unpriced",
            "Calls of models without a price, refused or held, by provider and model",
            self.unpriced.counter(),
        );
        for (measurement, counter) in &self.measurements {
            let name = format!("events_{}", measurement.as_str());
            registry.register(
                name,
                format!("Cost events whose measurement is {}", measurement.as_str()),
                counter.clone(),
            );
        }
        for (name, help, counter) in [
            ("events_unpriced", "Cost events of models without a price", &self.unpriced_events),
            ("overages", "Settlements above their hold", &self.overages),
            ("denials_suppressed", "Denials counted without a record of their own", &self.denials_suppressed),
            ("spool_refusals", "Records the spool could not take", &self.spool_refusals),
            ("records_acked", "Records the control plane acknowledged", &self.events_acked),
            ("report_failures", "Report streams that failed", &self.report_failures),
            ("leases_lost", "Open holds that lapsed or vanished under their owner", &self.leases_lost),
            ("streams_cut", "Streams ended because no more could be held for them", &self.streams_cut),
            ("ledger_failures", "Ledger calls that did not reach it", &self.ledger_failures),
            (
                "settlements_presumed",
                "Settlements taken as made, since the ledger had forgotten whether it carried them out",
                &self.settlements_presumed,
            ),
            (
                "reserves_given_up",
                "Reserves taken back because their answer did not come",
                &self.reserves_given_up,
            ),
            (
                "calls_on_credit",
                "Calls passed on credit while the ledger did not answer",
                &self.calls_on_credit,
            ),
            ("policy_rows_refused", "Policy rows that could not be understood", &self.policy_rows_refused),
            (
                "policy_save_failures",
                "Policies the disk did not take at once, and which wait to be confirmed",
                &self.policy_save_failures,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "overage_dollars",
            "Sum of what settlements exceeded their holds by",
            self.overage_dollars.clone(),
        );
        registry.register(
            "added_latency_seconds",
            "Time spent in the product before a request is forwarded",
            self.added_latency.clone(),
        );
    }

    fn register_gauges(&mut self) {
        let (registry, gauges) = (&mut self.registry, &self.gauges);
        for (name, help, gauge) in [
            ("open_holds", "Open holds in the ledger", &gauges.open_holds),
            ("ledger_up", "1 while the ledger answers", &gauges.ledger_up),
            ("open_attempts", "Attempts opened and not closed", &gauges.open_attempts),
            ("spool_depth", "Records waiting for acknowledgement", &gauges.spool_depth),
            ("spool_bytes", "Bytes of the spool", &gauges.spool_bytes),
            ("policy_revision", "Revision of the enforced policy", &gauges.policy_revision),
            (
                "policy_bad_rows",
                "Rows of the enforced policy that could not be understood",
                &gauges.policy_bad_rows,
            ),
            ("policy_connected", "1 while the policy stream is up", &gauges.policy_connected),
        ] {
            registry.register(name, help, gauge.clone());
        }
        for (name, help, gauge) in [
            ("oldest_hold_seconds", "Age of the oldest open hold", &gauges.oldest_hold),
            ("held_dollars", "Sum of open holds", &gauges.held),
            ("spool_oldest_seconds", "Age of the oldest waiting record", &gauges.spool_age),
            (
                "policy_age_seconds",
                "Time since the policy was known to be current; -1 without one",
                &gauges.policy_age,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
    }

    /// A forwarded request ended.
    pub fn request(&self, api: Api, status_code: u16, ending: Ending) {
        let status = match status_code {
            100..=199 => "1xx",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            500..=599 => "5xx",
            _ => "none",
        };
        let labels = RequestLabels { api: api.as_str(), status, ending: ending.as_str() };
        self.requests.get_or_create(&labels).inc();
    }

    /// A request was refused with this error code.
    pub fn denial(&self, code: &str) {
        self.denials.get_or_create(&CodeLabel { code: code.to_owned() }).inc();
    }

    /// A cost event was made.
    pub fn event(&self, measurement: Measurement, unpriced: bool) {
        if let Some((_, counter)) = self.measurements.iter().find(|(kind, _)| *kind == measurement) {
            counter.inc();
        }
        if unpriced {
            self.unpriced_events.inc();
        }
    }

    /// A settlement exceeded its hold.
    pub fn overage(&self, by: Nanos) {
        if by > Nanos::ZERO {
            self.overages.inc();
            self.overage_dollars.inc_by(dollars(by));
        }
    }

    /// A request was forwarded after spending this long in the product, in microseconds.
    pub fn added_latency(&self, microseconds: u64) {
        #[expect(clippy::cast_precision_loss, reason = "a metric, exact up to 2^53 microseconds")]
        self.added_latency.observe(microseconds as f64 / 1e6);
    }

    /// The text of a scrape (OpenMetrics).
    #[must_use]
    pub fn encode(&self, observed: &Observed) -> String {
        let gauges = &self.gauges;
        gauges.ledger_up.set(i64::from(observed.holds.is_some()));
        if let Some(holds) = observed.holds {
            gauges.open_holds.set(count(holds.count));
            gauges.oldest_hold.set(seconds(holds.oldest_ms));
            gauges.held.set(dollars(holds.held));
        }
        gauges.open_attempts.set(count(observed.spool.open_attempts));
        gauges.spool_depth.set(count(observed.spool.depth));
        gauges.spool_bytes.set(count(observed.spool.bytes));
        let waiting_ms = observed.spool.oldest_at_ms.map_or(0, |at| (observed.now_ms - at).max(0));
        gauges.spool_age.set(seconds(waiting_ms));
        gauges.policy_age.set(observed.policy_age_ms.map_or(-1.0, seconds));
        gauges.policy_revision.set(count(observed.policy_revision));
        gauges.policy_bad_rows.set(count(observed.policy_bad_rows));
        gauges.policy_connected.set(i64::from(observed.policy_connected));
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}

fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "a metric for people; money is never computed from it")]
fn seconds(milliseconds: i64) -> f64 {
    milliseconds as f64 / 1e3
}

#[expect(clippy::cast_precision_loss, reason = "a metric for people; money is never computed from it")]
fn dollars(nanos: Nanos) -> f64 {
    nanos.0 as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unpriced::Fate;

    #[test]
    fn a_scrape_shows_what_was_counted_and_observed() {
        let metrics = Metrics::new();
        metrics.request(Api::OpenAiChat, 200, Ending::Complete);
        metrics.denial("budget_exceeded");
        metrics.event(Measurement::Estimated, true);
        metrics.unpriced.call("openai", "gpt-9", Fate::Refused, 0);
        metrics.overage(Nanos(500_000_000));
        metrics.overage(Nanos::ZERO);
        metrics.added_latency(180);
        let text = metrics.encode(&Observed {
            spool: SpoolStats {
                depth: 3,
                oldest_at_ms: Some(1_000),
                bytes: 99,
                open_attempts: 2,
                unsettled: 0,
            },
            holds: Some(OpenHolds { count: 4, oldest_ms: 1_500, held: Nanos(2_000_000_000) }),
            policy_age_ms: None,
            now_ms: 3_500,
            ..Observed::default()
        });
        for line in [
            r#"nullspend_requests_total{api="chat.completions",status="2xx",ending="complete"} 1"#,
            r#"nullspend_denials_total{code="budget_exceeded"} 1"#,
            "nullspend_events_estimated_total 1",
            "nullspend_events_lapsed_total 0",
            "nullspend_events_unpriced_total 1",
            r#"nullspend_unpriced_total{provider="openai",model="gpt-9"} 1"#,
            "nullspend_overages_total 1",
            "nullspend_overage_dollars_total 0.5",
            r#"nullspend_added_latency_seconds_bucket{le="0.0002"} 1"#,
            "nullspend_open_holds 4",
            "nullspend_oldest_hold_seconds 1.5",
            "nullspend_spool_depth 3",
            "nullspend_spool_oldest_seconds 2.5",
            "nullspend_policy_age_seconds -1.0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} not in\n{text}");
        }
    }
}

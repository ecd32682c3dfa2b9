use nullspend_core::id::{Ids as _, RandomIds};
use nullspend_proto::internal::{AttemptStub, Closed, Opened, Settled, SpoolRecord, spool_record::Kind};
use tempfile::TempDir;

use super::*;
use crate::{
    spool::{Fsync, SpoolConfig},
    testing::{FakePlane, OnReport},
};

const SOON: Duration = Duration::from_secs(20);

struct World {
    /// Kept for as long as the spool in it.
    dir: TempDir,
    spool: Arc<Spool>,
    plane: FakePlane,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
}

fn spool(dir: &TempDir) -> Arc<Spool> {
    let config = SpoolConfig { fsync: Fsync::Never, ..SpoolConfig::default() };
    Spool::open(dir.path(), config, &RandomIds).unwrap().0
}

impl World {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let spool = spool(&dir);
        Self {
            dir,
            spool,
            plane: FakePlane::default(),
            metrics: Arc::new(Metrics::new()),
            shutdown: CancellationToken::new(),
        }
    }

    fn report(&self, config: ReportConfig) -> tokio::task::JoinHandle<()> {
        let (spool, metrics) = (Arc::clone(&self.spool), Arc::clone(&self.metrics));
        let reporter = Reporter::new(spool, self.plane.channel(), config, metrics);
        tokio::spawn(reporter.run(self.shutdown.clone()))
    }

    /// An attempt's three records; returns the number of the reported one.
    fn attempt(&self) -> u64 {
        let stub = AttemptStub { attempt_id: RandomIds.v4().to_string(), ..AttemptStub::default() };
        let attempt_id = stub.attempt_id.clone();
        let append = |kind| self.spool.append(&SpoolRecord { kind: Some(kind) }).unwrap();
        append(Kind::Opened(Opened { stub: Some(stub.clone()) }));
        let seq = append(Kind::Closed(Closed { stub: Some(stub), ..Closed::default() }));
        append(Kind::Settled(Settled { attempt_id }));
        seq
    }

    fn attempts(&self, count: usize) -> Vec<u64> {
        (0..count).map(|_| self.attempt()).collect()
    }
}

fn small() -> ReportConfig {
    ReportConfig { max_records: 3, in_flight: 2, linger: Duration::ZERO, ..ReportConfig::default() }
}

#[tokio::test]
async fn every_end_is_reported_once_and_in_order() {
    let world = World::new();
    let before = world.attempts(7);
    world.report(small());
    assert!(flush(&world.spool, SOON).await);
    let after = world.attempts(5);
    assert!(flush(&world.spool, SOON).await);
    assert_eq!(world.plane.deliveries(), [before, after].concat());
    assert_eq!(world.plane.report_streams(), 1);
    assert_eq!(world.spool.depth(), 0);
    assert_eq!(world.metrics.events_acked.get(), 12);
}

#[tokio::test(start_paused = true)]
async fn broken_streams_lose_nothing() {
    let world = World::new();
    world.plane.on_reports([
        OnReport::Break,
        OnReport::KeepAndBreak,
        OnReport::Ack,
        OnReport::Break,
        OnReport::KeepAndBreak,
    ]);
    let all = world.attempts(20);
    world.report(small());
    assert!(flush(&world.spool, SOON).await);
    assert_eq!(world.plane.kept(), all);
    assert_eq!(world.plane.report_streams(), 5);
    assert_eq!(world.metrics.report_failures.get(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_silent_control_plane_is_given_up_and_asked_again() {
    let world = World::new();
    world.plane.on_reports([OnReport::Stall, OnReport::Stall]);
    let all = world.attempts(4);
    world.report(small());
    assert!(!flush(&world.spool, Duration::from_secs(20)).await, "nothing was acknowledged yet");
    assert!(flush(&world.spool, Duration::from_secs(60)).await);
    assert_eq!(world.plane.kept(), all);
    assert_eq!(world.plane.report_streams(), 2);
}

#[tokio::test]
async fn an_acknowledgement_of_what_was_never_sent_means_nothing() {
    let world = World::new();
    world.plane.on_reports([OnReport::AckTooMuch]);
    let first = world.attempts(2);
    world.report(small());
    assert!(flush(&world.spool, SOON).await);
    let second = world.attempts(2);
    assert!(flush(&world.spool, SOON).await);
    assert_eq!(world.plane.kept(), [first, second].concat());
}

#[tokio::test]
async fn a_restart_goes_on_after_the_last_acknowledgement() {
    let world = World::new();
    let first = world.attempts(3);
    let task = world.report(small());
    assert!(flush(&world.spool, SOON).await);
    world.shutdown.cancel();
    task.await.unwrap();
    let second = world.attempts(3);
    let World { dir, spool: old, plane, metrics, .. } = world;
    drop(old);
    let world = World { spool: spool(&dir), dir, plane, metrics, shutdown: CancellationToken::new() };
    world.report(small());
    assert!(flush(&world.spool, SOON).await);
    assert_eq!(world.plane.deliveries(), [first, second].concat(), "nothing acknowledged came twice");
}

#[tokio::test]
async fn many_records_travel_in_few_messages() {
    let world = World::new();
    let all = world.attempts(1200);
    world.report(ReportConfig::default());
    assert!(flush(&world.spool, SOON).await);
    assert_eq!(world.plane.kept(), all);
}

#[test]
fn denials_are_capped_for_each_key_and_minute_and_the_rest_is_counted() {
    let denials = Denials::new(2);
    let (a, b) = (KeyId(RandomIds.v4()), KeyId(RandomIds.v4()));
    assert_eq!(denials.admit(a, 0), Some(0));
    assert_eq!(denials.admit(a, 59_999), Some(0));
    assert_eq!(denials.admit(a, 59_999), None);
    assert_eq!(denials.admit(a, 59_999), None);
    assert_eq!(denials.admit(b, 59_999), Some(0));
    assert_eq!(denials.admit(a, 60_000), Some(2));
    assert_eq!(denials.admit(a, 60_000), Some(0));
}

use std::collections::BTreeMap;

use nullspend_core::{
    clock::ManualClock,
    id::{BudgetId, Ids as _, KeyId, OrgId, RandomIds, UserId},
    money::Nanos,
};
use nullspend_proto::internal::{BudgetRule, FreezeRule, KeyPolicy, OrgPolicy};
use tempfile::TempDir;
use tonic::Status;

use super::*;
use crate::{
    spool::{Fsync, SpoolConfig},
    testing::FakePlane,
};

const SOON: Duration = Duration::from_secs(20);
const SHA: [u8; 32] = [7; 32];

fn id() -> String {
    RandomIds.v4().to_string()
}

fn key(org: &str) -> KeyPolicy {
    KeyPolicy {
        key_id: id(),
        org_id: org.to_owned(),
        user_id: id(),
        key_sha256: SHA.to_vec(),
        role: "agent".to_owned(),
        models_restricted: true,
        ..KeyPolicy::default()
    }
}

fn budget(org: &str) -> BudgetRule {
    BudgetRule {
        budget_id: id(),
        org_id: org.to_owned(),
        entity_type: "org".to_owned(),
        entity_id: org.to_owned(),
        limit_nanos: 5,
        policy: "strict_block".to_owned(),
        interval: "daily".to_owned(),
        time_zone: "Europe/Berlin".to_owned(),
        revision: 3,
        ..BudgetRule::default()
    }
}

fn snapshot(revision: u64) -> WatchResponse {
    WatchResponse { revision, history_id: "h1".to_owned(), snapshot: true, ..WatchResponse::default() }
}

fn delta(revision: u64) -> WatchResponse {
    WatchResponse { snapshot: false, ..snapshot(revision) }
}

fn org_id(text: &str) -> OrgId {
    text.parse().unwrap()
}

struct World {
    _dir: TempDir,
    spool: Arc<Spool>,
    clock: Arc<ManualClock>,
    plane: FakePlane,
}

impl World {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let config = SpoolConfig { fsync: Fsync::Never, ..SpoolConfig::default() };
        let (spool, _) = Spool::open(dir.path(), config, &RandomIds).unwrap();
        Self { _dir: dir, spool, clock: Arc::new(ManualClock::at(1_000)), plane: FakePlane::default() }
    }

    fn load(&self) -> Arc<PolicyWatch> {
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as _;
        PolicyWatch::load(&self.spool, clock, Arc::new(Metrics::new()))
    }

    fn run(&self, watch: &Arc<PolicyWatch>) -> (tokio::task::JoinHandle<()>, CancellationToken) {
        let stop = CancellationToken::new();
        (tokio::spawn(Arc::clone(watch).run(self.plane.channel(), stop.clone())), stop)
    }
}

#[test]
fn a_snapshot_replaces_and_a_delta_is_laid_over() {
    let org = id();
    let mut rows = Rows::default();
    let (first, second) = (key(&org), budget(&org));
    let message = WatchResponse {
        orgs: vec![OrgPolicy { org_id: org.clone(), unpriced_hold_nanos: Some(9) }],
        keys: vec![first.clone()],
        budgets: vec![second.clone()],
        ..snapshot(4)
    };
    assert_eq!(rows.apply(message), Applied::Changed);
    let identity = Arc::clone(rows.policy.key(&SHA).unwrap());
    assert_eq!(identity.allowed_models, Some(vec![]), "restricted to nothing is not unrestricted");
    assert_eq!(identity.allowed_providers, None);
    assert_eq!(rows.policy.org(org_id(&org)).unpriced_hold, Some(Nanos(9)));
    assert_eq!(rows.policy.budgets_for(&identity, &BTreeMap::new(), None).len(), 1);

    let raised = BudgetRule { limit_nanos: 6, revision: 4, ..second.clone() };
    assert_eq!(rows.apply(WatchResponse { budgets: vec![raised], ..delta(5) }), Applied::Changed);
    assert_eq!(rows.policy.budgets_for(&identity, &BTreeMap::new(), None)[0].limit, Nanos(6));
    assert_eq!(rows.apply(delta(4)), Applied::Ignored);

    let gone = WatchResponse {
        revoked_key_ids: vec![first.key_id],
        deleted_budget_ids: vec![second.budget_id],
        ..delta(6)
    };
    assert_eq!(rows.apply(gone), Applied::Changed);
    assert!(rows.policy.key(&SHA).is_none());
    assert!(rows.policy.budgets_for(&identity, &BTreeMap::new(), None).is_empty());

    let foreign = WatchResponse { history_id: "h2".to_owned(), ..delta(7) };
    assert_eq!(rows.apply(foreign), Applied::Resync);
    assert_eq!(rows.apply(snapshot(1)), Applied::Changed, "a snapshot may go back");
    assert_eq!(rows.policy.revision, 1);
}

#[test]
fn a_budget_nobody_understands_stops_its_organisation_until_it_is_understood_or_gone() {
    let org = id();
    let good = budget(&org);
    type Break = fn(&mut BudgetRule);
    let breaks: [(&str, Break); 7] = [
        ("loop_max_calls", |row| row.loop_max_calls = Some(0)),
        ("policy", |row| row.policy = "nudge".to_owned()),
        ("interval", |row| row.interval = "hourly".to_owned()),
        ("time zone", |row| row.time_zone = "Mars/Base".to_owned()),
        ("entity", |row| row.entity_type = "team".to_owned()),
        ("limit", |row| row.limit_nanos = -1),
        ("organisation", |row| row.org_id = "?".to_owned()),
    ];
    for (what, damage) in breaks {
        let mut rows = Rows::default();
        rows.apply(WatchResponse { budgets: vec![good.clone()], ..snapshot(1) });
        assert!(rows.policy.is_enforceable(org_id(&org)));
        let mut bad = good.clone();
        damage(&mut bad);
        rows.apply(WatchResponse { budgets: vec![bad], ..delta(2) });
        assert!(!rows.policy.is_enforceable(org_id(&org)), "{what}");
        assert!(rows.policy.is_enforceable(OrgId(RandomIds.v4())), "others go on, {what}");
        assert_eq!((rows.bad_rows(), rows.refused), (1, 1), "{what}");
        let mut again = rows.snapshot();
        rows.apply(again.clone());
        // The row that lost its organisation is tied to it by what was known before; a snapshot has no before.
        assert_eq!(rows.policy.is_enforceable(org_id(&org)), what == "organisation", "{what}");
        again.budgets = vec![good.clone()];
        rows.apply(again);
        assert!(rows.policy.is_enforceable(org_id(&org)), "{what}");
    }
    let mut rows = Rows::default();
    let bad = BudgetRule { policy: "nudge".to_owned(), ..good.clone() };
    rows.apply(WatchResponse { budgets: vec![bad], ..snapshot(1) });
    rows.apply(WatchResponse { deleted_budget_ids: vec![good.budget_id], ..delta(2) });
    assert!(rows.policy.is_enforceable(org_id(&org)));
}

fn freeze(org: &str, kind: &str, entity: &str) -> FreezeRule {
    FreezeRule {
        freeze_id: id(),
        org_id: org.to_owned(),
        entity_type: kind.to_owned(),
        entity_id: entity.to_owned(),
        reason: "stop".to_owned(),
        since_ms: 5,
    }
}

#[test]
fn a_freeze_is_put_saved_and_lifted() {
    let org = id();
    let mut rows = Rows::default();
    let stops = |rows: &Rows| {
        let prices = rows.policy.prices();
        rows.policy.freezes().of_model(org_id(&org), "openai", "gpt-4o-2024-08-06", prices).is_some()
    };
    let row = freeze(&org, "model", "gpt-4o");
    rows.apply(WatchResponse { keys: vec![key(&org)], ..snapshot(1) });
    rows.apply(WatchResponse { freezes: vec![row.clone()], ..delta(2) });
    assert!(stops(&rows));
    let mut again = Rows::default();
    again.apply(rows.snapshot());
    assert!(stops(&again), "a snapshot has it");
    rows.apply(WatchResponse { lifted_freeze_ids: vec![row.freeze_id.clone()], ..delta(3) });
    assert!(!stops(&rows) && rows.snapshot().freezes.is_empty());
    again.apply(snapshot(4));
    assert!(!stops(&again), "a snapshot without it replaces");
}

#[test]
fn a_freeze_nobody_understands_stops_its_organisation_until_it_is_lifted() {
    let org = id();
    let good = freeze(&org, "customer", "acme");
    type Break = fn(&mut FreezeRule);
    let breaks: [(&str, Break); 3] = [
        ("entity", |row| row.entity_type = "galaxy".to_owned()),
        ("id", |row| row.freeze_id = "?".to_owned()),
        ("tag", |row| (row.entity_type, row.entity_id) = ("tag".to_owned(), "no pair".to_owned())),
    ];
    for (what, damage) in breaks {
        let mut rows = Rows::default();
        let mut bad = good.clone();
        damage(&mut bad);
        rows.apply(WatchResponse { freezes: vec![bad.clone()], ..snapshot(1) });
        assert!(!rows.policy.is_enforceable(org_id(&org)), "{what}");
        assert!(rows.policy.is_enforceable(OrgId(RandomIds.v4())), "others go on, {what}");
        let mut again = Rows::default();
        again.apply(rows.snapshot());
        assert!(
            !again.policy.is_enforceable(org_id(&org)),
            "what was not understood is not forgotten, {what}"
        );
        rows.apply(WatchResponse { lifted_freeze_ids: vec![bad.freeze_id], ..delta(2) });
        assert!(rows.policy.is_enforceable(org_id(&org)), "{what}");
    }
}

#[test]
fn a_key_nobody_understands_grants_nothing() {
    let good = key(&id());
    let mut rows = Rows::default();
    rows.apply(WatchResponse { keys: vec![good.clone()], ..snapshot(1) });
    let bad = KeyPolicy { role: "superuser".to_owned(), ..good };
    rows.apply(WatchResponse { keys: vec![bad], ..delta(2) });
    assert!(rows.policy.key(&SHA).is_none());
    assert_eq!(rows.bad_rows(), 1);
}

#[test]
fn ids_are_understood_prefixed_or_bare() {
    let (org, user) = (OrgId(RandomIds.v4()), UserId(RandomIds.v4()));
    let (key_id, budget_id) = (KeyId(RandomIds.v4()), BudgetId(RandomIds.v4()));
    let row = KeyPolicy { key_id: key_id.to_string(), user_id: user.to_string(), ..key(&org.to_string()) };
    let rule = BudgetRule { budget_id: budget_id.to_string(), ..budget(&org.to_string()) };
    let mut rows = Rows::default();
    rows.apply(WatchResponse { keys: vec![row], budgets: vec![rule], ..snapshot(1) });
    assert_eq!(rows.bad_rows(), 0);
    let gone = WatchResponse {
        revoked_key_ids: vec![key_id.bare()],
        deleted_budget_ids: vec![budget_id.bare()],
        ..delta(2)
    };
    rows.apply(gone);
    let left = rows.snapshot();
    assert_eq!((left.keys.len(), left.budgets.len()), (0, 0));
}

#[tokio::test]
async fn follows_the_stream_and_resumes_where_it_broke() {
    let world = World::new();
    let watch = world.load();
    assert!(!watch.ready());
    assert_eq!(watch.age_ms(), None);
    let org = id();
    let first = world.plane.next_watch();
    let second = world.plane.next_watch();
    world.run(&watch);
    first.send(Ok(WatchResponse { keys: vec![key(&org)], ..snapshot(4) })).unwrap();
    assert!(watch.wait_for(4, SOON).await);
    assert!(watch.current().key(&SHA).is_some());
    first.send(Err(Status::unavailable("broken on purpose"))).unwrap();
    second.send(Ok(WatchResponse { budgets: vec![budget(&org)], ..delta(5) })).unwrap();
    assert!(watch.wait_for(5, SOON).await);
    assert!(watch.current().key(&SHA).is_some(), "a delta keeps what was there");
    let asked = world.plane.watch_requests();
    assert_eq!((asked[0].resume_revision, asked[0].history_id.as_str()), (0, ""));
    assert_eq!((asked[1].resume_revision, asked[1].history_id.as_str()), (4, "h1"));
    assert_eq!(asked[1].dataplane_id, world.spool.dataplane_id());
    assert!(!watch.wait_for(6, Duration::from_millis(1)).await);
}

#[tokio::test]
async fn another_history_is_asked_for_from_the_start() {
    let world = World::new();
    let watch = world.load();
    let first = world.plane.next_watch();
    let second = world.plane.next_watch();
    world.run(&watch);
    first.send(Ok(snapshot(4))).unwrap();
    assert!(watch.wait_for(4, SOON).await);
    first.send(Ok(WatchResponse { history_id: "h2".to_owned(), ..delta(9) })).unwrap();
    second.send(Ok(WatchResponse { history_id: "h2".to_owned(), ..snapshot(2) })).unwrap();
    assert!(watch.wait_until(|policy| policy.history_id == "h2", SOON).await);
    assert_eq!(watch.current().revision, 2);
    assert_eq!(world.plane.watch_requests()[1].resume_revision, 0);
}

#[tokio::test]
async fn a_restart_without_the_control_plane_goes_on_with_the_last_policy() {
    let world = World::new();
    let watch = world.load();
    let org = id();
    let first = world.plane.next_watch();
    let (task, stop) = world.run(&watch);
    let bad = BudgetRule { policy: "nudge".to_owned(), ..budget(&org) };
    first.send(Ok(WatchResponse { keys: vec![key(&org)], budgets: vec![bad], ..snapshot(4) })).unwrap();
    assert!(watch.wait_for(4, SOON).await);
    stop.cancel();
    task.await.unwrap();

    world.clock.advance_ms(5_000);
    let again = world.load();
    assert!(again.ready() && !again.connected());
    assert_eq!(again.age_ms(), Some(5_000));
    assert_eq!((again.current().revision, again.current().history_id.as_str()), (4, "h1"));
    assert!(again.current().key(&SHA).is_some());
    assert!(!again.current().is_enforceable(org_id(&org)), "what was not understood is not forgotten");
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(world.spool.dir().join("policy.snapshot")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

async fn soon(mut is: impl FnMut() -> bool) {
    let becomes = async {
        while !is() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, becomes).await.unwrap();
}

#[tokio::test]
async fn what_is_confirmed_outlives_a_death() {
    let world = World::new();
    let watch = world.load();
    let stream = world.plane.next_watch();
    let _running = world.run(&watch);
    for revision in 4..8 {
        stream.send(Ok(snapshot(revision))).unwrap();
        soon(|| world.plane.confirmed().contains(&revision)).await;
        assert_eq!(world.load().current().revision, revision, "a restart that nobody prepared");
    }
}

#[tokio::test]
async fn what_the_disk_takes_late_is_confirmed_late() {
    let world = World::new();
    let watch = world.load();
    let stream = world.plane.next_watch();
    let _running = world.run(&watch);
    let in_the_way = world.spool.dir().join("policy.snapshot");
    std::fs::create_dir(&in_the_way).unwrap();
    stream.send(Ok(snapshot(4))).unwrap();
    soon(|| watch.metrics.policy_save_failures.get() > 0).await;
    assert_eq!(watch.current().revision, 4, "enforced all the same");
    assert!(world.plane.confirmed().is_empty());
    std::fs::remove_dir(&in_the_way).unwrap();
    soon(|| world.plane.confirmed().contains(&4)).await;
    assert_eq!(world.load().current().revision, 4);
}

#[test]
fn a_damaged_saved_policy_is_not_believed() {
    let world = World::new();
    let path = world.spool.dir().join("policy.snapshot");
    saved::save(&path, 5, &snapshot(4)).unwrap();
    let whole = std::fs::read(&path).unwrap();
    assert_eq!(saved::load(&path).unwrap(), (5, snapshot(4)));
    for cut in 0..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        assert!(!world.load().ready(), "cut at {cut}");
    }
    for at in 0..whole.len() {
        let mut broken = whole.clone();
        broken[at] ^= 1;
        std::fs::write(&path, &broken).unwrap();
        assert!(!world.load().ready(), "flipped at {at}");
    }
}

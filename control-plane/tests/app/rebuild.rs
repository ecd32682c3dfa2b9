//! Two control planes and a ledger that lost its books.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use nullspend_control_plane::{
    app::{App, BudgetRequest, Caller, Looked},
    store::{RebuildRecord, Store},
};
use nullspend_core::{
    clock::{Clock, ManualClock},
    id::{AttemptId, Ids, OrgId, RandomIds},
    ledger::{
        Balance, Charge, ChargeOutcome, CounterKey, ExtendOutcome, LapsedHold, Ledger, LedgerUnavailable,
        LimitChange, OpenHolds, Reserve, ReserveOutcome, Restored, SessionSpend, SettleOutcome, scope_for,
    },
    money::Nanos,
};
use nullspend_ledger::MemoryLedger;
use nullspend_proto::internal::{AttemptStub, BudgetCharge, DeliverRequest};
use sqlx::{Connection, Sqlite, SqliteConnection, query::Query, sqlite::SqliteArguments};
use tempfile::TempDir;
use tokio::{sync::Semaphore, task::JoinHandle};

use crate::world::{NOW, caller, org_budget};

/// A ledger whose books are lost until they are opened, and that fills and opens them only while it is let.
#[derive(Debug)]
struct Lossy {
    clock: Arc<dyn Clock>,
    books: Mutex<Arc<MemoryLedger>>,
    lost: AtomicBool,
    begun: AtomicUsize,
    opened: AtomicUsize,
    may_fill: Semaphore,
    opening: AtomicUsize,
    may_open: Semaphore,
}

impl Lossy {
    fn books(&self) -> Arc<MemoryLedger> {
        Arc::clone(&self.books.lock().expect("nobody panicked"))
    }
}

#[async_trait]
impl Ledger for Lossy {
    async fn reserve(&self, reserve: &Reserve) -> Result<ReserveOutcome, LedgerUnavailable> {
        self.books().reserve(reserve).await
    }

    async fn extend(
        &self,
        org: OrgId,
        holds: &[AttemptId],
        number: u64,
        lease_ms: i64,
        add: Nanos,
    ) -> Result<Vec<ExtendOutcome>, LedgerUnavailable> {
        self.books().extend(org, holds, number, lease_ms, add).await
    }

    async fn settle(
        &self,
        org: OrgId,
        hold: AttemptId,
        actual: Nanos,
    ) -> Result<SettleOutcome, LedgerUnavailable> {
        self.books().settle(org, hold, actual).await
    }

    async fn charge(&self, charge: &Charge) -> Result<ChargeOutcome, LedgerUnavailable> {
        self.books().charge(charge).await
    }

    async fn balances(&self, org: OrgId, counters: &[CounterKey]) -> Result<Vec<Balance>, LedgerUnavailable> {
        self.books().balances(org, counters).await
    }

    async fn apply_limits(&self, org: OrgId, changes: &[LimitChange]) -> Result<(), LedgerUnavailable> {
        self.books().apply_limits(org, changes).await
    }

    async fn sweep(&self) -> Result<Vec<LapsedHold>, LedgerUnavailable> {
        self.books().sweep().await
    }

    async fn load(&self, org: OrgId, settled: &[(CounterKey, Nanos)]) -> Result<(), LedgerUnavailable> {
        let _let = self.may_fill.acquire().await;
        self.books().load(org, settled).await
    }

    async fn load_sessions(&self, org: OrgId, sessions: &[SessionSpend]) -> Result<(), LedgerUnavailable> {
        self.books().load_sessions(org, sessions).await
    }

    async fn begin_rebuild(&self, _: OrgId) -> Result<bool, LedgerUnavailable> {
        let lost = self.lost.load(Ordering::SeqCst);
        self.begun.fetch_add(usize::from(lost), Ordering::SeqCst);
        if lost {
            *self.books.lock().expect("nobody panicked") =
                Arc::new(MemoryLedger::new(Arc::clone(&self.clock)));
        }
        Ok(lost)
    }

    async fn restore(&self, reserve: &Reserve, as_a: Restored) -> Result<ReserveOutcome, LedgerUnavailable> {
        self.books().restore(reserve, as_a).await
    }

    async fn restore_done(&self, org: OrgId, ids: &[AttemptId]) -> Result<(), LedgerUnavailable> {
        self.books().restore_done(org, ids).await
    }

    async fn finish_rebuild(&self, _: OrgId) -> Result<(), LedgerUnavailable> {
        self.opening.fetch_add(1, Ordering::SeqCst);
        let _let = self.may_open.acquire().await;
        self.lost.store(false, Ordering::SeqCst);
        self.opened.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn is_lost(&self, _: OrgId) -> Result<bool, LedgerUnavailable> {
        Ok(self.lost.load(Ordering::SeqCst))
    }

    async fn give_up(&self, org: OrgId) -> Result<(), LedgerUnavailable> {
        self.books().give_up(org).await
    }

    async fn open_holds(&self) -> Result<OpenHolds, LedgerUnavailable> {
        self.books().open_holds().await
    }
}

async fn until(met: impl AsyncFn() -> bool) {
    let looking = async {
        while !met().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), looking).await.expect("it comes true");
}

/// Two control planes of one organisation, on one database and one ledger.
struct Pair {
    planes: [Arc<App>; 2],
    owner: Caller,
    ledger: Arc<Lossy>,
    url: String,
    _dir: TempDir,
}

impl Pair {
    async fn with_lost_books() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let url = format!("sqlite:{}", dir.path().join("app.db").display());
        let clock = Arc::new(ManualClock::at(NOW));
        let time = Arc::clone(&clock) as Arc<dyn Clock>;
        let books = Mutex::new(Arc::new(MemoryLedger::new(Arc::clone(&time))));
        let [begun, opening, opened] = [(); 3].map(|()| AtomicUsize::new(0));
        let [may_fill, may_open] = [(); 2].map(|()| Semaphore::new(2));
        let lost = AtomicBool::new(true);
        let ledger = Arc::new(Lossy { clock: time, books, lost, begun, opened, may_fill, opening, may_open });
        let store = Store::open(&url.clone().into(), "history").await.expect("a store");
        let plane = || {
            let (ledger, clock) = (Arc::clone(&ledger) as Arc<dyn Ledger>, Arc::clone(&clock));
            Arc::new(App::new(store.clone(), ledger, clock as Arc<dyn Clock>, Arc::new(RandomIds)))
        };
        let planes = [plane(), plane()];
        let keys = planes[0].bootstrap(None).await.expect("bootstrap").expect("an empty database");
        let owner = caller(&planes[0], &keys.owner_key).await;
        Self { planes, owner, ledger, url, _dir: dir }
    }

    async fn look(&self, plane: usize) -> Looked {
        self.planes[plane].rebuild_lost().await.expect("a look")
    }

    fn spawn_look(&self, plane: usize) -> JoinHandle<Looked> {
        let plane = Arc::clone(&self.planes[plane]);
        tokio::spawn(async move { plane.rebuild_lost().await.expect("a look") })
    }

    /// The first one, at work for as long as the ledger does not let it go on.
    async fn first_at_work(&self) -> JoinHandle<Looked> {
        self.ledger.may_fill.forget_permits(2);
        let working = self.spawn_look(0);
        until(async || self.ledger.begun.load(Ordering::SeqCst) == 1).await;
        working
    }

    async fn claimed_until_ms(&self) -> i64 {
        let mut connection = SqliteConnection::connect(&self.url).await.expect("a connection");
        let claimed = sqlx::query_scalar("SELECT claimed_until_ms FROM ledger_rebuilds");
        claimed.fetch_one(&mut connection).await.expect("a rebuild")
    }

    /// As if nobody had renewed them for so long.
    async fn end_claims(&self) {
        self.execute(sqlx::query("UPDATE ledger_rebuilds SET claimed_until_ms = 0")).await;
    }

    /// As if it had taken them over.
    async fn hand_claims_to(&self, plane: usize) {
        let taken = sqlx::query("UPDATE ledger_rebuilds SET claimed_by = $1");
        self.execute(taken.bind(self.planes[plane].id().to_owned())).await;
    }

    async fn execute(&self, statement: Query<'_, Sqlite, SqliteArguments>) {
        let mut connection = SqliteConnection::connect(&self.url).await.expect("a connection");
        statement.execute(&mut connection).await.expect("executed");
    }

    fn counts(&self) -> (usize, usize) {
        (self.ledger.begun.load(Ordering::SeqCst), self.ledger.opened.load(Ordering::SeqCst))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loss_that_two_notice_at_once_is_made_good_once() {
    for _ in 0..20 {
        let pair = Pair::with_lost_books().await;
        let looks = |plane: usize| {
            let plane = Arc::clone(&pair.planes[plane]);
            tokio::spawn(async move {
                let mut rebuilt = 0;
                for _ in 0..3 {
                    rebuilt += plane.rebuild_lost().await.expect("a look").rebuilt;
                }
                rebuilt
            })
        };
        let (first, second) = (looks(0), looks(1));
        let rebuilt = first.await.expect("looks") + second.await.expect("looks");
        assert_eq!((rebuilt, pair.counts()), (1, (1, 1)));
        assert_eq!(pair.planes[0].store().list_rebuilds().await.expect("rebuilds"), []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn books_that_are_about_to_be_whole_are_left_alone() {
    let pair = Pair::with_lost_books().await;
    pair.ledger.may_open.forget_permits(2);
    let working = pair.spawn_look(0);
    until(async || pair.ledger.opening.load(Ordering::SeqCst) == 1).await;
    assert_eq!((pair.look(1).await.unseen, pair.counts()), (1, (1, 0)));
    pair.ledger.may_open.add_permits(2);
    assert_eq!((working.await.expect("a look").rebuilt, pair.counts()), (1, (1, 1)));
    assert_eq!(pair.look(1).await, Looked::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_works_keeps_the_claim_and_who_dies_loses_it() {
    let pair = Pair::with_lost_books().await;
    let working = pair.first_at_work().await;
    let claimed = pair.claimed_until_ms().await;
    assert_eq!((pair.look(1).await.unseen, pair.counts()), (1, (1, 0)));
    until(async || pair.claimed_until_ms().await > claimed).await;
    assert_eq!((pair.look(1).await.unseen, pair.counts()), (1, (1, 0)), "renewed");
    working.abort();
    assert!(working.await.expect_err("it died").is_cancelled());
    pair.ledger.may_fill.add_permits(2);
    assert_eq!((pair.look(1).await.unseen, pair.counts()), (1, (1, 0)), "it might come back");
    pair.end_claims().await;
    assert_eq!((pair.look(1).await.rebuilt, pair.counts()), (1, (2, 1)));
    assert_eq!(pair.look(0).await, Looked::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_leaves_its_claim_to_the_other() {
    let pair = Pair::with_lost_books().await;
    let working = pair.first_at_work().await;
    working.abort();
    assert!(working.await.expect_err("it was stopped").is_cancelled());
    pair.planes[1].give_rebuilds_back().await.expect("it has none");
    assert_eq!((pair.look(1).await.unseen, pair.counts()), (1, (1, 0)), "not its own to give back");
    pair.planes[0].give_rebuilds_back().await.expect("given back");
    pair.ledger.may_fill.add_permits(2);
    assert_eq!((pair.look(1).await.rebuilt, pair.counts()), (1, (2, 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_thought_dead_does_not_open_the_books_again() {
    let pair = Pair::with_lost_books().await;
    let working = pair.first_at_work().await;
    pair.hand_claims_to(1).await;
    let other = pair.spawn_look(1);
    until(async || pair.ledger.begun.load(Ordering::SeqCst) == 2).await;
    let late = working.await.expect("it gives way");
    assert_eq!((late.rebuilt, late.unseen), (0, 1), "without being let fill");
    pair.ledger.may_fill.add_permits(2);
    assert_eq!((other.await.expect("a look").rebuilt, pair.counts()), (1, (2, 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn books_that_are_lost_while_they_open_are_asked_for_afresh() {
    let pair = Pair::with_lost_books().await;
    let store = pair.planes[0].store();
    store.dataplane_came("dp", NOW).await.expect("it comes");
    let rebuild = async || store.list_rebuilds().await.expect("rebuilds").remove(0);
    let deliver = async || {
        let RebuildRecord { id, org, .. } = rebuild().await;
        let delivery = DeliverRequest {
            dataplane_id: "dp".to_owned(),
            rebuild_id: id,
            org_id: org.bare(),
            attempts: Vec::new(),
        };
        assert!(pair.planes[1].delivered(&delivery).await.expect("kept"));
    };
    assert_eq!(pair.look(0).await.waiting.len(), 1);
    deliver().await;
    pair.ledger.may_open.forget_permits(2);
    let working = pair.spawn_look(0);
    until(async || pair.ledger.opening.load(Ordering::SeqCst) == 1).await;
    assert!(rebuild().await.opening, "no data plane is told of it");
    working.abort();
    assert!(working.await.expect_err("it died").is_cancelled());
    // They may have opened and be lost again: what a data plane told in between does not hold what it began since.
    deliver().await;
    pair.end_claims().await;
    pair.ledger.may_open.add_permits(2);
    assert_eq!((pair.look(1).await.unseen, pair.counts()), (1, (1, 0)));
    assert!(!rebuild().await.opening);
    assert_eq!((pair.look(1).await.waiting.len(), pair.counts()), (1, (1, 0)));
    deliver().await;
    assert_eq!((pair.look(1).await.rebuilt, pair.counts()), (1, (2, 1)));
}

#[tokio::test]
async fn what_is_held_again_grows_as_its_budget_says() {
    let pair = Pair::with_lost_books().await;
    let [plane, _] = &pair.planes;
    let request = BudgetRequest { finalization_reserve_microdollars: Some(20), ..org_budget(100) };
    let rule = plane.upsert_budget(&pair.owner, request).await.expect("a budget").record.rule;
    plane.store().dataplane_came("dp", NOW).await.expect("noted");
    assert_eq!(pair.look(0).await.waiting.len(), 1);
    let (answer, question) = (AttemptId(RandomIds.v7(NOW)), AttemptId(RandomIds.v7(NOW)));
    let counter = scope_for(&rule, NOW).counter;
    let charge = BudgetCharge {
        budget_id: counter.budget.bare(),
        generation: counter.generation,
        window_start_ms: counter.window_start_ms,
        ..BudgetCharge::default()
    };
    let under_way = |attempt: AttemptId, finalize| AttemptStub {
        attempt_id: attempt.bare(),
        held_nanos: 30_000,
        charges: vec![charge.clone()],
        finalize,
        ..AttemptStub::default()
    };
    let delivery = DeliverRequest {
        dataplane_id: "dp".to_owned(),
        rebuild_id: plane.store().list_rebuilds().await.expect("rebuilds")[0].id.clone(),
        org_id: rule.org.bare(),
        attempts: vec![under_way(answer, true), under_way(question, false)],
    };
    assert!(plane.delivered(&delivery).await.expect("kept"));
    assert_eq!(pair.look(0).await.rebuilt, 1);
    let extend = async |attempt, number, add| {
        pair.ledger.extend(rule.org, &[attempt], number, 1_000, Nanos(add)).await.expect("answered")[0]
    };
    assert_eq!(extend(question, 1, 20_001).await, ExtendOutcome::Denied { scope: 0 }, "80 are for questions");
    assert_eq!(extend(question, 1, 20_000).await, ExtendOutcome::Extended);
    assert_eq!(extend(answer, 1, 20_001).await, ExtendOutcome::Denied { scope: 0 });
    assert_eq!(extend(answer, 1, 20_000).await, ExtendOutcome::Extended);
}

//! What counts as drift between the ledger and the store.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nullspend_control_plane::{
    app::{BudgetRequest, Totals},
    store::Store,
};
use nullspend_core::{
    attempt::BudgetCharge,
    id::{AttemptId, Ids, OrgId, RandomIds},
    ledger::{Charge, Ledger, scope_for},
    money::Nanos,
    policy::BudgetRule,
};
use nullspend_proto::internal as proto;

use crate::world::{NOW, World, org_budget};

/// Costs on their way from one side to the other at any instant.
const ON_ITS_WAY: usize = 16;
const COST: Nanos = Nanos(7);
const PATIENCE: Duration = Duration::from_secs(20);

/// Spends of one budget, and tells the ledger before the store, or the other way round.
struct Load {
    store: Store,
    ledger: Arc<dyn Ledger>,
    rule: BudgetRule,
    ledger_first: bool,
    on_its_way: VecDeque<AttemptId>,
}

impl Load {
    async fn of(world: &World, name: &str, ledger_first: bool) -> Self {
        let request = BudgetRequest { name: name.to_owned(), ..org_budget(1_000_000) };
        let budget = world.app.upsert_budget(&world.owner, request).await.expect("a budget");
        let (store, ledger) = (world.app.store().clone(), Arc::clone(&world.ledger));
        Self { store, ledger, rule: budget.record.rule, ledger_first, on_its_way: VecDeque::new() }
    }

    async fn one_more(&mut self) {
        let id = AttemptId(RandomIds.v7(NOW));
        self.tell(id, self.ledger_first).await;
        self.on_its_way.push_back(id);
        if self.on_its_way.len() > ON_ITS_WAY {
            self.one_arrives().await;
        }
    }

    async fn one_arrives(&mut self) {
        let Some(id) = self.on_its_way.pop_front() else { return };
        self.tell(id, !self.ledger_first).await;
    }

    async fn tell(&self, id: AttemptId, ledger: bool) {
        if ledger {
            spend(&self.ledger, &self.rule, id, COST).await;
        } else {
            let closed = [closed(&self.rule, id)];
            self.store.ingest_records(&id.to_string(), &closed, NOW).await.expect("stored");
        }
    }

    /// Goes on until told to stop; then everything arrives.
    async fn run(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::SeqCst) {
            self.one_more().await;
        }
        while !self.on_its_way.is_empty() {
            self.one_arrives().await;
        }
    }
}

async fn spend(ledger: &Arc<dyn Ledger>, rule: &BudgetRule, id: AttemptId, actual: Nanos) {
    let scopes = vec![scope_for(rule, NOW)];
    let charge = Charge { id, org: rule.org, scopes, session: None, actual };
    ledger.charge(&charge).await.expect("charged");
}

fn closed(rule: &BudgetRule, id: AttemptId) -> proto::SequencedRecord {
    let charge = BudgetCharge::to_scope(&scope_for(rule, NOW), None);
    let charge = proto::BudgetCharge {
        budget_id: charge.counter.budget.bare(),
        generation: charge.counter.generation,
        window_start_ms: charge.counter.window_start_ms,
        ..proto::BudgetCharge::default()
    };
    let stub = proto::AttemptStub {
        attempt_id: id.bare(),
        org_id: rule.org.bare(),
        key_id: RandomIds.v4().to_string(),
        user_id: RandomIds.v4().to_string(),
        started_at_ms: NOW,
        charges: vec![charge],
        budget_status: "approved".to_owned(),
        ..proto::AttemptStub::default()
    };
    let closed = proto::Closed {
        stub: Some(stub),
        revision: 1,
        ended_at_ms: NOW,
        cost_nanos: COST.0,
        measurement: "exact".to_owned(),
        ending: "complete".to_owned(),
        status_code: 200,
        ..proto::Closed::default()
    };
    let kind = Some(proto::spool_record::Kind::Closed(closed));
    proto::SequencedRecord::new(1, &proto::SpoolRecord { kind })
}

/// What the two budgets' windows say, in the order of their making.
async fn compare(world: &World, rules: &[BudgetRule; 2], patience: Duration) -> [Totals; 2] {
    let compared = world.app.compare_ledger(patience).await.expect("compared");
    assert!(compared.lost.is_empty());
    let of = |rule: &BudgetRule| compared.totals.iter().find(|t| t.counter.budget == rule.budget).copied();
    rules.each_ref().map(|rule| of(rule).expect("a window"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_its_way_is_no_drift_and_what_is_not_is() {
    let world = World::new().await;
    let mut loads = [Load::of(&world, "a", true).await, Load::of(&world, "b", false).await];
    let rules = loads.each_ref().map(|load| load.rule.clone());
    for load in &mut loads {
        for _ in 0..=ON_ITS_WAY {
            load.one_more().await;
        }
    }
    let on_its_way = Nanos(COST.0 * ON_ITS_WAY as i64);
    let at_rest = compare(&world, &rules, Duration::ZERO).await;
    assert_eq!(
        at_rest.map(|totals| totals.drift()),
        [on_its_way, Nanos(-on_its_way.0)],
        "what never arrives"
    );

    let stop = Arc::new(AtomicBool::new(false));
    let running = loads.map(|load| tokio::spawn(load.run(Arc::clone(&stop))));
    for _ in 0..5 {
        let under_load = compare(&world, &rules, PATIENCE).await;
        assert_eq!(under_load.map(|totals| totals.drift()), [Nanos::ZERO; 2], "{under_load:?}");
        assert!(under_load.iter().any(|totals| totals.moved() > Nanos::ZERO), "{under_load:?}");
    }
    let lost = Nanos(1_000_000);
    for rule in &rules {
        spend(&world.ledger, rule, AttemptId(RandomIds.v7(NOW)), lost).await;
    }
    for totals in compare(&world, &rules, Duration::from_millis(200)).await {
        let least = lost - totals.moved() - Nanos(2 * on_its_way.0);
        assert!((least..=lost + on_its_way).contains(&totals.drift()), "{totals:?}");
    }
    stop.store(true, Ordering::SeqCst);
    for load in running {
        load.await.expect("everything arrived");
    }
    let at_rest = compare(&world, &rules, Duration::ZERO).await;
    assert_eq!(at_rest.map(|totals| totals.drift()), [lost; 2]);
    assert_eq!(at_rest.map(|totals| totals.moved()), [Nanos::ZERO; 2]);
}

#[tokio::test]
async fn an_organisation_without_windows_agrees() {
    let world = World::new().await;
    let compared = world.app.compare_ledger(PATIENCE).await.expect("compared");
    assert_eq!((compared.totals, compared.lost.into_iter().collect::<Vec<OrgId>>()), (vec![], vec![]));
}

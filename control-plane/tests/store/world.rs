//! A database of its own for every test.

use std::collections::BTreeMap;

use nullspend_control_plane::store::{BooksSince, Founding, KeyHash, KeyRecord, Store};
use nullspend_core::{
    id::{BudgetId, Ids, KeyId, OrgId, RandomIds, UserId},
    policy::{KeyIdentity, Role},
};
use nullspend_proto::internal as proto;
use sqlx::{Connection, PgConnection, SqliteConnection};
use tempfile::TempDir;

/// A moment all tests begin at.
pub const NOW: i64 = 1_764_000_000_000;

/// Everything of the day that tests are made on.
pub const SINCE: BooksSince =
    BooksSince { deleted_ms: NOW, window_ended_ms: NOW, session_used_ms: 0, lapsed_ms: 0 };

/// Which database.
#[derive(Clone, Copy, Debug)]
pub enum Engine {
    Sqlite,
    Postgres,
}

/// An open, empty store.
pub struct World {
    pub store: Store,
    pub url: String,
    _dir: TempDir,
}

/// What most tests begin with.
pub struct Founded {
    pub org: OrgId,
    pub user: UserId,
    pub key: KeyId,
}

impl World {
    pub async fn new(engine: Engine) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let url = match engine {
            Engine::Sqlite => format!("sqlite:{}", dir.path().join("store.db").display()),
            Engine::Postgres => new_postgres_database().await,
        };
        let store = open(&url, "history").await;
        Self { store, url, _dir: dir }
    }

    /// Runs a statement of its own for each database beside the store.
    pub async fn run(&self, sqlite: &'static str, postgres: &'static str) {
        if self.url.starts_with("sqlite:") {
            let mut connection = SqliteConnection::connect(&self.url).await.expect("a connection");
            sqlx::raw_sql(sqlite).execute(&mut connection).await.expect("done");
        } else {
            let mut connection = PgConnection::connect(&self.url).await.expect("a connection");
            sqlx::raw_sql(postgres).execute(&mut connection).await.expect("done");
        }
    }

    pub async fn founded(&self) -> Founded {
        let (org, user, key) = (OrgId(RandomIds.v4()), UserId(RandomIds.v4()), KeyId(RandomIds.v4()));
        let founding = Founding {
            org,
            org_name: "default".to_owned(),
            org_slug: "default".to_owned(),
            user,
            user_name: "owner".to_owned(),
            keys: vec![key_record(org, user, key, Role::Owner, 1)],
            now_ms: NOW,
        };
        assert!(self.store.found(&founding).await.expect("found"));
        Founded { org, user, key }
    }
}

pub async fn open(url: &str, history: &str) -> Store {
    Store::open(&url.to_owned().into(), history).await.expect("an open store")
}

async fn new_postgres_database() -> String {
    let admin = std::env::var("NULLSPEND_TEST_POSTGRES").expect(
        "NULLSPEND_TEST_POSTGRES must be the URL of a PostgreSQL administrator; `cargo xtask test` starts one and sets it",
    );
    let name = format!("t{}", RandomIds.v4().simple());
    let mut connection = PgConnection::connect(&admin).await.expect("the administrator's connection");
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}")))
        .execute(&mut connection)
        .await
        .expect("a new database");
    connection.close().await.expect("a closed connection");
    let (place, parameters) = admin.split_once('?').unwrap_or((&admin, ""));
    let server = place.rsplit_once('/').map_or(place, |(server, _)| server);
    format!("{server}/{name}?{parameters}")
}

/// A key whose hash is 32 times `mark`.
pub fn key_record(org: OrgId, user: UserId, key: KeyId, role: Role, mark: u8) -> (KeyRecord, KeyHash) {
    let identity = KeyIdentity {
        key,
        org,
        user,
        name: format!("key {mark}"),
        role,
        default_tags: BTreeMap::from([("team".to_owned(), "a".to_owned())]),
        locked_tags: vec!["team".to_owned()],
        required_tags: Vec::new(),
        allowed_models: Some(vec!["gpt-4o".to_owned()]),
        allowed_providers: None,
        api_version: "2026-04-01".to_owned(),
    };
    let record = KeyRecord {
        identity,
        prefix: format!("ns_live_sk_{mark:08}"),
        last_used_at_ms: None,
        created_at_ms: NOW + i64::from(mark),
        revoked_at_ms: None,
    };
    (record, [mark; 32])
}

/// A closed attempt of cost `cost_nanos` that counts towards `budgets`.
pub fn closed(
    founded: &Founded,
    attempt: uuid::Uuid,
    cost_nanos: i64,
    budgets: &[BudgetId],
) -> proto::Closed {
    let charges = budgets
        .iter()
        .map(|budget| proto::BudgetCharge {
            budget_id: budget.bare(),
            generation: 1,
            window_start_ms: 1_000,
            window_end_ms: 0,
            of_session: false,
        })
        .collect();
    let stub = proto::AttemptStub {
        attempt_id: attempt.to_string(),
        org_id: founded.org.bare(),
        key_id: founded.key.bare(),
        user_id: founded.user.bare(),
        provider: "openai".to_owned(),
        model: "gpt-4o".to_owned(),
        api: "chat.completions".to_owned(),
        upstream: "openai".to_owned(),
        trace_id: "ab".repeat(16),
        session_id: Some("s1".to_owned()),
        tags: BTreeMap::from([("team".to_owned(), "a".to_owned())]),
        started_at_ms: NOW - 500,
        held_nanos: cost_nanos.max(0),
        charges,
        budget_status: "approved".to_owned(),
        ..proto::AttemptStub::default()
    };
    proto::Closed {
        stub: Some(stub),
        revision: 1,
        ended_at_ms: NOW,
        cost_nanos,
        measurement: "exact".to_owned(),
        ending: "complete".to_owned(),
        status_code: 200,
        tokens: Some(proto::Tokens { input: 10, output: 5, ..proto::Tokens::default() }),
        breakdown: Some(proto::Breakdown { input_nanos: cost_nanos, ..proto::Breakdown::default() }),
        ..proto::Closed::default()
    }
}

/// A record of the spool.
pub fn record(seq: u64, kind: proto::spool_record::Kind) -> proto::SequencedRecord {
    proto::SequencedRecord::new(seq, &proto::SpoolRecord { kind: Some(kind) })
}

/// Closed attempts as records from sequence number 1 on.
pub fn records(closed: impl IntoIterator<Item = proto::Closed>) -> Vec<proto::SequencedRecord> {
    closed
        .into_iter()
        .zip(1..)
        .map(|(closed, seq)| record(seq, proto::spool_record::Kind::Closed(closed)))
        .collect()
}

/// A new attempt's id.
pub fn attempt() -> uuid::Uuid {
    RandomIds.v7(NOW)
}

/// A new budget's id.
pub fn budget() -> BudgetId {
    BudgetId(RandomIds.v4())
}

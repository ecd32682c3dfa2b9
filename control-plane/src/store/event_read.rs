//! Reading cost events and denials.

use std::collections::{BTreeMap, HashMap};

use nullspend_core::{
    attempt::Tokens,
    id::{AttemptId, OrgId},
    money::Nanos,
};

use super::{
    EventFilter, EventRecord, Source, Store,
    codec::Reader,
    error::{During, StoreError},
    event_row::{EventRow, event_columns},
    pool::on_pool,
};

/// Every column of an event, with the key's present name.
macro_rules! event_select {
    () => {
        concat!(
            "SELECT ",
            event_columns!(),
            ", (SELECT k.name FROM api_keys k WHERE k.id = cost_events.key_id) AS key_name FROM cost_events "
        )
    };
}

pub(super) use event_select;

/// Pushes ` AND column = value` for each condition that is given, and the tags.
macro_rules! push_conditions {
    ($query:ident, $filter:ident, $table:literal) => {{
        if let Some(key) = $filter.key {
            $query.push(" AND key_id = ").push_bind(key.bare());
        }
        if let Some(model) = &$filter.model {
            $query.push(" AND model = ").push_bind(model.clone());
        }
        if let Some(provider) = &$filter.provider {
            $query.push(" AND provider = ").push_bind(provider.clone());
        }
        if let Some(trace) = &$filter.trace_id {
            $query.push(" AND trace_id = ").push_bind(trace.clone());
        }
        if let Some(session) = &$filter.session_id {
            $query.push(" AND session_id = ").push_bind(session.clone());
        }
        for (name, value) in &$filter.tags {
            $query.push(concat!(
                " AND EXISTS (SELECT 1 FROM cost_event_tags t WHERE t.event_id = ",
                $table,
                ".id AND t.name = "
            ));
            $query.push_bind(name.clone()).push(" AND t.value = ").push_bind(value.clone()).push(")");
        }
    }};
}

#[derive(sqlx::FromRow)]
struct DenialRow {
    id: String,
    org_id: String,
    key_id: Option<String>,
    key_name: Option<String>,
    at_ms: i64,
    provider: String,
    model: String,
    trace_id: Option<String>,
    session_id: Option<String>,
    customer_id: Option<String>,
    tags: String,
    estimated_nanos: i64,
    ingested_at_ms: i64,
}

impl Store {
    /// One event of the organisation.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn event(&self, org: OrgId, id: AttemptId) -> Result<Option<EventRecord>, StoreError> {
        const OP: &str = "read an event";
        let row: Option<EventRow> = on_pool!(read self.pool, |c, Db| {
            sqlx::query_as(concat!(event_select!(), "WHERE id = $1 AND org_id = $2"))
                .bind(id.bare())
                .bind(org.bare())
                .fetch_optional(c)
                .await
                .during(OP)?
        });
        row.map(|row| row.into_record(OP)).transpose()
    }

    /// When those of these events that exist ended.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn event_times(
        &self,
        org: OrgId,
        ids: &[AttemptId],
    ) -> Result<HashMap<AttemptId, i64>, StoreError> {
        const OP: &str = "look for events";
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let rows: Vec<(String, i64)> = on_pool!(read self.pool, |c, Db| {
            let mut query = sqlx::QueryBuilder::<Db>::new("SELECT id, ended_at_ms FROM cost_events WHERE org_id = ");
            query.push_bind(org.bare()).push(" AND id IN (");
            let mut list = query.separated(", ");
            for id in ids {
                list.push_bind(id.bare());
            }
            query.push(")");
            query.build_query_as().persistent(false).fetch_all(c).await.during(OP)?
        });
        rows.into_iter().map(|(id, ended_at_ms)| Ok((Reader(OP).id("id", &id)?, ended_at_ms))).collect()
    }

    /// Events of the organisation, newest first; with `budget_status` `denied`, its denials.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_events(
        &self,
        org: OrgId,
        filter: &EventFilter,
        limit: i64,
    ) -> Result<Vec<EventRecord>, StoreError> {
        if filter.budget_status.as_deref() == Some("denied") {
            return self.list_denials(org, filter, limit).await;
        }
        const OP: &str = "list events";
        let rows: Vec<EventRow> = on_pool!(read self.pool, |c, Db| {
            let mut query = sqlx::QueryBuilder::<Db>::new(concat!(event_select!(), "WHERE org_id = "));
            query.push_bind(org.bare());
            push_conditions!(query, filter, "cost_events");
            if let Some(request) = &filter.request_id {
                query.push(" AND request_id = ").push_bind(request.clone());
            }
            if let Some(source) = filter.source {
                query.push(" AND source = ").push_bind(source.as_str());
            }
            if let Some(status) = &filter.budget_status {
                query.push(" AND budget_status = ").push_bind(status.clone());
            }
            if let Some(cursor) = &filter.cursor {
                query.push(" AND (ended_at_ms, id) < (").push_bind(cursor.at_ms).push(", ");
                query.push_bind(cursor.id.clone()).push(")");
            }
            query.push(" ORDER BY ended_at_ms DESC, id DESC LIMIT ").push_bind(limit);
            query.build_query_as().persistent(false).fetch_all(c).await.during(OP)?
        });
        rows.into_iter().map(|row| row.into_record(OP)).collect()
    }

    async fn list_denials(
        &self,
        org: OrgId,
        filter: &EventFilter,
        limit: i64,
    ) -> Result<Vec<EventRecord>, StoreError> {
        const OP: &str = "list denials";
        if filter.source.is_some_and(|source| source != Source::Proxy) {
            return Ok(Vec::new());
        }
        let rows: Vec<DenialRow> = on_pool!(read self.pool, |c, Db| {
            let mut query = sqlx::QueryBuilder::<Db>::new(
                "SELECT id, org_id, key_id, (SELECT k.name FROM api_keys k WHERE k.id = denials.key_id) AS key_name, \
                 at_ms, provider, model, trace_id, session_id, customer_id, tags, estimated_nanos, ingested_at_ms \
                 FROM denials WHERE org_id = ",
            );
            query.push_bind(org.bare());
            push_conditions!(query, filter, "denials");
            if let Some(request) = &filter.request_id {
                query.push(" AND id = ").push_bind(request.clone());
            }
            if let Some(cursor) = &filter.cursor {
                query.push(" AND (at_ms, id) < (").push_bind(cursor.at_ms).push(", ");
                query.push_bind(cursor.id.clone()).push(")");
            }
            query.push(" ORDER BY at_ms DESC, id DESC LIMIT ").push_bind(limit);
            query.build_query_as().persistent(false).fetch_all(c).await.during(OP)?
        });
        rows.into_iter().map(|row| row.into_event(OP)).collect()
    }

    /// How many events the organisation has, and what they cost together.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn event_totals(&self, org: OrgId) -> Result<(i64, Nanos), StoreError> {
        let (count, cost): (i64, i64) = on_pool!(read self.pool, |c, Db| {
            sqlx::query_as(
                "SELECT COUNT(*), CAST(COALESCE(SUM(cost_nanos), 0) AS BIGINT) FROM cost_events WHERE org_id = $1",
            )
            .bind(org.bare())
            .fetch_one(c)
            .await
            .during("sum events")?
        });
        Ok((count, Nanos(cost)))
    }
}

impl DenialRow {
    fn into_event(self, op: &'static str) -> Result<EventRecord, StoreError> {
        let read = Reader(op);
        let tags: BTreeMap<String, String> = read.json("tags", &self.tags)?;
        Ok(EventRecord {
            id: read.id("id", &self.id)?,
            org: read.id("org_id", &self.org_id)?,
            request_id: self.id,
            key: read.optional_id("key_id", self.key_id.as_deref())?,
            user: None,
            key_name: self.key_name,
            provider: self.provider,
            model: self.model,
            served_model: None,
            api: None,
            upstream: None,
            source: Source::Proxy,
            event_type: "llm".to_owned(),
            tokens: Tokens::default(),
            cost: Nanos::ZERO,
            parts: None,
            held: Some(Nanos(self.estimated_nanos)),
            duration_ms: None,
            upstream_ms: None,
            ttfb_ms: None,
            overhead_us: None,
            started_at_ms: self.at_ms,
            ended_at_ms: self.at_ms,
            ingested_at_ms: self.ingested_at_ms,
            trace_id: self.trace_id,
            session_id: self.session_id,
            customer: self.customer_id,
            action: None,
            tags,
            budget_status: Some("denied".to_owned()),
            stop_reason: None,
            measurement: "exact".to_owned(),
            ending: None,
            status_code: None,
            stream: false,
            unpriced: false,
            revision: 1,
            price_id: None,
            price_version: None,
            tool_name: None,
            tool_server: None,
            charges: Vec::new(),
            dataplane_id: None,
            detail: None,
            adjusts: None,
        })
    }
}

//! What pricing past events again needs to read.

use std::collections::HashMap;

use nullspend_core::{
    id::{AttemptId, OrgId},
    money::Nanos,
};

use super::{
    Cursor, EventRecord, Store,
    codec::Reader,
    error::{During, StoreError},
    event_read::event_select,
    event_row::{EventRow, event_columns},
    pool::on_pool,
};

/// Which events to price again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RerateFilter {
    /// Since when they ended.
    pub from_ms: i64,
    /// Until when, exclusively.
    pub until_ms: i64,
    /// Equal provider.
    pub provider: Option<String>,
    /// Equal model.
    pub model: Option<String>,
    /// Only these; empty: all.
    pub events: Vec<AttemptId>,
    /// Only after this position.
    pub after: Option<Cursor>,
}

/// Ids of one statement.
const CHUNK: usize = 500;

impl Store {
    /// Proxied model calls of the organisation, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn events_to_rerate(
        &self,
        org: OrgId,
        filter: &RerateFilter,
        limit: i64,
    ) -> Result<Vec<EventRecord>, StoreError> {
        const OP: &str = "read events to price again";
        let rows: Vec<EventRow> = on_pool!(read self.pool, |c, Db| {
            let mut query = sqlx::QueryBuilder::<Db>::new(event_select!());
            query.push("WHERE source = 'proxy' AND event_type = 'llm' AND org_id = ").push_bind(org.bare());
            query.push(" AND ended_at_ms >= ").push_bind(filter.from_ms);
            query.push(" AND ended_at_ms < ").push_bind(filter.until_ms);
            if let Some(provider) = &filter.provider {
                query.push(" AND provider = ").push_bind(provider.clone());
            }
            if let Some(model) = &filter.model {
                query.push(" AND model = ").push_bind(model.clone());
            }
            if !filter.events.is_empty() {
                query.push(" AND id IN (");
                let mut list = query.separated(", ");
                for id in &filter.events {
                    list.push_bind(id.bare());
                }
                query.push(")");
            }
            if let Some(after) = &filter.after {
                query.push(" AND (ended_at_ms > ").push_bind(after.at_ms);
                query.push(" OR (ended_at_ms = ").push_bind(after.at_ms);
                query.push(" AND id > ").push_bind(after.id.clone()).push("))");
            }
            query.push(" ORDER BY ended_at_ms, id LIMIT ").push_bind(limit);
            query.build_query_as().persistent(false).fetch_all(c).await.during(OP)?
        });
        rows.into_iter().map(|row| row.into_record(OP)).collect()
    }

    /// How often each of these events was adjusted, and by how much in all.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn adjustments(
        &self,
        ids: &[AttemptId],
    ) -> Result<HashMap<AttemptId, (u32, Nanos)>, StoreError> {
        const OP: &str = "read adjustments";
        let mut found = HashMap::new();
        for chunk in ids.chunks(CHUNK) {
            let rows: Vec<(String, i64, i64)> = on_pool!(read self.pool, |c, Db| {
                let mut query = sqlx::QueryBuilder::<Db>::new(
                    "SELECT adjusts_event_id, COUNT(*), CAST(SUM(cost_nanos) AS BIGINT) FROM cost_events \
                     WHERE adjusts_event_id IN (",
                );
                let mut list = query.separated(", ");
                for id in chunk {
                    list.push_bind(id.bare());
                }
                query.push(") GROUP BY adjusts_event_id");
                query.build_query_as().persistent(false).fetch_all(c).await.during(OP)?
            });
            for (id, count, nanos) in rows {
                let count = Reader(OP).number("count", count)?;
                found.insert(Reader(OP).id("adjusts_event_id", &id)?, (count, Nanos(nanos)));
            }
        }
        Ok(found)
    }
}

//! Writing cost events: each once, its charges in the same transaction.

use std::collections::{BTreeMap, HashMap, HashSet};

use nullspend_core::{
    attempt::BudgetCharge,
    id::AttemptId,
    ledger::CounterKey,
    money::{MAX_TOTAL_NANOS, Nanos},
};

use super::{
    EventRecord, Store,
    codec::{Reader, charges_json, map_json},
    error::{During, StoreError},
    event_row::{bind_event, event_columns},
    explain::EventRevision,
    pool::{Tx, in_statements, on_tx},
    sessions::SessionDeltas,
    thresholds::{Booked, Crossing},
};

/// Ids of one statement.
const CHUNK: usize = 500;

/// What became of a batch of events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// New events.
    pub inserted: HashSet<AttemptId>,
    /// Events that took the place of a lapsed one.
    pub replaced: u64,
    /// Events that were there already.
    pub duplicates: u64,
    /// Thresholds that windows have reached by them.
    pub crossed: Vec<Crossing>,
}

/// What a stored event must be compared with before it may be replaced.
#[derive(sqlx::FromRow)]
struct StoredRow {
    id: String,
    measurement: String,
    revision: i64,
    cost_nanos: i64,
    ended_at_ms: i64,
    charges: String,
}

/// By how much the settled spend of each window and each session changes.
#[derive(Default)]
struct Deltas {
    windows: BTreeMap<CounterKey, (Option<i64>, i128)>,
    sessions: SessionDeltas,
}

impl Deltas {
    fn add(&mut self, event: &EventRecord) {
        self.in_windows(&event.charges, i128::from(event.cost.0));
        self.sessions.add(event);
    }

    /// Takes out what an event had cost, of which `event` tells the truth.
    fn take_out(&mut self, event: &EventRecord, charges: &[BudgetCharge], cost: Nanos) {
        self.in_windows(charges, -i128::from(cost.0));
        self.sessions.take_out(event, charges, cost);
    }

    fn in_windows(&mut self, charges: &[BudgetCharge], nanos: i128) {
        for charge in charges {
            let entry = self.windows.entry(charge.counter).or_insert((charge.window_end_ms, 0));
            entry.1 += nanos;
        }
    }
}

/// Whether `new` tells more than what is stored: the truth beats a lapse, then the higher revision wins.
fn supersedes(new: &EventRecord, stored_measurement: &str, stored_revision: i64) -> bool {
    match (new.measurement == "lapsed", stored_measurement == "lapsed") {
        (false, true) => true,
        (true, false) => false,
        _ => new.revision > stored_revision,
    }
}

/// One event for each id, the most telling, in the order of ids (which is also the order rows are locked in).
fn merge(events: Vec<EventRecord>) -> (BTreeMap<AttemptId, EventRecord>, u64) {
    let mut merged: BTreeMap<AttemptId, EventRecord> = BTreeMap::new();
    let mut duplicates = 0;
    for mut event in events {
        if let Some(known) = merged.get(&event.id) {
            duplicates += 1;
            if !supersedes(&event, &known.measurement, known.revision) {
                continue;
            }
            event.revision = event.revision.max(known.revision + 1);
        }
        merged.insert(event.id, event);
    }
    (merged, duplicates)
}

impl Store {
    /// Writes events that are not there yet; an event that tells more replaces a lapsed one, and only the difference is
    /// booked. Doing it twice changes nothing.
    ///
    /// # Errors
    /// When the database fails; then nothing was written.
    pub async fn write_events(&self, events: Vec<EventRecord>) -> Result<Written, StoreError> {
        const OP: &str = "write events";
        let mut tx = self.pool.begin().await.during(OP)?;
        let written = tx.write_events(events).await?;
        tx.commit().await.during(OP)?;
        Ok(written)
    }
}

impl Tx {
    pub(super) async fn write_events(&mut self, events: Vec<EventRecord>) -> Result<Written, StoreError> {
        let (mut known, duplicates) = merge(events);
        let inserted = self.insert_events(known.values()).await?;
        let mut fresh: Vec<EventRecord> = inserted.iter().filter_map(|id| known.remove(id)).collect();
        let mut deltas = Deltas::default();
        let known_count = known.len();
        let corrected = self.take_out_superseded(known, &mut deltas).await?;
        let replaced = corrected.len();
        if self.insert_events(corrected.iter()).await?.len() != replaced {
            return Err(StoreError::Conflict { op: "replace lapsed events", source: None });
        }
        fresh.extend(corrected);
        for event in &fresh {
            deltas.add(event);
        }
        self.insert_tags(fresh.iter().map(|event| (event.id, &event.tags))).await?;
        let booked = self.book(&deltas.windows).await?;
        let now_ms = fresh.iter().map(|event| event.ingested_at_ms).max().unwrap_or(0);
        let crossed = self.note_thresholds(&booked, now_ms).await?;
        self.book_sessions(deltas.sessions).await?;
        Ok(Written {
            inserted,
            replaced: replaced as u64,
            duplicates: duplicates + (known_count - replaced) as u64,
            crossed,
        })
    }

    /// Deletes stored events that `known` corrects, and returns the corrections with their revisions.
    async fn take_out_superseded(
        &mut self,
        known: BTreeMap<AttemptId, EventRecord>,
        deltas: &mut Deltas,
    ) -> Result<Vec<EventRecord>, StoreError> {
        const OP: &str = "replace lapsed events";
        let ids: Vec<AttemptId> = known.keys().copied().collect();
        let stored = self.stored_events(&ids).await?;
        let mut corrections = Vec::new();
        for (id, mut event) in known {
            let Some(row) = stored.get(&id.bare()) else { continue };
            if !supersedes(&event, &row.measurement, row.revision) {
                continue;
            }
            let deleted = on_tx!(&mut *self, |c, Db| {
                sqlx::query("DELETE FROM cost_event_tags WHERE event_id = $1")
                    .bind(&row.id)
                    .execute(&mut *c)
                    .await
                    .during(OP)?;
                sqlx::query("DELETE FROM cost_events WHERE id = $1 AND revision = $2")
                    .bind(&row.id)
                    .bind(row.revision)
                    .execute(&mut *c)
                    .await
                    .during(OP)?
                    .rows_affected()
            });
            if deleted != 1 {
                return Err(StoreError::Conflict { op: OP, source: None });
            }
            let said = EventRevision {
                revision: row.revision,
                measurement: row.measurement.clone(),
                cost: Nanos(row.cost_nanos),
                ended_at_ms: row.ended_at_ms,
                replaced_at_ms: event.ingested_at_ms,
            };
            self.keep_revision(&row.id, &said).await?;
            deltas.take_out(&event, &Reader(OP).charges(&row.charges)?, Nanos(row.cost_nanos));
            event.revision = event.revision.max(row.revision + 1);
            corrections.push(event);
        }
        Ok(corrections)
    }

    async fn stored_events(&mut self, ids: &[AttemptId]) -> Result<HashMap<String, StoredRow>, StoreError> {
        let mut found = HashMap::new();
        for chunk in ids.chunks(CHUNK) {
            let rows: Vec<StoredRow> = on_tx!(&mut *self, |c, Db| {
                let mut query = sqlx::QueryBuilder::<Db>::new(
                    "SELECT id, measurement, revision, cost_nanos, ended_at_ms, charges FROM cost_events WHERE id IN (",
                );
                let mut list = query.separated(", ");
                for id in chunk {
                    list.push_bind(id.bare());
                }
                query.push(")");
                query
                    .build_query_as()
                    .persistent(false)
                    .fetch_all(&mut *c)
                    .await
                    .during("read known events")?
            });
            found.extend(rows.into_iter().map(|row| (row.id.clone(), row)));
        }
        Ok(found)
    }

    /// Inserts events whose id (and, for reported ones, request id) is new; returns the ids that were.
    async fn insert_events(
        &mut self,
        events: impl Iterator<Item = &EventRecord>,
    ) -> Result<HashSet<AttemptId>, StoreError> {
        const OP: &str = "insert events";
        let events: Vec<&EventRecord> = events.collect();
        let mut inserted = HashSet::new();
        for some in in_statements(&events) {
            let ids: Vec<String> = on_tx!(&mut *self, |c, Db| {
                let mut query = sqlx::QueryBuilder::<Db>::new(concat!(
                    "INSERT INTO cost_events (",
                    event_columns!(),
                    ") "
                ));
                query.push_values(some, |mut row, event| bind_event!(row, event));
                query.push(" ON CONFLICT DO NOTHING RETURNING id");
                query.build_query_scalar().fetch_all(&mut *c).await.during(OP)?
            });
            for id in &ids {
                inserted.insert(Reader(OP).id("id", id)?);
            }
        }
        Ok(inserted)
    }

    /// Inserts the tags of events or denials that are new.
    pub(super) async fn insert_tags<'a>(
        &mut self,
        tagged: impl Iterator<Item = (AttemptId, &'a BTreeMap<String, String>)>,
    ) -> Result<(), StoreError> {
        let mut rows: Vec<(String, &String, &String)> = tagged
            .flat_map(|(id, tags)| tags.iter().map(move |(name, value)| (id.bare(), name, value)))
            .collect();
        rows.sort_unstable();
        for some in in_statements(&rows) {
            on_tx!(&mut *self, |c, Db| {
                let mut query =
                    sqlx::QueryBuilder::<Db>::new("INSERT INTO cost_event_tags (event_id, name, value) ");
                query.push_values(some, |mut row, (id, name, value)| {
                    row.push_bind(id.clone()).push_bind((*name).clone()).push_bind((*value).clone());
                });
                query.push(" ON CONFLICT DO NOTHING");
                query.build().execute(&mut *c).await.during("insert tags")?;
            });
        }
        Ok(())
    }

    /// Adds to the settled side of windows, in the order of counters, so that two writers cannot deadlock. Returns what
    /// is settled in them now.
    async fn book(
        &mut self,
        deltas: &BTreeMap<CounterKey, (Option<i64>, i128)>,
    ) -> Result<Vec<Booked>, StoreError> {
        const OP: &str = "book charges";
        // Both sides together stay within 64 bits: a stored total is at most 2^62, and so is a change, less one.
        let most = i128::from(MAX_TOTAL_NANOS - 1);
        let rows: Vec<(CounterKey, Option<i64>, i64)> = deltas
            .iter()
            .filter(|(_, (_, delta))| *delta != 0)
            .map(|(counter, (end, delta))| {
                (*counter, *end, i64::try_from((*delta).clamp(-most, most)).unwrap_or(0))
            })
            .collect();
        let mut booked = Vec::with_capacity(rows.len());
        for some in in_statements(&rows) {
            let now: Vec<(String, i64, i64, i64)> = on_tx!(&mut *self, |c, Db| {
                let mut query = sqlx::QueryBuilder::<Db>::new(
                    "INSERT INTO budget_windows (budget_id, generation, window_start_ms, window_end_ms, settled_nanos) ",
                );
                query.push_values(some, |mut row, (counter, window_end_ms, delta)| {
                    row.push_bind(counter.budget.bare())
                        .push_bind(i64::from(counter.generation))
                        .push_bind(counter.window_start_ms)
                        .push_bind(*window_end_ms)
                        .push_bind(*delta);
                });
                query.push(
                    " ON CONFLICT (budget_id, generation, window_start_ms) DO UPDATE SET settled_nanos = \
                     CASE WHEN budget_windows.settled_nanos + excluded.settled_nanos > 4611686018427387904 \
                     THEN 4611686018427387904 \
                     WHEN budget_windows.settled_nanos + excluded.settled_nanos < 0 THEN 0 \
                     ELSE budget_windows.settled_nanos + excluded.settled_nanos END \
                     RETURNING budget_id, generation, window_start_ms, settled_nanos",
                );
                query.build_query_as().fetch_all(&mut *c).await.during(OP)?
            });
            for (budget, generation, window_start_ms, settled) in now {
                let read = Reader(OP);
                let (budget, generation) =
                    (read.id("budget_id", &budget)?, read.number("generation", generation)?);
                booked.push((CounterKey { budget, generation, window_start_ms }, Nanos(settled)));
            }
        }
        Ok(booked)
    }
}

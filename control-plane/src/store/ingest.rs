//! Taking in what data planes report: one transaction for each batch, nothing refused, nothing twice.

use std::collections::BTreeMap;

use nullspend_core::id::{AttemptId, KeyId, OrgId};
use nullspend_proto::internal::{SequencedRecord, spool_record::Kind};

use super::{
    EventRecord, IngestReport, Store,
    codec::map_json,
    error::{During, StoreError},
    pool::{Tx, in_statements, on_tx},
    quarantine::Quarantined,
    record::{clean, closed_event, denial},
    trail::StoredTrail,
};

/// How often a batch is tried again at once when another writer was in the way.
const ATTEMPTS: u32 = 3;
const DENIAL_CHUNK: usize = 500;

/// A refused request (design §5: no event).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DenialRecord {
    /// The attempt's id.
    pub id: AttemptId,
    /// The organisation.
    pub org: OrgId,
    /// The calling key.
    pub key: Option<KeyId>,
    /// When.
    pub at_ms: i64,
    /// Wire code of the denial.
    pub code: String,
    /// Provider id.
    pub provider: String,
    /// The model as requested.
    pub model: String,
    /// 32 lower-case hex digits.
    pub trace_id: Option<String>,
    /// The caller's session.
    pub session_id: Option<String>,
    /// The resolved customer.
    pub customer: Option<String>,
    /// Effective tags.
    pub tags: BTreeMap<String, String>,
    /// The bound that did not fit, in nano-dollars.
    pub estimated_nanos: i64,
    /// The answer's details and the numbers of every matched budget, as JSON text.
    pub details: String,
    /// Further denials of this key in the same minute that were only counted.
    pub suppressed: i64,
}

/// A batch, understood.
#[derive(Default)]
pub(super) struct Batch {
    events: Vec<EventRecord>,
    denials: Vec<DenialRecord>,
    trails: Vec<StoredTrail>,
    pub(super) quarantined: Vec<Quarantined>,
    last_seq: u64,
}

impl Batch {
    pub(super) fn read(dataplane_id: &str, records: &[SequencedRecord], now_ms: i64) -> Self {
        let mut batch = Self::default();
        for record in records {
            batch.last_seq = batch.last_seq.max(record.seq);
            let understood = match record.read().map(|record| record.kind) {
                Ok(Some(Kind::Closed(closed))) => closed_event(&closed, dataplane_id, now_ms).map(|event| {
                    let trail = closed.stub.map(|stub| stub.trail).unwrap_or_default();
                    batch.trails.extend(StoredTrail::new(event.id, trail, event.measurement != "lapsed"));
                    batch.events.push(event);
                }),
                Ok(Some(Kind::Denied(denied))) => denial(&denied).map(|denial| {
                    batch.trails.extend(StoredTrail::new(denial.id, denied.trail, true));
                    batch.denials.push(denial);
                }),
                // Kept by the data plane for itself; reported by mistake they do no harm.
                Ok(Some(Kind::Opened(_) | Kind::Settled(_))) => Ok(()),
                Ok(None) => Err("a kind of record this version does not know".to_owned()),
                Err(error) => Err(format!("no record: {error}")),
            };
            if let Err(reason) = understood {
                batch.quarantined.push(Quarantined::new(record, reason));
            }
        }
        batch
    }
}

impl Store {
    /// Makes a data plane's records durable: events with their charges, denials, and what could not be understood.
    /// Repeats change nothing. After `Ok` every record up to `acked_seq` may be acknowledged.
    ///
    /// # Errors
    /// Only when the database fails for a while: the batch was not written and must come again.
    pub async fn ingest_records(
        &self,
        dataplane_id: &str,
        records: &[SequencedRecord],
        now_ms: i64,
    ) -> Result<IngestReport, StoreError> {
        match self.ingest_whole(dataplane_id, records, now_ms).await {
            Err(error) if !error.is_transient() => {
                tracing::error!(dataplane_id, error = %error, cause = ?error, "a batch was refused; taking it record by record");
                self.ingest_one_by_one(dataplane_id, records, now_ms).await
            }
            outcome => outcome,
        }
    }

    async fn ingest_whole(
        &self,
        dataplane_id: &str,
        records: &[SequencedRecord],
        now_ms: i64,
    ) -> Result<IngestReport, StoreError> {
        let mut attempt = 1;
        loop {
            let batch = Batch::read(dataplane_id, records, now_ms);
            match self.write_batch(dataplane_id, batch, now_ms).await {
                Err(StoreError::Conflict { .. }) if attempt < ATTEMPTS => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    /// The database refuses something in the batch: find it, set it aside, keep the rest.
    async fn ingest_one_by_one(
        &self,
        dataplane_id: &str,
        records: &[SequencedRecord],
        now_ms: i64,
    ) -> Result<IngestReport, StoreError> {
        let mut total = IngestReport::default();
        for record in records {
            let one = match self.ingest_whole(dataplane_id, std::slice::from_ref(record), now_ms).await {
                Err(error) if !error.is_transient() => {
                    let reason = format!("the database refused it: {error:?}");
                    let batch = Batch {
                        quarantined: vec![Quarantined::new(record, reason)],
                        last_seq: record.seq,
                        ..Batch::default()
                    };
                    self.write_batch(dataplane_id, batch, now_ms).await?
                }
                outcome => outcome?,
            };
            total.inserted += one.inserted;
            total.replaced += one.replaced;
            total.duplicates += one.duplicates;
            total.denials += one.denials;
            total.quarantined += one.quarantined;
            total.acked_seq = total.acked_seq.max(one.acked_seq);
            total.crossed.extend(one.crossed);
        }
        Ok(total)
    }

    async fn write_batch(
        &self,
        dataplane_id: &str,
        batch: Batch,
        now_ms: i64,
    ) -> Result<IngestReport, StoreError> {
        const OP: &str = "ingest records";
        let mut tx = self.pool.begin().await.during(OP)?;
        let last_seq = batch.last_seq;
        let report = tx.write_batch(dataplane_id, batch, now_ms).await?;
        tx.note_dataplane(dataplane_id, last_seq, now_ms).await?;
        tx.commit().await.during(OP)?;
        Ok(report)
    }

    /// Deletes at most `limit` denials older than `before_ms`, with their tags and trails; returns how many.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn purge_denials(&self, before_ms: i64, limit: i64) -> Result<u64, StoreError> {
        const OP: &str = "purge denials";
        let mut tx = self.pool.begin().await.during(OP)?;
        let deleted = on_tx!(&mut tx, |c, Db| {
            let ids: Vec<String> = sqlx::query_scalar(
                "DELETE FROM denials WHERE id IN (SELECT id FROM denials WHERE at_ms < $1 ORDER BY at_ms LIMIT $2) \
                 RETURNING id",
            )
            .bind(before_ms)
            .bind(limit)
            .fetch_all(&mut *c)
            .await
            .during(OP)?;
            for chunk in ids.chunks(DENIAL_CHUNK) {
                for of in [
                    "DELETE FROM cost_event_tags WHERE event_id IN (",
                    "DELETE FROM trails WHERE attempt_id IN (",
                ] {
                    let mut query = sqlx::QueryBuilder::<Db>::new(of);
                    let mut list = query.separated(", ");
                    for id in chunk {
                        list.push_bind(id.clone());
                    }
                    query.push(")");
                    query.build().persistent(false).execute(&mut *c).await.during(OP)?;
                }
            }
            ids.len() as u64
        });
        tx.commit().await.during(OP)?;
        Ok(deleted)
    }
}

impl Tx {
    /// Writes what a batch holds. Repeats change nothing.
    pub(super) async fn write_batch(
        &mut self,
        dataplane_id: &str,
        batch: Batch,
        now_ms: i64,
    ) -> Result<IngestReport, StoreError> {
        let written = self.write_events(batch.events).await?;
        let denials = self.insert_denials(&batch.denials, now_ms).await?;
        self.insert_trails(batch.trails).await?;
        self.quarantine(dataplane_id, &batch.quarantined, now_ms).await?;
        Ok(IngestReport {
            inserted: written.inserted.len() as u64,
            replaced: written.replaced,
            duplicates: written.duplicates,
            denials,
            quarantined: batch.quarantined.len() as u64,
            acked_seq: batch.last_seq,
            crossed: written.crossed,
        })
    }

    async fn insert_denials(&mut self, denials: &[DenialRecord], now_ms: i64) -> Result<u64, StoreError> {
        let mut inserted = 0;
        for some in in_statements(denials) {
            inserted += on_tx!(&mut *self, |c, Db| {
                let mut query = sqlx::QueryBuilder::<Db>::new(
                    "INSERT INTO denials (id, org_id, key_id, at_ms, code, provider, model, trace_id, session_id, \
                     customer_id, tags, estimated_nanos, details, suppressed, ingested_at_ms) ",
                );
                query.push_values(some, |mut row, denial| {
                    row.push_bind(denial.id.bare())
                        .push_bind(denial.org.bare())
                        .push_bind(denial.key.map(KeyId::bare))
                        .push_bind(denial.at_ms)
                        .push_bind(denial.code.clone())
                        .push_bind(denial.provider.clone())
                        .push_bind(denial.model.clone())
                        .push_bind(denial.trace_id.clone())
                        .push_bind(denial.session_id.clone())
                        .push_bind(denial.customer.clone())
                        .push_bind(map_json(&denial.tags))
                        .push_bind(denial.estimated_nanos)
                        .push_bind(denial.details.clone())
                        .push_bind(denial.suppressed)
                        .push_bind(now_ms);
                });
                query.push(" ON CONFLICT DO NOTHING");
                query.build().execute(&mut *c).await.during("insert denials")?.rows_affected()
            });
        }
        self.insert_tags(denials.iter().map(|denial| (denial.id, &denial.tags))).await?;
        Ok(inserted)
    }

    async fn note_dataplane(&mut self, dataplane: &str, seq: u64, now_ms: i64) -> Result<(), StoreError> {
        on_tx!(&mut *self, |c, Db| {
            sqlx::query(
                "INSERT INTO dataplanes (id, acked_seq, first_seen_at_ms, last_seen_at_ms) VALUES ($1, $2, $3, $3) \
                 ON CONFLICT (id) DO UPDATE SET acked_seq = excluded.acked_seq, \
                 last_seen_at_ms = excluded.last_seen_at_ms, left_at_ms = NULL",
            )
            .bind(clean(dataplane))
            .bind(i64::try_from(seq).unwrap_or(i64::MAX))
            .bind(now_ms)
            .execute(&mut *c)
            .await
            .during("note a data plane")?;
            Ok(())
        })
    }
}

//! Records that could not be taken in: set aside, so that they are never lost and never in the way, and tried again.

use nullspend_proto::internal::SequencedRecord;

use super::{
    Crossing, IngestReport, Store,
    error::{During, StoreError},
    ingest::Batch,
    pool::{Tx, on_pool, on_tx},
    record::clean,
};

/// Records tried again before the database is asked for more.
const CHUNK: i64 = 100;

/// A record set aside.
pub(super) struct Quarantined {
    seq: u64,
    reason: String,
    payload: String,
}

impl Quarantined {
    pub(super) fn new(record: &SequencedRecord, reason: String) -> Self {
        Self { seq: record.seq, reason, payload: hex::encode(&record.record) }
    }
}

/// Where a record is in the table.
type Place = (String, i64);

/// What became of records that were set aside.
#[derive(Debug, Default)]
pub struct Retried {
    /// How many were taken in.
    pub taken: u64,
    /// Thresholds that windows have reached by them.
    pub crossed: Vec<Crossing>,
}

impl Store {
    /// Takes in what was set aside and can be taken in by now: a later version understands more, and what a database refused
    /// may have been mended. The rest stays.
    ///
    /// # Errors
    /// When the database fails for a while.
    pub async fn retry_quarantine(&self, now_ms: i64) -> Result<Retried, StoreError> {
        let mut retried = Retried::default();
        let mut after = (String::new(), i64::MIN);
        loop {
            let rows = self.quarantined_after(&after).await?;
            let Some((last, _)) = rows.last() else { return Ok(retried) };
            after = last.clone();
            for (place, payload) in rows {
                if let Some(report) = self.retry(&place, &payload, now_ms).await? {
                    retried.taken += 1;
                    retried.crossed.extend(report.crossed);
                }
            }
        }
    }

    async fn quarantined_after(&self, (dataplane, seq): &Place) -> Result<Vec<(Place, String)>, StoreError> {
        let rows: Vec<(String, i64, String)> = on_pool!(read self.pool, |c, Db| {
            sqlx::query_as(
                "SELECT dataplane_id, seq, payload FROM quarantine WHERE (dataplane_id, seq) > ($1, $2) \
                 ORDER BY dataplane_id, seq LIMIT $3",
            )
            .bind(dataplane)
            .bind(seq)
            .bind(CHUNK)
            .fetch_all(c)
            .await
            .during("read quarantined records")?
        });
        Ok(rows.into_iter().map(|(dataplane, seq, payload)| ((dataplane, seq), payload)).collect())
    }

    /// `None`: the record stays where it is.
    async fn retry(
        &self,
        place: &Place,
        payload: &str,
        now_ms: i64,
    ) -> Result<Option<IngestReport>, StoreError> {
        const OP: &str = "take in a quarantined record";
        let (dataplane, seq) = place;
        let Ok(record) = hex::decode(payload) else { return Ok(None) };
        let record = SequencedRecord { seq: u64::try_from(*seq).unwrap_or(0), record: record.into() };
        let batch = Batch::read(dataplane, &[record], now_ms);
        if !batch.quarantined.is_empty() {
            return Ok(None);
        }
        let mut tx = self.pool.begin().await.during(OP)?;
        let report = match tx.write_batch(dataplane, batch, now_ms).await {
            Err(error) if !error.is_transient() => return Ok(None),
            written => written?,
        };
        on_tx!(&mut tx, |c, Db| {
            sqlx::query("DELETE FROM quarantine WHERE dataplane_id = $1 AND seq = $2")
                .bind(dataplane)
                .bind(seq)
                .execute(&mut *c)
                .await
                .during(OP)?;
        });
        tx.commit().await.during(OP)?;
        Ok(Some(report))
    }

    /// How many records are set aside.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn quarantine_depth(&self) -> Result<i64, StoreError> {
        on_pool!(read self.pool, |c, Db| {
            sqlx::query_scalar("SELECT COUNT(*) FROM quarantine").fetch_one(c).await.during("count quarantined records")
        })
    }
}

impl Tx {
    /// Sets records aside, each once.
    pub(super) async fn quarantine(
        &mut self,
        dataplane: &str,
        records: &[Quarantined],
        now_ms: i64,
    ) -> Result<(), StoreError> {
        for record in records {
            tracing::error!(dataplane, seq = record.seq, reason = %record.reason, "a record was set aside");
            on_tx!(&mut *self, |c, Db| {
                sqlx::query(
                    "INSERT INTO quarantine (dataplane_id, seq, reason, payload, quarantined_at_ms) \
                     VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
                )
                .bind(clean(dataplane))
                .bind(i64::try_from(record.seq).unwrap_or(i64::MAX))
                .bind(clean(&record.reason))
                .bind(&record.payload)
                .bind(now_ms)
                .execute(&mut *c)
                .await
                .during("quarantine a record")?;
            });
        }
        Ok(())
    }
}

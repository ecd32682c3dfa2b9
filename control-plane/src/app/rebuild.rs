//! Making the ledger's books again: from the store, and from what data planes have under way (design §6, Rebuild).
//!
//! Of each call exactly one thing becomes true, whatever its data plane was doing: its cost is in the totals that are
//! loaded and its id is known as done, or it is held again. What the store has is looked up and summed up in one reading,
//! so that no event comes in between.

use std::{collections::BTreeMap, time::Duration};

use nullspend_core::{
    id::{AttemptId, OrgId},
    ledger::{LAPSE_KEPT_MS, Reserve, ReserveOutcome, Restored, SESSION_IDLE_MS},
};
use nullspend_proto::internal::DeliverRequest;
use tokio::time::Instant;

use super::{App, AppError};
use crate::store::{BooksSince, LapsedRecord, RebuildRecord, UnderWay};

/// Deletions this recent may still matter to a data plane that was away.
const DELETED_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// Windows that ended this recently are loaded too: holds may have been taken in them. And lapses this recent may yet be
/// corrected.
const ENDED_MS: i64 = 24 * 60 * 60 * 1000;
/// The lease that a restored hold gets, before its owner renews it.
const LEASE_MS: i64 = 60_000;
/// How long nobody else makes books again after the one who claimed it was heard of.
const CLAIM: Duration = Duration::from_secs(10);
/// How often a claim is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(1);

/// What a look at the ledger's books came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Organisations whose books were made again.
    pub rebuilt: usize,
    /// Data planes that a rebuild waits for, by organisation.
    pub waiting: BTreeMap<OrgId, Vec<String>>,
    /// Organisations whose books could not be seen, or not be made again yet; by another control plane, maybe.
    pub unseen: usize,
}

impl App {
    /// Looks at every organisation's books, and makes lost ones again as soon as every data plane that may have work
    /// under way has told of it. One whose ledger does not answer keeps no other waiting.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn rebuild_lost(&self) -> Result<Looked, AppError> {
        let mut looked = Looked::default();
        let under_way: BTreeMap<OrgId, RebuildRecord> =
            self.store.list_rebuilds().await?.into_iter().map(|rebuild| (rebuild.org, rebuild)).collect();
        for org in self.store.org_ids().await? {
            if let Err(error) = self.look_at(org, under_way.get(&org), &mut looked).await {
                tracing::warn!(%org, error = &error as &dyn std::error::Error, "the ledger's books cannot be seen or made again yet");
                looked.unseen += 1;
            }
        }
        Ok(looked)
    }

    async fn look_at(
        &self,
        org: OrgId,
        known: Option<&RebuildRecord>,
        looked: &mut Looked,
    ) -> Result<(), AppError> {
        if !self.ledger.is_lost(org).await? {
            if let Some(done) = known {
                self.store.end_rebuild(&done.id).await?;
                self.wake_watchers();
            }
            return Ok(());
        }
        let rebuild = match known {
            Some(rebuild) => rebuild.clone(),
            None => self.begin_rebuild(org).await?,
        };
        if rebuild.opening {
            return self.begin_afresh(&rebuild, looked).await;
        }
        let awaited = self.store.awaited_dataplanes(&rebuild.id).await?;
        if !awaited.is_empty() {
            looked.waiting.insert(org, awaited);
        } else if self.finish_rebuild(&rebuild).await? {
            looked.rebuilt += 1;
        } else {
            looked.unseen += 1;
        }
        Ok(())
    }

    async fn begin_rebuild(&self, org: OrgId) -> Result<RebuildRecord, AppError> {
        let id = self.ids.v4().to_string();
        let begun = RebuildRecord { org, id, began_at_ms: self.clock.now_ms(), opening: false };
        let rebuild = self.store.begin_rebuild(&begun).await?;
        self.wake_watchers();
        Ok(rebuild)
    }

    /// Books that were being opened are lost: they never opened, or opened and are lost once more. Calls may have begun in
    /// between, so every data plane is asked again; not while another control plane is still at it.
    async fn begin_afresh(&self, rebuild: &RebuildRecord, looked: &mut Looked) -> Result<(), AppError> {
        if self.claim(rebuild, CLAIM).await? {
            let id = self.ids.v4().to_string();
            self.store.begin_rebuild_anew(&rebuild.id, &id, false).await?;
            self.claim(rebuild, Duration::ZERO).await?;
            self.wake_watchers();
        }
        looked.unseen += 1;
        Ok(())
    }

    /// False when another control plane makes the books again, or has.
    async fn finish_rebuild(&self, rebuild: &RebuildRecord) -> Result<bool, AppError> {
        if !self.claim(rebuild, CLAIM).await? {
            return Ok(false);
        }
        // A claim that is lost ends the work: whoever took it over has begun anew.
        let filled = tokio::select! {
            // What is done is done: its claim went with it.
            biased;
            filled = self.fill_delivered(rebuild) => filled,
            lost = self.keep_claim(rebuild) => lost,
        };
        if filled.is_err() {
            // Another one may reach what this one does not; if not told, it waits until the claim is over.
            let _ = self.claim(rebuild, Duration::ZERO).await;
        }
        filled
    }

    async fn claim(&self, rebuild: &RebuildRecord, so_long: Duration) -> Result<bool, AppError> {
        let so_long_ms = i64::try_from(so_long.as_millis()).unwrap_or(i64::MAX);
        Ok(self.store.claim_rebuild(rebuild.org, &self.id, so_long_ms).await?)
    }

    /// Gives back what this control plane has claimed, since it ends: another one need not wait for the claim to be over.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn give_rebuilds_back(&self) -> Result<(), AppError> {
        Ok(self.store.give_rebuilds_back(&self.id).await?)
    }

    /// Renews a claim until somebody else has it, or it ended unrenewed.
    async fn keep_claim(&self, rebuild: &RebuildRecord) -> Result<bool, AppError> {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            let asked = Instant::now();
            match self.claim(rebuild, CLAIM).await {
                Ok(true) => renewed = asked,
                Ok(false) => return Ok(false),
                Err(error) if renewed.elapsed() >= CLAIM => return Err(error),
                // A database that is busy with the reports that waited for it need not end the work.
                Err(error) => tracing::debug!(%error, "a claim could not be renewed yet"),
            }
        }
    }

    async fn fill_delivered(&self, rebuild: &RebuildRecord) -> Result<bool, AppError> {
        let delivered = self.store.delivered(&rebuild.id).await?;
        let under_way = delivered.len();
        if !self.fill(rebuild.org, delivered, Some(rebuild)).await? {
            return Ok(false);
        }
        self.wake_watchers();
        let took_ms = self.clock.now_ms() - rebuild.began_at_ms;
        tracing::warn!(org = %rebuild.org, under_way, took_ms, "the ledger's books are made again");
        Ok(true)
    }

    /// Keeps what a data plane has under way; false when nobody waits for it.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn delivered(&self, delivery: &DeliverRequest) -> Result<bool, AppError> {
        let kept = self.store.keep_delivery(delivery).await?;
        self.looking.notify_one();
        Ok(kept)
    }

    /// Waits until a look at the books may find something new.
    pub async fn something_delivered(&self) {
        self.looking.notified().await;
    }

    /// Fills a ledger that begins with this process, for every organisation. The spool must have been replayed into the
    /// store before (design §5 Start).
    ///
    /// # Errors
    /// When the store or the ledger does not answer.
    pub async fn load_ledger(&self) -> Result<(), AppError> {
        for org in self.store.org_ids().await? {
            self.fill(org, Vec::new(), None).await?;
        }
        Ok(())
    }

    /// Tells the ledger every limit again, where its books are whole: a change that was stored may not have reached it.
    ///
    /// # Errors
    /// When the store or the ledger does not answer.
    pub async fn apply_all_limits(&self) -> Result<(), AppError> {
        for org in self.store.org_ids().await? {
            if self.ledger.is_lost(org).await? {
                continue;
            }
            let limits = self.store.limits(org, self.recent().deleted_ms).await?;
            self.ledger.apply_limits(org, &limits).await?;
        }
        Ok(())
    }

    /// Gives every organisation's books up, on an operator's word: they are made again.
    ///
    /// # Errors
    /// When the store or the ledger does not answer.
    pub async fn give_up_ledger(&self) -> Result<(), AppError> {
        for org in self.store.org_ids().await? {
            self.ledger.give_up(org).await?;
        }
        Ok(())
    }

    fn recent(&self) -> BooksSince {
        let now_ms = self.clock.now_ms();
        BooksSince {
            deleted_ms: now_ms - DELETED_MS,
            window_ended_ms: now_ms - ENDED_MS,
            session_used_ms: now_ms - SESSION_IDLE_MS,
            lapsed_ms: now_ms - LAPSE_KEPT_MS,
        }
    }

    /// False when the books turn out to be whole, or another control plane has made them again.
    async fn fill(
        &self,
        org: OrgId,
        under_way: Vec<UnderWay>,
        rebuild: Option<&RebuildRecord>,
    ) -> Result<bool, AppError> {
        // A report that is charged and not stored yet would be in neither.
        let _no_reports = self.charging.write().await;
        if !self.ledger.begin_rebuild(org).await? {
            return Ok(false);
        }
        let ids: Vec<AttemptId> = under_way.iter().map(|call| call.attempt).collect();
        let books = self.store.books(org, self.recent(), &ids).await?;
        self.ledger.apply_limits(org, &books.limits).await?;
        self.ledger.load(org, &books.settled).await?;
        self.ledger.load_sessions(org, &books.sessions).await?;
        let done: Vec<AttemptId> = books.recorded.iter().copied().collect();
        self.ledger.restore_done(org, &done).await?;
        for lapse in &books.lapsed {
            self.put_back(org, &lapsed(org, lapse), Restored::Lapsed).await?;
        }
        // What is done or lapsed is known by now, and is not held again.
        for call in &under_way {
            self.put_back(org, &held(org, call), Restored::Held).await?;
        }
        match rebuild {
            Some(rebuild) => self.open_books(rebuild).await,
            None => Ok(self.ledger.finish_rebuild(org).await.map(|()| true)?),
        }
    }

    /// False when another control plane has opened them meanwhile, and this loss is a later one.
    async fn open_books(&self, rebuild: &RebuildRecord) -> Result<bool, AppError> {
        // Before the books are whole: what was delivered is of this loss, and must not be used for another. And under way
        // still, so that nobody who sees them lost begins once more.
        let anew = self.ids.v4().to_string();
        if !self.store.begin_rebuild_anew(&rebuild.id, &anew, true).await? {
            return Ok(false);
        }
        self.ledger.finish_rebuild(rebuild.org).await?;
        self.store.end_rebuild(&anew).await?;
        Ok(true)
    }

    async fn put_back(&self, org: OrgId, reserve: &Reserve, as_a: Restored) -> Result<(), AppError> {
        match self.ledger.restore(reserve, as_a).await? {
            ReserveOutcome::Invalid(misuse) => {
                // It is charged when its owner tells its cost.
                tracing::error!(%org, attempt = %reserve.hold, %misuse, "a call cannot be put back into the ledger");
            }
            ReserveOutcome::Reserved { .. } | ReserveOutcome::AlreadyDone => {}
            other => {
                return Err(AppError::internal("The ledger refuses what must be put back", Refused(other)));
            }
        }
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?}")]
struct Refused(ReserveOutcome);

fn lapsed(org: OrgId, lapse: &LapsedRecord) -> Reserve {
    Reserve {
        hold: lapse.attempt,
        org,
        scopes: lapse.charges.iter().map(|charge| charge.scope()).collect(),
        session: lapse.session_id.as_deref().map(Into::into),
        finalize: false,
        amount: lapse.cost,
        lease_ms: LEASE_MS,
        stub: bytes::Bytes::new(),
    }
}

fn held(org: OrgId, call: &UnderWay) -> Reserve {
    Reserve {
        hold: call.attempt,
        org,
        scopes: call.charges.iter().map(|charge| charge.scope()).collect(),
        session: call.session_id.as_deref().map(Into::into),
        finalize: call.finalize,
        amount: call.held,
        lease_ms: LEASE_MS,
        stub: call.stub.clone(),
    }
}

//! A forwarded attempt: opened in the spool before anything leaves, closed there before the ledger settles, exactly
//! once, whatever happens in between (design §5, durable order).

use std::{sync::Arc, time::Duration};

use nullspend_core::{
    attempt::{AttemptStub, Closing},
    exchange::{
        Answered, Cut, End, Forward, Forwarded, Moment, Opening, Origin, Owed, ResponseHead, cost_comment,
        head::Headers,
    },
    id::BudgetId,
    money::Nanos,
};
use tracing::error;

use crate::{
    DataPlane,
    bodies::BodyPermit,
    convert,
    lease::Lease,
    plane::{Entered, Extension},
    settle::{Settled, Settlement},
    spool::SpoolError,
    unpriced::Fate,
};

/// How long an answer's last byte waits for its settlement; afterwards the settlement goes on alone.
const SETTLE_WAIT: Duration = Duration::from_millis(250);

/// One attempt between `opened` and `closed`.
pub struct Flight {
    plane: Arc<DataPlane>,
    forwarded: Option<Box<Forwarded>>,
    lease: Option<Lease>,
    /// For the prompt that is kept to be counted.
    kept: Option<BodyPermit>,
}

impl Flight {
    /// Writes `opened` and says how to forward.
    ///
    /// # Errors
    /// The spool cannot be written, or the call is refused by now: nothing may be forwarded, and the hold is released.
    pub async fn open(
        plane: &Arc<DataPlane>,
        opening: Box<Opening>,
        body: Vec<u8>,
        permit: BodyPermit,
    ) -> Result<(Self, Forward), Box<Answered>> {
        if let Err(cause) = plane.spool.append_durably(&convert::opened(&opening.stub, &opening.trail)).await
        {
            plane.metrics.spool_refusals.inc();
            // A full spool is told once, by itself.
            if !matches!(cause, SpoolError::Full { .. }) {
                error!(%cause, "the spool cannot be written; the request is refused");
            }
            let answered = opening.not_opened();
            plane.release(&opening);
            return Err(answered);
        }
        // The record may have waited for the disk, and this is the last moment.
        let refused = plane.refused(&opening);
        let stub = &opening.stub;
        if stub.unpriced {
            plane.metrics.unpriced.call(&stub.provider, &stub.model, Fate::Held, stub.started_at_ms);
        }
        // On credit there is nothing to renew; what a late reserve may hold all the same is settled with the rest.
        let held = !opening.stub.charges.is_empty() && !opening.stub.on_credit;
        let lease = held.then(|| plane.leases.keep(opening.stub.org, opening.stub.attempt));
        let (forward, mut forwarded) = opening.opened(body, plane.now());
        plane.metrics.added_latency(forwarded.overhead_us());
        let kept = permit.keep(forwarded.prompt_bytes());
        if kept.is_none() {
            forwarded.forget_prompt();
        }
        let plane = Arc::clone(plane);
        let flight = Self { plane, forwarded: Some(Box::new(forwarded)), lease, kept };
        if let Some(answered) = refused {
            flight.close(End::NotForwarded).await;
            return Err(answered);
        }
        Ok((flight, forward))
    }

    /// The answer's headers came.
    pub fn response_head(&mut self, headers: &Headers, origin: Origin, now: Moment) -> ResponseHead {
        self.forwarded
            .as_mut()
            .map(|forwarded| forwarded.response_head(headers, origin, now))
            .unwrap_or_default()
    }

    /// A piece of the answer's body came. Waits for the ledger where bytes must be paid for before they pass.
    pub async fn response_body(&mut self, chunk: Vec<u8>, end_of_stream: bool, now: Moment) -> Piece {
        let Some(forwarded) = &mut self.forwarded else { return Piece::Passes(chunk) };
        let mut passes = forwarded.response_body(chunk, end_of_stream, now);
        while let Some(owed) = forwarded.owes().filter(|owed| owed.blocks) {
            match pay(&self.plane, forwarded, owed).await {
                Ok(more) => passes.extend(more),
                Err(refused) if refused.ends => {
                    self.plane.metrics.streams_cut.inc();
                    let last = forwarded.cut(refused.why, refused.budget, self.plane.now());
                    return last.map_or(Piece::Breaks, |last| Piece::Last([passes, last].concat()));
                }
                Err(_) => {}
            }
        }
        Piece::Passes(passes)
    }

    /// Pays ahead of the bytes to come, so that they need not wait.
    pub async fn ahead(&mut self) {
        let Some(forwarded) = &mut self.forwarded else { return };
        while let Some(owed) = forwarded.owes().filter(|owed| !owed.blocks) {
            // What is refused here is asked for again, or ends the stream, once bytes need it.
            let _ = pay(&self.plane, forwarded, owed).await;
        }
    }

    /// Closes and settles. Returns when the ledger has settled, or after [`SETTLE_WAIT`], with what the client gets
    /// after the answer's last byte.
    pub async fn close(mut self, end: End) -> Vec<u8> {
        let tells_cost = self.tells_cost();
        let Some(pending) = self.end(end) else { return Vec::new() };
        let plane = Arc::clone(&self.plane);
        let told = tells_cost.then(|| (pending.stub.clone(), pending.closing.clone()));
        // Here, and not in a task of its own, which would cost a change of threads: a ledger that is well answers at once.
        let mut settling = Box::pin(pending.settle(Arc::clone(&plane)));
        let settled = tokio::time::timeout(SETTLE_WAIT, &mut settling).await.is_ok();
        if !settled {
            // It goes on, and until it is done the hold keeps the money.
            tokio::spawn(settling);
        }
        let Some((stub, closing)) = told else { return Vec::new() };
        let balances = if settled { plane.balances(&stub).await } else { Vec::new() };
        cost_comment(&closing, &balances)
    }

    /// Closing gives a comment for the client.
    pub fn tells_cost(&self) -> bool {
        self.forwarded.as_ref().is_some_and(|forwarded| forwarded.tells_cost())
    }

    fn end(&mut self, end: End) -> Option<Pending> {
        let forwarded = self.forwarded.take()?;
        let stub = forwarded.stub().clone();
        let closing = forwarded.close(end, self.plane.now());
        self.plane.metrics.request(stub.api, closing.status_code, closing.ending);
        self.plane.metrics.event(closing.measurement, stub.unpriced);
        Some(Pending { stub, closing, lease: self.lease.take(), _entered: self.plane.enter() })
    }
}

/// What the client gets of a piece of the answer.
pub enum Piece {
    /// These bytes.
    Passes(Vec<u8>),
    /// These, and nothing after them: the stream is cut.
    Last(Vec<u8>),
    /// Nothing more, not even a polite end.
    Breaks,
}

/// An addition to a hold that was not made.
struct Refused {
    why: Cut,
    budget: Option<BudgetId>,
    ends: bool,
}

/// Holds more for a stream: in the ledger, then in the spool, and only then may the bytes pass that it pays for.
async fn pay(plane: &DataPlane, forwarded: &mut Forwarded, owed: Owed) -> Result<Vec<u8>, Refused> {
    if owed.add > Nanos::ZERO {
        // What the ledger grants here is in the spool before a rebuild is told what is under way.
        let _deciding = plane.deciding.enter();
        let (grown, trail) = forwarded.grown(owed);
        let (why, budget) = match plane.extend(&grown, owed.add).await {
            Extension::Held => match plane.spool.append_durably(&convert::opened(&grown, &trail)).await {
                Ok(_) => return Ok(forwarded.extended(owed)),
                Err(cause) => {
                    error!(%cause, "the spool cannot be written; a stream is ended");
                    (Cut::BudgetUnavailable, None)
                }
            },
            Extension::Denied(budget) => (Cut::BudgetExceeded, budget),
            Extension::Unavailable => (Cut::BudgetUnavailable, None),
        };
        let least = forwarded.not_extended(owed);
        let ends = owed.blocks && (least || why == Cut::BudgetUnavailable);
        return Err(Refused { why, budget, ends });
    }
    Ok(forwarded.extended(owed))
}

impl Drop for Flight {
    /// A flight that nobody closed (the stream broke, a task panicked) is closed as broken.
    fn drop(&mut self) {
        let Some(forwarded) = self.forwarded.take() else { return };
        let (plane, lease, kept) = (Arc::clone(&self.plane), self.lease.take(), self.kept.take());
        let entered = plane.enter();
        // Not here: a second panic, on what caused the first, would end the process.
        tokio::spawn(async move {
            let mut flight = Self { plane: Arc::clone(&plane), forwarded: Some(forwarded), lease, kept };
            if let Some(pending) = flight.end(End::Broken) {
                pending.settle(plane).await;
            }
            drop(entered);
        });
    }
}

/// An attempt whose end is known and must reach the spool, then the ledger.
struct Pending {
    stub: AttemptStub,
    closing: Closing,
    /// Renewed until the ledger has settled.
    lease: Option<Lease>,
    _entered: Entered,
}

impl Pending {
    async fn settle(mut self, plane: Arc<DataPlane>) {
        self.write(&plane, 1).await;
        if Settlement::of(&self.stub, self.closing.cost).run(&plane).await == Settled::AfterLapse {
            self.write(&plane, 2).await;
        }
        drop(self.lease.take());
        plane.mark_settled(self.stub.attempt).await;
    }

    /// Nothing is settled before `closed` is written, so a full disk is waited for, with the hold in place.
    async fn write(&self, plane: &DataPlane, revision: u32) {
        let record = convert::closed(&self.stub, &self.closing, revision);
        plane.write_surely(self.stub.attempt, record).await;
    }
}

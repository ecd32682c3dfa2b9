//! What goes over every organisation: sweeps, and the sum of open holds.
//!
//! The reply of a sweep holds stubs that must not be lost. What a caller was given is told to the server at its next
//! sweep; until then it stays on the server, and what is not confirmed in time is handed out again, to whoever sweeps.

use bytes::Bytes;
use nullspend_core::{
    id::{AttemptId, OrgId},
    ledger::{LapsedHold, OpenHolds},
};

use super::{
    Failure, RedisLedger,
    wire::{Args, Malformed, Reply},
};

/// Holds that one call of the script ends: nothing else runs on the server meanwhile (under a millisecond for these).
const SWEPT_AT_ONCE: usize = 50;
/// How long a caller may take to write the events of what it swept before another one is given them.
const CLAIM_MS: i64 = 60_000;

impl RedisLedger {
    pub(super) async fn sweep_all(&self) -> Result<Vec<LapsedHold>, Failure> {
        let mut lapsed = Vec::new();
        for org in self.orgs().await? {
            match self.sweep_one(org, &mut lapsed).await {
                Ok(()) | Err(Failure::Gone) => {}
                // What is in hand already must reach the caller.
                Err(failure) if lapsed.is_empty() => return Err(failure),
                Err(failure) => {
                    tracing::warn!(error = %failure, "a sweep of the ledger was cut short");
                    break;
                }
            }
        }
        Ok(lapsed)
    }

    async fn sweep_one(&self, org: OrgId, lapsed: &mut Vec<LapsedHold>) -> Result<(), Failure> {
        let (mut more, mut passed, first) = (true, 0_u64, lapsed.len());
        while more {
            let received = self.known.with(org, |of| of.received.clone());
            let received = &received[..received.len().min(super::AT_ONCE)];
            let args = Args::default().with(SWEPT_AT_ONCE).with(CLAIM_MS).with(passed).with(received.len());
            let args = received.iter().fold(args, |args, id| args.with(id.bare()));
            let mut reply = self.run(org, &self.scripts.sweep, args).await?;
            self.known.with(org, |of| of.received.retain(|id| !received.contains(id)));
            more = reply.number::<u8>()? == 1 || received.len() == super::AT_ONCE;
            passed = reply.number()?;
            while reply.left() > 0 {
                lapsed.push(lapsed_hold(org, &mut reply)?);
            }
        }
        lapsed[first..].sort_by_key(|hold| hold.hold);
        let handed_out = lapsed[first..].iter().map(|hold| hold.hold);
        self.known.with(org, |of| of.received.extend(handed_out));
        Ok(())
    }

    pub(super) async fn open_holds_of_all(&self) -> Result<OpenHolds, Failure> {
        let mut all = OpenHolds::default();
        for org in self.orgs().await? {
            let mut reply = match self.run(org, &self.scripts.open_holds, Args::default()).await {
                Err(Failure::Gone) => continue,
                reply => reply?,
            };
            all.count += reply.number::<u64>()?;
            all.oldest_ms = all.oldest_ms.max(reply.number()?);
            all.held = all.held + reply.nanos()?;
        }
        Ok(all)
    }

    /// The organisations that have, or had, books.
    async fn orgs(&self) -> Result<Vec<OrgId>, Failure> {
        let key = format!("{}:orgs", self.prefix);
        let asked = self.link.call(|mut live| async move {
            redis::cmd("SMEMBERS").arg(key).query_async(&mut live.connection).await
        });
        let members: Vec<String> = redis::from_redis_value(asked.await?).map_err(|_| Malformed)?;
        members.iter().map(|org| org.parse().map_err(|_| Malformed.into())).collect()
    }
}

fn lapsed_hold(org: OrgId, reply: &mut Reply) -> Result<LapsedHold, Malformed> {
    let hold: AttemptId = reply.number()?;
    Ok(LapsedHold { hold, org, amount: reply.nanos()?, stub: Bytes::from(reply.bytes()?) })
}

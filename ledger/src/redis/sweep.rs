//! What goes over every organisation: sweeps, and the sum of open holds.
//!
//! The reply of a sweep holds stubs that must not be lost. What a caller was given is told to the server at its next
//! sweep; until then it stays on the server, and what is not confirmed in time is handed out again, to whoever sweeps.

use std::collections::HashSet;

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
        let (mut lapsed, mut failed) = (Vec::new(), None);
        for org in self.orgs().await? {
            match self.sweep_one(org, &mut lapsed).await {
                Ok(()) | Err(Failure::Gone) => {}
                // Others may be on a server that answers.
                Err(failure) => failed = Some(failure),
            }
        }
        match failed {
            // What is in hand must reach the caller.
            Some(failure) if !lapsed.is_empty() => {
                tracing::warn!(error = %failure, "a sweep of the ledger passed over organisations");
                Ok(lapsed)
            }
            Some(failure) => Err(failure),
            None => Ok(lapsed),
        }
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

    /// The organisations that have, or had, books. In a cluster their set may be lost without their books, so whoever has
    /// seen some puts them back.
    async fn orgs(&self) -> Result<Vec<OrgId>, Failure> {
        let key = format!("{}:orgs", self.prefix);
        let (reply, _) = self.link.ask(&key, redis::cmd("SMEMBERS").arg(&key)).await?;
        let members: Vec<String> = redis::from_redis_value(reply).map_err(|_| Malformed)?;
        let listed = members.iter().map(|org| org.parse().map_err(|_| Malformed));
        let mut orgs: Vec<OrgId> = listed.collect::<Result<_, Malformed>>()?;
        let listed: HashSet<OrgId> = orgs.iter().copied().collect();
        let missing: Vec<OrgId> = self.known.all().into_iter().filter(|org| !listed.contains(org)).collect();
        if !missing.is_empty() {
            let mut add = redis::cmd("SADD");
            add.arg(&key).arg(missing.iter().map(|org| org.bare()).collect::<Vec<_>>());
            if let Err(cause) = self.link.ask(&key, &add).await {
                tracing::warn!(%cause, "organisations are missing from the set for sweeps");
            }
            orgs.extend(missing);
        }
        Ok(orgs)
    }
}

fn lapsed_hold(org: OrgId, reply: &mut Reply) -> Result<LapsedHold, Malformed> {
    let hold: AttemptId = reply.number()?;
    Ok(LapsedHold { hold, org, amount: reply.nanos()?, stub: Bytes::from(reply.bytes()?) })
}

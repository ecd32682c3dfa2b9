//! Books that are lost, or were never there, are made again.
//!
//! Whoever begins gets a token, under which alone they can be filled; a second one to begin takes over, and the first
//! can do no more harm. Until they are finished nothing is decided.

use nullspend_core::{
    id::{Ids, OrgId, RandomIds},
    money::{MAX_TOTAL_NANOS, Nanos},
};

use super::{
    AT_ONCE, Failure, RedisLedger,
    wire::{Args, Malformed},
};

/// A total as the ledger keeps it.
pub(super) fn in_range(settled: Nanos) -> i64 {
    settled.0.clamp(0, MAX_TOTAL_NANOS)
}

impl RedisLedger {
    /// False when the books are whole.
    pub(super) async fn begin(&self, org: OrgId) -> Result<bool, Failure> {
        let token = RandomIds.v4().to_string();
        let args = Args::default().with("begin").with(&token);
        let mut reply = self.run(org, &self.scripts.rebuild, args).await?;
        match reply.text()?.as_str() {
            "whole" => Ok(false),
            "begun" => {
                self.known.with(org, |of| {
                    of.token = token;
                    of.taken = false;
                    of.received.clear();
                });
                self.clear(org).await?;
                Ok(true)
            }
            _ => Err(Malformed.into()),
        }
    }

    /// Deletes what is left of the organisation's old books.
    async fn clear(&self, org: OrgId) -> Result<(), Failure> {
        let (pattern, meta) = (self.key(org, "*").replace('{', "\\{"), self.key(org, "meta"));
        let (mut cursor, mut by) = ("0".to_owned(), None);
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(1_000);
            let (reply, run) = self.link.ask(&meta, &scan).await?;
            if *by.get_or_insert_with(|| run.clone()) != run {
                // Another server's cursor means nothing to this one.
                (cursor, by) = ("0".to_owned(), Some(run));
                continue;
            }
            let (next, keys): (String, Vec<String>) =
                redis::from_redis_value(reply).map_err(|_| Malformed)?;
            let keys: Vec<String> = keys.into_iter().filter(|key| *key != meta).collect();
            for some in keys.chunks(AT_ONCE) {
                let args = some.iter().fold(Args::default().with("clear").with(some.len()), Args::with);
                let token = self.known.with(org, |of| of.token.clone());
                self.run_with(org, &self.scripts.rebuild, token, args).await?;
            }
            if next == "0" {
                return Ok(());
            }
            cursor = next;
        }
    }

    pub(super) async fn finish(&self, org: OrgId) -> Result<(), Failure> {
        let token = self.rebuilding(org)?;
        // Before it is whole, so that no hold is out of a sweep's sight.
        let (key, member) = (format!("{}:orgs", self.prefix), org.bare());
        let mut add = redis::cmd("SADD");
        self.link.ask(&key, add.arg(&key).arg(member)).await?;
        if token.is_empty() {
            return Ok(());
        }
        let seen = self.known.seen(org).epoch;
        let args = Args::default().with("finish").with(if seen.is_empty() { "0" } else { &seen });
        self.run_with(org, &self.scripts.rebuild, token, args).await?;
        self.known.with(org, |of| of.token.clear());
        Ok(())
    }
}

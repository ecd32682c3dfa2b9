//! The ledger that several processes share: Redis 7 or Valkey 8, one script for each operation.
//!
//! A script is atomic, so an operation is one round trip and happens whole or not at all; it looks at everything before
//! it changes anything. Time is the server's. All keys of an organisation carry `{org}` and so lie in one slot:
//!
//! | key after `prefix:{org}:` | what | ends |
//! |---|---|---|
//! | `meta` | epoch, sequence, run of the server, time, sum of holds | never |
//! | `budget:<id>` | limit with revision, rate, and `s:` `h:` `n:` `x:` (settled, held, holds, end) of each window | a sweep drops windows that ended and no hold names; a month after the budget is deleted |
//! | `session:<budget>:<generation>:<id>` | settled, held, holds, last use | 25 h after its last use, once no hold names it |
//! | `id:<attempt>` | a hold, or when it was done | 61 min after it was done; a lapse when its owner settles, or after 30 days |
//! | `leases`, `since` | open holds by the end of their lease and by age | with their holds |
//! | `lapses` | lapses that their owners may correct, by age | with the lapse |
//! | `unreported` | lapses whose stub no caller has confirmed | when confirmed, or with the lapse |
//! | `ends` | when to look at a budget's windows | when there is nothing to look for |
//!
//! `prefix:orgs` is the set of organisations, for sweeps.

mod address;
mod breaker;
mod cluster;
mod config;
mod kept;
mod known;
mod link;
mod rebuild;
mod scripts;
mod server;
mod sweep;
mod wire;

use std::sync::Arc;

use async_trait::async_trait;
use nullspend_core::{
    clock::Clock,
    id::{AttemptId, OrgId},
    ledger::{
        Balance, Charge, ChargeOutcome, CounterKey, ExtendOutcome, LapsedHold, Ledger, LedgerUnavailable,
        LimitChange, MAX_SCOPES, Misuse, OpenHolds, Reserve, ReserveOutcome, Restored, SessionSpend,
        SettleOutcome, Silence, Why, misuse,
    },
    money::Nanos,
    policy::Enforcement,
};
use redis::Script;

pub use self::config::{InvalidRedisConfig, RedisConfig};
use self::{
    known::{Known, Seen},
    link::{Link, Live},
    scripts::Scripts,
    wire::{Args, Malformed, Reply, slot},
};

/// Counters, limits or sessions in one call of a script, which nothing else of the server runs beside.
const AT_ONCE: usize = 200;

/// What keeps an operation from being carried out.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("it was not asked: {0}")]
    NotAsked(String),
    #[error("it refuses: {0}")]
    Refused(String),
    #[error("{0}")]
    Away(String),
    #[error("its books of this organisation are lost or were never loaded, and wait for a rebuild")]
    Gone,
    #[error("another rebuild of this organisation has begun or is done")]
    Taken,
    #[error("its holds add up to more than it can count")]
    Full,
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl From<Failure> for LedgerUnavailable {
    fn from(failure: Failure) -> Self {
        let silence = match failure {
            Failure::NotAsked(_) => Silence::NotAsked,
            Failure::Refused(_) | Failure::Taken | Failure::Full => Silence::Refused,
            Failure::Away(_) | Failure::Malformed(_) => Silence::Unanswered,
            Failure::Gone => Silence::Lost,
        };
        Self { silence, cause: failure.to_string() }
    }
}

/// The ledger in Redis. Connects at the first operation, and again whenever it must.
#[derive(Debug)]
pub struct RedisLedger {
    link: Link,
    scripts: Scripts,
    known: Known,
    prefix: String,
    /// What tests' scripts take for time.
    test_clock: Option<Arc<dyn Clock>>,
}

impl RedisLedger {
    /// A ledger at that server. The clock is for waiting only; the ledger's time is the server's.
    ///
    /// # Errors
    /// The URL cannot be used, or the prefix has other characters than it may.
    pub fn new(config: &RedisConfig, clock: Arc<dyn Clock>) -> Result<Self, InvalidRedisConfig> {
        let link = Link::new(config, clock)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        if config.prefix.is_empty() || !config.prefix.chars().all(plain) {
            return Err(InvalidRedisConfig::Prefix);
        }
        let (scripts, known) = (Scripts::new(link.is_cluster()), Known::default());
        Ok(Self { link, scripts, known, prefix: config.prefix.clone(), test_clock: None })
    }

    /// A ledger that goes by a test's clock, with scripts that the test has changed.
    ///
    /// # Errors
    /// As [`RedisLedger::new`].
    #[cfg(feature = "conformance")]
    pub fn of_tests(
        config: &RedisConfig,
        clock: Arc<dyn Clock>,
        change: &dyn Fn(String) -> String,
    ) -> Result<Self, InvalidRedisConfig> {
        let ledger = Self::new(config, Arc::clone(&clock))?;
        let scripts = Scripts::of_tests(ledger.link.is_cluster(), change);
        Ok(Self { scripts, test_clock: Some(clock), ..ledger })
    }

    fn key(&self, org: OrgId, name: &str) -> String {
        format!("{}:{{{}}}:{name}", self.prefix, org.bare())
    }

    /// Runs a script on an organisation's books.
    async fn run(&self, org: OrgId, script: &Script, args: Args) -> Result<Reply, Failure> {
        self.run_with(org, script, String::new(), args).await
    }

    /// Likewise, as part of the rebuild that has the token.
    async fn run_with(
        &self,
        org: OrgId,
        script: &Script,
        token: String,
        args: Args,
    ) -> Result<Reply, Failure> {
        let (seen, meta) = (self.known.seen(org), self.key(org, "meta"));
        let (seen, meta, token, args) = (&seen, &meta, &token, &args);
        let called = self.link.call(meta, |Live { mut connection, run }| async move {
            let mut call = script.key(meta);
            call.arg(&seen.epoch).arg(seen.seq).arg(&seen.run).arg(run).arg(token).arg(args);
            if let Some(clock) = &self.test_clock {
                call.arg(clock.now_ms());
            }
            call.invoke_async(&mut connection).await
        });
        let mut reply = Reply::new(called.await?)?;
        match reply.text()?.as_str() {
            "ok" => {
                let seen = Seen { epoch: reply.text()?, seq: reply.number()?, run: reply.text()? };
                self.known.saw(org, seen);
                Ok(reply)
            }
            "gone" => {
                if self.known.forget(org) {
                    tracing::warn!(%org, "the ledger's books are lost or were never made: nothing is decided until they are");
                }
                Err(Failure::Gone)
            }
            "taken" => {
                self.known.with(org, |of| {
                    of.token.clear();
                    of.taken = true;
                });
                Err(Failure::Taken)
            }
            "full" => Err(Failure::Full),
            "moving" => Err(link::moving()),
            _ => Err(Malformed.into()),
        }
    }

    async fn reserve_or_restore(
        &self,
        reserve: &Reserve,
        restore: Option<Restored>,
    ) -> Result<ReserveOutcome, Failure> {
        if let Err(misuse) = reserve.check() {
            return Ok(ReserveOutcome::Invalid(misuse));
        }
        let args = Args::default()
            .with(reserve.hold.bare())
            .with(reserve.amount.0)
            .with(reserve.lease_ms)
            .with(u8::from(reserve.finalize))
            .session(reserve.session.as_deref())
            .with(&reserve.stub[..])
            .with(match restore {
                None => "",
                Some(Restored::Held) => "held",
                Some(Restored::Lapsed) => "lapsed",
            })
            .scopes(&reserve.scopes);
        let token = match restore {
            None => String::new(),
            Some(_) => self.rebuilding(reserve.org)?,
        };
        let mut reply = self.run_with(reserve.org, &self.scripts.reserve, token, args).await?;
        Ok(match reply.text()?.as_str() {
            "reserved" => reserved(reserve, restore, reply.balances()?),
            "denied" => denied(reserve, &mut reply)?,
            "done" => ReserveOutcome::AlreadyDone,
            "stale" => ReserveOutcome::StalePolicy { scope: reply.number()?, revision: reply.number()? },
            "wrong_window" => ReserveOutcome::WrongWindow { now_ms: reply.number()? },
            _ => return Err(Malformed.into()),
        })
    }

    async fn extend_all(
        &self,
        org: OrgId,
        holds: &[AttemptId],
        number: u64,
        lease_ms: i64,
        add: Nanos,
    ) -> Result<Vec<ExtendOutcome>, Failure> {
        let mut outcomes = Vec::with_capacity(holds.len());
        for some in holds.chunks(AT_ONCE) {
            let args = Args::default().with(number).with(lease_ms).with(add.0).with(some.len());
            let args = some.iter().fold(args, |args, hold| args.with(hold.bare()));
            let mut reply = self.run(org, &self.scripts.extend, args).await?;
            for _ in some {
                outcomes.push(extended(&reply.text()?)?);
            }
        }
        Ok(outcomes)
    }

    async fn settle_one(&self, org: OrgId, hold: AttemptId, actual: Nanos) -> Result<SettleOutcome, Failure> {
        let args = Args::default().with(hold.bare()).with(actual.0);
        let mut reply = self.run(org, &self.scripts.settle, args).await?;
        Ok(match reply.text()?.as_str() {
            "settled" => SettleOutcome::Settled { over_by: reply.nanos()? },
            "lapsed" => SettleOutcome::Lapsed { charged: reply.nanos()? },
            "done" => SettleOutcome::AlreadyDone,
            "unknown" => SettleOutcome::Unknown,
            _ => return Err(Malformed.into()),
        })
    }

    async fn charge_one(&self, charge: &Charge) -> Result<ChargeOutcome, Failure> {
        if let Err(misuse) = charge.check() {
            return Ok(ChargeOutcome::Invalid(misuse));
        }
        let args = Args::default()
            .with(charge.id.bare())
            .with(charge.actual.0)
            .session(charge.session.as_deref())
            .scopes(&charge.scopes);
        let mut reply = self.run(charge.org, &self.scripts.charge, args).await?;
        Ok(match reply.text()?.as_str() {
            "charged" => ChargeOutcome::Charged { balances: reply.balances()? },
            "done" => ChargeOutcome::AlreadyDone,
            "invalid" => ChargeOutcome::Invalid(Misuse::AmountOutOfRange),
            _ => return Err(Malformed.into()),
        })
    }

    async fn balances_of(&self, org: OrgId, counters: &[CounterKey]) -> Result<Vec<Balance>, Failure> {
        let mut balances = Vec::with_capacity(counters.len());
        for some in counters.chunks(AT_ONCE) {
            let args = some.iter().fold(Args::default().with(some.len()), |args, counter| {
                args.with(counter.budget.bare()).with(slot(counter))
            });
            balances.extend(self.run(org, &self.scripts.balances, args).await?.balances()?);
        }
        Ok(balances)
    }

    /// The token of the rebuild that this process does; empty where it does none.
    fn rebuilding(&self, org: OrgId) -> Result<String, Failure> {
        let (token, taken) = self.known.with(org, |of| (of.token.clone(), of.taken));
        // One that was taken over would pass for an ordinary call, and write old figures over books that are whole again.
        if taken { Err(Failure::Taken) } else { Ok(token) }
    }

    /// Runs a script on many items, some at a time.
    async fn in_parts<T>(
        &self,
        org: OrgId,
        token: &str,
        script: &Script,
        items: &[T],
        arg: impl Fn(Args, &T) -> Args,
    ) -> Result<(), LedgerUnavailable> {
        for some in items.chunks(AT_ONCE) {
            let args = some.iter().fold(Args::default().with(some.len()), &arg);
            self.run_with(org, script, token.to_owned(), args).await?;
        }
        Ok(())
    }
}

/// The balances are from before the hold.
/// A lapse that is put back holds nothing; and of what is put back nothing is told to be exceeded.
fn reserved(reserve: &Reserve, restore: Option<Restored>, mut balances: Vec<Balance>) -> ReserveOutcome {
    let mut exceeded = Vec::new();
    for (index, (balance, scope)) in balances.iter_mut().zip(&reserve.scopes).enumerate() {
        if restore != Some(Restored::Lapsed) {
            balance.held = balance.held + reserve.amount;
        }
        let committed = i128::from(balance.settled.0) + i128::from(balance.held.0);
        if restore.is_none()
            && scope.enforcement == Enforcement::SoftBlock
            && committed > i128::from(balance.limit.0)
        {
            exceeded.push(index);
        }
    }
    ReserveOutcome::Reserved { balances, exceeded }
}

fn denied(reserve: &Reserve, reply: &mut Reply) -> Result<ReserveOutcome, Malformed> {
    let scope: usize = reply.number()?;
    let (why, retry_after_ms) = match reply.text()?.as_str() {
        "session" => (Why::Session { spend: reply.nanos()? + reply.nanos()? }, None),
        "velocity" => (Why::Velocity { rate: reply.nanos()? }, Some(reply.number()?)),
        "budget" => {
            let (now_ms, _): (i64, String) = (reply.number()?, reply.text()?);
            let end_ms = reserve.scopes.get(scope).ok_or(Malformed)?.window_end_ms;
            (Why::Budget, end_ms.map(|end| end - now_ms))
        }
        _ => return Err(Malformed),
    };
    Ok(ReserveOutcome::Denied { scope, why, balances: reply.balances()?, retry_after_ms })
}

fn extended(outcome: &str) -> Result<ExtendOutcome, Malformed> {
    Ok(match outcome {
        "extended" => ExtendOutcome::Extended,
        "done" => ExtendOutcome::AlreadyDone,
        "lapsed" => ExtendOutcome::Lapsed,
        "unknown" => ExtendOutcome::Unknown,
        "invalid" => ExtendOutcome::Invalid(Misuse::AmountOutOfRange),
        other => {
            let scope = other.strip_prefix("denied:").and_then(|scope| scope.parse().ok());
            ExtendOutcome::Denied { scope: scope.filter(|n| *n < MAX_SCOPES).ok_or(Malformed)? }
        }
    })
}

#[async_trait]
impl Ledger for RedisLedger {
    async fn reserve(&self, reserve: &Reserve) -> Result<ReserveOutcome, LedgerUnavailable> {
        Ok(self.reserve_or_restore(reserve, None).await?)
    }

    async fn extend(
        &self,
        org: OrgId,
        holds: &[AttemptId],
        number: u64,
        lease_ms: i64,
        add: Nanos,
    ) -> Result<Vec<ExtendOutcome>, LedgerUnavailable> {
        if let Err(misuse) = misuse::check_amount(add).and_then(|()| misuse::check_lease(lease_ms)) {
            return Ok(vec![ExtendOutcome::Invalid(misuse); holds.len()]);
        }
        Ok(self.extend_all(org, holds, number, lease_ms, add).await?)
    }

    async fn settle(
        &self,
        org: OrgId,
        hold: AttemptId,
        actual: Nanos,
    ) -> Result<SettleOutcome, LedgerUnavailable> {
        if let Err(misuse) = misuse::check_amount(actual) {
            return Ok(SettleOutcome::Invalid(misuse));
        }
        Ok(self.settle_one(org, hold, actual).await?)
    }

    async fn charge(&self, charge: &Charge) -> Result<ChargeOutcome, LedgerUnavailable> {
        Ok(self.charge_one(charge).await?)
    }

    async fn balances(&self, org: OrgId, counters: &[CounterKey]) -> Result<Vec<Balance>, LedgerUnavailable> {
        Ok(self.balances_of(org, counters).await?)
    }

    async fn apply_limits(&self, org: OrgId, changes: &[LimitChange]) -> Result<(), LedgerUnavailable> {
        // Part of this process's rebuild, when there is one.
        let token = self.known.with(org, |of| of.token.clone());
        self.in_parts(org, &token, &self.scripts.apply_limits, changes, |args, change| {
            args.with(change.budget.bare()).with(change.revision).limits(change.limits.as_ref())
        })
        .await
    }

    async fn sweep(&self) -> Result<Vec<LapsedHold>, LedgerUnavailable> {
        Ok(self.sweep_all().await?)
    }

    async fn load(&self, org: OrgId, settled: &[(CounterKey, Nanos)]) -> Result<(), LedgerUnavailable> {
        let token = self.rebuilding(org)?;
        self.in_parts(org, &token, &self.scripts.load, settled, |args, (counter, nanos)| {
            args.with(counter.budget.bare()).with(slot(counter)).with(rebuild::in_range(*nanos))
        })
        .await
    }

    async fn load_sessions(&self, org: OrgId, sessions: &[SessionSpend]) -> Result<(), LedgerUnavailable> {
        let token = self.rebuilding(org)?;
        self.in_parts(org, &token, &self.scripts.load_sessions, sessions, |args, spend| {
            args.with(spend.budget.bare())
                .with(spend.generation)
                .with(&*spend.session)
                .with(rebuild::in_range(spend.settled))
                .with(spend.last_used_ms)
        })
        .await
    }

    async fn open_holds(&self) -> Result<OpenHolds, LedgerUnavailable> {
        Ok(self.open_holds_of_all().await?)
    }

    async fn begin_rebuild(&self, org: OrgId) -> Result<bool, LedgerUnavailable> {
        Ok(self.begin(org).await?)
    }

    async fn restore(&self, reserve: &Reserve, as_a: Restored) -> Result<ReserveOutcome, LedgerUnavailable> {
        Ok(self.reserve_or_restore(reserve, Some(as_a)).await?)
    }

    async fn restore_done(&self, org: OrgId, ids: &[AttemptId]) -> Result<(), LedgerUnavailable> {
        let token = self.rebuilding(org)?;
        self.in_parts(org, &token, &self.scripts.restore_done, ids, |args, id| args.with(id.bare())).await
    }

    async fn finish_rebuild(&self, org: OrgId) -> Result<(), LedgerUnavailable> {
        Ok(self.finish(org).await?)
    }

    async fn is_lost(&self, org: OrgId) -> Result<bool, LedgerUnavailable> {
        match self.run(org, &self.scripts.balances, Args::default().with(0)).await {
            Ok(_) => Ok(false),
            Err(Failure::Gone) => Ok(true),
            Err(failure) => Err(failure.into()),
        }
    }

    async fn give_up(&self, org: OrgId) -> Result<(), LedgerUnavailable> {
        match self.run(org, &self.scripts.rebuild, Args::default().with("give_up")).await {
            Ok(_) | Err(Failure::Gone) => Ok(()),
            Err(failure) => Err(failure.into()),
        }
    }
}

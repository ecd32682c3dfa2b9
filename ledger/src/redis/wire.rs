//! What scripts are given and what they answer.

use nullspend_core::{
    ledger::{Balance, CounterKey, Limits, Scope},
    money::Nanos,
    policy::Enforcement,
};
use redis::{ToRedisArgs, Value};

/// Arguments of a script, in order.
#[derive(Debug, Default)]
pub(super) struct Args(Vec<Vec<u8>>);

impl Args {
    pub(super) fn with(mut self, value: impl ToRedisArgs) -> Self {
        value.write_redis_args(&mut self.0);
        self
    }

    /// Marked, so that an empty session differs from none.
    pub(super) fn session(self, session: Option<&str>) -> Self {
        self.with(session.map(|id| format!("={id}")).unwrap_or_default())
    }

    /// A dash for those of a deleted budget, and nothing for the rest.
    pub(super) fn limits(self, limits: Option<&Limits>) -> Self {
        let Some(limits) = limits else { return self.with("-").with("").with("").with("0") };
        self.with(limits.limit.0)
            .with(enforcement(limits.enforcement))
            .with(nothing_or(limits.session_limit.map(|limit| limit.0)))
            .with(limits.finalization_reserve.0)
    }

    /// Their number first.
    pub(super) fn scopes(self, scopes: &[Scope]) -> Self {
        scopes.iter().fold(self.with(scopes.len()), |args, scope| {
            args.with(scope.counter.budget.bare())
                .with(scope.counter.generation)
                .with(scope.counter.window_start_ms)
                .with(nothing_or(scope.window_end_ms))
                .with(scope.limit.0)
                .with(scope.revision)
                .with(enforcement(scope.enforcement))
                .with(nothing_or(scope.session_limit.map(|limit| limit.0)))
                .with(nothing_or(scope.velocity.map(|v| v.limit.0)))
                .with(nothing_or(scope.velocity.map(|v| v.window_ms)))
                .with(nothing_or(scope.velocity.map(|v| v.cooldown_ms)))
                .with(scope.finalization_reserve.0)
        })
    }
}

fn nothing_or(number: Option<i64>) -> String {
    number.map(|n| n.to_string()).unwrap_or_default()
}

fn enforcement(enforcement: Enforcement) -> &'static str {
    match enforcement {
        Enforcement::StrictBlock => "strict",
        Enforcement::SoftBlock => "soft",
        Enforcement::Warn => "warn",
    }
}

impl ToRedisArgs for Args {
    fn write_redis_args<W: ?Sized + redis::RedisWrite>(&self, out: &mut W) {
        for arg in &self.0 {
            out.write_arg(arg);
        }
    }
}

/// The part of a counter's fields that names its window.
pub(super) fn slot(counter: &CounterKey) -> String {
    format!("{}:{}", counter.generation, counter.window_start_ms)
}

/// A reply that is not what the script answers: another version's, or not our server.
#[derive(Debug, thiserror::Error)]
#[error("a reply of another form than expected")]
pub(super) struct Malformed;

/// A reply's values, taken one by one.
#[derive(Debug)]
pub(super) struct Reply(std::vec::IntoIter<Value>);

impl Reply {
    pub(super) fn new(value: Value) -> Result<Self, Malformed> {
        match value {
            Value::Array(values) => Ok(Self(values.into_iter())),
            _ => Err(Malformed),
        }
    }

    /// How many are left.
    pub(super) fn left(&self) -> usize {
        self.0.len()
    }

    pub(super) fn bytes(&mut self) -> Result<Vec<u8>, Malformed> {
        match self.0.next() {
            Some(Value::BulkString(bytes)) => Ok(bytes),
            Some(Value::Int(number)) => Ok(number.to_string().into_bytes()),
            _ => Err(Malformed),
        }
    }

    pub(super) fn text(&mut self) -> Result<String, Malformed> {
        String::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }

    pub(super) fn number<N: std::str::FromStr>(&mut self) -> Result<N, Malformed> {
        self.text()?.parse().map_err(|_| Malformed)
    }

    pub(super) fn nanos(&mut self) -> Result<Nanos, Malformed> {
        self.number().map(Nanos)
    }

    /// Everything that is left.
    pub(super) fn balances(&mut self) -> Result<Vec<Balance>, Malformed> {
        let mut balances = Vec::with_capacity(self.left() / 3);
        while self.left() > 0 {
            balances.push(Balance { limit: self.nanos()?, settled: self.nanos()?, held: self.nanos()? });
        }
        Ok(balances)
    }
}

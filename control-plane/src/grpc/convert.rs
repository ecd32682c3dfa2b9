//! Shapes that several services share.

use std::str::FromStr;

use nullspend_core::{
    policy::{Enforcement, Role},
    window::Interval,
};
use nullspend_proto::v1;
use prost_types::Timestamp;

use crate::{
    app::{AppError, Issue},
    store::Cursor,
};

/// Unix milliseconds as the protocol's timestamp.
pub(super) fn timestamp(unix_ms: i64) -> Timestamp {
    let nanos = i32::try_from(unix_ms.rem_euclid(1000)).unwrap_or(0) * 1_000_000;
    Timestamp { seconds: unix_ms.div_euclid(1000), nanos }
}

/// A timestamp as Unix milliseconds; finer parts are dropped, as they are when events are made.
pub(super) fn unix_ms(timestamp: &Timestamp) -> i64 {
    timestamp.seconds.saturating_mul(1000).saturating_add(i64::from(timestamp.nanos / 1_000_000))
}

/// A count or a rate as the protocol holds it.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// One thing wrong with one field.
pub(super) fn invalid(field: &str, message: impl Into<String>) -> AppError {
    AppError::validation(vec![Issue { path: vec![field.into()], message: message.into() }])
}

/// An id, prefixed or bare.
pub(super) fn id<T>(field: &str, text: &str) -> Result<T, AppError>
where
    T: FromStr,
    T::Err: ToString,
{
    text.parse::<T>().map_err(|error| invalid(field, error.to_string()))
}

/// A cursor whose id is of kind `T`; `bare` strips its prefix.
pub(super) fn cursor<T>(cursor: Option<v1::Cursor>, bare: fn(T) -> String) -> Result<Option<Cursor>, AppError>
where
    T: FromStr,
{
    let Some(cursor) = cursor else { return Ok(None) };
    let bad = || invalid("cursor", "must be the object of the last page: {\"createdAt\":\"…\",\"id\":\"…\"}");
    let at = cursor.created_at.as_ref().ok_or_else(bad)?;
    let id: T = cursor.id.parse().map_err(|_| bad())?;
    Ok(Some(Cursor { at_ms: unix_ms(at), id: bare(id) }))
}

pub(super) fn role(role: Role) -> v1::Role {
    match role {
        Role::Agent => v1::Role::Agent,
        Role::Viewer => v1::Role::Viewer,
        Role::Member => v1::Role::Member,
        Role::Admin => v1::Role::Admin,
        Role::Owner => v1::Role::Owner,
    }
}

pub(super) fn role_of(role: v1::Role) -> Option<Role> {
    match role {
        v1::Role::Unspecified => None,
        v1::Role::Agent => Some(Role::Agent),
        v1::Role::Viewer => Some(Role::Viewer),
        v1::Role::Member => Some(Role::Member),
        v1::Role::Admin => Some(Role::Admin),
        v1::Role::Owner => Some(Role::Owner),
    }
}

pub(super) fn list(values: Option<Vec<String>>) -> Option<v1::StringList> {
    values.map(|values| v1::StringList { values })
}

pub(super) fn interval(interval: Interval) -> Option<i32> {
    let word = match interval {
        Interval::Daily => v1::ResetInterval::Daily,
        Interval::Weekly => v1::ResetInterval::Weekly,
        Interval::Monthly => v1::ResetInterval::Monthly,
        Interval::Yearly => v1::ResetInterval::Yearly,
        Interval::None => return None,
    };
    Some(word.into())
}

pub(super) fn interval_of(interval: v1::ResetInterval) -> Option<Interval> {
    match interval {
        v1::ResetInterval::Unspecified => None,
        v1::ResetInterval::Daily => Some(Interval::Daily),
        v1::ResetInterval::Weekly => Some(Interval::Weekly),
        v1::ResetInterval::Monthly => Some(Interval::Monthly),
        v1::ResetInterval::Yearly => Some(Interval::Yearly),
    }
}

pub(super) fn enforcement(enforcement: Enforcement) -> v1::BudgetPolicy {
    match enforcement {
        Enforcement::StrictBlock => v1::BudgetPolicy::StrictBlock,
        Enforcement::SoftBlock => v1::BudgetPolicy::SoftBlock,
        Enforcement::Warn => v1::BudgetPolicy::Warn,
    }
}

pub(super) fn enforcement_of(policy: v1::BudgetPolicy) -> Option<Enforcement> {
    match policy {
        v1::BudgetPolicy::Unspecified => None,
        v1::BudgetPolicy::StrictBlock => Some(Enforcement::StrictBlock),
        v1::BudgetPolicy::SoftBlock => Some(Enforcement::SoftBlock),
        v1::BudgetPolicy::Warn => Some(Enforcement::Warn),
    }
}

#[cfg(test)]
mod tests {
    use nullspend_core::id::KeyId;

    use super::*;

    #[test]
    fn times_keep_their_milliseconds() {
        for unix_ms_ in [0, 1, 999, 1_000, 1_764_000_000_123, -1] {
            assert_eq!(unix_ms(&timestamp(unix_ms_)), unix_ms_);
        }
    }

    #[test]
    fn cursors_take_prefixed_and_bare_ids_and_refuse_the_rest() {
        let bare = "0193a6ab-0000-7000-8000-000000000001";
        for text in [bare.to_owned(), format!("ns_key_{bare}")] {
            let given = v1::Cursor { created_at: Some(timestamp(5)), id: text };
            let read = cursor::<KeyId>(Some(given), KeyId::bare).unwrap().unwrap();
            assert_eq!(read, Cursor { at_ms: 5, id: bare.to_owned() });
        }
        let half = v1::Cursor { created_at: None, id: bare.to_owned() };
        assert_eq!(cursor::<KeyId>(Some(half), KeyId::bare).unwrap_err().code, "validation_error");
    }
}

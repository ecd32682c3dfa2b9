//! Calls that make no sense: every ledger refuses the same ones before it looks at anything else.

use super::{Charge, MAX_SCOPES, Misuse, Reserve, Scope, is_velocity};
use crate::money::{MAX_EVENT, Nanos};

impl Reserve {
    /// Whether the call makes sense.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> Result<(), Misuse> {
        check_scopes(&self.scopes)?;
        check_amount(self.amount)?;
        check_lease(self.lease_ms)
    }
}

impl Charge {
    /// Whether the call makes sense.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> Result<(), Misuse> {
        check_scopes(&self.scopes)?;
        // An amount, or as much taken back.
        check_amount(Nanos(self.actual.0.checked_abs().unwrap_or(i64::MAX)))
    }
}

/// Whether an amount is one of a single call.
///
/// # Errors
/// [`Misuse::AmountOutOfRange`].
pub fn check_amount(amount: Nanos) -> Result<(), Misuse> {
    if (Nanos::ZERO..=MAX_EVENT).contains(&amount) { Ok(()) } else { Err(Misuse::AmountOutOfRange) }
}

/// Whether a lease lasts.
///
/// # Errors
/// [`Misuse::LeaseNotPositive`].
pub fn check_lease(lease_ms: i64) -> Result<(), Misuse> {
    if lease_ms > 0 { Ok(()) } else { Err(Misuse::LeaseNotPositive) }
}

fn check_scopes(scopes: &[Scope]) -> Result<(), Misuse> {
    if scopes.len() > MAX_SCOPES {
        return Err(Misuse::TooManyScopes);
    }
    // At most 496 comparisons, and for the usual handful far cheaper than a set.
    for (index, scope) in scopes.iter().enumerate() {
        if scopes[..index].iter().any(|before| before.counter.budget == scope.counter.budget) {
            return Err(Misuse::BudgetTwice);
        }
        if !scope.velocity.as_ref().is_none_or(is_velocity) {
            return Err(Misuse::VelocityOutOfRange);
        }
    }
    Ok(())
}

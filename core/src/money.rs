//! Money as integers, never floats (design law 5).

use std::{fmt, iter::Sum, ops};

use serde::{Deserialize, Serialize};

/// Totals saturate here (2^62 nano-dollars, about 4.6 billion dollars) instead of overflowing.
pub const MAX_TOTAL_NANOS: i64 = 1 << 62;
/// The dearest single event or charge: 1 000 000 dollars.
pub const MAX_EVENT: Nanos = Nanos(1_000_000 * 1_000_000_000);
/// The highest limit of one budget: 4·10^15 micro-dollars.
pub const MAX_LIMIT: Nanos = Nanos(4_000_000_000_000_000_000);

/// An amount in nano-dollars (10^-9 USD).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nanos(pub i64);

impl Nanos {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// From whole micro-dollars; saturates at [`MAX_TOTAL_NANOS`].
    #[must_use]
    pub fn from_microdollars(microdollars: i64) -> Self {
        Self(microdollars.saturating_mul(1000).clamp(-MAX_TOTAL_NANOS, MAX_TOTAL_NANOS))
    }

    /// From pico-dollars, rounded half up: the one rounding of an event's cost.
    #[must_use]
    pub fn from_pico_half_up(pico: i128) -> Self {
        let nanos = (pico + 500).div_euclid(1000);
        Self(i64::try_from(nanos).unwrap_or(MAX_TOTAL_NANOS).min(MAX_TOTAL_NANOS))
    }

    /// From pico-dollars, rounded up: for bounds, which must not fall below the truth.
    #[must_use]
    pub fn from_pico_ceil(pico: i128) -> Self {
        let nanos = (pico + 999).div_euclid(1000);
        Self(i64::try_from(nanos).unwrap_or(MAX_TOTAL_NANOS).min(MAX_TOTAL_NANOS))
    }

    /// Whole micro-dollars, rounded half up, for display on the wire.
    #[must_use]
    pub fn microdollars_half_up(self) -> i64 {
        (self.0.saturating_add(500)).div_euclid(1000)
    }

    /// Sum that saturates at [`MAX_TOTAL_NANOS`].
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0).clamp(-MAX_TOTAL_NANOS, MAX_TOTAL_NANOS))
    }

    /// Difference that saturates.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0).clamp(-MAX_TOTAL_NANOS, MAX_TOTAL_NANOS))
    }
}

impl ops::Add for Nanos {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        self.saturating_add(other)
    }
}

impl ops::Sub for Nanos {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self.saturating_sub(other)
    }
}

impl Sum for Nanos {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Self::saturating_add)
    }
}

impl fmt::Display for Nanos {
    /// Dollars with nine decimals: `$0.001250000`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let abs = self.0.unsigned_abs();
        write!(f, "{sign}${}.{:09}", abs / 1_000_000_000, abs % 1_000_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pico_rounds_half_up_once_and_bounds_round_up() {
        for (pico, half_up, ceil) in
            [(0, 0, 0), (499, 0, 1), (500, 1, 1), (1000, 1, 1), (1001, 1, 2), (1500, 2, 2)]
        {
            assert_eq!(Nanos::from_pico_half_up(pico), Nanos(half_up), "half up of {pico}");
            assert_eq!(Nanos::from_pico_ceil(pico), Nanos(ceil), "ceil of {pico}");
        }
    }

    #[test]
    fn totals_saturate_instead_of_overflowing() {
        let top = Nanos(MAX_TOTAL_NANOS);
        assert_eq!(top + Nanos(i64::MAX), top);
        assert_eq!(Nanos::from_microdollars(i64::MAX), top);
        assert_eq!(Nanos::from_pico_half_up(i128::MAX / 2), top);
    }

    #[test]
    fn shows_dollars() {
        assert_eq!(Nanos(1_250_000).to_string(), "$0.001250000");
        assert_eq!(Nanos(-1).to_string(), "-$0.000000001");
    }
}

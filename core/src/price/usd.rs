//! Rates as people write them: dollars per million tokens, in decimal text.

/// Decimal places of a rate in dollars per million tokens: the last one is a pico-dollar per token.
const PLACES: usize = 6;

/// Pico-dollars per token of a rate like `0.40`, exactly; `None` when the text is no such amount or needs more than six
/// decimal places.
#[must_use]
pub fn pico_per_token(usd_per_million: &str) -> Option<u64> {
    let (whole, fraction) = usd_per_million.split_once('.').unwrap_or((usd_per_million, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > PLACES {
        return None;
    }
    format!("{whole}{fraction:0<PLACES$}").parse().ok()
}

/// A rate in dollars per million tokens, without zeros that say nothing.
#[must_use]
pub fn usd_per_million(pico_per_token: u64) -> String {
    let text = format!("{}.{:06}", pico_per_token / 1_000_000, pico_per_token % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dollars_per_million_are_read_exactly_or_not_at_all() {
        for (text, pico) in [
            ("0.40", Some(400_000)),
            ("2.5", Some(2_500_000)),
            ("10", Some(10_000_000)),
            ("0", Some(0)),
            ("0.000001", Some(1)),
            ("0.0000010", Some(1)),
            ("007.5", Some(7_500_000)),
            ("0.0000001", None),
            ("", None),
            (".5", None),
            ("5.", None),
            ("-1", None),
            ("+1", None),
            ("1e3", None),
            ("1,5", None),
            (" 1", None),
            ("1.2.3", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(pico_per_token(text), pico, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(pico in any::<u64>()) {
            prop_assert_eq!(pico_per_token(&usd_per_million(pico)), Some(pico));
        }
    }
}

//! The numbers of an answer, exact whatever their size: integers beyond 64 bits are still plain JSON integers.

use std::fmt::Write as _;

use serde_json::{Map, Value, value::RawValue};

use crate::cost::Cost;

/// Pico-dollars of a micro-dollar.
const MICRO: i128 = 1_000_000;

/// JSON text as it stands; `null` if it is none, which a program error alone could cause.
pub(super) fn raw_text(text: String) -> Box<RawValue> {
    RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// An object with its members in this order.
pub(super) fn object(members: &[(&str, Box<RawValue>)]) -> String {
    let mut text = String::from("{");
    for (index, (name, value)) in members.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = write!(text, "{comma}\"{name}\":{}", value.get());
    }
    text.push('}');
    text
}

/// The cost in its four units; all `null` where there is none.
pub(super) fn amounts(cost: Option<&Cost>) -> Vec<(&'static str, Box<RawValue>)> {
    let Some(cost) = cost else {
        let names = ["cost_pico", "cost_nano", "cost_microdollars_half_up", "cost_microdollars_ceil"];
        return names.map(|name| (name, RawValue::NULL.to_owned())).into();
    };
    let pico = cost.pico;
    vec![
        ("cost_pico", raw_text(format!("\"{pico}\""))),
        ("cost_nano", raw_text(format!("\"{}\"", nano(pico)))),
        ("cost_microdollars_half_up", raw_text((pico + MICRO / 2).div_euclid(MICRO).to_string())),
        ("cost_microdollars_ceil", raw_text((pico + MICRO - 1).div_euclid(MICRO).to_string())),
    ]
}

/// Nano-dollars as a decimal without needless zeros.
fn nano(pico: i128) -> String {
    let (whole, rest) = (pico.div_euclid(1000), pico.rem_euclid(1000));
    if rest == 0 { whole.to_string() } else { format!("{whole}.{rest:03}").trim_end_matches('0').to_owned() }
}

/// Pico-dollars by class, as strings.
pub(super) fn breakdown(cost: Option<&Cost>) -> Box<RawValue> {
    let lines = cost.into_iter().flat_map(|cost| &cost.breakdown_pico);
    let map: Map<String, Value> =
        lines.map(|(class, pico)| ((*class).to_owned(), Value::from(pico.to_string()))).collect();
    raw_text(Value::Object(map).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact_beyond_64_bits_and_below_a_nano_dollar() {
        let shown = |pico| {
            let cost = Cost { pico, ..Cost::default() };
            amounts(Some(&cost)).into_iter().map(|(_, value)| value.get().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(shown(21_874_437_500), ["\"21874437500\"", "\"21874437.5\"", "21874", "21875"]);
        assert_eq!(shown(361_500_000), ["\"361500000\"", "\"361500\"", "362", "362"]);
        assert_eq!(shown(0), ["\"0\"", "\"0\"", "0", "0"]);
        let huge = i128::from(i64::MAX) * 600_000_000 * 1_000;
        assert_eq!(shown(huge)[2], (huge / 1_000_000).to_string());
    }
}

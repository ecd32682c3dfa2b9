//! Calls of models without a price: counted by model, and told in the log now and then (design law 4).

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};

/// Models told apart. Callers choose the names, so there may be any number of them.
const MODELS_MAX: usize = 100;
/// Longest name that is told apart, in bytes.
const NAME_MAX: usize = 100;
/// Stands for every model beyond those, and for names that look like none.
const OTHER: &str = "other";
/// Between two log lines about one model.
const SAY_EVERY_MS: i64 = 60_000;

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Refused as `invalid_model`.
    Refused,
    /// Forwarded with the organisation's flat hold.
    Held,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    provider: String,
    model: String,
}

/// The counter and what was said of each model last.
#[derive(Debug, Default)]
pub struct Unpriced {
    calls: Family<Labels, Counter>,
    said_at_ms: Mutex<HashMap<Labels, i64>>,
}

impl Unpriced {
    /// The counter, to register.
    pub(crate) fn counter(&self) -> impl prometheus_client::registry::Metric + use<> {
        self.calls.clone()
    }

    /// Counts a call, and logs it unless that model was logged within the last minute.
    pub(crate) fn call(&self, provider: &str, model: &str, fate: Fate, now_ms: i64) {
        let (labels, say) = self.place(provider, model, now_ms);
        self.calls.get_or_create(&labels).inc();
        if say {
            let Labels { provider, model } = &labels;
            let what = match fate {
                Fate::Refused => "refused: its model has no price",
                Fate::Held => "forwarded with a flat hold: its model has no price",
            };
            tracing::warn!(provider, model, "a call was {what}; add one with POST /api/prices");
        }
    }

    /// The labels of a call, and whether to log it.
    fn place(&self, provider: &str, model: &str, now_ms: i64) -> (Labels, bool) {
        let mut said = self.said_at_ms.lock().unwrap_or_else(PoisonError::into_inner);
        let mut labels = Labels { provider: provider.to_owned(), model: name(model).to_owned() };
        if said.len() >= MODELS_MAX && !said.contains_key(&labels) {
            labels.model = OTHER.to_owned();
        }
        let due = said.get(&labels).is_none_or(|at_ms| now_ms - at_ms >= SAY_EVERY_MS);
        if due {
            said.insert(labels.clone(), now_ms);
        }
        (labels, due)
    }
}

/// A model's name as it may stand in metrics and logs.
fn name(model: &str) -> &str {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:/@+".contains(&byte);
    let fits = (1..=NAME_MAX).contains(&model.len()) && model.bytes().all(plain);
    if fits { model } else { OTHER }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(unpriced: &Unpriced, name: &str) -> String {
        unpriced.place("openai", name, 0).0.model
    }

    #[test]
    fn a_model_is_said_once_a_minute() {
        let unpriced = Unpriced::default();
        let said = |name, at_ms| unpriced.place("openai", name, at_ms).1;
        assert!(said("gpt-9", 0));
        assert!(!said("gpt-9", SAY_EVERY_MS - 1));
        assert!(said("gpt-8", SAY_EVERY_MS - 1), "another model");
        assert!(said("gpt-9", SAY_EVERY_MS));
        assert!(!said("gpt-9", SAY_EVERY_MS + 1));
    }

    #[test]
    fn callers_cannot_make_any_number_of_series_nor_write_into_them() {
        let unpriced = Unpriced::default();
        let long = "x".repeat(NAME_MAX + 1);
        for odd in ["", "a b", "a\"} 1\nfake 2", "модель", &long] {
            assert_eq!(model(&unpriced, odd), OTHER, "{odd:?}");
        }
        for number in 0..2 * MODELS_MAX {
            model(&unpriced, &format!("m{number}"));
        }
        assert_eq!(model(&unpriced, "m0"), "m0", "a known one stays itself");
        assert_eq!(model(&unpriced, "m199"), OTHER);
        // One more for each provider, and those are the operator's.
        assert!(unpriced.said_at_ms.lock().unwrap().len() <= MODELS_MAX + 1);
    }
}

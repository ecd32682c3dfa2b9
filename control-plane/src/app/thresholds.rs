//! Thresholds that were reached: told to operators, each once.

use super::App;
use crate::store::Crossing;

impl App {
    /// Logs and counts crossings that the store has noted.
    pub(crate) fn crossed(&self, crossings: &[Crossing]) {
        for Crossing { counter, percent, settled, limit } in crossings {
            self.crossings.inc();
            tracing::warn!(
                budget = %counter.budget,
                percent,
                %settled,
                %limit,
                "a budget has reached a threshold"
            );
        }
    }
}

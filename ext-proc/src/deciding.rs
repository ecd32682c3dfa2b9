//! Calls between their reserve and their `opened` record: the ledger may hold for them what the spool does not know yet.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

/// Counts them, so that one can wait for those of now.
#[derive(Debug, Default)]
pub(crate) struct Deciding(ArcSwap<TaskTracker>);

impl Deciding {
    /// A call is one of them until the answer is dropped.
    pub(crate) fn enter(&self) -> TaskTrackerToken {
        self.0.load().token()
    }

    /// Waits until every call that had entered by now is decided: refused, or in the spool.
    pub(crate) async fn all_decided(&self) {
        let before = self.0.swap(Arc::default());
        before.close();
        before.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn only_those_who_came_before_are_waited_for() {
        let deciding = Deciding::default();
        let early = deciding.enter();
        let mut waiting = Box::pin(deciding.all_decided());
        assert_eq!(waiting.as_mut().now_or_never(), None);
        let late = deciding.enter();
        drop(early);
        waiting.await;
        drop(late);
        deciding.all_decided().await;
    }
}

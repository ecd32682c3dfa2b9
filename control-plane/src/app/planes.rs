//! Which data planes follow this control plane, and which policy they enforce.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

/// The connected data planes. A plane is here from its first policy message to the end of its stream.
#[derive(Debug, Default)]
pub struct ConnectedPlanes {
    planes: Mutex<Planes>,
    /// Counts changes of `planes`.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Planes {
    next: u64,
    by_stream: HashMap<u64, Plane>,
}

#[derive(Debug)]
struct Plane {
    dataplane_id: String,
    history_id: String,
    /// The newest revision that this stream sent it.
    sent: u64,
    enforces: u64,
}

/// One data plane's policy stream; dropping it forgets the plane.
#[derive(Debug)]
pub struct Connection {
    planes: Arc<ConnectedPlanes>,
    stream: u64,
}

impl Connection {
    /// Policy of this history, up to `revision`, is sent next; `whole`: it replaces all that was sent before. A database that
    /// was put back to an older state counts revisions once more, and what was enforced of the first ones counts no more.
    pub fn sends(&self, history_id: &str, revision: u64, whole: bool) {
        let mut planes = self.planes.lock();
        if let Some(plane) = planes.by_stream.get_mut(&self.stream) {
            if whole || plane.history_id != history_id {
                history_id.clone_into(&mut plane.history_id);
                plane.enforces = 0;
            }
            plane.sent = revision;
        }
        drop(planes);
        self.planes.wake();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.planes.lock().by_stream.remove(&self.stream);
        self.planes.wake();
    }
}

impl ConnectedPlanes {
    fn lock(&self) -> MutexGuard<'_, Planes> {
        self.planes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// A data plane follows from now on; what it enforces, it has to confirm.
    #[must_use]
    pub fn connect(self: &Arc<Self>, dataplane_id: &str) -> Connection {
        let mut planes = self.lock();
        planes.next += 1;
        let stream = planes.next;
        let plane =
            Plane { dataplane_id: dataplane_id.to_owned(), history_id: String::new(), sent: 0, enforces: 0 };
        planes.by_stream.insert(stream, plane);
        Connection { planes: Arc::clone(self), stream }
    }

    /// A data plane says what it enforces. What its stream has not sent it is of the past of another database.
    pub fn confirm(&self, dataplane_id: &str, history_id: &str, revision: u64) {
        let mut planes = self.lock();
        let told = planes.by_stream.values_mut().filter(|plane| plane.dataplane_id == dataplane_id);
        for plane in told.filter(|plane| plane.history_id == history_id && revision <= plane.sent) {
            plane.enforces = plane.enforces.max(revision);
        }
        drop(planes);
        self.wake();
    }

    /// The revision that every connected data plane enforces; `None` when none is connected.
    #[must_use]
    pub fn all_enforce(&self) -> Option<u64> {
        self.lock().by_stream.values().map(|plane| plane.enforces).min()
    }

    /// Wakes when a data plane goes, or says what it enforces.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Waits until every connected data plane enforces `revision`.
    pub async fn enforced(&self, revision: u64) {
        let all = |_: &u64| self.all_enforce().is_none_or(|enforced| enforced >= revision);
        // The sender lives as long as this does.
        let _ = self.changes().wait_for(all).await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn enforced(planes: &ConnectedPlanes, revision: u64) -> bool {
        planes.enforced(revision).now_or_never().is_some()
    }

    #[test]
    fn a_change_is_enforced_once_every_connected_plane_has_confirmed_it() {
        let planes = Arc::new(ConnectedPlanes::default());
        assert!(enforced(&planes, 9) && planes.all_enforce().is_none(), "nobody is connected");
        let (first, second) = (planes.connect("a"), planes.connect("b"));
        first.sends("h", 3, true);
        second.sends("h", 4, true);
        planes.confirm("a", "h", 3);
        assert!(!enforced(&planes, 3), "who has only just come enforces nothing that is known");
        planes.confirm("b", "h", 3);
        assert!(enforced(&planes, 3));
        planes.confirm("a", "h", 2);
        assert_eq!(planes.all_enforce(), Some(3), "confirmations never go back");
        assert!(!enforced(&planes, 4));
        drop(first);
        planes.confirm("b", "h", 4);
        assert!(enforced(&planes, 4), "who left is not waited for");
        drop(second);
    }

    #[test]
    fn what_was_enforced_of_a_database_put_back_or_replaced_counts_no_more() {
        let planes = Arc::new(ConnectedPlanes::default());
        let plane = planes.connect("a");
        plane.sends("h", 9, true);
        planes.confirm("a", "h", 9);
        plane.sends("h", 7, true);
        assert!(!enforced(&planes, 7), "revision 7 is another one now");
        planes.confirm("a", "h", 9);
        assert!(!enforced(&planes, 7), "said before it heard of that");
        planes.confirm("a", "h", 7);
        assert!(enforced(&planes, 7) && !enforced(&planes, 8));
        plane.sends("h", 8, false);
        planes.confirm("a", "h", 8);
        assert!(enforced(&planes, 8));
        plane.sends("another", 20, true);
        planes.confirm("a", "h", 8);
        assert!(!enforced(&planes, 1), "of a history that is over");
        planes.confirm("a", "another", 20);
        assert!(enforced(&planes, 20));
    }
}

//! Which data planes follow this control plane, and which policy they enforce.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

/// How long a data plane whose stream broke is waited for: it tries again at least every two seconds, and until then it goes
/// on with the policy it has.
pub(super) const RETURN: Duration = Duration::from_secs(3);

/// The connected data planes. A plane is here from its first policy message until it leaves, or does not come back.
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
    /// By data plane: the stream that broke, and what was enforced by then.
    away: HashMap<String, (u64, u64)>,
}

#[derive(Debug)]
struct Plane {
    dataplane_id: String,
    history_id: String,
    /// The newest revision that this stream sent it.
    sent: u64,
    enforces: u64,
    /// It has nothing under way, and ends.
    leaves: bool,
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
        let mut planes = self.planes.lock();
        let ended = planes.by_stream.remove(&self.stream).filter(|plane| !plane.leaves);
        let elsewhere = |id: &str| planes.by_stream.values().any(|plane| plane.dataplane_id == id);
        if let Some(Plane { dataplane_id, enforces, .. }) =
            ended.filter(|plane| !elsewhere(&plane.dataplane_id))
        {
            planes.away.insert(dataplane_id.clone(), (self.stream, enforces));
            tokio::spawn(Arc::clone(&self.planes).give_up(dataplane_id, self.stream));
        }
        drop(planes);
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
        planes.away.remove(dataplane_id);
        let plane = Plane {
            dataplane_id: dataplane_id.to_owned(),
            history_id: String::new(),
            sent: 0,
            enforces: 0,
            leaves: false,
        };
        planes.by_stream.insert(stream, plane);
        Connection { planes: Arc::clone(self), stream }
    }

    /// A data plane has nothing under way any more, and ends.
    pub fn leave(&self, dataplane_id: &str) {
        let mut planes = self.lock();
        planes.away.remove(dataplane_id);
        let leaving = planes.by_stream.values_mut().filter(|plane| plane.dataplane_id == dataplane_id);
        leaving.for_each(|plane| plane.leaves = true);
        drop(planes);
        self.wake();
    }

    /// Forgets a data plane that has not come back in time.
    async fn give_up(self: Arc<Self>, dataplane_id: String, stream: u64) {
        tokio::time::sleep(RETURN).await;
        let mut planes = self.lock();
        if planes.away.get(&dataplane_id).is_some_and(|(broken, _)| *broken == stream) {
            planes.away.remove(&dataplane_id);
        }
        drop(planes);
        self.wake();
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

    /// The revision that every connected data plane enforces, and every one that may come back; `None` when there is none.
    #[must_use]
    pub fn all_enforce(&self) -> Option<u64> {
        let planes = self.lock();
        let connected = planes.by_stream.values().filter(|plane| !plane.leaves).map(|plane| plane.enforces);
        connected.chain(planes.away.values().map(|(_, enforces)| *enforces)).min()
    }

    /// Wakes when a data plane goes, or says what it enforces.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Waits until every data plane that is connected, or may come back, enforces `revision`.
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

    #[tokio::test]
    async fn a_change_is_enforced_once_every_connected_plane_has_confirmed_it() {
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
        planes.leave("a");
        planes.confirm("b", "h", 4);
        assert!(enforced(&planes, 4), "who leaves is not waited for");
        drop((first, second));
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_come_back_is_waited_for() {
        let planes = Arc::new(ConnectedPlanes::default());
        let first = planes.connect("a");
        first.sends("h", 3, true);
        planes.confirm("a", "h", 3);
        drop(first);
        assert!(enforced(&planes, 3) && !enforced(&planes, 4), "it goes on with what it has");
        let again = planes.connect("a");
        assert!(!enforced(&planes, 3), "what it has now is not known yet");
        again.sends("h", 4, true);
        planes.confirm("a", "h", 4);
        assert!(enforced(&planes, 4));
        tokio::time::sleep(2 * RETURN).await;
        assert_eq!(planes.all_enforce(), Some(4), "the stream that broke is no matter any more");
        // The new stream may be there before the old one is known to be broken.
        let newest = planes.connect("a");
        drop(again);
        newest.sends("h", 5, true);
        planes.confirm("a", "h", 5);
        assert!(enforced(&planes, 5));
        drop(newest);
        assert!(!enforced(&planes, 6));
        tokio::time::timeout(2 * RETURN, planes.enforced(6)).await.expect("it did not come back");
        let last = planes.connect("a");
        drop(last);
        planes.leave("a");
        assert_eq!(planes.all_enforce(), None, "it left by another way");
    }

    #[tokio::test]
    async fn what_was_enforced_of_a_database_put_back_or_replaced_counts_no_more() {
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

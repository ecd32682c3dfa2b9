//! Which data planes follow this control plane, and which policy they enforce.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
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
    enforces: u64,
}

/// One data plane's policy stream; dropping it forgets the plane.
#[derive(Debug)]
pub struct Connection {
    planes: Arc<ConnectedPlanes>,
    stream: u64,
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

    /// A data plane follows from now on; it enforced `revision` when it came.
    #[must_use]
    pub fn connect(self: &Arc<Self>, dataplane_id: &str, revision: u64) -> Connection {
        let mut planes = self.lock();
        planes.next += 1;
        let stream = planes.next;
        planes.by_stream.insert(stream, Plane { dataplane_id: dataplane_id.to_owned(), enforces: revision });
        Connection { planes: Arc::clone(self), stream }
    }

    /// A data plane says what it enforces.
    pub fn confirm(&self, dataplane_id: &str, revision: u64) {
        let mut planes = self.lock();
        for plane in planes.by_stream.values_mut().filter(|plane| plane.dataplane_id == dataplane_id) {
            plane.enforces = plane.enforces.max(revision);
        }
        drop(planes);
        self.wake();
    }

    /// Waits until every connected data plane enforces `revision`; false when `patience` ends first.
    pub async fn enforced(&self, revision: u64, patience: Duration) -> bool {
        let mut changed = self.changed.subscribe();
        let all =
            changed.wait_for(|_| self.lock().by_stream.values().all(|plane| plane.enforces >= revision));
        tokio::time::timeout(patience, all).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn a_change_is_enforced_once_every_connected_plane_has_confirmed_it() {
        let planes = Arc::new(ConnectedPlanes::default());
        assert!(planes.enforced(9, SOON).await, "nobody is connected");
        let (first, second) = (planes.connect("a", 3), planes.connect("b", 0));
        assert!(!planes.enforced(3, SOON).await);
        planes.confirm("b", 3);
        assert!(planes.enforced(3, SOON).await);
        planes.confirm("a", 2);
        assert!(planes.enforced(3, SOON).await, "confirmations never go back");
        assert!(!planes.enforced(4, SOON).await);
        drop(first);
        planes.confirm("b", 4);
        assert!(planes.enforced(4, SOON).await, "who left is not waited for");
        drop(second);
    }
}

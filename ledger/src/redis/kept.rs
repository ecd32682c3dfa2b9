//! A value that takes time to make: made by one caller at a time, and kept until it is found wanting.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use redis::{ErrorKind, RedisResult};

#[derive(Debug)]
pub(super) struct Kept<T> {
    value: ArcSwapOption<T>,
    making: tokio::sync::Mutex<()>,
    attempts: AtomicU64,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self {
            value: ArcSwapOption::empty(),
            making: tokio::sync::Mutex::default(),
            attempts: AtomicU64::new(0),
        }
    }
}

impl<T: Send + Sync + 'static> Kept<T> {
    /// The value, made by `make` when there is none. Making goes on when the caller gives up.
    pub(super) async fn get<M>(self: &Arc<Self>, make: M) -> RedisResult<Arc<T>>
    where
        M: Future<Output = RedisResult<T>> + Send + 'static,
    {
        if let Some(value) = self.value.load_full() {
            return Ok(value);
        }
        let (kept, seen) = (Arc::clone(self), self.attempts.load(Ordering::SeqCst));
        let making = tokio::spawn(async move { kept.make(seen, make).await });
        making.await.unwrap_or_else(|cause| Err((ErrorKind::Client, "connecting", cause.to_string()).into()))
    }

    /// Makes the value, unless somebody has tried since `seen` attempts.
    async fn make(
        &self,
        seen: u64,
        make: impl Future<Output = RedisResult<T>> + Send,
    ) -> RedisResult<Arc<T>> {
        let _one_at_a_time = self.making.lock().await;
        if let Some(value) = self.value.load_full() {
            return Ok(value);
        }
        if self.attempts.load(Ordering::SeqCst) != seen {
            let cause = io::Error::new(io::ErrorKind::NotConnected, "connecting has just failed");
            return Err(cause.into());
        }
        let made = make.await;
        self.attempts.fetch_add(1, Ordering::SeqCst);
        let value = Arc::new(made?);
        self.value.store(Some(Arc::clone(&value)));
        Ok(value)
    }

    pub(super) fn is_there(&self) -> bool {
        self.value.load().is_some()
    }

    /// The next caller makes another, unless somebody has already.
    pub(super) fn forget(&self, value: &Arc<T>) {
        self.value.compare_and_swap(&Some(Arc::clone(value)), None);
    }

    /// Likewise, whatever it is.
    pub(super) fn forget_any(&self) {
        self.value.store(None);
    }
}

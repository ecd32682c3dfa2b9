//! What a data plane listens on: a unix socket beside its Envoy, or TCP.

use std::{io, time::Duration};

use futures::{Stream, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
};

/// After a connection that could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(500);

/// A bound listener.
#[derive(Debug)]
pub enum Listener {
    /// A unix socket.
    Unix(UnixListener),
    /// A TCP port.
    Tcp(TcpListener),
}

/// A connection of either kind.
pub(crate) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

impl Listener {
    /// Connections as they come.
    pub(crate) fn connections(self) -> impl Stream<Item = io::Result<Box<dyn Connection>>> {
        futures::stream::unfold(self, async |listener| Some((listener.accept().await, listener)))
    }

    async fn accept(&self) -> io::Result<Box<dyn Connection>> {
        Ok(match self {
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

/// Incoming connections, with a pause after one that could not be accepted: a server that asks again at once would be busy
/// with nothing else, and silent, for as long as descriptors are short.
pub fn patient<T>(incoming: impl Stream<Item = io::Result<T>>) -> impl Stream<Item = io::Result<T>> {
    incoming.then(async |accepted| {
        if let Err(cause) = &accepted {
            tracing::warn!(%cause, "a connection could not be accepted");
            tokio::time::sleep(ACCEPT_AGAIN).await;
        }
        accepted
    })
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_cannot_be_accepted_is_neither_the_last_nor_asked_for_again_at_once() {
        let begun = Instant::now();
        let short = || Err(io::Error::other("no descriptors"));
        let accepted = pin!(patient(futures::stream::iter([short(), short(), Ok(7)])));
        assert_eq!(accepted.filter_map(async |one| one.ok()).collect::<Vec<_>>().await, [7]);
        assert_eq!(begun.elapsed(), 2 * ACCEPT_AGAIN);
    }
}

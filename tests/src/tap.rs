//! Counts requests on their way to the ingress without touching them: what an SDK really sent, retries included.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A TCP relay in front of the ingress.
#[derive(Debug)]
pub struct Tap {
    address: SocketAddr,
    posts: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Tap {
    /// Relays to `url`, e.g. `http://127.0.0.1:8080`.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(url: &str) -> io::Result<Self> {
        let target = url.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let posts = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&posts);
        let accepting = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(relay(socket, target.clone(), Arc::clone(&counted)));
            }
        });
        Ok(Self { address, posts, accepting })
    }

    /// Where clients connect.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many `POST` requests went through (HTTP/1.1 only).
    #[must_use]
    pub fn posts(&self) -> usize {
        self.posts.load(Ordering::SeqCst)
    }
}

async fn relay(client: TcpStream, target: String, posts: Arc<AtomicUsize>) -> io::Result<()> {
    let server = TcpStream::connect(target).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let back = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let mut buffer = vec![0; 64 * 1024];
    let mut tail = Vec::new();
    loop {
        let length = from_client.read(&mut buffer).await?;
        if length == 0 {
            break;
        }
        // Overlaps by the pattern's length less one, so that a request line cut in two is still counted once.
        tail.extend_from_slice(&buffer[..length]);
        let pattern = b"POST /";
        let seen = tail.windows(pattern.len()).filter(|window| window == pattern).count();
        posts.fetch_add(seen, Ordering::SeqCst);
        tail.drain(..tail.len().saturating_sub(pattern.len() - 1));
        to_server.write_all(&buffer[..length]).await?;
    }
    to_server.shutdown().await?;
    let _ = back.await;
    Ok(())
}

//! The ports that the sidecar opens: accepting, a bound on connections, and their drain.

mod caller;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

pub use self::caller::RequestBody;
use self::caller::{Watch, WatchedStream};
use crate::{config::Config, shutdown::Drain};

/// How many connections the kernel completes before they are accepted.
const BACKLOG: u32 = 1_024;
/// How long to wait when the process has run out of descriptors or memory: others may be given back by then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A port cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

/// An open port, with places for a bounded number of connections.
#[derive(Debug)]
pub struct Listener {
    tcp: std::net::TcpListener,
    address: SocketAddr,
    places: Places,
}

impl Listener {
    /// Opens the port; connections queue up from here on. Must be called within a runtime.
    ///
    /// # Errors
    /// When the address is in use or not this machine's.
    pub fn bind(address: SocketAddr, max_connections: usize) -> Result<Self, ListenError> {
        let open = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // A predecessor's connections may linger; its port is free all the same.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let tcp = socket.listen(BACKLOG)?.into_std()?;
            let address = tcp.local_addr()?;
            Ok(Self { tcp, address, places: Places::new(max_connections) })
        };
        open().map_err(|source| ListenError { address, source })
    }

    /// The address with the port that the kernel chose, where it was left open.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The places of its connections: free ones and taken ones.
    #[must_use]
    pub fn places(&self) -> Places {
        self.places.clone()
    }

    /// Accepts connections and gives each to `take`, until the drain begins; then closes the port.
    /// While all places are taken, connections wait in the kernel's queue.
    ///
    /// # Errors
    /// When the runtime cannot watch the port. An error of a single connection is no error here.
    pub async fn accept(self, mut drain: Drain, mut take: impl FnMut(Accepted)) -> io::Result<()> {
        let tcp = TcpListener::from_std(self.tcp)?;
        loop {
            let accepted = async { (self.places.take().await, tcp.accept().await) };
            let (place, accepted) = tokio::select! {
                biased;
                () = drain.begun() => return Ok(()),
                accepted = accepted => accepted,
            };
            match accepted {
                Ok((stream, peer)) => take(Accepted { stream, peer, place }),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "no connection can be accepted at the moment");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Returns true if the next connection may well be accepted at once.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// A bounded number of connections, counted over all threads.
#[derive(Clone, Debug)]
pub struct Places {
    free: Arc<Semaphore>,
    all: u32,
}

impl Places {
    fn new(max_connections: usize) -> Self {
        let all = u32::try_from(max_connections).unwrap_or(u32::MAX);
        Self { free: Arc::new(Semaphore::new(max_connections)), all }
    }

    async fn take(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.free).acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Completes once no connection is left. Only of use when no more are accepted.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn all_free(&self) {
        let _ = self.free.acquire_many(self.all).await;
    }
}

/// A connection that has a place; dropping it closes the one and frees the other.
#[derive(Debug)]
pub struct Accepted {
    stream: TcpStream,
    peer: SocketAddr,
    place: OwnedSemaphorePermit,
}

/// What a connection may take.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// How long a connection may be without a request; it is closed before twice that.
    pub idle_timeout: Duration,
    /// How long the head of a request may take to arrive whole, from its first byte.
    pub header_timeout: Duration,
    /// How long an answer may go unread.
    pub write_timeout: Duration,
    /// The largest head of a request, in bytes; at least 8 KiB.
    pub max_header_bytes: usize,
}

/// A connection on its way to the runtime of another thread.
#[derive(Debug)]
pub struct Detached {
    stream: std::net::TcpStream,
    peer: SocketAddr,
    place: OwnedSemaphorePermit,
}

impl Detached {
    /// Puts it under the current runtime.
    ///
    /// # Errors
    /// When that cannot watch it.
    pub fn attach(self) -> io::Result<Accepted> {
        Ok(Accepted { stream: TcpStream::from_std(self.stream)?, peer: self.peer, place: self.place })
    }
}

impl HttpLimits {
    /// Those of the local port.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let listen = &config.listen;
        Self {
            idle_timeout: listen.idle_timeout,
            header_timeout: listen.header_timeout,
            write_timeout: config.upstream.idle_body_timeout,
            max_header_bytes: listen.max_header_bytes,
        }
    }
}

impl Accepted {
    /// Takes it from the current runtime.
    ///
    /// # Errors
    /// When that does not let go of it.
    pub fn detach(self) -> io::Result<Detached> {
        Ok(Detached { stream: self.stream.into_std()?, peer: self.peer, place: self.place })
    }

    /// Serves HTTP/1.1 until the connection ends or, once the drain has begun, the current request
    /// is answered.
    pub async fn serve<F, B>(self, limits: HttpLimits, mut drain: Drain, handle: impl Fn(Request<RequestBody>) -> F)
    where
        F: Future<Output = Response<B>>,
        B: Body + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let Self { stream, peer, place: _place } = self;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "a connection was gone before it could be served");
            return;
        }
        let watch = Watch::new();
        let stream = WatchedStream::new(stream, watch.clone(), &limits);
        let service = service_fn(|request: Request<Incoming>| {
            let (head, body) = request.into_parts();
            let (body, open) = watch.request(body);
            let answer = handle(Request::from_parts(head, body));
            async { Ok::<_, std::convert::Infallible>(answer.await.map(|body| open.with(body))) }
        });
        let connection =
            http1::Builder::new().max_buf_size(limits.max_header_bytes).serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            biased;
            ended = connection.as_mut() => ended,
            () = drain.begun() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, error = %crate::report::Report(&error), "a connection ended early");
        }
    }
}

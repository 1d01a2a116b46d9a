//! The ports that the sidecar opens: accepting, a bound on connections, and their drain.

mod answer;
mod caller;
mod passed;
mod places;
mod request_body;
mod socket;
mod stream;

use std::{future::poll_fn, io, net::SocketAddr, task::Poll, time::Duration};

use bytes::Bytes;
use http::{Request, request::Parts};
use http_body::Body;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::time::sleep;

pub use self::{
    answer::Answer,
    caller::{Answered, Reply},
    passed::PassedError,
    places::Places,
    request_body::RequestBody,
    socket::Peer,
};
use self::{
    caller::Watch,
    places::{Place, Row},
    socket::{Bound, StdStream, Stream},
    stream::WatchedStream,
};
use crate::{
    config::{Address, Config, Listen, Socket},
    executor::Local,
    report::Report,
    shutdown::Drain,
};

/// How long to wait when the process has run out of descriptors or memory: others may be given back by then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection beyond the limit may take to say what is to be refused.
const SURPLUS_PATIENCE: Duration = Duration::from_secs(1);

/// How long a caller without requests may take to hear a goodbye.
const FAREWELL: Duration = Duration::from_secs(1);

/// Requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 128;
/// What a caller may send ahead over HTTP/2 before it is read: for one request, and for a connection. In bytes.
/// Enough for a caller on this machine; and uploads that stand still leave room for those that do not.
const STREAM_WINDOW: u32 = 64 * 1_024;
const CONNECTION_WINDOW: u32 = MAX_STREAMS * STREAM_WINDOW;
/// How much of an answer is buffered for a request over HTTP/2, in bytes.
const SEND_BUFFER: usize = 256 * 1_024;
/// Requests that a caller may reset before they are looked at; one more ends the connection
/// ("rapid reset", CVE-2023-44487).
const MAX_PENDING_RESETS: usize = 20;
/// How often a caller over HTTP/2 with requests under way is asked whether it is still there, and
/// how long it may take to say so.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// A port cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// By the process itself.
    #[error("cannot listen on {address}")]
    Bind {
        /// Where.
        address: Address,
        /// What the kernel says.
        source: io::Error,
    },
    /// By systemd, of which it was to be taken.
    #[error("cannot listen on systemd:{name}")]
    Passed {
        /// The socket's name.
        name: String,
        /// What is wrong with it.
        source: PassedError,
    },
}

impl ListenError {
    /// What an operator can do.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Bind { .. } => {
                "end what listens there, or choose another port with `listen.address` or `admin.address` \
                 (TOKEN_VALET__LISTEN__ADDRESS, TOKEN_VALET__ADMIN__ADDRESS)"
                    .to_owned()
            }
            Self::Passed { name, source } => source.hint(name),
        }
    }
}

/// An open port, with places for a bounded number of connections.
#[derive(Debug)]
pub struct Listener {
    socket: Bound,
    address: Address,
    places: Places,
}

impl Listener {
    /// Opens the local port, where systemd has not done so; connections queue up from here on. Must be called within a
    /// runtime, and before there are other threads.
    ///
    /// # Errors
    /// When the address is in use or not this machine's, or no fit socket was passed.
    pub fn local(listen: &Listen) -> Result<Self, ListenError> {
        let (socket, address) = match &listen.address {
            Socket::Own(address) => {
                passed::leave();
                let opened = match address {
                    Address::Tcp(address) => tcp(*address),
                    Address::Unix(path) => Bound::unix(path, listen.unix_mode).map(|socket| (socket, address.clone())),
                };
                opened.map_err(|source| ListenError::Bind { address: address.clone(), source })
            }
            Socket::Systemd(name) => {
                passed::take(name, listen).map_err(|source| ListenError::Passed { name: name.clone(), source })
            }
        }?;
        Ok(Self { socket, address, places: Places::new(listen.max_connections) })
    }

    /// Opens a TCP port. Must be called within a runtime.
    ///
    /// # Errors
    /// When the address is in use or not this machine's.
    pub fn tcp(address: SocketAddr, max_connections: usize) -> Result<Self, ListenError> {
        let refused = |source| ListenError::Bind { address: Address::Tcp(address), source };
        let (socket, address) = tcp(address).map_err(refused)?;
        Ok(Self { socket, address, places: Places::new(max_connections) })
    }

    /// The address, as the kernel has it.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The places of its connections: free ones and taken ones.
    #[must_use]
    pub fn places(&self) -> Places {
        self.places.clone()
    }

    /// Accepts connections and gives each to `take`, until the drain begins; then closes the port.
    ///
    /// Once all places are taken, a few more connections are given out [as surplus](Reply::is_surplus);
    /// any beyond those are closed at once.
    ///
    /// # Errors
    /// When the runtime cannot watch the port. An error of a single connection is no error here.
    pub async fn accept(self, mut drain: Drain, mut take: impl FnMut(Accepted)) -> io::Result<()> {
        let port = self.socket.attach()?;
        loop {
            let accepted = tokio::select! {
                biased;
                () = drain.begun() => return Ok(()),
                accepted = port.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => match self.places.take() {
                    Some(place) => take(Accepted { stream, peer, place }),
                    None => tracing::debug!(%peer, "a connection was closed: there are too many even to say so"),
                },
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "no connection can be accepted at the moment");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

fn tcp(address: SocketAddr) -> io::Result<(Bound, Address)> {
    Bound::tcp(address).map(|(socket, chosen)| (socket, Address::Tcp(chosen)))
}

/// Returns true if the next connection may well be accepted at once.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// A connection that has a place; dropping it closes the one and frees the other.
#[derive(Debug)]
pub struct Accepted {
    stream: Stream,
    peer: Peer,
    place: Place,
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
    /// Whether callers are served that close their own side after a request.
    pub half_close: HalfClose,
}

/// What it means that a caller closes its side of the connection before it has its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HalfClose {
    /// It has gone away: its request ends.
    Gone,
    /// It sends no more, and waits.
    Waiting,
}

/// A connection on its way to the runtime of another thread.
#[derive(Debug)]
pub struct Detached {
    stream: StdStream,
    peer: Peer,
    place: Place,
}

impl Detached {
    /// Puts it under the current runtime.
    ///
    /// # Errors
    /// When that cannot watch it.
    pub fn attach(self) -> io::Result<Accepted> {
        Ok(Accepted { stream: Stream::from_std(self.stream)?, peer: self.peer, place: self.place })
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
            half_close: if listen.half_close { HalfClose::Waiting } else { HalfClose::Gone },
        }
    }

    /// For connections that are only there to be refused: less time for everything.
    fn surplus(self) -> Self {
        let shorter = |timeout: Duration| timeout.min(SURPLUS_PATIENCE);
        Self {
            idle_timeout: shorter(self.idle_timeout),
            header_timeout: shorter(self.header_timeout),
            write_timeout: shorter(self.write_timeout),
            ..self
        }
    }

    /// Both protocols on one port, told apart by the first bytes (RFC 9113 section 3.3).
    fn builder(&self) -> auto::Builder<Local> {
        let mut builder = auto::Builder::new(Local);
        // `WatchedStream` tells when a caller has gone.
        builder.http1().max_buf_size(self.max_header_bytes).half_close(true);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            // It bounds what comes in CONTINUATION frames too.
            .max_header_list_size(u32::try_from(self.max_header_bytes).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_INTERVAL);
        builder
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

    /// Serves HTTP/1.1, or HTTP/2 to callers that begin with it, until the connection ends or, once
    /// the drain has begun, the requests under way are answered. An upgraded connection goes on
    /// without this, and keeps its place.
    pub async fn serve<F, B>(
        self,
        limits: HttpLimits,
        mut drain: Drain,
        handle: impl Fn(Parts, RequestBody, Reply) -> F,
    ) where
        F: Future<Output = Answered<B>> + 'static,
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let is_surplus = self.place.row() == Row::Surplus;
        let limits = if is_surplus { limits.surplus() } else { limits };
        let Self { stream, peer, place } = self;
        if let Err(error) = stream.set_nodelay() {
            tracing::debug!(%peer, %error, "a connection was gone before it could be served");
            return;
        }
        let watch = Watch::new(peer, place);
        let stream = WatchedStream::new(stream, watch.clone(), &limits);
        let patience = limits.write_timeout;
        let service = service_fn(|request: Request<Incoming>| {
            let (head, body) = request.into_parts();
            let (body, reply) = watch.request(body, &head, patience);
            // As it is: what is put around it costs a copy of it.
            handle(head, body, reply)
        });
        let builder = limits.builder();
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let served = poll_fn(|cx| match connection.as_mut().poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            Poll::Pending if watch.is_tired() => Poll::Ready(None),
            Poll::Pending => {
                watch.poll_leftover(cx);
                Poll::Pending
            }
        });
        let ended = tokio::select! {
            biased;
            ended = served => ended,
            () = drain.begun() => None,
            () = sleep(SURPLUS_PATIENCE), if is_surplus => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                connection.as_mut().graceful_shutdown();
                let served = poll_fn(|cx| {
                    let ended = connection.as_mut().poll(cx);
                    watch.poll_leftover(cx);
                    ended
                });
                tokio::select! {
                    biased;
                    ended = served => ended,
                    // Over HTTP/2 the goodbye waits for the caller, which may not look before its next request.
                    () = idle_for_a_while(&watch) => Ok(()),
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, error = %Report(error.as_ref()), "a connection ended early");
        }
    }
}

/// Completes when a connection has nothing under way, as seen a second after the goodbye or later.
async fn idle_for_a_while(watch: &Watch) {
    loop {
        sleep(FAREWELL).await;
        if watch.is_idle() {
            return;
        }
    }
}

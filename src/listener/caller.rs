//! How long a caller may keep a connection without sending a request on it, how long a request's head
//! may take once it has begun, and how long an answer may go unread.
//!
//! hyper has one time-out for both. Short, it would close an idle connection just as the application
//! sends a POST on it; long, it would give slow senders of heads all the time in the world. So the
//! connection's bytes are watched: only their coming, not what they say.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Response, Version, header::CONNECTION};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use rustix::net::sockopt::set_socket_linger;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep},
};

use super::{Answer, HttpLimits, Place};
use crate::{
    patience::Patience,
    received::{Interrupted, Received},
};

/// What the connection is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// The first byte of a request.
    Idle,
    /// The rest of its head.
    Head,
    /// The end of its body and of its answer; how long they take is not this module's business.
    Request,
}

/// Shared by the connection and the requests on it. Whoever has one keeps the connection's place.
#[derive(Clone, Debug)]
pub(super) struct Watch(Arc<Shared>);

/// All on one thread: the atomics make it fit for an upgraded connection, which hyper wants to be
/// [`Send`], and cost what plain memory does.
#[derive(Debug)]
struct Shared {
    phase: AtomicU8,
    /// How many requests there have been.
    requests: AtomicU64,
    /// Bodies that have not ended, the callers' and the answers': of the newest request over HTTP/1.1,
    /// of all over HTTP/2.
    open: AtomicU32,
    is_http2: AtomicBool,
    /// Trailers have come, which hyper reads beyond their end if that is a bare line feed: what follows
    /// them would be lost.
    has_trailers: AtomicBool,
    /// It has been without a request for long enough, and is to say goodbye.
    is_tired: AtomicBool,
    /// An answer that only the connection's end could have told whole was cut off.
    is_torn: AtomicBool,
    peer: SocketAddr,
    _place: Place,
}

/// Where the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    phase: Phase,
    requests: u64,
}

impl Watch {
    pub(super) fn new(peer: SocketAddr, place: Place) -> Self {
        Self(Arc::new(Shared {
            phase: AtomicU8::new(Phase::Idle as u8),
            requests: AtomicU64::new(0),
            open: AtomicU32::new(0),
            is_http2: AtomicBool::new(false),
            has_trailers: AtomicBool::new(false),
            is_tired: AtomicBool::new(false),
            is_torn: AtomicBool::new(false),
            peer,
            _place: place,
        }))
    }

    /// A head has arrived whole. Both of what is returned must have gone before the connection is idle.
    pub(super) fn request(&self, incoming: Incoming, version: Version) -> (RequestBody, OpenAnswer) {
        let Shared { requests, open, is_http2, .. } = &*self.0;
        let number = requests.load(Relaxed) + 1;
        requests.store(number, Relaxed);
        if version == Version::HTTP_2 {
            is_http2.store(true, Relaxed);
            open.store(open.load(Relaxed) + 2, Relaxed);
        } else {
            open.store(2, Relaxed);
        }
        self.enter(Phase::Request);
        let open = || Open { watch: self.clone(), request: number };
        let received = Received::new(incoming, version);
        (RequestBody { received, open: open() }, OpenAnswer { open: open(), version })
    }

    fn enter(&self, phase: Phase) {
        self.0.phase.store(phase as u8, Relaxed);
    }

    fn phase(&self) -> Phase {
        match self.0.phase.load(Relaxed) {
            0 => Phase::Idle,
            1 => Phase::Head,
            _ => Phase::Request,
        }
    }

    fn state(&self) -> State {
        State { phase: self.phase(), requests: self.0.requests.load(Relaxed) }
    }

    /// Has the connection say goodbye before it is closed, so that its caller knows what became of a
    /// request that it sends just now. Returns false if it cannot, or has done so before.
    fn tire(&self) -> bool {
        self.0.is_http2.load(Relaxed) && !self.0.is_tired.swap(true, Relaxed)
    }

    pub(super) fn is_tired(&self) -> bool {
        self.0.is_tired.load(Relaxed)
    }

    /// Bytes have come.
    fn heard(&self) {
        // Over HTTP/2 they need not belong to a request: how long a head takes is bounded by the idle time.
        if self.phase() == Phase::Idle && !self.0.is_http2.load(Relaxed) {
            self.enter(Phase::Head);
        }
    }
}

/// One of the two bodies of a request.
#[derive(Debug)]
pub(super) struct Open {
    watch: Watch,
    /// The number of its request: over HTTP/1.1 an upload may outlive it, and must not end the next one.
    request: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        let Shared { requests, open, is_http2, .. } = &*self.watch.0;
        if !is_http2.load(Relaxed) && requests.load(Relaxed) != self.request {
            return;
        }
        let left = open.load(Relaxed).saturating_sub(1);
        open.store(left, Relaxed);
        if left == 0 {
            self.watch.enter(Phase::Idle);
        }
    }
}

impl Open {
    /// Has the connection reset once it is closed.
    pub(super) fn tear(&self) {
        self.watch.0.is_torn.store(true, Relaxed);
    }
}

/// The answer to come.
#[derive(Debug)]
pub(super) struct OpenAnswer {
    open: Open,
    version: Version,
}

impl OpenAnswer {
    /// Ends with the last of the body, or once nothing of it was read for `limit`.
    pub(super) fn with<B: Body + 'static>(self, answer: Response<B>, limit: Duration) -> Response<Answer<B>> {
        let Self { open, version } = self;
        if version == Version::HTTP_2 && !answer.body().is_end_stream() {
            return answer.map(|body| Answer::watched(body, open, limit));
        }
        let ends_with_connection = version < Version::HTTP_11 && answer.body().size_hint().exact().is_none();
        let is_last = ends_with_connection || open.watch.0.has_trailers.load(Relaxed);
        let mut answer = answer.map(|body| Answer::plain(body, open, ends_with_connection));
        if is_last {
            // hyper would promise to keep it.
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

/// The body of a caller's request.
#[derive(Debug)]
pub struct RequestBody {
    received: Received,
    open: Open,
}

impl RequestBody {
    /// Who sends it.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.open.watch.0.peer
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Interrupted;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Interrupted>>> {
        let frame = Pin::new(&mut self.received).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && frame.is_trailers()
        {
            self.open.watch.0.has_trailers.store(true, Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.received.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.received.size_hint()
    }
}

/// A connection that ends with an error of kind `TimedOut` when its caller is too slow.
#[derive(Debug)]
pub(super) struct WatchedStream {
    stream: TcpStream,
    watch: Watch,
    idle_timeout: Duration,
    header_timeout: Duration,
    /// For what the caller does not read.
    write_patience: Patience,
    timer: Pin<Box<Sleep>>,
    /// The state that the timer was set in.
    timed: State,
}

impl WatchedStream {
    pub(super) fn new(stream: TcpStream, watch: Watch, limits: &HttpLimits) -> Self {
        let HttpLimits { idle_timeout, header_timeout, write_timeout, .. } = *limits;
        let timer = Box::pin(tokio::time::sleep(idle_timeout));
        let write_patience = Patience::new(write_timeout);
        let timed = watch.state();
        Self { stream, watch, idle_timeout, header_timeout, write_patience, timer, timed }
    }

    /// The caller has sent nothing new: has it had its time?
    ///
    /// To save a timer for each request, the one for idle connections is not set anew when one
    /// becomes idle, but when it runs out and there was a request meanwhile. So an idle connection
    /// is closed after its time, and before twice that.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let state = self.watch.state();
        if self.timed != state {
            if state.phase == Phase::Head {
                self.set_timer(state, self.header_timeout);
            } else if self.timed.phase == Phase::Head {
                // The head has come, or it was HTTP/2's preface: its time says nothing any more.
                self.set_timer(state, self.idle_timeout);
            }
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if self.timed == state && state.phase != Phase::Request && !self.watch.tire() {
                return Poll::Ready(());
            }
            self.set_timer(state, self.idle_timeout);
        }
    }

    /// The result of a write, unless the caller has read nothing for too long.
    fn patiently<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write_patience.progressed();
            return written;
        }
        self.write_patience.poll_over(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn set_timer(&mut self, state: State, span: Duration) {
        self.timed = state;
        self.timer.as_mut().reset(Instant::now() + span);
    }
}

impl Drop for WatchedStream {
    fn drop(&mut self) {
        if self.watch.0.is_torn.load(Relaxed) {
            // Closed by a reset, not in order. An error means that the connection has ended by itself.
            let _ = set_socket_linger(&self.stream, Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut this.stream).poll_read(cx, buf) {
            // Empty lines before a request are nothing (RFC 9112 section 2.2).
            let begins = buf.filled()[before..].iter().any(|byte| !matches!(byte, b'\r' | b'\n'));
            if begins {
                this.watch.heard();
            }
            return Poll::Ready(result);
        }
        this.poll_patience(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.patiently(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.patiently(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

//! How long a caller may keep a connection without sending a request on it, and how long a request's
//! head may take once it has begun.
//!
//! hyper has one time-out for both. Short, it would close an idle connection just as the application
//! sends a POST on it; long, it would give slow senders of heads all the time in the world. So the
//! connection's bytes are watched: only their coming, not what they say.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep},
};

/// What the connection is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The first byte of a request.
    Idle,
    /// The rest of its head.
    Head,
    /// Its answer; how long that and the bodies take is not this module's business.
    Request,
}

/// Shared by the connection and the requests on it.
#[derive(Clone, Debug)]
pub(super) struct Watch(Rc<Cell<State>>);

/// Where the connection is: in which phase, and after how many requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    phase: Phase,
    requests: u64,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self(Rc::new(Cell::new(State { phase: Phase::Idle, requests: 0 })))
    }

    /// A head has arrived whole.
    pub(super) fn request(&self) {
        let State { requests, .. } = self.0.get();
        self.0.set(State { phase: Phase::Request, requests: requests + 1 });
    }

    fn enter(&self, phase: Phase) {
        self.0.set(State { phase, ..self.0.get() });
    }

    /// Ends the request with the last of its answer.
    pub(super) fn until_end_of<B>(&self, body: B) -> Answer<B> {
        Answer { body, watch: self.clone() }
    }
}

/// A connection that ends with an error of kind `TimedOut` when its caller is too slow.
#[derive(Debug)]
pub(super) struct WatchedStream {
    stream: TcpStream,
    watch: Watch,
    idle_timeout: Duration,
    header_timeout: Duration,
    timer: Pin<Box<Sleep>>,
    /// The state that the timer was set in.
    timed: State,
}

impl WatchedStream {
    pub(super) fn new(stream: TcpStream, watch: Watch, idle_timeout: Duration, header_timeout: Duration) -> Self {
        let timer = Box::pin(tokio::time::sleep(idle_timeout));
        let timed = watch.0.get();
        Self { stream, watch, idle_timeout, header_timeout, timer, timed }
    }

    /// The caller has sent nothing new: has it had its time?
    ///
    /// To save a timer for each request, the one for idle connections is not set anew when one
    /// becomes idle, but when it runs out and there was a request meanwhile. So an idle connection
    /// is closed after its time, and before twice that.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let state = self.watch.0.get();
        if state.phase == Phase::Head && self.timed != state {
            self.set_timer(state, self.header_timeout);
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if self.timed == state && state.phase != Phase::Request {
                return Poll::Ready(());
            }
            self.set_timer(state, self.idle_timeout);
        }
    }

    fn set_timer(&mut self, state: State, span: Duration) {
        self.timed = state;
        self.timer.as_mut().reset(Instant::now() + span);
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut this.stream).poll_read(cx, buf) {
            if this.watch.0.get().phase == Phase::Idle && buf.filled().len() > before {
                this.watch.enter(Phase::Head);
            }
            return Poll::Ready(result);
        }
        this.poll_patience(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
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

/// The body of an answer; when hyper is done with it, the connection is idle.
#[derive(Debug)]
pub(super) struct Answer<B> {
    body: B,
    watch: Watch,
}

impl<B> Drop for Answer<B> {
    fn drop(&mut self) {
        self.watch.enter(Phase::Idle);
    }
}

impl<B: Body + Unpin> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

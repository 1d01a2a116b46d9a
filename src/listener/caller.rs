//! What a caller's connection is at: shared by its bytes and by the requests on it.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::Context,
    time::Duration,
};

use futures_util::task::AtomicWaker;
use http::{
    HeaderValue, Response, StatusCode, Version,
    header::{CONNECTION, EXPECT},
    request::Parts,
};
use http_body::Body;
use hyper::body::Incoming;

use super::{
    Answer, Peer, RequestBody,
    places::{Place, Row},
    request_body::Leftover,
};
use crate::received::Received;

/// What the connection is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
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
    /// The newest request's body may have trailers, or has: hyper reads them beyond their end if that is a
    /// bare line feed, and what follows them would be lost, or taken for another request.
    may_have_trailers: AtomicBool,
    /// It has been without a request for long enough, and is to say goodbye.
    is_tired: AtomicBool,
    /// The caller has not taken all of the answers yet.
    is_unread: AtomicBool,
    /// What is left of a body that nobody wants: read and thrown away for a while, or the kernel would
    /// reset the connection over it, and the answer be lost to a caller that first sends all.
    leftover: Mutex<Option<Leftover>>,
    /// Whether there is such a body: saves the lock.
    has_leftover: AtomicBool,
    /// Whether the newest request has a body, which may be dropped anywhere.
    has_body: AtomicBool,
    /// The connection's task, to be told of that.
    task: AtomicWaker,
    /// The newest request has come whole: whatever ends the connection now is not within it.
    is_whole: AtomicBool,
    /// It has gone over to another protocol, of which one side may end before the other.
    is_switched: AtomicBool,
    /// An answer that only the connection's end can tell whole has not come to its own.
    is_torn: AtomicBool,
    peer: Peer,
    place: Place,
}

/// Where the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) phase: Phase,
    requests: u64,
}

impl Watch {
    pub(super) fn new(peer: Peer, place: Place) -> Self {
        Self(Arc::new(Shared {
            phase: AtomicU8::new(Phase::Idle as u8),
            requests: AtomicU64::new(0),
            open: AtomicU32::new(0),
            is_http2: AtomicBool::new(false),
            may_have_trailers: AtomicBool::new(false),
            is_tired: AtomicBool::new(false),
            is_unread: AtomicBool::new(false),
            leftover: Mutex::default(),
            has_leftover: AtomicBool::new(false),
            has_body: AtomicBool::new(false),
            task: AtomicWaker::new(),
            is_whole: AtomicBool::new(false),
            is_switched: AtomicBool::new(false),
            is_torn: AtomicBool::new(false),
            peer,
            place,
        }))
    }

    /// A head has arrived whole. Both of what is returned must have gone before the connection is idle.
    pub(super) fn request(&self, incoming: Incoming, head: &Parts, patience: Duration) -> (RequestBody, Reply) {
        let Shared { requests, open, is_http2, .. } = &*self.0;
        let (number, version) = (requests.load(Relaxed) + 1, head.version);
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
        let has_body = !received.is_end_stream();
        self.0.has_body.store(has_body, Relaxed);
        self.0.is_whole.store(!has_body, Relaxed);
        let is_chunked = has_body && received.size_hint().exact().is_none();
        self.0.may_have_trailers.store(is_chunked && version < Version::HTTP_2, Relaxed);
        // Reading a body would say that it is wanted.
        let may_be_read = version < Version::HTTP_2 && head.headers.keys().all(|name| *name != EXPECT);
        (RequestBody::new(received, may_be_read, open()), Reply { open: open(), version, patience })
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

    pub(super) fn state(&self) -> State {
        State { phase: self.phase(), requests: self.0.requests.load(Relaxed) }
    }

    /// Has the connection say goodbye before it is closed, so that its caller knows what became of a
    /// request that it sends just now. Returns false if it cannot, or has done so before.
    pub(super) fn tire(&self) -> bool {
        self.0.is_http2.load(Relaxed) && !self.0.is_tired.swap(true, Relaxed)
    }

    pub(super) fn is_tired(&self) -> bool {
        self.0.is_tired.load(Relaxed)
    }

    /// Reads on in a body that nobody wants, if there is one.
    pub(super) fn poll_leftover(&self, cx: &mut Context<'_>) {
        if self.0.has_body.load(Relaxed) {
            self.0.task.register(cx.waker());
        }
        if !self.0.has_leftover.load(Relaxed) {
            return;
        }
        let mut leftover = self.0.leftover.lock().unwrap_or_else(PoisonError::into_inner);
        if leftover.as_mut().is_none_or(|leftover| leftover.poll_over(cx).is_ready()) {
            *leftover = None;
            self.0.has_leftover.store(false, Relaxed);
            // The connection ends, or goes on, without it.
            cx.waker().wake_by_ref();
        }
    }

    /// Returns true if the caller has sent a request over HTTP/1 whole, and has not been answered whole.
    pub(super) fn awaits_answer(&self) -> bool {
        let Shared { is_http2, is_whole, is_switched, .. } = &*self.0;
        let is_asked = self.phase() == Phase::Request && is_whole.load(Relaxed);
        is_asked && !is_http2.load(Relaxed) && !is_switched.load(Relaxed)
    }

    /// Returns true if no request is under way, and all answers have been taken.
    pub(super) fn is_idle(&self) -> bool {
        let Shared { is_unread, has_leftover, .. } = &*self.0;
        self.phase() == Phase::Idle && !is_unread.load(Relaxed) && !has_leftover.load(Relaxed)
    }

    /// Whether the connection is to be reset once it is closed.
    pub(super) fn is_torn(&self) -> bool {
        self.0.is_torn.load(Relaxed)
    }

    /// Whether the caller takes less than there is for it.
    pub(super) fn note_unread(&self, is_unread: bool) {
        self.0.is_unread.store(is_unread, Relaxed);
    }

    /// Bytes have come.
    pub(super) fn heard(&self) {
        // Over HTTP/2 they need not belong to a request: how long a head takes is bounded by the idle time.
        // And what nobody wants of the last body is no head.
        let begins_head = !self.0.is_http2.load(Relaxed) && !self.0.has_leftover.load(Relaxed);
        if self.phase() == Phase::Idle && begins_head {
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
        let Shared { open, is_http2, .. } = &*self.watch.0;
        if !is_http2.load(Relaxed) && !self.is_newest() {
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
    pub(super) fn peer(&self) -> Peer {
        self.watch.0.peer
    }

    /// The body has come whole.
    pub(super) fn note_whole(&self) {
        if self.is_newest() {
            self.watch.0.is_whole.store(true, Relaxed);
        }
    }

    /// The body has ended without trailers.
    pub(super) fn note_plain_end(&self) {
        if self.is_newest() {
            self.watch.0.may_have_trailers.store(false, Relaxed);
        }
    }

    fn is_newest(&self) -> bool {
        self.watch.0.requests.load(Relaxed) == self.request
    }

    /// Has the connection read what nobody wants.
    pub(super) fn leave(&self, leftover: Leftover) {
        *self.watch.0.leftover.lock().unwrap_or_else(PoisonError::into_inner) = Some(leftover);
        self.watch.0.has_leftover.store(true, Relaxed);
        self.watch.0.task.wake();
    }

    /// Whether the connection is to be reset if it is closed now.
    pub(super) fn note_torn(&self, is_torn: bool) {
        self.watch.0.is_torn.store(is_torn, Relaxed);
    }
}

/// How a request is answered: never by an error.
pub type Answered<B> = Result<Response<Answer<B>>, Infallible>;

/// The answer that a request waits for; whoever handles the request makes it.
#[derive(Debug)]
pub struct Reply {
    open: Open,
    version: Version,
    /// How long the caller may leave it unread.
    patience: Duration,
}

impl Reply {
    /// Returns true if the connection is one too many: its requests are to be refused.
    #[must_use]
    pub fn is_surplus(&self) -> bool {
        self.open.watch.0.place.row() == Row::Surplus
    }

    /// Answers. What is returned ends with the last of the body, or once the caller has left it unread for too long.
    ///
    /// # Errors
    /// Never.
    pub fn with<B: Body + 'static>(self, answer: Response<B>) -> Answered<B> {
        let Self { open, version, patience } = self;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            open.watch.0.is_switched.store(true, Relaxed);
        }
        if version == Version::HTTP_2 && !answer.body().is_end_stream() {
            return Ok(answer.map(|body| Answer::watched(body, open, patience)));
        }
        let ends_with_connection = version < Version::HTTP_11 && answer.body().size_hint().exact().is_none();
        let is_last = ends_with_connection || open.watch.0.may_have_trailers.load(Relaxed);
        let mut answer = answer.map(|body| Answer::plain(body, open, ends_with_connection));
        if is_last {
            // hyper would promise to keep it.
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(answer)
    }
}

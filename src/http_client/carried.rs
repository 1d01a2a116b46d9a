//! The body of a request on its way.
//!
//! Over HTTP/2 an origin can answer and then leave the rest of an upload standing: nothing more is asked
//! of its body, and what that holds would be held for as long as the connection lives. So such a body
//! can be taken away from outside.

use std::{
    cell::{Cell, RefCell},
    error::Error,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};

use super::shelf::Multiplexed;

/// The origin has answered, and takes no more of the request.
#[derive(Debug, thiserror::Error)]
#[error("the rest of the request was not taken")]
struct Untaken;

/// The body of a request on its way.
#[derive(Debug)]
pub(super) enum Carried<B> {
    /// Over HTTP/1.1, where bytes that are not taken are noticed by the connection.
    Plain(B),
    /// Over HTTP/2.
    Stream(Rc<StreamBody<B>>),
}

/// One that may outlast its answer.
#[derive(Debug)]
pub(super) struct StreamBody<B> {
    /// `None` once it was taken away.
    body: RefCell<Option<B>>,
    /// How often something was asked of it.
    polls: Cell<u64>,
    /// It had nothing to give: how long that may last is its own affair.
    is_pending: Cell<bool>,
    slot: Rc<Slot>,
}

/// The streams of a connection.
#[derive(Debug, Default)]
pub(super) struct Streams {
    open: Cell<usize>,
    /// Of them, those that are there for nothing but an upload that was taken away.
    abandoned: Cell<usize>,
}

impl Streams {
    pub(super) fn open(&self) -> usize {
        self.open.get()
    }

    /// Returns true if no request is under way on any.
    pub(super) fn are_all_abandoned(&self) -> bool {
        self.open.get() == self.abandoned.get()
    }
}

/// Counts a stream until both of its bodies have ended, and hyper has let go of them.
#[derive(Debug)]
pub(super) struct Slot {
    streams: Rc<Streams>,
    is_abandoned: Cell<bool>,
}

impl Slot {
    pub(super) fn new(streams: &Rc<Streams>) -> Self {
        streams.open.set(streams.open.get() + 1);
        Self { streams: Rc::clone(streams), is_abandoned: Cell::new(false) }
    }

    fn abandon(&self) {
        self.is_abandoned.set(true);
        self.streams.abandoned.set(self.streams.abandoned.get() + 1);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Streams { open, abandoned } = &*self.streams;
        open.set(open.get() - 1);
        abandoned.set(abandoned.get() - usize::from(self.is_abandoned.get()));
    }
}

impl<B> StreamBody<B> {
    pub(super) fn new(body: B, slot: &Rc<Slot>) -> Rc<Self> {
        let (body, polls, is_pending) = (RefCell::new(Some(body)), Cell::new(0), Cell::new(false));
        Rc::new(Self { body, polls, is_pending, slot: Rc::clone(slot) })
    }
}

impl<B> Carried<B> {
    /// The body, as it is.
    pub(super) fn into_body(self) -> Option<B> {
        match self {
            Self::Plain(body) => Some(body),
            Self::Stream(upload) => upload.body.take(),
        }
    }
}

impl<B: Body + Unpin> Body for Carried<B>
where
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = B::Data;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, Self::Error>>> {
        let frame = match &mut *self {
            Self::Plain(body) => Pin::new(body).poll_frame(cx),
            Self::Stream(upload) => {
                upload.polls.set(upload.polls.get() + 1);
                let frame = match upload.body.borrow_mut().as_mut() {
                    Some(body) => Pin::new(body).poll_frame(cx),
                    None => return Poll::Ready(Some(Err(Untaken.into()))),
                };
                upload.is_pending.set(frame.is_pending());
                frame
            }
        };
        frame.map(|frame| frame.map(|result| result.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Plain(body) => body.is_end_stream(),
            Self::Stream(upload) => upload.body.borrow().as_ref().is_some_and(Body::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Plain(body) => body.size_hint(),
            Self::Stream(upload) => upload.body.borrow().as_ref().map_or_else(SizeHint::new, Body::size_hint),
        }
    }
}

/// Uploads that have outlasted their answers.
#[derive(Debug)]
pub(super) struct Outlasting<B> {
    uploads: RefCell<Vec<Outlasted<B>>>,
    /// Connections with uploads that were taken away, which hyper does not let go of. They end with their other requests.
    ending: RefCell<Vec<Rc<Multiplexed<B>>>>,
}

#[derive(Debug)]
struct Outlasted<B> {
    upload: Weak<StreamBody<B>>,
    polls: u64,
    connection: Rc<Multiplexed<B>>,
}

impl<B> Default for Outlasting<B> {
    fn default() -> Self {
        Self { uploads: RefCell::default(), ending: RefCell::default() }
    }
}

impl<B> Outlasting<B> {
    /// The answer to this one is over.
    pub(super) fn answered(&self, upload: &Rc<StreamBody<B>>, connection: &Rc<Multiplexed<B>>) {
        // Whoever sends it has it too, until it has ended.
        if Rc::strong_count(upload) > 1 {
            let (upload, polls, connection) = (Rc::downgrade(upload), upload.polls.get(), Rc::clone(connection));
            self.uploads.borrow_mut().push(Outlasted { upload, polls, connection });
        }
    }

    /// Takes away those of which nothing was asked since the last sweep, or since their answers.
    pub(super) fn sweep(&self) {
        let mut standing = Vec::new();
        self.uploads.borrow_mut().retain_mut(|Outlasted { upload, polls, connection }| {
            let Some(upload) = upload.upgrade() else { return false };
            let now = upload.polls.get();
            if std::mem::replace(polls, now) == now && !upload.is_pending.get() {
                standing.push(upload.body.take());
                upload.slot.abandon();
                connection.retired.set(true);
                self.ending.borrow_mut().push(Rc::clone(connection));
                return false;
            }
            true
        });
        self.ending.borrow_mut().retain(|connection| !connection.end_if_abandoned());
        // Outside of the lists, as it may lead to another answer's end.
        drop(standing);
    }
}

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
    Stream(Rc<Upload<B>>),
}

/// One that may outlast its answer.
#[derive(Debug)]
pub(super) struct Upload<B> {
    /// `None` once it was taken away.
    body: RefCell<Option<B>>,
    /// How often something was asked of it.
    polls: Cell<u64>,
    /// It had nothing to give: how long that may last is its own affair.
    is_pending: Cell<bool>,
    _place: Rc<Place>,
}

/// Counts a stream until both of its bodies have ended.
#[derive(Debug)]
pub(super) struct Place(Rc<Cell<usize>>);

impl Place {
    pub(super) fn new(streams: &Rc<Cell<usize>>) -> Self {
        streams.set(streams.get() + 1);
        Self(Rc::clone(streams))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl<B> Upload<B> {
    pub(super) fn new(body: B, place: &Rc<Place>) -> Rc<Self> {
        let (body, polls, is_pending) = (RefCell::new(Some(body)), Cell::new(0), Cell::new(false));
        Rc::new(Self { body, polls, is_pending, _place: Rc::clone(place) })
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
pub(super) struct Outlasting<B>(RefCell<Vec<(Weak<Upload<B>>, u64)>>);

impl<B> Default for Outlasting<B> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<B> Outlasting<B> {
    /// The answer to this one is over.
    pub(super) fn answered(&self, upload: &Rc<Upload<B>>) {
        // Whoever sends it has it too, until it has ended.
        if Rc::strong_count(upload) > 1 {
            self.0.borrow_mut().push((Rc::downgrade(upload), upload.polls.get()));
        }
    }

    /// Takes away those of which nothing was asked since the last sweep, or since their answers.
    pub(super) fn sweep(&self) {
        let mut standing = Vec::new();
        self.0.borrow_mut().retain_mut(|(upload, seen)| {
            let Some(upload) = upload.upgrade() else { return false };
            let polls = upload.polls.get();
            if std::mem::replace(seen, polls) == polls && !upload.is_pending.get() {
                standing.push(upload.body.take());
                return false;
            }
            true
        });
        // Outside of the list, as it may lead to another answer's end.
        drop(standing);
    }
}

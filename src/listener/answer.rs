//! The body of an answer, as long as its caller takes it.
//!
//! Over HTTP/1.1 a caller that does not read is noticed where bytes are written. Over HTTP/2 it can leave
//! one stream unread while the connection goes on, and nothing more is asked of that stream's body: what
//! it holds would be held for as long as the connection lives.

use std::{
    cell::{Cell, RefCell},
    error::Error,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::{
    task::{AbortHandle, spawn_local},
    time::sleep,
};

use super::caller::Open;

/// Why an answer ends before its end.
type Cause = Box<dyn Error + Send + Sync>;

/// The caller has read nothing of an answer for too long.
#[derive(Debug, thiserror::Error)]
#[error("the answer was not read")]
struct Unread;

/// The body of an answer.
#[derive(Debug)]
pub struct Answer<B>(Kind<B>);

#[derive(Debug)]
enum Kind<B> {
    Plain {
        body: B,
        open: Open,
        /// The caller cannot tell a part of it from the whole, unless the connection breaks.
        ends_with_connection: bool,
    },
    Watched {
        stream: Rc<Stream<B>>,
        watcher: AbortHandle,
    },
}

/// How much of an answer is given at once, in bytes: more would take a slow caller so long that it looked
/// like one that does not read.
const MOST_AT_ONCE: usize = 16 * 1_024;

/// One over HTTP/2.
#[derive(Debug)]
struct Stream<B> {
    /// `None` once it has been given up.
    body: RefCell<Option<(B, Open)>>,
    /// What came of it and has not been given.
    rest: RefCell<Bytes>,
    /// How often something was asked of it.
    polls: Cell<u64>,
    /// It had nothing to give: whoever is late, it is not the caller.
    is_pending: Cell<bool>,
}

impl<B> Answer<B> {
    pub(super) fn plain(body: B, open: Open, ends_with_connection: bool) -> Self {
        Self(Kind::Plain { body, open, ends_with_connection })
    }
}

impl<B: 'static> Answer<B> {
    /// An answer over HTTP/2 that is given up once its caller has taken nothing of it for `limit`, and
    /// before twice that. Must be called within a [`tokio::runtime::LocalRuntime`].
    pub(super) fn watched(body: B, open: Open, limit: Duration) -> Self {
        let body = RefCell::new(Some((body, open)));
        let rest = RefCell::default();
        let stream = Rc::new(Stream { body, rest, polls: Cell::new(0), is_pending: Cell::new(false) });
        let watcher = spawn_local(watch(Rc::downgrade(&stream), limit)).abort_handle();
        Self(Kind::Watched { stream, watcher })
    }
}

async fn watch<B>(stream: Weak<Stream<B>>, limit: Duration) {
    let mut polls = 0;
    loop {
        sleep(limit).await;
        let Some(stream) = stream.upgrade() else { return };
        if stream.polls.get() == polls && !stream.is_pending.get() {
            let given_up = (stream.body.take(), stream.rest.take());
            drop(given_up);
            return;
        }
        polls = stream.polls.get();
    }
}

impl<B: Body<Data = Bytes> + Unpin> Stream<B> {
    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cause>>>
    where
        B::Error: Into<Cause>,
    {
        self.polls.set(self.polls.get() + 1);
        let mut body = self.body.borrow_mut();
        let Some((body, _)) = body.as_mut() else { return Poll::Ready(Some(Err(Unread.into()))) };
        let mut rest = self.rest.borrow_mut();
        if rest.is_empty() {
            let frame = Pin::new(body).poll_frame(cx);
            self.is_pending.set(frame.is_pending());
            match ready!(frame).transpose().map_err(Into::into)?.map(Frame::into_data) {
                Some(Ok(data)) => *rest = data,
                Some(Err(trailers)) => return Poll::Ready(Some(Ok(trailers))),
                None => return Poll::Ready(None),
            }
        }
        let count = rest.len().min(MOST_AT_ONCE);
        Poll::Ready(Some(Ok(Frame::data(rest.split_to(count)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.borrow().is_empty() && self.body.borrow().as_ref().is_some_and(|(body, _)| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.borrow().len() as u64;
        let to_come = self.body.borrow().as_ref().map_or_else(SizeHint::new, |(body, _)| body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(to_come.lower() + rest);
        if let Some(upper) = to_come.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answer<B>
where
    B::Error: Into<Cause>,
{
    type Data = Bytes;
    type Error = Cause;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
        match &mut self.0 {
            Kind::Plain { body, open, ends_with_connection } => {
                let frame = Pin::new(&mut *body).poll_frame(cx);
                if *ends_with_connection {
                    let is_over = match &frame {
                        Poll::Ready(None) => true,
                        // hyper asks for no more then.
                        Poll::Ready(Some(Ok(_))) => body.is_end_stream(),
                        Poll::Ready(Some(Err(_))) | Poll::Pending => false,
                    };
                    open.note_torn(!is_over);
                }
                frame.map(|frame| frame.map(|result| result.map_err(Into::into)))
            }
            Kind::Watched { stream, .. } => stream.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Plain { body, .. } => body.is_end_stream(),
            Kind::Watched { stream, .. } => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Plain { body, .. } => body.size_hint(),
            Kind::Watched { stream, .. } => stream.size_hint(),
        }
    }
}

impl<B> Drop for Answer<B> {
    fn drop(&mut self) {
        if let Kind::Watched { watcher, .. } = &self.0 {
            watcher.abort();
        }
    }
}

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
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use tokio::{
    task::{AbortHandle, spawn_local},
    time::sleep,
};

use super::caller::Open;

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

/// One over HTTP/2.
#[derive(Debug)]
struct Stream<B> {
    /// `None` once it has been given up.
    body: RefCell<Option<(B, Open)>>,
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
        let stream = Rc::new(Stream { body, polls: Cell::new(0), is_pending: Cell::new(false) });
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
            let given_up = stream.body.take();
            drop(given_up);
            return;
        }
        polls = stream.polls.get();
    }
}

impl<B: Body + Unpin> Body for Answer<B>
where
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = B::Data;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, Self::Error>>> {
        let frame = match &mut self.0 {
            Kind::Plain { body, open, ends_with_connection } => {
                let frame = Pin::new(body).poll_frame(cx);
                if *ends_with_connection && matches!(frame, Poll::Ready(Some(Err(_)))) {
                    open.tear();
                }
                frame
            }
            Kind::Watched { stream, .. } => {
                let mut body = stream.body.borrow_mut();
                let Some((body, _)) = body.as_mut() else { return Poll::Ready(Some(Err(Unread.into()))) };
                let frame = Pin::new(body).poll_frame(cx);
                stream.polls.set(stream.polls.get() + 1);
                stream.is_pending.set(frame.is_pending());
                frame
            }
        };
        frame.map(|frame| frame.map(|result| result.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Plain { body, .. } => body.is_end_stream(),
            Kind::Watched { stream, .. } => stream.body.borrow().as_ref().is_some_and(|(body, _)| body.is_end_stream()),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Plain { body, .. } => body.size_hint(),
            Kind::Watched { stream, .. } => {
                stream.body.borrow().as_ref().map_or_else(SizeHint::new, |(body, _)| body.size_hint())
            }
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

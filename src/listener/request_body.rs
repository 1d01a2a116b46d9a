//! The body of a caller's request, and what becomes of it when nobody wants it.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::{Peer, caller::Open};
use crate::received::{Interrupted, Received};

/// How long a body that nobody wants is read.
const LINGER: Duration = Duration::from_secs(5);
/// How many parts of it at once.
const LEFTOVER_FRAMES: u32 = 32;

/// The body of a caller's request.
#[derive(Debug)]
pub struct RequestBody {
    /// `None` only while it is dropped.
    received: Option<Received>,
    /// Whether what is left of it may be read although nobody wants it.
    may_be_read: bool,
    has_trailers: bool,
    open: Open,
}

impl RequestBody {
    /// `may_be_read` even if nobody wants it: reading a body says that it is wanted, to a caller that asked.
    pub(super) fn new(received: Received, may_be_read: bool, open: Open) -> Self {
        Self { received: Some(received), may_be_read, has_trailers: false, open }
    }

    /// Who sends it.
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.open.peer()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Interrupted;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Interrupted>>> {
        let Some(received) = &mut self.received else { return Poll::Ready(None) };
        let frame = Pin::new(&mut *received).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) || received.is_end_stream() {
            self.open.note_whole();
        }
        self.may_be_read |= frame.is_ready();
        match &frame {
            Poll::Ready(Some(Ok(frame))) => self.has_trailers |= frame.is_trailers(),
            Poll::Ready(None) if !self.has_trailers => self.open.note_plain_end(),
            Poll::Ready(Some(Err(_)) | None) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.received.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.received.as_ref().map_or_else(SizeHint::new, Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let received = self.received.take().filter(|body| self.may_be_read && !body.is_end_stream());
        if let Some(body) = received {
            self.open.leave(Leftover { body, timer: None });
        }
    }
}

/// What is left of a body that nobody wants.
#[derive(Debug)]
pub(super) struct Leftover {
    body: Received,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Leftover {
    /// Ready once there is no more, or enough was read.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        if timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        for _ in 0..LEFTOVER_FRAMES {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(()),
            }
        }
        // Others have their turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

//! The body of a message that was received, whole or known not to be.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// Why a body that was being received ends before its end.
#[derive(Debug, thiserror::Error)]
pub enum Interrupted {
    /// The connection broke, or what came on it is not HTTP.
    #[error("the connection broke off")]
    Connection(#[source] hyper::Error),
    /// Its sender gave it up (RFC 9113 section 6.4).
    #[error("the stream was reset")]
    Reset,
}

/// hyper's body, but for one thing: hyper takes a stream that is reset with `NO_ERROR` for one that
/// has ended, and what was cut off would go on as if it were whole.
#[derive(Debug)]
pub struct Received {
    incoming: Incoming,
    version: Version,
}

impl Received {
    /// Of a message of this `version`.
    #[must_use]
    pub fn new(incoming: Incoming, version: Version) -> Self {
        Self { incoming, version }
    }

    /// Of the message.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = Interrupted;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Interrupted>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        // Over HTTP/2 this remembers that the end was received, also if a reset came after it.
        if frame.is_none() && self.version == Version::HTTP_2 && !self.incoming.is_end_stream() {
            return Poll::Ready(Some(Err(Interrupted::Reset)));
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Interrupted::Connection)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

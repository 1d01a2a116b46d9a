//! Bodies, both ways: streamed as they come, with a bound on how long they may stand still.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::in_flight::InFlight;
use crate::http_client::PooledBody;

/// Why a body ends before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The caller's connection, or what it sent.
    #[error("the caller's body broke off")]
    Caller(#[source] hyper::Error),
    /// The API's connection, or what it sent.
    #[error("the API's body broke off")]
    Api(#[source] hyper::Error),
    /// No progress for `upstream.idle_body_timeout`.
    #[error("the body stood still for too long")]
    Stalled,
}

/// A caller's body on its way to the API.
#[derive(Debug)]
pub(super) struct Upload {
    incoming: Incoming,
    patience: Patience,
    moved: Option<Rc<Cell<bool>>>,
}

impl Upload {
    /// The body, and a look at whether it moves.
    pub(super) fn new(incoming: Incoming, idle_timeout: Duration) -> (Self, Progress) {
        // Most requests have no body and need nothing to be shared.
        let moved = (!incoming.is_end_stream()).then(Rc::default);
        let progress = Progress(moved.clone());
        (Self { incoming, patience: Patience::new(idle_timeout), moved }, progress)
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = this.patience.poll(cx, |cx| Pin::new(&mut this.incoming).poll_frame(cx), BodyError::Caller);
        if let (Poll::Ready(_), Some(moved)) = (&frame, &this.moved) {
            moved.set(true);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// Tells whether an upload moves, while its owner is the connection to the API.
#[derive(Debug)]
pub(super) struct Progress(Option<Rc<Cell<bool>>>);

impl Progress {
    /// Returns true if a part of the body was taken since the last call.
    pub(super) fn since_last_look(&self) -> bool {
        self.0.as_ref().is_some_and(|moved| moved.replace(false))
    }
}

/// The body of an answer.
#[derive(Debug)]
pub struct ResponseBody(Source);

#[derive(Debug)]
enum Source {
    /// The API's, as it comes.
    Api { body: PooledBody<Upload>, patience: Patience, _in_flight: InFlight },
    /// The sidecar's own.
    Own(Full<Bytes>),
}

impl ResponseBody {
    pub(super) fn api(body: PooledBody<Upload>, idle_timeout: Duration, in_flight: InFlight) -> Self {
        Self(Source::Api { body, patience: Patience::new(idle_timeout), _in_flight: in_flight })
    }

    pub(super) fn own(body: impl Into<Bytes>) -> Self {
        Self(Source::Own(Full::new(body.into())))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.get_mut().0 {
            Source::Api { body, patience, .. } => {
                patience.poll(cx, |cx| Pin::new(&mut *body).poll_frame(cx), BodyError::Api)
            }
            Source::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Api { body, .. } => body.is_end_stream(),
            Source::Own(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Api { body, .. } => body.size_hint(),
            Source::Own(body) => body.size_hint(),
        }
    }
}

/// Bounds how long a body may stand still. A body that never makes its reader wait costs no timer.
#[derive(Debug)]
struct Patience {
    limit: Duration,
    /// Kept from one wait to the next; runs only while `waiting`.
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self { limit, timer: None, waiting: false }
    }

    fn poll<T, E>(
        &mut self,
        cx: &mut Context<'_>,
        body: impl FnOnce(&mut Context<'_>) -> Poll<Option<Result<T, E>>>,
        error: impl FnOnce(E) -> BodyError,
    ) -> Poll<Option<Result<T, BodyError>>> {
        if let Poll::Ready(frame) = body(cx) {
            self.waiting = false;
            return Poll::Ready(frame.map(|result| result.map_err(error)));
        }
        self.poll_expired(cx).map(|()| Some(Err(BodyError::Stalled)))
    }

    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = match &mut self.timer {
            Some(timer) => {
                if !self.waiting {
                    timer.as_mut().reset(Instant::now() + self.limit);
                }
                timer
            }
            empty => empty.insert(Box::pin(tokio::time::sleep(self.limit))),
        };
        self.waiting = true;
        timer.as_mut().poll(cx)
    }
}

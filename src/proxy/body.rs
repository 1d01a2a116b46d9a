//! The bodies of answers, and what ends bodies either way: they are streamed as they come, with a bound on
//! how long they may stand still.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, uri::PathAndQuery};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;

use super::{access::short_path, expect::Withheld, headers, in_flight::InFlight, measure::Measure, upload::Upload};
use crate::{
    http_client::{Connection, PooledBody},
    patience::Patience,
    received::Interrupted,
    report::Report,
};

/// Why a body ends before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The caller's connection, or what it sent.
    #[error("the caller's body broke off")]
    Caller(#[source] Interrupted),
    /// The API's connection, or what it sent.
    #[error("the API's body broke off")]
    Api(#[source] Interrupted),
    /// No progress for `upstream.idle_body_timeout`.
    #[error("the body stood still for too long")]
    Stalled,
    /// The API has answered without it.
    #[error("the body is not wanted")]
    Unwanted,
}

/// The body of an answer.
#[derive(Debug)]
pub struct ResponseBody(Source);

#[derive(Debug)]
enum Source {
    /// Boxed, as answers are passed around.
    Api(Box<ApiBody>),
    /// The sidecar's own. Boxed too: else it would make every answer larger.
    Own(Box<Full<Bytes>>),
}

/// The API's, as it comes, after what was read of it already.
#[derive(Debug)]
struct ApiBody {
    /// Boxed, as it is rare.
    start: Option<Box<Start>>,
    body: PooledBody<Upload>,
    patience: Patience,
    in_flight: Option<InFlight>,
    measure: Option<Measure>,
    /// What was asked for, if it is to be logged that the answer broke off.
    path: Option<PathAndQuery>,
    /// The guard of a request whose own body never began. Dropped last.
    withheld: Option<Withheld>,
}

/// The part of a body that was read before it is passed on.
#[derive(Debug, Default)]
pub(super) struct Start {
    pub(super) data: BytesMut,
    pub(super) trailers: Option<HeaderMap>,
    /// Why there is no more.
    pub(super) error: Option<BodyError>,
}

impl ResponseBody {
    pub(super) fn api(body: PooledBody<Upload>, idle_timeout: Duration) -> Self {
        // The memory comes first, so that it is made there: for `Box::new` it would be made elsewhere, and copied.
        Self(Source::Api(Box::write(
            Box::new_uninit(),
            ApiBody {
                start: None,
                body,
                patience: Patience::new(idle_timeout),
                in_flight: None,
                measure: None,
                path: None,
                withheld: None,
            },
        )))
    }

    pub(super) fn own(body: impl Into<Bytes>) -> Self {
        Self(Source::Own(Box::new(Full::new(body.into()))))
    }

    /// The API's connection, which is to serve no other request.
    pub(super) fn into_connection(self) -> Option<Connection<Upload>> {
        match self.0 {
            Source::Api(api) => api.body.into_connection(),
            Source::Own(_) => None,
        }
    }

    /// Puts back what was read of it.
    pub(super) fn starting_with(mut self, read: Start) -> Self {
        if let Source::Api(api) = &mut self.0 {
            api.start = Some(Box::new(read));
        }
        self
    }

    /// Has the request counted until the body's last byte, and logged with the path that was `asked` for, if there is
    /// one and the answer breaks off.
    pub(super) fn follow(&mut self, guard: InFlight, asked: Option<PathAndQuery>) {
        if let Source::Api(api) = &mut self.0 {
            api.in_flight = Some(guard);
            api.path = asked;
        }
    }

    /// Keeps, until the answer is over, the guard of a request whose own body never began.
    pub(super) fn keep_guard(&mut self, guard: Option<Withheld>) {
        if let Source::Api(api) = &mut self.0 {
            api.withheld = guard;
        }
    }

    /// Has it measured until its last byte.
    pub(super) fn measure(&mut self, by: Measure) {
        if let Source::Api(api) = &mut self.0 {
            api.measure = Some(by);
        }
    }
}

impl Start {
    fn next(&mut self) -> Option<Result<Frame<Bytes>, BodyError>> {
        if !self.data.is_empty() {
            return Some(Ok(Frame::data(self.data.split().freeze())));
        }
        self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))).or(self.error.take().map(Err))
    }

    fn is_empty(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none() && self.error.is_none()
    }
}

impl ApiBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match self.start.as_deref_mut().and_then(Start::next) {
            Some(frame) => Some(frame),
            None => {
                let frame = Pin::new(&mut self.body).poll_frame(cx);
                ready!(patiently(&mut self.patience, cx, frame, BodyError::Api))
            }
        };
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(measure), Some(data)) = (&self.measure, frame.data_ref()) {
                    measure.passed(data.len());
                }
            }
            Some(Err(error)) => {
                if let Some(path) = self.path.take() {
                    tracing::warn!(path = &*short_path(path.path()), error = %Report(error), "an answer broke off");
                }
            }
            None => {}
        }
        Poll::Ready(frame)
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.body.size_hint();
        let Some(start) = &self.start else { return rest };
        let read = start.data.len() as u64;
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + read);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + read);
        }
        hint
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.get_mut().0 {
            Source::Api(api) => api.poll_frame(cx),
            Source::Own(body) => Pin::new(&mut **body).poll_frame(cx).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Api(api) => api.start.as_deref().is_none_or(Start::is_empty) && api.body.is_end_stream(),
            Source::Own(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Api(api) => api.size_hint(),
            Source::Own(body) => body.size_hint(),
        }
    }
}

fn cleaned(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        headers::clean_trailers(trailers);
    }
    frame
}

/// A body's next frame, unless it has stood still for too long.
pub(super) fn patiently<E>(
    patience: &mut Patience,
    cx: &mut Context<'_>,
    frame: Poll<Option<Result<Frame<Bytes>, E>>>,
    error: impl FnOnce(E) -> BodyError,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    match frame {
        Poll::Ready(frame) => {
            patience.progressed();
            Poll::Ready(frame.map(|result| result.map(cleaned).map_err(error)))
        }
        Poll::Pending => patience.poll_over(cx).map(|()| Some(Err(BodyError::Stalled))),
    }
}

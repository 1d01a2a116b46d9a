//! What the provider answers with: whole bodies, and bodies that come in pieces.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use serde_json::{Value, json};
use tokio::time::{Interval, interval};

/// A response of the provider.
pub(super) type Reply = Response<UnsyncBoxBody<Bytes, io::Error>>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The longest piece of a streamed body, and what it is made of.
static PIECE: [u8; 64 * 1024] = [b'x'; 64 * 1024];

/// How long before a body breaks off, so that what came before it is on its way.
const LAST_GASP: Duration = Duration::from_millis(50);

/// A response with the whole body at hand.
pub(super) fn whole(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Reply {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed_unsync();
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, content_type);
    reply
}

/// A response of JSON.
pub(super) fn json(status: StatusCode, body: &Value) -> Reply {
    whole(status, JSON, body.to_string())
}

/// A response without a body.
pub(super) fn bare(status: StatusCode) -> Reply {
    let mut reply = Response::new(Full::default().map_err(|never| match never {}).boxed_unsync());
    *reply.status_mut() = status;
    reply
}

/// An error of the data API.
pub(super) fn fdx_error(status: StatusCode, code: u16, message: &str) -> Reply {
    json(status, &fdx_body(code, message))
}

/// The body of an error of the data API.
pub(super) fn fdx_body(code: u16, message: &str) -> Value {
    json!({
        "code": code,
        "message": message,
        "debugMessage": format!("The sandbox answered with FDX error {code}."),
    })
}

/// An error of the token endpoint (RFC 6749 section 5.2).
pub(super) fn oauth_error(status: StatusCode, error: &str, description: &str) -> Reply {
    json(status, &json!({ "error": error, "error_description": description }))
}

/// A response whose body is made as it is sent, in constant memory.
pub(super) fn streamed(pieces: Pieces) -> Reply {
    let length = pieces.announced;
    let mut reply = Response::new(pieces.boxed_unsync());
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    reply
}

/// A body of `x`, in pieces.
pub(super) struct Pieces {
    left: u64,
    piece: Bytes,
    pace: Option<Interval>,
    announced: Option<u64>,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Proper,
    BreaksOff,
}

impl Pieces {
    /// So many bytes, as fast as they are taken.
    pub(super) fn of(bytes: u64) -> Self {
        Self { left: bytes, piece: Bytes::from_static(&PIECE), pace: None, announced: None, end: End::Proper }
    }

    /// So many bytes, one piece each, with so much time between them.
    pub(super) fn dripping(count: u64, pause: Duration) -> Self {
        // An interval of nothing panics.
        let pace = interval(pause.max(Duration::from_millis(1)));
        Self { piece: Bytes::from_static(b"x"), pace: Some(pace), ..Self::of(count) }
    }

    /// One piece of a body that was announced as longer, then nothing more.
    pub(super) fn breaking_off() -> Self {
        let length = PIECE.len() as u64;
        Self { pace: Some(interval(LAST_GASP)), announced: Some(2 * length), end: End::BreaksOff, ..Self::of(length) }
    }

    /// With a `Content-Length`, instead of chunked.
    pub(super) fn announced(self) -> Self {
        Self { announced: Some(self.left), ..self }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(pace) = &mut self.pace {
            ready!(pace.poll_tick(cx));
        }
        if self.left == 0 {
            return Poll::Ready(match self.end {
                End::Proper => None,
                End::BreaksOff => Some(Err(io::Error::other("the script breaks this body off"))),
            });
        }
        let length = self.left.min(self.piece.len() as u64);
        self.left -= length;
        // The length is at most that of the piece, which is a usize.
        let piece = self.piece.slice(..length as usize);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && self.end == End::Proper
    }
}

//! One connection for one request, and the response's body that gives it back.

use std::{
    error::Error,
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::Either};
use h2::Reason;
use http::{Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::client::conn::{TrySendError, http1};

use super::{
    Protocol,
    carried::{Carried, Slot, StreamBody},
    driver::DriverWaker,
    shelf::{Multiplexed, Shelf},
};
use crate::{
    received::{Interrupted, Received},
    tls::HandshakeError,
};

/// A connection for one request: all of it, or a stream of one that others use too.
#[derive(Debug)]
pub struct Connection<B> {
    pub(super) carrier: Carrier<B>,
    pub(super) provenance: Provenance,
    /// See [`Link`](super::Link).
    pub(super) generation: u64,
    pub(super) home: Rc<Shelf<B>>,
}

#[derive(Debug)]
pub(super) enum Carrier<B> {
    Http1(Exclusive<B>),
    Http2(Ticket<B>),
}

/// A connection that serves one request at a time.
#[derive(Debug)]
pub(super) struct Exclusive<B> {
    pub(super) sender: http1::SendRequest<Carried<B>>,
    pub(super) driver: Arc<DriverWaker>,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Provenance {
    /// Made for this request.
    New,
    /// Made for another one, while this one waited.
    Shared,
    /// Has come free, or was made for whoever is next, while this one waited for one of its own.
    Freed,
    /// Has been there.
    Pool,
}

/// A right to one stream.
#[derive(Debug)]
pub(super) struct Ticket<B> {
    connection: Rc<Multiplexed<B>>,
    slot: Rc<Slot>,
    upload: Option<Rc<StreamBody<B>>>,
}

impl<B> Ticket<B> {
    pub(super) fn of(connection: &Rc<Multiplexed<B>>) -> Self {
        connection.was_used.set(true);
        Self { connection: Rc::clone(connection), slot: Rc::new(Slot::new(&connection.streams)), upload: None }
    }
}

impl<B> Drop for Ticket<B> {
    fn drop(&mut self) {
        if let Some(upload) = &self.upload {
            self.connection.outlasting.answered(upload, &self.connection);
        }
    }
}

impl<B: Body + Unpin + 'static> Connection<B>
where
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// Returns true if it was made for this request, or for those that share it: the origin can hardly have tired of it.
    #[must_use]
    pub fn is_new(&self) -> bool {
        matches!(self.provenance, Provenance::New | Provenance::Shared)
    }

    /// Returns true if the request had to wait for it.
    #[must_use]
    pub fn was_awaited(&self) -> bool {
        self.provenance != Provenance::Pool
    }

    /// What is spoken on it.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        match &self.carrier {
            Carrier::Http1(_) => Protocol::Http1,
            Carrier::Http2(_) => Protocol::Http2,
        }
    }

    /// Sends the request, at once, and waits for the head of its response. `into_body` makes the response's body of what
    /// the connection has of it: at once, as a large one costs a copy wherever the response is passed on.
    ///
    /// # Errors
    /// When the connection ends before that. If it was not made for this request and nothing of the
    /// request was sent, its body is given back and can go out on another one.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection, or the stream, which tells the origin that nobody listens.
    pub fn send<F, T>(
        mut self,
        request: Request<B>,
        into_body: F,
    ) -> impl Future<Output = Result<Response<T>, SendError<B>>> + use<B, F, T>
    where
        F: FnOnce(PooledBody<B>) -> T,
    {
        // No async block, which would have room for the request, and for the future that it waits for, twice.
        let sent = match &mut self.carrier {
            Carrier::Http1(Exclusive { sender, .. }) => {
                Either::Left(sender.try_send_request(request.map(Carried::Plain)))
            }
            Carrier::Http2(Ticket { connection, slot, upload }) => {
                let mut sender = connection.sender.clone();
                let request = request.map(|body| StreamBody::new(body, slot));
                *upload = Some(Rc::clone(request.body()));
                Either::Right(sender.try_send_request(request.map(Carried::Stream)))
            }
        };
        sent.map(|sent| match sent {
            Ok(response) => {
                let version = response.version();
                Ok(response.map(|incoming| {
                    into_body(PooledBody { received: Received::new(incoming, version), connection: Some(self) })
                }))
            }
            Err(failure) => Err(self.failed(failure)),
        })
    }

    fn failed(self, mut failure: TrySendError<Request<Carried<B>>>) -> SendError<B> {
        let unsent = failure.take_message().filter(|_| self.provenance != Provenance::New);
        match (unsent.and_then(|request| request.into_body().into_body()), &self.carrier) {
            (Some(body), _) => {
                self.retire();
                SendError::Unsent(Box::new(body), failure.into_error())
            }
            (None, Carrier::Http1(_)) => broken_off(failure.into_error()),
            (None, Carrier::Http2(_)) => self.http2_error(failure.into_error()),
        }
    }

    /// The origin says goodbye or nothing any more: no request is to follow.
    fn retire(&self) {
        if let Carrier::Http2(ticket) = &self.carrier {
            ticket.connection.retired.set(true);
        }
    }

    /// RFC 9113 sections 6.8 and 8.7: what an origin refuses, it has not processed.
    fn http2_error(&self, error: hyper::Error) -> SendError<B> {
        let cause = cause::<h2::Error>(&error);
        let is_remote = cause.is_some_and(h2::Error::is_remote);
        let is_goodbye = is_remote && cause.is_some_and(h2::Error::is_go_away);
        let is_refused = is_remote && cause.and_then(h2::Error::reason) == Some(Reason::REFUSED_STREAM);
        if cause.is_none_or(|cause| !cause.is_reset()) {
            self.retire();
        }
        match (is_goodbye, is_refused) {
            (true, _) => SendError::GoAway(error),
            (false, true) => SendError::Refused(error),
            (false, false) => broken_off(error),
        }
    }
}

/// Why there is no response.
#[derive(Debug)]
pub enum SendError<B> {
    /// The origin had closed the connection before; nothing was sent of the request with this body.
    Unsent(Box<B>, hyper::Error),
    /// The origin says goodbye, and that it has not processed the request (HTTP/2).
    GoAway(hyper::Error),
    /// The origin says that it has not processed the request (HTTP/2).
    Refused(hyper::Error),
    /// The origin closed the connection before it had answered.
    Closed(hyper::Error),
    /// The origin took nothing of the request for too long.
    Stalled(hyper::Error),
    /// The origin does not take the client's certificate, or wants one.
    Certificate(HandshakeError),
    /// What came back is not HTTP, or the request's body broke off.
    Broken(hyper::Error),
}

/// How the connection ended.
fn broken_off<B>(error: hyper::Error) -> SendError<B> {
    if let Some(alert) = HandshakeError::late_refusal(&error) {
        return SendError::Certificate(HandshakeError::ClientCertificate(alert));
    }
    match cause::<io::Error>(&error).map(io::Error::kind) {
        // The last of them over TLS: closed without a word of farewell.
        Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof) => {
            SendError::Closed(error)
        }
        Some(io::ErrorKind::TimedOut) => SendError::Stalled(error),
        _ if error.is_incomplete_message() || error.is_canceled() || error.is_closed() => SendError::Closed(error),
        _ => SendError::Broken(error),
    }
}

fn cause<T: Error + 'static>(error: &hyper::Error) -> Option<&T> {
    error.source().and_then(|cause| cause.downcast_ref())
}

/// A response's body; read to its end and dropped, it gives its connection back to the pool.
#[derive(Debug)]
pub struct PooledBody<B> {
    received: Received,
    connection: Option<Connection<B>>,
}

impl<B> Body for PooledBody<B> {
    type Data = Bytes;
    type Error = Interrupted;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Interrupted>>> {
        let Self { received, connection } = &mut *self;
        let driver = connection.as_ref().and_then(Connection::driver);
        if let Some(driver) = driver {
            driver.hold();
        }
        let frame = Pin::new(&mut *received).poll_frame(cx);
        if let Some(driver) = driver {
            if frame.is_pending() {
                // The driver has its turn after this, woken by the last frame that was taken.
                driver.expect(received.size_hint().exact().unwrap_or(0));
            }
            driver.release(received.is_end_stream());
        }
        let frame = ready!(frame);
        if matches!(frame, Some(Err(_))) {
            self.connection = None;
        } else if frame.is_none() {
            self.give_back();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.received.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.received.size_hint()
    }
}

impl<B> Connection<B> {
    fn driver(&self) -> Option<&DriverWaker> {
        match &self.carrier {
            Carrier::Http1(exclusive) => Some(&exclusive.driver),
            Carrier::Http2(_) => None,
        }
    }
}

impl<B> PooledBody<B> {
    /// The connection, which is not to serve another request.
    pub fn into_connection(mut self) -> Option<Connection<B>> {
        self.connection.take()
    }

    fn give_back(&mut self) {
        // After an answer by HTTP/1.0 hyper would send requests by it too, those without a length without their bodies.
        let connection = self.connection.take().filter(|_| self.received.version() > Version::HTTP_10);
        if let Some(connection) = connection {
            connection.home.put(connection.carrier, connection.generation);
        }
    }
}

impl<B> Drop for PooledBody<B> {
    fn drop(&mut self) {
        if self.received.is_end_stream() {
            self.give_back();
        }
    }
}

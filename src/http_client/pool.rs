//! Idle HTTP/1.1 connections of one runtime thread, the most recently used first.
//!
//! A pool belongs to its thread, so that taking and returning a connection needs no lock; a
//! connection comes back by itself when the response's body has been read to its end and dropped.

use std::{
    cell::{Cell, RefCell},
    error::Error,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;

use super::{ConnectError, Connector};

/// The connections to one origin, with request bodies of type `B`.
#[derive(Debug)]
pub struct Pool<B> {
    connector: Connector,
    shelf: Rc<Shelf<B>>,
}

/// Where idle connections lie.
#[derive(Debug)]
struct Shelf<B> {
    idle: RefCell<Vec<Idle<B>>>,
    /// Counts the sweeps: an age without a clock read per request.
    sweep: Cell<u64>,
    max_idle: usize,
}

#[derive(Debug)]
struct Idle<B> {
    sender: http1::SendRequest<B>,
    since_sweep: u64,
}

impl<B> Pool<B>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// An empty pool that keeps at most `max_idle` connections.
    #[must_use]
    pub fn new(connector: Connector, max_idle: usize) -> Self {
        let shelf = Shelf { idle: RefCell::default(), sweep: Cell::new(0), max_idle };
        Self { connector, shelf: Rc::new(shelf) }
    }

    /// An idle connection, or a new one. Must be called within a [`tokio::runtime::LocalRuntime`].
    ///
    /// # Errors
    /// When there is no idle connection and no new one can be made.
    ///
    /// # Cancel safety
    /// Dropping the future closes a connection that was being made.
    pub async fn checkout(&self) -> Result<Connection<B>, ConnectError> {
        while let Some(sender) = self.shelf.take() {
            if !sender.is_ready() {
                // The task that drives it may not have had its turn since the last response.
                tokio::task::yield_now().await;
            }
            // Still not ready: the API closed it, or it is busy with an upload that was answered early.
            if sender.is_ready() {
                return Ok(self.hand_out(sender, Origin::Pool));
            }
        }
        self.connect().await
    }

    /// A new connection, whatever lies idle. Must be called within a [`tokio::runtime::LocalRuntime`].
    ///
    /// # Errors
    /// When none can be made.
    ///
    /// # Cancel safety
    /// Dropping the future closes a connection that was being made.
    pub async fn connect(&self) -> Result<Connection<B>, ConnectError> {
        let stream = self.connector.connect().await?;
        let (sender, driver) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| ConnectError::Tcp(io::Error::other(error)))?;
        tokio::task::spawn_local(async move {
            // Whoever waits for a response is told of the error by its sender.
            let _ = driver.await;
        });
        Ok(self.hand_out(sender, Origin::New))
    }

    fn hand_out(&self, sender: http1::SendRequest<B>, origin: Origin) -> Connection<B> {
        Connection { sender, origin, home: Rc::clone(&self.shelf) }
    }

    /// Closes idle connections before they are `timeout` old. Never completes; to be spawned once a pool.
    pub fn sweeps(&self, timeout: Duration) -> impl Future<Output = ()> + use<B> {
        let shelf = Rc::clone(&self.shelf);
        async move {
            loop {
                tokio::time::sleep(timeout / 2).await;
                shelf.sweep();
            }
        }
    }
}

impl<B> Shelf<B> {
    fn take(&self) -> Option<http1::SendRequest<B>> {
        self.idle.borrow_mut().pop().map(|idle| idle.sender)
    }

    fn put(&self, sender: http1::SendRequest<B>) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < self.max_idle && !sender.is_closed() {
            idle.push(Idle { sender, since_sweep: self.sweep.get() });
        }
    }

    /// Drops what lies here since before the last sweep: idle for one to two intervals.
    fn sweep(&self) {
        let this = self.sweep.get() + 1;
        self.sweep.set(this);
        self.idle.borrow_mut().retain(|idle| idle.since_sweep + 1 >= this && !idle.sender.is_closed());
    }
}

/// Whether a connection has served before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    New,
    Pool,
}

/// A connection for one request.
#[derive(Debug)]
pub struct Connection<B> {
    sender: http1::SendRequest<B>,
    origin: Origin,
    home: Rc<Shelf<B>>,
}

impl<B: Body + 'static> Connection<B> {
    /// Returns true if it was made for this request, which took its time.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.origin == Origin::New
    }

    /// Sends the request and waits for the head of its response.
    ///
    /// # Errors
    /// When the connection ends before that. If it had been idle and nothing of the request was
    /// sent, the request is given back and can go out on another one.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection, which tells the origin that nobody listens.
    pub async fn send(mut self, request: Request<B>) -> Result<Response<PooledBody<B>>, SendError<B>> {
        match self.sender.try_send_request(request).await {
            Ok(response) => Ok(response.map(|incoming| PooledBody { incoming, connection: Some(self) })),
            Err(mut failure) => {
                let unsent = failure.take_message().filter(|_| self.origin == Origin::Pool);
                match unsent {
                    Some(request) => Err(SendError::Unsent(Box::new(request))),
                    None => Err(SendError::after(failure.into_error())),
                }
            }
        }
    }
}

/// Why there is no response.
#[derive(Debug)]
pub enum SendError<B> {
    /// The origin had closed the idle connection; nothing was sent.
    Unsent(Box<Request<B>>),
    /// The origin closed the connection before it had answered.
    Closed(hyper::Error),
    /// What came back is not HTTP, or the request's body broke off.
    Broken(hyper::Error),
}

impl<B> SendError<B> {
    fn after(error: hyper::Error) -> Self {
        let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
        let is_reset = matches!(
            cause,
            // The last of them over TLS: closed without a word of farewell.
            Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof)
        );
        if error.is_incomplete_message() || is_reset { Self::Closed(error) } else { Self::Broken(error) }
    }
}

/// A response's body; read to its end and dropped, it gives its connection back to the pool.
#[derive(Debug)]
pub struct PooledBody<B> {
    incoming: Incoming,
    connection: Option<Connection<B>>,
}

impl<B> Body for PooledBody<B> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        if matches!(frame, Some(Err(_))) {
            self.connection = None;
        } else if frame.is_none() {
            self.give_back();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl<B> PooledBody<B> {
    fn give_back(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.home.put(connection.sender);
        }
    }
}

impl<B> Drop for PooledBody<B> {
    fn drop(&mut self) {
        if self.incoming.is_end_stream() {
            self.give_back();
        }
    }
}

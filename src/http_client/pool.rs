//! The connections of one runtime thread: idle ones over HTTP/1.1, the most recently used first, and
//! shared ones over HTTP/2.
//!
//! A pool belongs to its thread, so that taking and returning a connection needs no lock; a
//! connection comes back by itself when the response's body has been read to its end and dropped.
//! Requests that find none over HTTP/1.1 queue for whichever comes first: one that comes back, or a new one.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use futures_util::future::{Either, FutureExt as _, select};
use http_body::Body;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{sync::Semaphore, task::spawn_local, time::timeout};

use super::{
    ConnectError, Connector, Link, Need, Protocol, Stream,
    carried::Carried,
    connection::{Carrier, Connection, Exclusive, Provenance},
    driver::{DriverWaker, drive},
    low_water::LowWater,
    shelf::{Kept, Shelf},
    stream::Control,
};
use crate::{config::HttpVersion, executor::Local, metrics::Connections, tls::HandshakeError};

/// Requests at once on one HTTP/2 connection, if the API allows as many.
pub(super) const MAX_STREAMS: u32 = 64;
/// What the API may send ahead over HTTP/2 before the caller reads it: for one response, and for a
/// connection. In bytes: at 20 ms away, 25 MB a second for one. Responses that their callers leave
/// unread do not use up the window of the others.
const STREAM_WINDOW: u32 = 512 * 1_024;
const CONNECTION_WINDOW: u32 = MAX_STREAMS * STREAM_WINDOW;
/// How much of an upload is buffered for a request over HTTP/2, in bytes.
const SEND_BUFFER: usize = 256 * 1_024;
/// The largest head of a response, and over HTTP/1.1 its largest trailer section, in bytes: 64 KiB.
const MAX_HEAD: u32 = 64 * 1_024;
/// How much of an HTTP/1.1 connection is buffered, either way, in bytes; no part of a body is longer. The first few
/// connections of a thread have more, so that large bodies cost less, and the others, of which there may be hundreds,
/// less memory.
const BUFFER: usize = 64 * 1_024;
const LARGE_BUFFER: usize = 2 * BUFFER;
const WITH_LARGE_BUFFER: usize = 16;
/// How often an HTTP/2 connection with requests under way is asked whether it is still there, and how
/// long the API may take to say so.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// The connections to one origin, with request bodies of type `B`.
#[derive(Debug)]
pub struct Pool<B> {
    connector: Connector,
    /// What the origin spoke last; `None` while that is not known.
    protocol: Cell<Option<Protocol>>,
    /// One at a time makes a connection that the others may share.
    turns: Semaphore,
    shelf: Rc<Shelf<B>>,
}

impl<B> Pool<B>
where
    B: Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// An empty pool that counts its `connections`.
    #[must_use]
    pub fn new(connector: Connector, kept: Kept, connections: Arc<Connections>) -> Self {
        let protocol = match connector.http {
            HttpVersion::Http1 => Some(Protocol::Http1),
            HttpVersion::Http2 => Some(Protocol::Http2),
            HttpVersion::Auto => None,
        };
        Self {
            connector,
            protocol: Cell::new(protocol),
            turns: Semaphore::new(1),
            shelf: Rc::new(Shelf::new(kept, connections)),
        }
    }

    /// A connection that is there, or whichever comes first: one that another request has done with, or a new one. Must be
    /// called within a [`tokio::runtime::LocalRuntime`].
    ///
    /// # Errors
    /// When there is none and no new one can be made.
    ///
    /// # Cancel safety
    /// Dropping the future closes a connection that was being made for it.
    pub async fn checkout(self: &Rc<Self>, need: Need) -> Result<Connection<B>, ConnectError> {
        if self.speaks(need) == Some(Protocol::Http1) {
            while let Some((exclusive, generation)) = self.shelf.take(self.connector.generation()) {
                if exclusive.is_ready().await {
                    return Ok(self.hand_out(Carrier::Http1(exclusive), Provenance::Pool, generation));
                }
            }
        } else if let Some(connection) = self.stream(Provenance::Pool) {
            return Ok(connection);
        }
        // Boxed, as it is large and rare: a request's future is moved about with the room for all that may come. Without its
        // type, as what has a single caller is compiled into it, however large and rare.
        self.in_time(self.freed_or_new(need)).boxed_local().await
    }

    async fn freed_or_new(self: &Rc<Self>, need: Need) -> Result<Connection<B>, ConnectError> {
        if let Some(connection) = self.shared(need).await? {
            return Ok(connection);
        }
        if !self.shelf.keeps_any() {
            return self.open(need).await;
        }
        let is_one_made_for_nobody = self.shelf.has_promising_spare();
        let mut freed = pin!(self.freed());
        if let Some(connection) = freed.as_mut().now_or_never() {
            return Ok(connection);
        }
        if is_one_made_for_nobody {
            // It is relied on, but not for long, as it may have got stuck.
            let is_lost = pin!(timeout(self.connector.timeout / 4, self.shelf.lost.notified()));
            match select(freed.as_mut(), is_lost).await {
                Either::Left((connection, _)) => return Ok(connection),
                Either::Right((Err(_), _)) => self.shelf.despair_of_one(),
                Either::Right((Ok(()), _)) => {}
            }
        }
        let (pool, making) = (Rc::clone(self), self.shelf.making());
        let opening = Box::pin(async move {
            let _making = making;
            pool.open(need).await
        });
        match select(freed, opening).await {
            Either::Left((connection, opening)) => {
                self.keep(opening);
                Ok(connection)
            }
            Either::Right((opened, _)) => opened,
        }
    }

    /// The next one that another request has done with, or that is made and whose request had another one meanwhile.
    async fn freed(&self) -> Connection<B> {
        let arrival = self.shelf.arrive();
        loop {
            let (exclusive, generation) = match self.shelf.take(self.connector.generation()) {
                Some(idle) => idle,
                None => self.shelf.next(arrival).await,
            };
            if generation >= self.connector.generation() && exclusive.is_ready().await {
                return self.hand_out(Carrier::Http1(exclusive), Provenance::Freed, generation);
            }
        }
    }

    /// Has a connection that is being made go on, for the next request.
    fn keep(&self, opening: impl Future<Output = Result<Connection<B>, ConnectError>> + 'static) {
        if self.shelf.has_room_for_spare() {
            let shelf = Rc::clone(&self.shelf);
            spawn_local(async move {
                match opening.await {
                    Ok(Connection { carrier: Carrier::Http1(exclusive), generation, .. }) => {
                        shelf.put_unused(exclusive, generation);
                    }
                    // Whoever relied on it makes another, and is told of what becomes of that.
                    Ok(_) | Err(_) => shelf.lost.notify_waiters(),
                }
            });
        }
    }

    /// A connection that has not lain idle: a new one, or over HTTP/2 one that is believed to be
    /// alive. Must be called within a [`tokio::runtime::LocalRuntime`].
    ///
    /// # Errors
    /// When none can be made.
    ///
    /// # Cancel safety
    /// Dropping the future closes a connection that was being made.
    pub async fn connect(&self, need: Need) -> Result<Connection<B>, ConnectError> {
        let shared_or_new = async {
            match self.shared(need).await? {
                Some(connection) => Ok(connection),
                None => self.open(need).await,
            }
        };
        self.in_time(shared_or_new).await
    }

    /// One that others use or will use too, unless the origin turns out to speak HTTP/1.1.
    async fn shared(&self, need: Need) -> Result<Option<Connection<B>>, ConnectError> {
        if self.speaks(need) == Some(Protocol::Http1) {
            return Ok(None);
        }
        if let Some(connection) = self.stream(Provenance::Pool) {
            return Ok(Some(connection));
        }
        let _turn = self.turns.acquire().await.expect("the semaphore is never closed");
        // Whoever had the turn before may have made it, or found that there is nothing to share.
        if let Some(connection) = self.stream(Provenance::Shared) {
            return Ok(Some(connection));
        }
        if self.speaks(need) == Some(Protocol::Http1) {
            return Ok(None);
        }
        self.open(need).await.map(Some)
    }

    /// A stream of a connection that others use too.
    fn stream(&self, provenance: Provenance) -> Option<Connection<B>> {
        let (ticket, generation) = self.shelf.ticket(self.connector.generation())?;
        Some(self.hand_out(Carrier::Http2(ticket), provenance, generation))
    }

    async fn open(&self, need: Need) -> Result<Connection<B>, ConnectError> {
        self.in_time(self.open_anyhow(need)).await
    }

    async fn in_time<T>(&self, connecting: impl Future<Output = Result<T, ConnectError>>) -> Result<T, ConnectError> {
        timeout(self.connector.timeout, connecting).await.map_err(|_| ConnectError::Timeout)?
    }

    async fn open_anyhow(&self, need: Need) -> Result<Connection<B>, ConnectError> {
        let Link { stream, protocol, generation } = self.connector.connect(need).await?;
        let stream = stream.counted(self.shelf.connections.opened());
        if need == Need::Any {
            self.protocol.set(Some(protocol));
        }
        let carrier = match protocol {
            Protocol::Http1 => Carrier::Http1(exclusive(stream, self.buffer()).await?),
            Protocol::Http2 => Carrier::Http2(self.shelf.share(http2_parts(stream).await?, generation)),
        };
        Ok(self.hand_out(carrier, Provenance::New, generation))
    }

    fn speaks(&self, need: Need) -> Option<Protocol> {
        if need == Need::Http1 { Some(Protocol::Http1) } else { self.protocol.get() }
    }

    /// What the newest connection may buffer.
    fn buffer(&self) -> usize {
        if self.shelf.connections.open() <= WITH_LARGE_BUFFER { LARGE_BUFFER } else { BUFFER }
    }

    fn hand_out(&self, carrier: Carrier<B>, provenance: Provenance, generation: u64) -> Connection<B> {
        Connection { carrier, provenance, generation, home: Rc::clone(&self.shelf) }
    }

    /// Gives up uploads that outlast their answers and stand still, before they have done so for `timeout`.
    /// Never completes; to be spawned once a pool.
    pub fn gives_up_uploads(&self, timeout: Duration) -> impl Future<Output = ()> + use<B> {
        let outlasting = Rc::clone(&self.shelf.outlasting);
        async move {
            loop {
                tokio::time::sleep(timeout / 2).await;
                outlasting.sweep();
            }
        }
    }

    /// Closes what a burst leaves idle beyond what is kept. Never completes; to be spawned once a pool.
    pub fn trims(&self) -> impl Future<Output = ()> + use<B> {
        let shelf = Rc::clone(&self.shelf);
        async move { shelf.trims().await }
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

impl<B> Exclusive<B> {
    /// Returns false if the API has closed it, or is busy with an upload that it answered early.
    async fn is_ready(&self) -> bool {
        if !self.sender.is_ready() {
            // The task that drives it may not have had its turn since the last response.
            tokio::task::yield_now().await;
        }
        self.sender.is_ready()
    }
}

async fn exclusive<B>(stream: Stream, buffer: usize) -> Result<Exclusive<B>, ConnectError>
where
    B: Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let driver = Arc::<DriverWaker>::default();
    let stream = stream.with_low_water(LowWater::new(Arc::clone(&driver)));
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(buffer)
        .max_header_size(MAX_HEAD as usize)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(ConnectError::Http)?;
    // Whoever waits for a response is told of an error by its sender.
    spawn_local(drive(connection.with_upgrades(), Arc::clone(&driver)));
    Ok(Exclusive { sender, driver })
}

/// What a new HTTP/2 connection consists of.
pub(super) struct Http2Parts<B> {
    pub(super) sender: http2::SendRequest<Carried<B>>,
    /// What the origin allows; it may change at any time.
    pub(super) max_streams: Rc<Cell<usize>>,
    pub(super) control: Arc<Control>,
}

/// Waits for the origin's first word of it (RFC 9113 section 3.4), or those who share the connection
/// would send more than it takes, and have it refused. So an origin that does not speak HTTP/2 gets no
/// request either.
async fn http2_parts<B>(stream: Stream) -> Result<Http2Parts<B>, ConnectError>
where
    B: Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let control = Arc::<Control>::default();
    let (sender, mut driver) = http2::Builder::new(Local)
        .timer(TokioTimer::new())
        // Until the origin says otherwise; if it does not say, there is no limit but ours.
        .initial_max_send_streams(0)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(MAX_HEAD)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL)
        .handshake(TokioIo::new(stream.controlled(Arc::clone(&control))))
        .await
        .map_err(ConnectError::Http)?;
    while driver.current_max_send_streams() == 0 {
        tokio::select! {
            () = control.heard.notified() => {}
            ended = &mut driver => {
                if let Some(alert) = control.refusal.get() {
                    return Err(ConnectError::Tls(HandshakeError::ClientCertificate(*alert)));
                }
                ended.map_err(ConnectError::Http)?;
                return Err(ConnectError::Tcp(io::ErrorKind::ConnectionAborted.into()));
            }
        }
    }
    let max_streams = Rc::new(Cell::new(driver.current_max_send_streams()));
    let newest = Rc::clone(&max_streams);
    spawn_local(async move {
        let driven = poll_fn(|cx| {
            let ended = Pin::new(&mut driver).poll(cx);
            if ended.is_pending() {
                newest.set(driver.current_max_send_streams());
            }
            ended
        });
        // Whoever waits for a response is told of an error by its sender.
        let _ = driven.await;
    });
    Ok(Http2Parts { sender, max_streams, control })
}

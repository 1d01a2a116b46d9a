//! A connection's bytes, plain or over TLS.

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use rustls::AlertDescription;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
};
use tokio_rustls::client::TlsStream;

use crate::{patience::Patience, tls::HandshakeError};

/// A connection, plain or over TLS. A write ends with an error of kind `TimedOut` when the origin
/// takes nothing for too long.
#[derive(Debug)]
pub struct Stream {
    transport: Transport,
    write_patience: Patience,
    /// Told of each read that is over. Not an `Rc`, as hyper wants what it may upgrade to be [`Send`].
    listener: Option<Arc<Listener>>,
}

/// Waits for an origin's first word.
#[derive(Debug, Default)]
pub(super) struct Listener {
    pub(super) heard: Notify,
    /// That the origin does not take the client's certificate. HTTP/2 errors do not tell.
    pub(super) refusal: OnceLock<AlertDescription>,
}

#[derive(Debug)]
pub(super) enum Transport {
    /// To a loopback host.
    Plain(TcpStream),
    /// Boxed, as its state is large and connections are passed around.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Calls the same function on either transport.
macro_rules! on_transport {
    ($stream:expr, $tcp:ident => $call:expr) => {
        match &mut $stream.transport {
            Transport::Plain($tcp) => {
                let $tcp = Pin::new($tcp);
                $call
            }
            Transport::Tls($tcp) => {
                let $tcp = Pin::new($tcp.as_mut());
                $call
            }
        }
    };
}

impl Stream {
    pub(super) fn new(transport: Transport, write_timeout: Duration) -> Self {
        Self { transport, write_patience: Patience::new(write_timeout), listener: None }
    }

    /// Has `listener` told whenever something is read, or the end.
    pub(super) fn telling(self, listener: Arc<Listener>) -> Self {
        Self { listener: Some(listener), ..self }
    }

    fn patiently<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write_patience.progressed();
            return written;
        }
        self.write_patience.poll_over(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = on_transport!(self, io => io.poll_read(cx, buf));
        if let (Poll::Ready(outcome), Some(listener)) = (&read, &self.listener) {
            if let Err(error) = outcome
                && let Some(alert) = HandshakeError::late_refusal(error)
            {
                let _ = listener.refusal.set(alert);
            }
            listener.heard.notify_one();
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = on_transport!(self, io => io.poll_write(cx, buf));
        self.patiently(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = on_transport!(self, io => io.poll_write_vectored(cx, bufs));
        self.patiently(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(tcp) => tcp.is_write_vectored(),
            Transport::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_transport!(self, io => io.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_transport!(self, io => io.poll_shutdown(cx))
    }
}

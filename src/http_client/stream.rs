//! A connection's bytes, plain or over TLS.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use rustls::{AlertDescription, ProtocolVersion};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
};

use super::low_water::LowWater;
use crate::{
    metrics::OpenConnection,
    patience::Patience,
    socket::Socket,
    tls::{HandshakeError, TlsStream},
};

/// A connection, plain or over TLS. A write ends with an error of kind `TimedOut` when the origin
/// takes nothing for too long.
///
/// Once the origin has closed its side, writes go nowhere instead of failing: it may have answered
/// before it closed, and the answer to a large upload is still there to be read. Its end then counts as
/// a reset.
#[derive(Debug)]
pub struct Stream {
    transport: Transport,
    write_patience: Patience,
    is_deaf: bool,
    /// Not an `Rc`, as hyper wants what it may upgrade to be [`Send`].
    control: Option<Arc<Control>>,
    low_water: Option<LowWater>,
    _counted: Option<OpenConnection>,
}

/// The pool's hold on a connection's bytes.
#[derive(Debug, Default)]
pub(super) struct Control {
    pub(super) heard: Notify,
    /// That the origin does not take the client's certificate. HTTP/2 errors do not tell.
    pub(super) refusal: OnceLock<AlertDescription>,
    is_severed: AtomicBool,
    reader: AtomicWaker,
}

impl Control {
    /// Has the connection end, whatever is under way on it.
    pub(super) fn sever(&self) {
        self.is_severed.store(true, Relaxed);
        self.reader.wake();
    }
}

#[derive(Debug)]
pub(super) enum Transport {
    /// To a loopback host.
    Plain(Socket<TcpStream>),
    /// Boxed, as its state is large and connections are passed around.
    Tls(Box<TlsStream<Socket<TcpStream>>>),
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
        let write_patience = Patience::new(write_timeout);
        Self { transport, write_patience, is_deaf: false, control: None, low_water: None, _counted: None }
    }

    /// The version of TLS that was agreed on; `None` in plain text.
    pub(super) fn tls_version(&self) -> Option<ProtocolVersion> {
        match &self.transport {
            Transport::Plain(_) => None,
            Transport::Tls(tls) => tls.agreed().protocol_version(),
        }
    }

    /// Has it counted while it is open.
    pub(super) fn counted(self, by: OpenConnection) -> Self {
        Self { _counted: Some(by), ..self }
    }

    /// Has `control` told whenever something is read, or the end; and lets it end the connection.
    pub(super) fn controlled(self, control: Arc<Control>) -> Self {
        Self { control: Some(control), ..self }
    }

    /// Has its driver woken only once enough has come.
    pub(super) fn with_low_water(self, low_water: LowWater) -> Self {
        Self { low_water: Some(low_water), ..self }
    }

    /// What a write came to; `nowhere` is what it comes to when the origin does not listen any more.
    fn written<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>, nowhere: T) -> Poll<io::Result<T>> {
        match &written {
            Poll::Ready(Err(error)) if is_closed(error) => {
                self.is_deaf = true;
                Poll::Ready(Ok(nowhere))
            }
            Poll::Ready(_) | Poll::Pending => self.write_patience.with_write(cx, written),
        }
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let mut read = on_transport!(self, io => io.poll_read(cx, buf));
        if self.is_deaf && matches!(read, Poll::Ready(Ok(()))) && buf.filled().len() == before {
            // The write was told of the reset, and reading now looks like an orderly end: an answer that
            // ends with its connection may have been cut off.
            read = Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let Self { transport, low_water, .. } = &mut *self;
        if let Some(low_water) = low_water
            && !low_water.is_idle()
        {
            match transport {
                Transport::Plain(tcp) => low_water.note(cx, &read, tcp.get_ref(), 0),
                Transport::Tls(tls) => low_water.note(cx, &read, tls.get_ref().get_ref(), tls.partial_len()),
            }
        }
        let Some(control) = &self.control else { return read };
        control.reader.register(cx.waker());
        if control.is_severed.load(Relaxed) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if let Poll::Ready(outcome) = &read {
            if let Err(error) = outcome
                && let Some(alert) = HandshakeError::late_refusal(error)
            {
                let _ = control.refusal.set(alert);
            }
            control.heard.notify_one();
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_deaf {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = on_transport!(self, io => io.poll_write(cx, buf));
        self.written(cx, written, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = || bufs.iter().map(|buf| buf.len()).sum();
        if self.is_deaf {
            return Poll::Ready(Ok(all()));
        }
        let written = on_transport!(self, io => io.poll_write_vectored(cx, bufs));
        self.written(cx, written, all())
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(tcp) => tcp.is_write_vectored(),
            Transport::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_deaf {
            return Poll::Ready(Ok(()));
        }
        let flushed = on_transport!(self, io => io.poll_flush(cx));
        self.written(cx, flushed, ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_transport!(self, io => io.poll_shutdown(cx))
    }
}

//! Connections to one origin: how one is made, and how they are kept for the next request.

mod pool;

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::{
    ClientConfig,
    pki_types::{InvalidDnsNameError, ServerName},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, lookup_host},
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

pub use self::pool::{Connection, Pool, PooledBody, SendError};
use crate::{
    config::{Origin, Scheme},
    patience::Patience,
};

/// Makes connections to one origin.
#[derive(Clone)]
pub struct Connector {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    timeout: Duration,
    write_timeout: Duration,
}

impl Connector {
    /// `timeout` bounds the look-up of the name, the TCP connection and the TLS handshake together;
    /// `write_timeout` how long the origin may take nothing of what is sent.
    ///
    /// # Errors
    /// When the origin's host cannot be a name in a certificate.
    pub fn new(
        origin: &Origin,
        tls: Arc<ClientConfig>,
        timeout: Duration,
        write_timeout: Duration,
    ) -> Result<Self, InvalidDnsNameError> {
        let tls = match origin.scheme {
            Scheme::Http => None,
            Scheme::Https => Some((TlsConnector::from(tls), ServerName::try_from(origin.host.clone())?)),
        };
        Ok(Self { host: origin.host.clone(), port: origin.port, tls, timeout, write_timeout })
    }

    /// Looks the name up anew and tries its addresses in turn, each for its share of the time that is left.
    ///
    /// # Errors
    /// See [`ConnectError`].
    ///
    /// # Cancel safety
    /// Dropping the future closes what was open.
    pub async fn connect(&self) -> Result<Stream, ConnectError> {
        let deadline = Instant::now() + self.timeout;
        timeout_at(deadline, self.connect_by(deadline)).await.map_err(|_| ConnectError::Timeout)?
    }

    async fn connect_by(&self, deadline: Instant) -> Result<Stream, ConnectError> {
        let addresses = lookup_host((self.host.as_str(), self.port)).await.map_err(ConnectError::Resolve)?;
        let addresses: Vec<_> = addresses.collect();
        let mut failure = ConnectError::NoAddress;
        for (tried, address) in addresses.iter().enumerate() {
            let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
            let share = deadline.saturating_duration_since(Instant::now()) / left;
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) => return self.secure(tcp).await,
                Ok(Err(error)) => failure = ConnectError::Tcp(error),
                Err(_elapsed) => failure = ConnectError::Timeout,
            }
        }
        Err(failure)
    }

    async fn secure(&self, tcp: TcpStream) -> Result<Stream, ConnectError> {
        tcp.set_nodelay(true).map_err(ConnectError::Tcp)?;
        let transport = match &self.tls {
            None => Transport::Plain(tcp),
            Some((connector, name)) => {
                let tls = connector.connect(name.clone(), tcp).await.map_err(ConnectError::Tls)?;
                Transport::Tls(Box::new(tls))
            }
        };
        Ok(Stream { transport, write_patience: Patience::new(self.write_timeout) })
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("tls", &self.tls.is_some())
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name could not be looked up.
    #[error("the host's name cannot be looked up")]
    Resolve(#[source] io::Error),
    /// The name has no address.
    #[error("the host's name has no address")]
    NoAddress,
    /// No address took the connection; the last one's reason.
    #[error("the host does not take the connection")]
    Tcp(#[source] io::Error),
    /// The handshake failed: a certificate that is not believed, a protocol that is not shared.
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    /// All of it took too long.
    #[error("connecting took too long")]
    Timeout,
}

/// A connection, plain or over TLS. A write ends with an error of kind `TimedOut` when the origin
/// takes nothing for too long.
#[derive(Debug)]
pub struct Stream {
    transport: Transport,
    write_patience: Patience,
}

#[derive(Debug)]
enum Transport {
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
        on_transport!(self, io => io.poll_read(cx, buf))
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

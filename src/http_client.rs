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
use crate::config::{Origin, Scheme};

/// Makes connections to one origin.
#[derive(Clone)]
pub struct Connector {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    timeout: Duration,
}

impl Connector {
    /// `timeout` bounds the look-up of the name, the TCP connection and the TLS handshake together.
    ///
    /// # Errors
    /// When the origin's host cannot be a name in a certificate.
    pub fn new(origin: &Origin, tls: Arc<ClientConfig>, timeout: Duration) -> Result<Self, InvalidDnsNameError> {
        let tls = match origin.scheme {
            Scheme::Http => None,
            Scheme::Https => Some((TlsConnector::from(tls), ServerName::try_from(origin.host.clone())?)),
        };
        Ok(Self { host: origin.host.clone(), port: origin.port, tls, timeout })
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
        match &self.tls {
            None => Ok(Stream::Plain(tcp)),
            Some((connector, name)) => {
                let tls = connector.connect(name.clone(), tcp).await.map_err(ConnectError::Tls)?;
                Ok(Stream::Tls(Box::new(tls)))
            }
        }
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

/// A connection, plain or over TLS.
#[derive(Debug)]
pub enum Stream {
    /// Plain text, to a loopback host.
    Plain(TcpStream),
    /// TLS; boxed, as its state is large and connections are passed around.
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

//! A connection that is made to see that it can be.

use std::{fmt, io, time::Duration};

use rustls::ProtocolVersion;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout_at},
};

use super::{ConnectError, Connector, Link, Need, Protocol, stream::Stream};
use crate::tls::HandshakeError;

/// How long the origin has for a late word, such as that it does not take the client's certificate.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What was agreed on with an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// `None` in plain text.
    tls: Option<ProtocolVersion>,
    protocol: Protocol,
}

impl Connector {
    /// Makes a connection, sends no request on it, and closes it.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect), and when the origin closes the connection at once: over TLS 1.3 it
    /// refuses the client's certificate after the handshake (RFC 8446 section 4.4.2.4).
    ///
    /// # Cancel safety
    /// Dropping the future closes what was open.
    pub async fn greet(&self, need: Need) -> Result<Greeting, ConnectError> {
        let end = Instant::now() + self.timeout;
        let Link { mut stream, protocol, .. } = self.connect(need).await?;
        let greeting = Greeting { tls: stream.tls_version(), protocol };
        let last_word = end.min(Instant::now() + LAST_WORD);
        // Silence is what is hoped for; HTTP/2 may begin with a word of the origin's (RFC 9113 section 3.4).
        if let Ok(outcome) = timeout_at(last_word, hear(&mut stream)).await {
            outcome?;
        }
        // A farewell: it does not matter whether it is heard.
        let _ = timeout_at(last_word, stream.shutdown()).await;
        Ok(greeting)
    }
}

async fn hear(stream: &mut Stream) -> Result<(), ConnectError> {
    match stream.read(&mut [0]).await {
        Ok(0) => Err(ConnectError::Tcp(io::Error::new(io::ErrorKind::UnexpectedEof, "it is closed at once"))),
        Ok(_) => Ok(()),
        Err(error) => Err(match HandshakeError::late_refusal(&error) {
            Some(alert) => ConnectError::Tls(HandshakeError::ClientCertificate(alert)),
            None => ConnectError::Tcp(error),
        }),
    }
}

impl fmt::Display for Greeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.tls {
            None => "no TLS, ",
            Some(ProtocolVersion::TLSv1_2) => "TLS 1.2, ",
            Some(ProtocolVersion::TLSv1_3) => "TLS 1.3, ",
            // No other is spoken.
            Some(_) => "TLS, ",
        })?;
        f.write_str(match self.protocol {
            Protocol::Http1 => "HTTP/1.1",
            Protocol::Http2 => "HTTP/2",
        })
    }
}

//! Connections to one origin: how one is made, and how they are kept for the next request.

mod carried;
mod connection;
mod dial;
mod driver;
mod greeting;
mod low_water;
mod pool;
mod shelf;
mod stream;

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{
    ClientConfig,
    pki_types::{InvalidDnsNameError, ServerName},
};
use tokio::{net::TcpStream, sync::Semaphore, task::spawn_blocking, time::timeout};

use self::stream::Transport;
pub use self::{
    connection::{Connection, PooledBody, SendError},
    greeting::Greeting,
    pool::Pool,
    shelf::Kept,
    stream::Stream,
};
use crate::{
    config::{HttpVersion, Origin, Scheme},
    socket::Socket,
    tls::{HandshakeError, TlsStream},
};

/// The names of the protocols in TLS (RFC 7301 section 6, RFC 9113 section 3.1).
const ALPN_HTTP1: &[u8] = b"http/1.1";
const ALPN_HTTP2: &[u8] = b"h2";

/// Look-ups of the origin's name at once, by all threads: each takes a thread until the resolver answers.
const MAX_LOOKUPS: usize = 4;

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1: one request at a time.
    Http1,
    /// HTTP/2: many at once.
    Http2,
}

/// What a request needs its connection to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Whatever the origin and the configuration agree on.
    Any,
    /// HTTP/1.1, as only that can change to another protocol (RFC 9113 section 8.6).
    Http1,
}

/// Makes connections to one origin. Clones share the TLS settings.
#[derive(Clone)]
pub struct Connector {
    host: String,
    port: u16,
    tls: Option<Arc<Tls>>,
    http: HttpVersion,
    timeout: Duration,
    write_timeout: Duration,
    lookups: Arc<Semaphore>,
}

struct Tls {
    name: ServerName<'static>,
    current: ArcSwap<TlsSettings>,
    /// That of the current settings, to be read without them. It orders nothing: connections have theirs
    /// from the settings that they were made with.
    generation: AtomicU64,
}

struct TlsSettings {
    /// Counts replacements, from 0.
    generation: u64,
    /// Offers the protocols that the configuration allows.
    any: Arc<ClientConfig>,
    /// Offers HTTP/1.1 alone.
    http1: Arc<ClientConfig>,
}

/// A connection that nothing was sent on.
#[derive(Debug)]
pub struct Link {
    /// Its bytes.
    pub stream: Stream,
    /// What is to be spoken on it.
    pub protocol: Protocol,
    /// The TLS settings that it was made with: by whom the origin takes us.
    pub(crate) generation: u64,
}

impl TlsSettings {
    fn new(tls: &ClientConfig, http: HttpVersion, generation: u64) -> Self {
        let offering = |protocols: &[&[u8]]| {
            let mut tls = tls.clone();
            tls.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            Arc::new(tls)
        };
        let any = match http {
            HttpVersion::Http1 => offering(&[ALPN_HTTP1]),
            HttpVersion::Http2 => offering(&[ALPN_HTTP2]),
            HttpVersion::Auto => offering(&[ALPN_HTTP2, ALPN_HTTP1]),
        };
        Self { generation, any, http1: offering(&[ALPN_HTTP1]) }
    }
}

impl Connector {
    /// `timeout` bounds the look-up of the name, the TCP connection and the TLS handshake together;
    /// `write_timeout` how long the origin may take nothing of what is sent.
    ///
    /// # Errors
    /// When the origin's host cannot be a name in a certificate.
    pub fn new(
        origin: &Origin,
        tls: &ClientConfig,
        http: HttpVersion,
        timeout: Duration,
        write_timeout: Duration,
    ) -> Result<Self, InvalidDnsNameError> {
        let tls = match origin.scheme {
            Scheme::Http => None,
            Scheme::Https => Some(Arc::new(Tls {
                name: ServerName::try_from(origin.host.clone())?,
                current: ArcSwap::from_pointee(TlsSettings::new(tls, http, 0)),
                generation: AtomicU64::new(0),
            })),
        };
        let lookups = Arc::new(Semaphore::new(MAX_LOOKUPS));
        Ok(Self { host: origin.host.clone(), port: origin.port, tls, http, timeout, write_timeout, lookups })
    }

    /// Has connections from now on made with other settings, those of all clones. To be called by one task only.
    pub fn replace_tls(&self, config: &ClientConfig) {
        if let Some(tls) = &self.tls {
            let generation = tls.current.load().generation + 1;
            tls.current.store(Arc::new(TlsSettings::new(config, self.http, generation)));
            tls.generation.store(generation, Ordering::Relaxed);
        }
    }

    /// How often the TLS settings were replaced. A connection of an earlier generation is not to be used again.
    fn generation(&self) -> u64 {
        self.tls.as_ref().map_or(0, |tls| tls.generation.load(Ordering::Relaxed))
    }

    /// Looks the name up anew, and takes whichever of its addresses answers first.
    ///
    /// # Errors
    /// See [`ConnectError`].
    ///
    /// # Cancel safety
    /// Dropping the future closes what was open.
    pub async fn connect(&self, need: Need) -> Result<Link, ConnectError> {
        timeout(self.timeout, self.connect_anyhow(need)).await.map_err(|_| ConnectError::Timeout)?
    }

    async fn connect_anyhow(&self, need: Need) -> Result<Link, ConnectError> {
        let addresses = self.look_up().await.map_err(ConnectError::Resolve)?;
        let tcp = dial::any_of(addresses).await.ok_or(ConnectError::NoAddress)?.map_err(ConnectError::Tcp)?;
        tcp.set_nodelay(true).map_err(ConnectError::Tcp)?;
        let (transport, protocol, generation) = self.secure(tcp, need).await?;
        Ok(Link { stream: Stream::new(transport, self.write_timeout), protocol, generation })
    }

    /// A look-up cannot be cancelled, only left alone; so there are never more than a few.
    async fn look_up(&self) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok(vec![(ip, self.port).into()]);
        }
        let turn = Arc::clone(&self.lookups).acquire_owned().await.map_err(io::Error::other)?;
        let (host, port) = (self.host.clone(), self.port);
        let found = spawn_blocking(move || {
            let found = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
            drop(turn);
            found
        });
        found.await.map_err(io::Error::other)?
    }

    async fn secure(&self, tcp: TcpStream, need: Need) -> Result<(Transport, Protocol, u64), ConnectError> {
        let Some(Tls { name, current, .. }) = self.tls.as_deref() else {
            // Nothing is negotiated in plain text: HTTP/2 is known to be there, or it is not (RFC 9113 section 3.3).
            let is_http2 = self.http == HttpVersion::Http2 && need == Need::Any;
            return Ok((
                Transport::Plain(Socket::new(tcp)),
                if is_http2 { Protocol::Http2 } else { Protocol::Http1 },
                0,
            ));
        };
        let settings = current.load_full();
        let config = if need == Need::Http1 { &settings.http1 } else { &settings.any };
        let demands_http2 = self.http == HttpVersion::Http2 && need == Need::Any;
        let tls = match TlsStream::connect(Arc::clone(config), name.clone(), Socket::new(tcp))
            .await
            .map_err(HandshakeError::from)
        {
            Ok(tls) => tls,
            Err(HandshakeError::NoSharedProtocol) if demands_http2 => return Err(ConnectError::NotHttp2),
            Err(error) => return Err(ConnectError::Tls(error)),
        };
        let protocol = match tls.agreed().alpn_protocol() {
            Some(ALPN_HTTP2) => Protocol::Http2,
            _ if demands_http2 => return Err(ConnectError::NotHttp2),
            _ => Protocol::Http1,
        };
        Ok((Transport::Tls(Box::new(tls)), protocol, settings.generation))
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("tls", &self.tls.is_some())
            .field("http", &self.http)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
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
    Tls(#[source] HandshakeError),
    /// The configuration demands HTTP/2.
    #[error("the host does not speak HTTP/2, which `upstream.http` demands")]
    NotHttp2,
    /// The connection cannot be begun.
    #[error("the host does not begin to speak HTTP")]
    Http(#[source] hyper::Error),
    /// All of it took too long.
    #[error("connecting took too long")]
    Timeout,
}

#[cfg(test)]
mod tests {
    use std::{io, net::TcpListener, time::Duration};

    use rustls::{
        AlertDescription, CertificateError,
        pki_types::{ServerName, UnixTime},
    };

    use super::{ConnectError, Connector, HandshakeError, HttpVersion, MAX_LOOKUPS, Need, Origin, Scheme};
    use crate::{
        config::{Roots, TlsVersion, Trust},
        proxy::ProxyError,
        readme::{Table, broken, each, text},
        tls,
        token::FetchError,
    };

    #[tokio::test]
    async fn a_look_up_beyond_the_bound_waits_for_its_turn_and_no_longer_than_connecting_may_take() {
        let api = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = api.local_addr().expect("it is bound").port();
        let origin = Origin { scheme: Scheme::Http, host: "localhost".to_owned(), port };
        let trust = Trust { roots: Roots::Bundled, ca_file: None, extra: Vec::new(), tls_min: TlsVersion::Tls12 };
        let tls = tls::client_config(&trust).expect("built-in roots");
        let limit = Duration::from_secs(5);
        let connector = Connector::new(&origin, &tls, HttpVersion::Http1, limit, limit).expect("a host");
        let take = |count: usize| connector.lookups.acquire_many(u32::try_from(count).expect("a few"));
        let others = take(MAX_LOOKUPS - 1).await.expect("it is never closed");
        assert!(connector.connect(Need::Any).await.is_ok(), "one more is within the bound");
        let another = take(1).await.expect("it is never closed");
        let hurried = Connector { timeout: Duration::from_millis(200), ..connector.clone() };
        assert!(matches!(hurried.connect(Need::Any).await, Err(ConnectError::Timeout)));
        drop((others, another));
        assert!(connector.connect(Need::Any).await.is_ok());
    }

    fn handshake_errors() -> Vec<HandshakeError> {
        use AlertDescription as Alert;
        let moment = Some(UnixTime::since_unix_epoch(Duration::ZERO));
        let other_name = CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("HOST").expect("a name"),
            presented: vec!["NAME".to_owned()],
        };
        let complaint = HandshakeError::ClientCertificate;
        let io_error = || io::Error::from(io::ErrorKind::ConnectionReset);
        each!(HandshakeError {
            HandshakeError::Expired(_) => [HandshakeError::Expired(moment)],
            HandshakeError::NotYetValid(_) => [HandshakeError::NotYetValid(moment)],
            HandshakeError::OtherName(_) => [other_name.into()],
            HandshakeError::UnknownIssuer => [HandshakeError::UnknownIssuer],
            HandshakeError::BadSignature => [HandshakeError::BadSignature],
            HandshakeError::AuthorityAsServer => [HandshakeError::AuthorityAsServer],
            HandshakeError::Certificate(_) => [CertificateError::BadEncoding.into()],
            HandshakeError::OldVersion => [HandshakeError::OldVersion],
            HandshakeError::Downgrade => [HandshakeError::Downgrade],
            HandshakeError::NothingShared => [HandshakeError::NothingShared],
            HandshakeError::Rejected => [HandshakeError::Rejected],
            HandshakeError::NoSharedProtocol => [HandshakeError::NoSharedProtocol],
            HandshakeError::UnknownName => [HandshakeError::UnknownName],
            HandshakeError::ClientCertificate(_) => [
                complaint(Alert::CertificateRequired),
                complaint(Alert::NoCertificate),
                complaint(Alert::BadCertificate),
                complaint(Alert::UnsupportedCertificate),
                complaint(Alert::CertificateRevoked),
                complaint(Alert::CertificateExpired),
                complaint(Alert::CertificateUnknown),
                complaint(Alert::UnknownCA),
                complaint(Alert::AccessDenied),
                complaint(Alert::DecryptError),
            ],
            HandshakeError::NotTls => [HandshakeError::NotTls],
            HandshakeError::Broken(_) => [HandshakeError::Broken(io_error())],
            HandshakeError::Other(_) => [HandshakeError::Other(rustls::Error::HandshakeNotComplete)],
        })
    }

    /// The error, and its own words or those of the handshake.
    fn errors() -> Vec<(ConnectError, String)> {
        let io_error = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let errors = each!(ConnectError {
            ConnectError::Resolve(_) => [ConnectError::Resolve(io_error())],
            ConnectError::NoAddress => [ConnectError::NoAddress],
            ConnectError::Tcp(_) => [ConnectError::Tcp(io_error())],
            ConnectError::Tls(_) => [ConnectError::Tls(HandshakeError::Downgrade)],
            ConnectError::NotHttp2 => [ConnectError::NotHttp2],
            ConnectError::Http(_) => [ConnectError::Http(broken())],
            ConnectError::Timeout => [ConnectError::Timeout],
        });
        let errors = errors.into_iter().map(|error| {
            let words = text(&error);
            (error, words)
        });
        let handshakes = handshake_errors().into_iter().map(|error| {
            let words = text(&error).replace("1970-01-01T00:00:00Z", "TIME");
            (ConnectError::Tls(error), words)
        });
        errors.chain(handshakes).collect()
    }

    #[test]
    fn the_readme_tells_what_each_of_them_means_and_the_keys_of_both_sides() {
        let table = Table::below("Connections");
        let errors = errors();
        table.assert_texts(errors.iter().map(|(_, words)| words.as_str()));
        for (error, words) in errors {
            let error = FetchError::Connect(error);
            let of_token = error.keys();
            let FetchError::Connect(error) = error else { unreachable!("it was made so") };
            let of_api = ProxyError::Connect(error).keys();
            for key in [of_token, of_api].into_iter().flatten() {
                let (_, key) = key.split_once('.').expect("a table's key");
                table.row(&words).assert_keys(Some(key));
            }
        }
    }
}

//! Certificates of any kind, and an API over real TLS that tells what it saw.

use std::{
    convert::Infallible,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{io::AsyncReadExt, net::TcpStream, sync::Semaphore};
use tokio_rustls::TlsAcceptor;

/// Both versions that are still spoken.
pub(super) const ALL: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];
/// The older one alone.
pub(super) const ONLY_1_2: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];

/// A certificate and its key.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Pair {
    pub(super) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("a certificate")
    }

    /// Signed by itself.
    pub(super) fn self_signed(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().expect("a key");
        let certificate = params(&["127.0.0.1"], change).self_signed(&key).expect("a certificate");
        Self { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

pub(super) fn make_authority(params: &mut CertificateParams) {
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
}

fn params(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("sound names");
    change(&mut params);
    params
}

pub(super) struct Authority {
    pub(super) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// With a name that no other has.
    pub(super) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        Self::named(&format!("authority {}", COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    pub(super) fn named(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = params(&[], make_authority);
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    pub(super) fn issue(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let certificate = params(names, change).signed_by(&key, &self.issuer).expect("a certificate");
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// For the address that the tests' servers have.
    pub(super) fn server(&self) -> Pair {
        self.issue(&["127.0.0.1", "localhost"], |_| {})
    }

    pub(super) fn client(&self) -> Pair {
        self.issue(&["client.example"], |_| {})
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("a certificate")).expect("an authority");
        roots
    }
}

/// A server's settings. With an authority of clients, it demands a certificate by it.
pub(super) fn server(
    pair: &Pair,
    versions: &[&'static SupportedProtocolVersion],
    clients: Option<&Authority>,
) -> ServerConfig {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_protocol_versions(versions).expect("they fit");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authority.roots()), provider);
            builder.with_client_cert_verifier(verifier.build().expect("an authority"))
        }
    };
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
    let mut config = builder.with_single_cert(vec![pair.der()], key).expect("a pair");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

/// A connection whose handshake went well.
#[derive(Debug)]
pub(super) struct Shaken {
    pub(super) server_name: Option<String>,
    pub(super) client: Option<CertificateDer<'static>>,
    pub(super) requests: usize,
}

/// Answers 200 to everything; to `/slow` once there is a permit. It ends with the tests' process.
#[derive(Clone)]
pub(super) struct Api {
    address: SocketAddr,
    connections: Arc<Mutex<Vec<Shaken>>>,
    pub(super) permits: Arc<Semaphore>,
}

impl Api {
    pub(super) fn start(tls: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("it is TCP");
        let address = listener.local_addr().expect("it is bound");
        let api = Self { address, connections: Arc::default(), permits: Arc::new(Semaphore::new(0)) };
        let served = api.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let acceptor = TlsAcceptor::from(Arc::new(tls));
                let listener = tokio::net::TcpListener::from_std(listener).expect("it is not blocking");
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(served.clone().serve(acceptor.clone(), stream));
                }
            });
        });
        api
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(super) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub(super) fn connections(&self) -> MutexGuard<'_, Vec<Shaken>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many requests came on all connections.
    pub(super) fn requests(&self) -> usize {
        self.connections().iter().map(|connection| connection.requests).sum()
    }

    async fn serve(self, acceptor: TlsAcceptor, stream: TcpStream) {
        let stream = match acceptor.accept(stream).into_fallible().await {
            Ok(stream) => stream,
            Err((_, mut stream)) => {
                // Closed at once, with bytes unread, the alert might not arrive.
                let _ = stream.read_to_end(&mut Vec::new()).await;
                return;
            }
        };
        let number = {
            let tls = stream.get_ref().1;
            let client = tls.peer_certificates().and_then(<[_]>::first).map(|c| c.clone().into_owned());
            let mut connections = self.connections();
            connections.push(Shaken { server_name: tls.server_name().map(str::to_owned), client, requests: 0 });
            connections.len() - 1
        };
        let service = service_fn(|request: Request<Incoming>| {
            let api = self.clone();
            async move {
                api.connections()[number].requests += 1;
                if request.uri().path() == "/slow" {
                    api.permits.acquire().await.expect("it is never closed").forget();
                }
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok"))))
            }
        });
        let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
    }
}

//! An API that speaks HTTP/2 and does what a test's script says.

use std::{
    future::Future,
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, Response, request::Parts};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};
use tokio_rustls::TlsAcceptor;

/// A request as the script gets it.
pub(super) struct Call {
    /// The number of the request over all connections, from 0.
    pub(super) number: usize,
    pub(super) head: Parts,
    pub(super) body: RecvStream,
    pub(super) respond: SendResponse<Bytes>,
    /// Has the connection say goodbye, and end once its requests are answered.
    pub(super) goodbye: Arc<Notify>,
}

impl Call {
    /// Reads the body to its end.
    pub(super) async fn read(&mut self) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
        read(&mut self.body).await
    }

    /// Sends the head of an answer whose body follows.
    pub(super) fn begin(&mut self, status: u16, fields: &[(&str, &str)]) -> SendStream<Bytes> {
        self.respond.send_response(head(status, fields), false).expect("the stream is open")
    }

    pub(super) fn answer(&mut self, status: u16, fields: &[(&str, &str)], body: impl Into<Bytes>) {
        let body = body.into();
        // An error means that the caller has gone.
        if let Ok(mut stream) = self.respond.send_response(head(status, fields), body.is_empty())
            && !body.is_empty()
        {
            let _ = stream.send_data(body, true);
        }
    }
}

fn head(status: u16, fields: &[(&str, &str)]) -> Response<()> {
    let mut response = Response::builder().status(status);
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    response.body(()).expect("a sound head")
}

/// Reads a body to its end, with its trailers.
pub(super) async fn read(body: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok((bytes, body.trailers().await?))
}

/// A running API. It ends with the tests' process.
#[derive(Clone, Debug)]
pub(super) struct Api {
    address: SocketAddr,
    ca_pem: Option<String>,
    record: Arc<Mutex<Record>>,
}

#[derive(Debug, Default)]
pub(super) struct Record {
    /// What was spoken on each connection.
    pub(super) connections: Vec<&'static str>,
    /// How many of them have ended.
    pub(super) ended: usize,
    /// The heads of the requests.
    pub(super) requests: Vec<Parts>,
    /// Streams at once, now and at most, by connection.
    pub(super) open: Vec<(usize, usize)>,
}

impl Api {
    /// Over plain text.
    pub(super) fn start<F>(script: impl Fn(Call) -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::with(None, h2::server::Builder::new(), script)
    }

    /// Over TLS where there are names of protocols to offer, and with HTTP/2 settings of its own.
    pub(super) fn with<F>(
        protocols: Option<&[&[u8]]>,
        settings: h2::server::Builder,
        script: impl Fn(Call) -> F + Clone + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        listener.set_nonblocking(true).expect("it is TCP");
        let (tls, ca_pem) = protocols.map(identity).unzip();
        let record = Arc::<Mutex<Record>>::default();
        let api = Self { address, ca_pem, record: Arc::clone(&record) };
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("it is not blocking");
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(connection(
                        stream,
                        tls.clone(),
                        settings.clone(),
                        Arc::clone(&record),
                        script.clone(),
                    ));
                }
            });
        });
        api
    }

    pub(super) fn url(&self) -> String {
        format!("{}://{}", if self.ca_pem.is_some() { "https" } else { "http" }, self.address)
    }

    pub(super) fn authority(&self) -> String {
        self.address.to_string()
    }

    pub(super) fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    pub(super) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn connection<F>(
    tcp: TcpStream,
    tls: Option<TlsAcceptor>,
    settings: h2::server::Builder,
    record: Arc<Mutex<Record>>,
    script: impl Fn(Call) -> F + Clone + Send + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    tcp.set_nodelay(true).expect("it is TCP");
    let ended = Arc::clone(&record);
    // Errors are the other side's, which the test looks at.
    match tls {
        None => drop(http2(tcp, settings, record, script).await),
        Some(tls) => {
            let Ok(stream) = tls.accept(tcp).await else { return };
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                drop(http2(stream, settings, record, script).await);
            } else {
                drop(http1(stream, &record).await);
            }
        }
    }
    ended.lock().unwrap_or_else(PoisonError::into_inner).ended += 1;
}

async fn http2<F>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    settings: h2::server::Builder,
    record: Arc<Mutex<Record>>,
    script: impl Fn(Call) -> F,
) -> Result<(), h2::Error>
where
    F: Future<Output = ()> + Send + 'static,
{
    let locked = || record.lock().unwrap_or_else(PoisonError::into_inner);
    let number = {
        let mut record = locked();
        record.connections.push("h2");
        record.open.push((0, 0));
        record.connections.len() - 1
    };
    let mut connection = settings.handshake(stream).await?;
    let goodbye = Arc::new(Notify::new());
    loop {
        tokio::select! {
            biased;
            () = goodbye.notified() => connection.graceful_shutdown(),
            accepted = connection.accept() => {
                let Some(accepted) = accepted else { return Ok(()) };
                let (request, respond) = accepted?;
                let (head, body) = request.into_parts();
                let request = {
                    let mut record = locked();
                    record.requests.push(head.clone());
                    let (now, most) = &mut record.open[number];
                    *now += 1;
                    *most = (*most).max(*now);
                    record.requests.len() - 1
                };
                let goodbye = Arc::clone(&goodbye);
                let answered = script(Call { number: request, head, body, respond, goodbye });
                let record = Arc::clone(&record);
                tokio::spawn(async move {
                    answered.await;
                    record.lock().unwrap_or_else(PoisonError::into_inner).open[number].0 -= 1;
                });
            }
        }
    }
}

/// Answers one request, which has no body.
async fn http1(mut stream: impl AsyncRead + AsyncWrite + Unpin, record: &Mutex<Record>) -> io::Result<()> {
    record.lock().unwrap_or_else(PoisonError::into_inner).connections.push("http/1.1");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await?;
    stream.shutdown().await
}

/// A certificate for 127.0.0.1, and the authority to trust.
fn identity(protocols: &[&[u8]]) -> (TlsAcceptor, String) {
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).expect("a certificate").pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
    let leaf = leaf.signed_by(&key, &issuer).expect("a certificate");
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .expect("they belong together");
    tls.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    (TlsAcceptor::from(Arc::new(tls)), ca_pem)
}

/// Waits until the other side resets the stream.
pub(super) async fn reset_of(respond: &mut SendResponse<Bytes>) -> Option<Reason> {
    std::future::poll_fn(|cx| respond.poll_reset(cx)).await.ok()
}

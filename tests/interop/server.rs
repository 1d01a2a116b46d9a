//! `server.mjs`: the OAuth server, the API behind the sidecar, and what a test makes happen there.

use std::{
    fs::{self, File},
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{
    Request, Response,
    header::{CONTENT_TYPE, HOST},
};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::wait::eventually;

/// A client that is registered with the server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) id: &'static str,
    pub(crate) secret: &'static str,
    pub(crate) grants: &'static [&'static str],
    pub(crate) scope: &'static str,
}

pub(crate) const PARTNER: Client =
    Client { id: "partner", secret: "partner-secret", grants: &["client_credentials"], scope: "client:admin" };

/// RFC 6749 appendix A allows every visible ASCII character and the space in an id and in a secret.
pub(crate) const ODD_PARTNER: Client =
    Client { id: "odd: partner/%+&=", secret: "s3cr:et%+ /&=?#\"\\'~%41", ..PARTNER };

pub(crate) const RECIPIENT: Client = Client {
    id: "recipient",
    secret: "recipient-secret",
    grants: &["authorization_code", "refresh_token"],
    scope: "accounts offline_access",
};

pub(crate) const REDIRECT_URI: &str = "https://app.example.com/callback";

/// In seconds, as the server counts: a life may be up to one second shorter.
const TOKEN_LIFE: u32 = 6;

const INSTALL: &str = "install Node 20 or later and run `npm ci --prefix tests/interop`";

/// A running server; it ends with this value.
pub(crate) struct OAuthServer {
    process: Child,
    port: u16,
    certificate: CertifiedKey<rcgen::KeyPair>,
}

/// What the server has seen so far.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Seen {
    /// The grant of each exchange that gave a token, and where the credentials were.
    pub(crate) exchanges: Vec<String>,
    /// The status and the `error` of each one that did not.
    pub(crate) refusals: Vec<String>,
    /// Oldest first.
    pub(crate) refresh_tokens: Vec<RefreshToken>,
    /// Grants that the server ended because something of them came twice.
    pub(crate) grants_revoked: usize,
}

#[derive(Debug, Deserialize)]
pub(crate) struct RefreshToken {
    pub(crate) value: String,
    /// How often it was exchanged.
    pub(crate) consumed: usize,
}

impl OAuthServer {
    pub(crate) async fn start() -> Self {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop");
        assert!(directory.join("node_modules/oidc-provider").is_dir(), "the OAuth server is missing: {INSTALL}");
        let certificate = generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate can be made");
        let output = Output::new();
        let mut process = Command::new("node")
            .arg(directory.join("server.mjs"))
            .stdin(Stdio::piped())
            .stdout(output.create("stdout"))
            .stderr(output.create("stderr"))
            .spawn()
            .unwrap_or_else(|error| panic!("`node` cannot be started ({error}): {INSTALL}"));
        let settings = settings(&certificate);
        // If it has ended already, its output says why.
        let _ = process.stdin.as_mut().map(|stdin| writeln!(stdin, "{settings}"));
        let mut server = Self { process, port: 0, certificate };
        server.port = eventually("OAuth server", Duration::from_secs(30), async || output.port()).await;
        server
    }

    pub(crate) fn origin(&self) -> String {
        format!("https://{}", self.address())
    }

    /// Its certificate is its own authority.
    pub(crate) fn ca_pem(&self) -> String {
        self.certificate.cert.pem()
    }

    pub(crate) async fn seen(&self) -> Seen {
        self.control(Request::get("/control/seen")).await
    }

    /// A new consent of the user, as the callback's code.
    pub(crate) async fn code(&self, client: Client) -> String {
        self.control(Request::post(format!("/control/code?client={}", client.id))).await
    }

    /// A new consent of the user, as a refresh token.
    pub(crate) async fn refresh_token(&self, client: Client) -> String {
        self.control(Request::post(format!("/control/refresh-token?client={}", client.id))).await
    }

    /// The user's newest consent ends, and its tokens with it.
    pub(crate) async fn withdraw_consent(&self) {
        self.control(Request::post("/control/withdraw-consent")).await
    }

    /// Somebody else exchanges a refresh token. Returns the status and the `error`.
    pub(crate) async fn refresh(&self, client: Client, refresh_token: &str) -> String {
        let body = form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "refresh_token")
            .append_pair("refresh_token", refresh_token)
            .append_pair("client_id", client.id)
            .append_pair("client_secret", client.secret)
            .finish();
        let answer =
            self.send(Request::post("/token").header(CONTENT_TYPE, "application/x-www-form-urlencoded"), body).await;
        let content: Value = serde_json::from_slice(answer.body()).expect("the token endpoint answers in JSON");
        format!("{} {}", answer.status().as_u16(), content["error"].as_str().unwrap_or_default())
    }

    async fn control<T: DeserializeOwned>(&self, request: http::request::Builder) -> T {
        let answer = self.send(request, String::new()).await;
        serde_json::from_slice(answer.body()).expect("server.mjs answers as this file has it")
    }

    async fn send(&self, request: http::request::Builder, body: String) -> Response<Bytes> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.cert.der().clone()).expect("its certificate is an authority");
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("rustls fits together")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = TcpStream::connect(self.address()).await.expect("the server accepts connections");
        let name = ServerName::from(self.address().ip());
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.expect("the handshake succeeds");
        exchange(stream, request.header(HOST, self.address().to_string()).body(body).expect("valid")).await
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }
}

impl Drop for OAuthServer {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn settings(certificate: &CertifiedKey<rcgen::KeyPair>) -> Value {
    let clients = [PARTNER, ODD_PARTNER, RECIPIENT].map(|client| {
        let with_code = client.grants.contains(&"authorization_code");
        json!({
            "client_id": client.id,
            "client_secret": client.secret,
            "grant_types": client.grants,
            "scope": client.scope,
            "response_types": if with_code { vec!["code"] } else { Vec::new() },
            "redirect_uris": if with_code { vec![REDIRECT_URI] } else { Vec::new() },
        })
    });
    json!({
        "certificate": certificate.cert.pem(),
        "key": certificate.signing_key.serialize_pem(),
        "tokenLife": TOKEN_LIFE,
        "scopes": ["client:admin", "accounts", "offline_access"],
        "clients": clients,
    })
}

/// What the server prints while it starts.
struct Output(TempDir);

impl Output {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn create(&self, name: &str) -> File {
        File::create(self.0.path().join(name)).expect("the directory is writable")
    }

    fn port(&self) -> Result<u16, String> {
        #[derive(Deserialize)]
        struct Ready {
            port: u16,
        }
        let read = |name| fs::read_to_string(self.0.path().join(name)).expect("the output is text");
        serde_json::from_str(&read("stdout")).map(|ready: Ready| ready.port).map_err(|_| read("stderr"))
    }
}

/// One request on a connection of its own.
pub(crate) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<String>,
) -> Response<Bytes> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1 is spoken");
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await.expect("there is an answer").into_parts();
    Response::from_parts(head, body.collect().await.expect("the answer is whole").to_bytes())
}

//! The configuration: one TOML file, overridden by `TOKEN_VALET__*` variables, parsed and checked
//! as a whole before anything starts.
//!
//! `config/token-valet.toml` is the reference of every key. What is read here is already resolved:
//! addresses are addresses, durations are [`Duration`]s, certificates are parsed.

mod address;
mod environment;
mod error;
mod file;
mod guard;
mod identity;
mod origin;
mod read;
mod sandbox;
mod set_headers;
mod source;
mod suggest;
#[cfg(test)]
mod tests;
mod trust;
mod url;
mod values;

use std::{
    io,
    net::SocketAddr,
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use http::{HeaderName, HeaderValue, StatusCode, uri::PathAndQuery};

use self::source::Source;
pub(crate) use self::{address::is_exposed, guard::host_name, read::log_level};
pub use self::{
    address::{Address, Socket},
    error::{ConfigError, Fault, Place},
    file::MAX_FILE_BYTES,
    guard::{AllowRule, AllowedHosts, RequiredHeader, Rest, Segment},
    identity::{ClientIdentity, Identity, IdentityError, IdentityFiles, IdentityText},
    origin::{Origin, Scheme},
    sandbox::{Sandbox, SandboxFault, TokenFault},
    source::{Entry, Layer},
    trust::{Roots, TlsVersion, Trust},
};
use crate::secret::SecretSource;

/// Connections to a port beyond its `max_connections` that are open at once, just to be refused in words.
pub const SURPLUS_CONNECTIONS: usize = 64;

/// Everything that an operator can set.
#[derive(Clone, Debug)]
pub struct Config {
    /// The local port that the application calls.
    pub listen: Listen,
    /// The API that requests are forwarded to.
    pub upstream: Upstream,
    /// How the access token is obtained.
    pub token: Token,
    /// The port for probes and people.
    pub admin: Admin,
    /// How the process ends.
    pub shutdown: Shutdown,
    /// What is logged.
    pub log: Log,
    /// How files that may be replaced are read again.
    pub reload: Reload,
    /// What the process may do.
    pub process: Process,
    /// The imitation provider of `token-valet sandbox`.
    pub sandbox: Sandbox,
}

impl Config {
    /// Reads the file at `path`, overridden by those of the `environment`'s variables that start
    /// with `TOKEN_VALET__`. Of several with one name, the last counts.
    ///
    /// # Errors
    /// With every fault that was found, when the file cannot be read or used.
    pub fn load(path: &Path, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        Self::load_with_entries(path, environment).map(|(config, _)| config)
    }

    /// The same, with every key and where its value comes from.
    ///
    /// # Errors
    /// As above.
    pub fn load_with_entries(
        path: &Path,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Self, Vec<Entry>), ConfigError> {
        read::read(Source::new(path, &Self::text(path)?, environment)?)
    }

    /// The same for a `text` that is at hand; `name` is what messages call it.
    ///
    /// # Errors
    /// With every fault that was found.
    pub fn parse(
        name: &Path,
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let (config, _) = read::read(Source::new(name, text, environment)?)?;
        Ok(config)
    }

    /// The files with secrets: those of the token's exchanges, and the key of the client's certificate.
    pub fn secret_files(&self) -> impl Iterator<Item = &Path> {
        let of_grant = match &self.token.grant {
            Grant::ClientCredentials => None,
            Grant::AuthorizationCode { code, .. } => Some(code),
            Grant::RefreshToken { refresh_token } => Some(refresh_token),
        };
        let key = self.upstream.identity.as_ref().map(|identity| identity.files.key.as_path());
        let sources = [Some(&self.token.client_secret), of_grant].into_iter().flatten();
        sources.filter_map(SecretSource::file).chain(key)
    }

    /// What a key says, unchecked; none if it says nothing. For the sandbox, which must supply what
    /// other keys then require.
    pub(crate) fn peek(
        name: &Path,
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
        key: &str,
    ) -> Result<Option<String>, ConfigError> {
        Ok(Source::new(name, text, environment)?.peek(key))
    }

    /// The text of a configuration file.
    pub(crate) fn text(path: &Path) -> Result<String, ConfigError> {
        let text = file::read(path).and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other));
        text.map_err(|e| {
            let hint = "name another file with `-c` or with `TOKEN_VALET_CONFIG`";
            let fault = Fault {
                key: None,
                problem: format!("the configuration cannot be read: {e}"),
                place: Place::file(path, None),
                hint: (e.kind() == io::ErrorKind::NotFound).then(|| hint.to_owned()),
            };
            fault.into()
        })
    }
}

/// `[listen]`
#[derive(Clone, Debug)]
pub struct Listen {
    /// Where the application connects. Loopback, unless `allow_non_loopback` is set.
    pub address: Socket,
    /// The permissions of a Unix socket.
    pub unix_mode: u32,
    /// The users whose processes may use a Unix socket; all that its permissions let connect, if empty.
    pub allow_uids: Vec<u32>,
    /// How many threads serve requests, each with a runtime and a connection pool of its own. 1 to 64.
    pub threads: usize,
    /// How many connections are open at once; more wait in the kernel's queue.
    pub max_connections: usize,
    /// How long a connection may be without a request; it is closed before twice that.
    pub idle_timeout: Duration,
    /// How long the head of a request may take, from its first byte to its last.
    pub header_timeout: Duration,
    /// The largest head of a request, in bytes. 8 KiB to 1 MiB.
    pub max_header_bytes: usize,
    /// Whether a caller that closes its side after a request still waits for the answer; else it has gone.
    pub half_close: bool,
    /// Whether other machines may reach it.
    pub allow_non_loopback: bool,
    /// By what names callers may call it.
    pub allowed_hosts: AllowedHosts,
    /// The web pages whose requests are served, as browsers name them in `Origin`.
    pub allow_origins: Vec<HeaderValue>,
    /// What every request must have.
    pub require_header: Option<RequiredHeader>,
}

/// `[upstream]`
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The API's scheme, host and port.
    pub origin: Origin,
    /// Put before every request's path; empty, or starting with and not ending in a slash.
    pub prefix: String,
    /// Whom the TLS client believes.
    pub trust: Trust,
    /// By what certificate the API knows the client.
    pub identity: Option<Identity>,
    /// What is spoken.
    pub http: HttpVersion,
    /// What the API is told of the caller.
    pub forwarded: Forwarded,
    /// What every request to it has, whatever the caller says; the values may be secrets.
    pub set_headers: Vec<(HeaderName, HeaderValue)>,
    /// What may be asked of it; all, if there are no rules.
    pub allow: Vec<AllowRule>,
    /// How long a TCP connection and its TLS handshake may take together.
    pub connect_timeout: Duration,
    /// How long the head of the response may take, from the request's sending.
    pub response_timeout: Duration,
    /// How long a body, either way, may make no progress.
    pub idle_body_timeout: Duration,
    /// How long an unused connection is kept.
    pub pool_idle_timeout: Duration,
    /// How many unused connections each thread keeps.
    pub pool_max_idle: usize,
    /// How long an upgraded connection may be silent both ways; it is closed before twice that.
    pub tunnel_idle_timeout: Duration,
    /// How many requests are forwarded at once; more are answered 503.
    pub max_in_flight: usize,
}

/// What is spoken to the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, and nothing else.
    Http2,
    /// Over TLS, HTTP/2 where the API offers it.
    Auto,
}

/// What is added to a request to tell the API where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// Nothing.
    Off,
    /// `X-Forwarded-For`, `-Host` and `-Proto`, `Via` and `X-Request-Id`.
    XForwarded,
    /// `Forwarded` (RFC 7239), `Via` and `X-Request-Id`.
    Forwarded,
}

/// `[token]`
#[derive(Clone, Debug)]
pub struct Token {
    /// The token endpoint's scheme, host and port.
    pub origin: Origin,
    /// The token endpoint's path and query.
    pub path: PathAndQuery,
    /// Whom the TLS client believes.
    pub trust: Trust,
    /// What is exchanged for the access token.
    pub grant: Grant,
    /// The client's id, given at onboarding.
    pub client_id: String,
    /// The client's secret, given at onboarding.
    pub client_secret: SecretSource,
    /// How the client proves who it is.
    pub client_auth: ClientAuth,
    /// The encoding of the token request.
    pub body: BodyFormat,
    /// Asked for with client credentials, e.g. `client:admin`.
    pub scope: Option<String>,
    /// The part of a token's life after which it is refreshed; drawn once per token. Within 0.1 to 0.95.
    pub refresh_at: Range<f64>,
    /// The life of a token whose response states none.
    pub default_lifetime: Duration,
    /// How long a whole exchange may take, its connection (3 s at most) included.
    pub timeout: Duration,
    /// How long a request waits for a token while there is none.
    pub wait: Duration,
    /// The longest pause between attempts once no token is valid.
    pub retry_max: Duration,
    /// How many requests wait for a token at once.
    pub max_waiters: usize,
    /// The statuses by which the API may say that a token is not good: of 400, 401 and 403.
    pub rejection_statuses: Vec<StatusCode>,
    /// The longest request body, in bytes, that is kept to be sent again with another token.
    pub max_replay_body: usize,
    /// How much all such bodies may take together, in bytes.
    pub max_replay_memory: usize,
    /// Where a refresh token survives a restart.
    pub state_file: Option<PathBuf>,
}

/// What is exchanged for an access token (RFC 6749 section 1.3).
#[derive(Clone, Debug)]
pub enum Grant {
    /// A partner: the client itself is authorized (RFC 6749 section 4.4).
    ClientCredentials,
    /// A data recipient's first start: the code of the callback, once; then refresh tokens (RFC 6749 section 4.1).
    AuthorizationCode {
        /// The file with the code.
        code: SecretSource,
        /// Must equal the authorization request's, byte for byte.
        redirect_uri: String,
    },
    /// A data recipient with a refresh token at hand (RFC 6749 section 6).
    RefreshToken {
        /// The file with the first refresh token.
        refresh_token: SecretSource,
    },
}

/// How the client proves who it is at the token endpoint (RFC 6749 section 2.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// HTTP Basic.
    Basic,
    /// `client_id` and `client_secret` in the body.
    Body,
}

/// The encoding of the token request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFormat {
    /// `application/json`, as Flinks documents.
    Json,
    /// `application/x-www-form-urlencoded`, as RFC 6749 has it.
    Form,
}

/// `[admin]`
#[derive(Clone, Debug)]
pub struct Admin {
    /// Where probes and people connect.
    pub address: SocketAddr,
    /// Whether `/quitquitquit` ends the process.
    pub quit: bool,
    /// When `/startupz` says 200.
    pub startup: Gate,
    /// When `/readyz` says 200.
    pub readiness: Gate,
    /// How many connections are open at once; more wait in the kernel's queue.
    pub max_connections: usize,
}

/// What a probe waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// A token: the first for `/startupz`, a valid one for `/readyz`.
    Token,
    /// The local port being open.
    Serving,
}

/// `[shutdown]`
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// How long connections are still taken after SIGTERM, before the drain.
    pub linger: Duration,
    /// How long requests in flight may take to finish after SIGTERM.
    pub grace: Duration,
}

/// `[log]`
#[derive(Clone, Debug)]
pub struct Log {
    /// The least level that is written.
    pub level: tracing::level_filters::LevelFilter,
    /// How a line looks.
    pub format: LogFormat,
    /// Which requests get a line.
    pub access: AccessLog,
    /// A request that takes longer gets a line too, unless there are none; zero for never.
    pub slow: Duration,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// For people.
    Text,
    /// For machines: one object a line.
    Json,
}

/// Which requests get a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// None.
    Off,
    /// Those that failed at the sidecar, or that the API answered with 5xx.
    Errors,
    /// All.
    All,
}

/// `[reload]`
#[derive(Clone, Debug)]
pub struct Reload {
    /// Whether a changed configuration is looked for.
    pub watch: bool,
    /// How often files are looked at, those of the client's certificate in any case.
    pub poll: Duration,
}

/// `[process]`
#[derive(Clone, Debug)]
pub struct Process {
    /// Whether it gives up all files and ports but those that it needs.
    pub confine: bool,
}

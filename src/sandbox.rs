//! An imitation of the provider, in process: its token endpoint, its data API, and what goes wrong
//! with either.
//!
//! The same provider serves `token-valet sandbox` and the integration tests, so the demo and the test
//! double cannot drift apart. It follows the provider's documentation and shares no code with the
//! `token` module: a wrong field name there must fail here, not agree with itself.
//!
//! It is strict where the documentation is: a field that a grant does not list is refused.

#![allow(clippy::disallowed_methods, reason = "tokens here expire by the clock that tests wait by")]

mod accounts;
mod api;
mod book;
mod certificate;
mod oauth;
mod probe;
mod record;
mod reply;
mod script;
mod server;
#[cfg(test)]
mod tests;
mod urlencoded;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use http::StatusCode;
use serde_json::Value;
use tokio::sync::mpsc as async_mpsc;

use self::{book::Book, record::Record, script::Script, server::Order};
pub use self::{
    book::TokenState,
    certificate::Certificate,
    record::{Exchange, Seen, Tally},
    script::ApiFault,
};
use crate::config::{BodyFormat, ClientAuth, SandboxFault, TokenFault};

/// What the provider is told before it starts. The defaults suit an unedited demo.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens. Default: a free port of 127.0.0.1.
    pub address: SocketAddr,
    /// The certificate that it shows. Default: a valid one.
    pub certificate: Certificate,
    /// The id of its only client.
    pub client_id: String,
    /// The secret of its only client.
    pub client_secret: String,
    /// How the client must prove who it is; `None` takes either. Default: HTTP Basic.
    pub client_auth: Option<ClientAuth>,
    /// The encoding of a token request that it takes; `None` takes either. Default: JSON, anything else gets 415.
    pub token_body: Option<BodyFormat>,
    /// The scope that a client may ask for with its own credentials.
    pub scope: String,
    /// The code of the callback, good for one exchange.
    pub code: String,
    /// What was sent with the authorization request that led to [`code`](Self::code).
    pub redirect_uri: String,
    /// A refresh token that is valid from the start.
    pub refresh_token: String,
    /// Whether an exchange replaces the refresh token. Default: no, as documented.
    pub rotate_refresh_tokens: bool,
    /// Whether a replaced refresh token stays good until its successor is presented for the first
    /// time, so that an answer which never arrived costs nothing. Default: no.
    pub rotation_grace: bool,
    /// Whether a replaced refresh token that comes again revokes all that came of it
    /// (RFC 9700 section 4.14.2). Default: no.
    pub punish_reuse: bool,
    /// Whether the access tokens of a connection are JWTs, as documented; a client's own are opaque. Default: yes.
    pub jwt: bool,
    /// How long access tokens live, from their issue. Default: 299 s.
    pub token_life: Duration,
    /// What `expires_in` says instead of the whole seconds of [`token_life`](Self::token_life);
    /// [`Value::Null`] leaves the field out. Default: `None`, the truth.
    pub expires_in: Option<Value>,
    /// How the API answers a token that it does not take. Default: 401; 403 and 400 are documented too.
    pub refusal: StatusCode,
    /// What the token endpoint does wrong, and when.
    pub faults: Vec<SandboxFault>,
    /// How many requests [`Provider::requests`] and [`Provider::exchanges`] each look back on.
    /// Default: 100 000, some 100 MB when full.
    pub memory: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            certificate: Certificate::Valid,
            client_id: "7c1b9a52-4f0e-4d3a-9a64-sandbox00001".to_owned(),
            client_secret: "sandbox-client-secret-Zk3vT9qLw2".to_owned(),
            client_auth: Some(ClientAuth::Basic),
            token_body: Some(BodyFormat::Json),
            scope: "client:admin".to_owned(),
            code: "sandbox-authorization-code-5Hq8".to_owned(),
            redirect_uri: "https://app.example.ca/flinks/callback".to_owned(),
            refresh_token: "sandbox-refresh-token-Yb7mP4xRc1".to_owned(),
            rotate_refresh_tokens: false,
            rotation_grace: false,
            punish_reuse: false,
            jwt: true,
            token_life: Duration::from_secs(299),
            expires_in: None,
            refusal: StatusCode::UNAUTHORIZED,
            faults: Vec::new(),
            memory: 100_000,
        }
    }
}

/// A running provider, on a thread of its own; dropping it stops and joins that thread.
///
/// It stands for one end user's connection, to which every token belongs. Its methods may be called
/// from any thread; they change what the next request meets.
#[derive(Debug)]
pub struct Provider {
    state: Arc<State>,
    address: SocketAddr,
    ca_pem: String,
    orders: async_mpsc::UnboundedSender<Order>,
    thread: Option<JoinHandle<()>>,
}

impl Provider {
    /// Opens the port, makes a certificate and starts to serve.
    ///
    /// # Errors
    /// When the port cannot be opened or the thread cannot be started.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let identity = certificate::make(settings.certificate)?;
        let listener = TcpListener::bind(settings.address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::new(settings));
        let (orders, received) = async_mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().name("sandbox".to_owned()).spawn({
            let state = Arc::clone(&state);
            move || {
                let served = runtime.block_on(server::run(state, listener, identity.tls, received));
                if let Err(error) = served {
                    tracing::error!(target: "sandbox", %error, "the sandbox provider stopped");
                }
            }
        })?;
        Ok(Self { state, address, ca_pem: identity.ca_pem, orders, thread: Some(thread) })
    }

    /// Where it listens, also while it is down.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The API's scheme, host and port.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The token endpoint.
    #[must_use]
    pub fn token_url(&self) -> String {
        format!("https://{}{}", self.address, oauth::PATH)
    }

    /// The authority that signed its certificate, made at the start.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// What every exchange meets until this is called again; `None` heals it.
    ///
    /// With [`TokenFault::Down`] this returns once the provider [is down](Self::go_down).
    pub fn set_token_fault(&self, fault: Option<TokenFault>) {
        locked(&self.state.script).token_fault = fault;
        self.settle();
    }

    /// What the next exchanges meet, one each, before any other fault. [`TokenFault::Down`] acts as
    /// [`TokenFault::Reset`] here, because the connection is open already.
    pub fn next_token_faults(&self, faults: impl IntoIterator<Item = TokenFault>) {
        locked(&self.state.script).next_token_faults.extend(faults);
    }

    /// The error body that every exchange is answered with until this is called again.
    pub fn set_token_error(&self, error: Option<(StatusCode, &str)>) {
        locked(&self.state.script).token_error = error.map(|(status, error)| (status, error.to_owned()));
    }

    /// The `Retry-After` of a 429, at the token endpoint and at the API. 5 s at the start.
    pub fn set_retry_after(&self, pause: Duration) {
        locked(&self.state.script).retry_after = pause;
    }

    /// What every API request meets until this is called again; `None` heals it.
    pub fn set_api_fault(&self, fault: Option<ApiFault>) {
        locked(&self.state.script).api_fault = fault;
    }

    /// Refuses every access token given out so far; the grant lives on.
    pub fn revoke_tokens(&self) {
        locked(&self.state.book).revoke_tokens();
    }

    /// Ends the end user's consent: the API says 602 to any token, and refresh tokens and the code
    /// become an `invalid_grant`.
    pub fn revoke_consent(&self) {
        locked(&self.state.book).revoke_consent();
    }

    /// Refuses connections and resets those that are open. Returns once that has happened.
    pub fn go_down(&self) {
        locked(&self.state.script).down = true;
        self.settle();
    }

    /// Listens again, on the same port. Returns once that has happened.
    pub fn come_back(&self) {
        locked(&self.state.script).down = false;
        self.settle();
    }

    /// The token requests, oldest first; see [`Settings::memory`].
    #[must_use]
    pub fn exchanges(&self) -> Vec<Exchange> {
        locked(&self.state.record).exchanges.to_vec()
    }

    /// The API requests, oldest first; see [`Settings::memory`].
    #[must_use]
    pub fn requests(&self) -> Vec<Seen> {
        locked(&self.state.record).requests.to_vec()
    }

    /// How many API requests there were of each kind, from the start.
    #[must_use]
    pub fn tally(&self) -> Tally {
        locked(&self.state.record).tally.clone()
    }

    /// Every access and refresh token that it issued: none of them may show up in a log.
    #[must_use]
    pub fn issued_secrets(&self) -> Vec<String> {
        locked(&self.state.book).issued.clone()
    }

    /// Waits until the port is as open or closed as the script has it.
    fn settle(&self) {
        let (done, settled) = mpsc::channel();
        if self.orders.send(Order::Settle(done)).is_ok() {
            // An error means that the thread has ended, and then nothing is left to settle.
            let _ = settled.recv();
        }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the provider's thread shares with its handle. Std mutexes, as none is held across an await.
#[derive(Debug)]
struct State {
    settings: Settings,
    started: Instant,
    script: Mutex<Script>,
    book: Mutex<Book>,
    record: Mutex<Record>,
}

impl State {
    fn new(settings: Settings) -> Self {
        Self {
            started: Instant::now(),
            script: Mutex::new(Script::new(settings.faults.clone())),
            book: Mutex::new(Book::new(&settings)),
            record: Mutex::new(Record::new(settings.memory)),
            settings,
        }
    }
}

/// A panic of another test's thread must not hide behind a poisoned lock here.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

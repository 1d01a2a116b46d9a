//! A token endpoint that follows a script and writes down what it saw.

use std::{
    cell::{Ref, RefCell},
    fmt, io,
    path::PathBuf,
    rc::Rc,
    time::Duration,
};

use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::sleep;

use super::Time;
use crate::{
    http_client::ConnectError,
    secret::{Secret, SecretSource},
    token::{
        Exchange, FetchError, Issued, Presented,
        credentials::PresentedGrant,
        wire::{self, Answer, OAuthError},
    },
};

/// What the script is asked for each request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    /// 0 for the first request.
    pub(super) nth: usize,
    /// When it was started.
    pub(super) at: Duration,
}

/// What becomes of a request.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    /// How long until the server handles it: a token's life begins there.
    pub(super) there: Duration,
    /// How long the answer is on its way.
    pub(super) back: Duration,
    pub(super) outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A token, with these as `expires_in` (any JSON) and `refresh_token`.
    Token {
        expires_in: Option<String>,
        refresh_token: Option<String>,
    },
    /// A failure, with the seconds of its `Retry-After` if it is of a kind that can have one.
    Fault(Fault, Option<u64>),
    /// No answer for as long as it is waited for.
    Hang,
    Panic,
}

impl Outcome {
    /// A token with this `expires_in`.
    pub(super) fn token(expires_in: &str) -> Self {
        Self::Token { expires_in: Some(expires_in.to_owned()), refresh_token: None }
    }

    /// This outcome, after these times.
    pub(super) fn after(self, there: Duration, back: Duration) -> Reply {
        Reply { there, back, outcome: self }
    }
}

/// One of each [`FetchError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Connect,
    Timeout,
    Broken,
    Oversize,
    Empty,
    Malformed,
    UnusableToken,
    NotBearer,
    CodeUsed,
    Secret,
    OAuth(OAuthError),
    Status(u16),
}

impl Fault {
    pub(super) async fn error(self, retry_after: Option<u64>) -> FetchError {
        let retry_after = retry_after.map(Duration::from_secs);
        match self {
            Self::Connect => FetchError::Connect(ConnectError::Tcp(io::ErrorKind::ConnectionRefused.into())),
            Self::Timeout => FetchError::Timeout,
            Self::Broken => FetchError::Broken(broken().await),
            Self::Oversize => FetchError::Oversize,
            Self::Empty => FetchError::Empty,
            Self::Malformed => FetchError::Malformed,
            Self::UnusableToken => FetchError::UnusableToken,
            Self::NotBearer => FetchError::NotBearer,
            Self::CodeUsed => FetchError::CodeUsed,
            Self::Secret => {
                let nowhere = SecretSource::File(PathBuf::from("/nonexistent/secret"));
                FetchError::Secret(nowhere.read().expect_err("there is no such file"))
            }
            Self::OAuth(error) => {
                FetchError::OAuth { error, status: StatusCode::BAD_REQUEST, description: None, retry_after }
            }
            Self::Status(status) => {
                let status = StatusCode::from_u16(status).expect("a status");
                FetchError::Status { status, retry_after }
            }
        }
    }
}

/// What an HTTP client says when the other side hangs up: over a pipe in memory.
async fn broken() -> hyper::Error {
    let (ours, theirs) = tokio::io::duplex(64);
    drop(theirs);
    let (mut sender, connection) = http1::handshake(TokioIo::new(ours)).await.expect("nothing is sent yet");
    let request = sender.send_request(Request::new(Empty::<&[u8]>::new()));
    let (_, answer) = tokio::join!(connection, request);
    answer.expect_err("nobody answers")
}

/// One request and its end, in the time of the simulation.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) presented: Grant,
    /// `Debug` of what was presented.
    pub(super) shown: String,
    pub(super) started: Duration,
    /// When the server had it.
    pub(super) handled: Option<Duration>,
    pub(super) ended: Option<Duration>,
    pub(super) ending: Ending,
    pub(super) outcome: Outcome,
}

impl Call {
    /// Returns true if it gave a token.
    pub(super) fn is_success(&self) -> bool {
        self.ending == Ending::Answered && matches!(self.outcome, Outcome::Token { .. })
    }

    /// The end, of a request that came to it.
    pub(super) fn end(&self) -> Duration {
        self.ended.expect("this request has ended")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Not yet.
    Open,
    /// With the scripted outcome.
    Answered,
    /// It was dropped on the way, or it panicked.
    Dropped,
}

/// What was presented.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Grant {
    ClientCredentials,
    Code(String),
    RefreshToken(String),
}

impl From<&PresentedGrant> for Grant {
    fn from(presented: &PresentedGrant) -> Self {
        match presented {
            PresentedGrant::ClientCredentials => Self::ClientCredentials,
            PresentedGrant::Code { code, .. } => Self::Code(code.expose().to_owned()),
            PresentedGrant::RefreshToken(token) => Self::RefreshToken(token.expose().to_owned()),
        }
    }
}

/// The endpoint; clones are the same one.
#[derive(Clone)]
pub(super) struct Provider {
    time: Time,
    script: Rc<RefCell<dyn FnMut(Ask) -> Reply>>,
    calls: Rc<RefCell<Vec<Call>>>,
}

impl Provider {
    pub(super) fn new(time: Time, script: impl FnMut(Ask) -> Reply + 'static) -> Self {
        Self { time, script: Rc::new(RefCell::new(script)), calls: Rc::default() }
    }

    /// Every request so far.
    pub(super) fn calls(&self) -> Ref<'_, Vec<Call>> {
        self.calls.borrow()
    }

    /// How many requests there have been.
    pub(super) fn count(&self) -> usize {
        self.calls.borrow().len()
    }

    /// Fails unless each request started after the one before it had ended, and a second after it had started.
    pub(super) fn assert_spaced(&self) {
        for pair in self.calls.borrow().windows(2) {
            let [earlier, later] = pair else { unreachable!("windows of two") };
            assert!(earlier.ended.is_some_and(|end| end <= later.started), "two at a time: {pair:?}");
            let gap = later.started - earlier.started;
            assert!(gap >= Duration::from_secs(1), "{gap:?} apart: {pair:?}");
        }
    }

    fn note(&self, nth: usize, change: impl FnOnce(&mut Call)) {
        change(&mut self.calls.borrow_mut()[nth]);
    }
}

/// Notes the end of a request however it comes.
struct Guard<'a>(&'a Provider, usize);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let now = self.0.time.now();
        self.0.note(self.1, |call| {
            call.ended = Some(now);
            if call.ending == Ending::Open {
                call.ending = Ending::Dropped;
            }
        });
    }
}

impl Exchange for Provider {
    async fn exchange(&self, presented: &Presented) -> Result<Issued, FetchError> {
        let (nth, at) = (self.count(), self.time.now());
        let Reply { there, back, outcome } = (self.script.borrow_mut())(Ask { nth, at });
        self.calls.borrow_mut().push(Call {
            presented: Grant::from(&presented.grant),
            shown: format!("{presented:?}"),
            started: at,
            handled: None,
            ended: None,
            ending: Ending::Open,
            outcome: outcome.clone(),
        });
        let _guard = Guard(self, nth);
        pass(there).await;
        self.note(nth, |call| call.handled = Some(self.time.now()));
        pass(back).await;
        let answer = match outcome {
            Outcome::Token { expires_in, refresh_token } => issue(nth, expires_in, refresh_token),
            Outcome::Fault(Fault::UnusableToken, _) => Ok(issued("not\u{e9}visible", None, None)),
            Outcome::Fault(fault, retry_after) => Err(fault.error(retry_after).await),
            Outcome::Hang => std::future::pending().await,
            Outcome::Panic => panic!("the script says so"),
        };
        self.note(nth, |call| call.ending = Ending::Answered);
        answer
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Provider")
    }
}

async fn pass(span: Duration) {
    if !span.is_zero() {
        sleep(span).await;
    }
}

/// What the client makes of a response with this token: it goes through the same parser.
fn issue(nth: usize, expires_in: Option<String>, refresh_token: Option<String>) -> Result<Issued, FetchError> {
    let mut body = format!(r#"{{"access_token":"token-{nth}","token_type":"Bearer""#);
    if let Some(json) = expires_in {
        body.push_str(&format!(r#","expires_in":{json}"#));
    }
    if let Some(token) = refresh_token {
        body.push_str(&format!(r#","refresh_token":"{token}""#));
    }
    body.push('}');
    match wire::parse(body.as_bytes()) {
        Some(Answer::Grant(grant)) => Ok(issued(grant.access_token.expose(), grant.expires_in, grant.refresh_token)),
        Some(Answer::Error(..) | Answer::Other) | None => Err(FetchError::Malformed),
    }
}

fn issued(access_token: &str, lifetime: Option<Duration>, refresh_token: Option<Secret>) -> Issued {
    Issued { access_token: Some(Secret::new(access_token.to_owned())), lifetime, refresh_token }
}

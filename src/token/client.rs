//! One grant, one exchange: the request to the token endpoint, and what became of it.

use std::time::{Duration, SystemTime};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HOST, RETRY_AFTER, USER_AGENT},
    response::Parts,
    uri::PathAndQuery,
};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::InvalidDnsNameError};
use zeroize::{Zeroize, Zeroizing};

use super::{
    FetchError,
    credentials::{Presented, PresentedGrant},
    wire::{self, Answer, Fields, TokenType},
};
use crate::{
    config::{self, BodyFormat, ClientAuth, HttpVersion},
    http_client::{Connector, Need},
    secret::Secret,
};

/// The largest answer that is read: 64 KiB.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// The longest that connecting may take, of the whole exchange's time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// What an exchange gave.
#[derive(Debug)]
pub struct Issued {
    /// `None` if it is of another type than Bearer.
    pub(super) access_token: Option<Secret>,
    /// As the response states it; `None` if it states none that makes sense.
    pub(super) lifetime: Option<Duration>,
    /// A refresh token to be used from now on; `None` if the old one stays.
    pub(super) refresh_token: Option<Secret>,
}

/// One exchange of a grant for a token. In tests, a script.
pub trait Exchange {
    /// Sends one token request and reads its answer, within a bounded time.
    ///
    /// # Errors
    /// See [`FetchError`].
    ///
    /// # Cancel safety
    /// Not cancel safe: dropping the future leaves open whether the grant was used.
    fn exchange(&self, presented: &Presented) -> impl Future<Output = Result<Issued, FetchError>>;
}

/// The way to the token endpoint. Every exchange uses a connection of its own: one that had gone
/// stale would leave open whether the grant was used.
pub struct TokenClient {
    connector: Connector,
    host: HeaderValue,
    path: PathAndQuery,
    client_id: String,
    client_auth: ClientAuth,
    body: BodyFormat,
    scope: Option<String>,
    timeout: Duration,
}

impl TokenClient {
    /// # Errors
    /// When the host of `token.url` cannot be a name in a certificate.
    pub fn new(config: &config::Token, tls: &ClientConfig) -> Result<Self, InvalidDnsNameError> {
        Ok(Self {
            connector: Connector::new(
                &config.origin,
                tls,
                HttpVersion::Http1,
                config.timeout.min(CONNECT_TIMEOUT),
                config.timeout,
            )?,
            host: config.origin.host_header(),
            path: config.path.clone(),
            client_id: config.client_id.clone(),
            client_auth: config.client_auth,
            body: config.body,
            scope: config.scope.clone(),
            timeout: config.timeout,
        })
    }

    /// Who makes its connections, so that their TLS settings can be replaced.
    #[must_use]
    pub fn connector(&self) -> Connector {
        self.connector.clone()
    }

    fn request(&self, presented: &Presented) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(Bytes::from_owner(self.fields(presented).encode(self.body))));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path.clone().into();
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("token-valet/", env!("CARGO_PKG_VERSION"))));
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static(match self.body {
                BodyFormat::Json => "application/json",
                BodyFormat::Form => "application/x-www-form-urlencoded",
            }),
        );
        if self.client_auth == ClientAuth::Basic {
            headers.insert(AUTHORIZATION, basic(&self.client_id, &presented.client_secret));
        }
        request
    }

    fn fields<'a>(&'a self, presented: &'a Presented) -> Fields<'a> {
        let mut fields = match &presented.grant {
            PresentedGrant::ClientCredentials => {
                let mut fields = vec![("grant_type", "client_credentials")];
                fields.extend(self.scope.as_deref().map(|scope| ("scope", scope)));
                fields
            }
            PresentedGrant::Code { code, redirect_uri } => {
                vec![("grant_type", "authorization_code"), ("code", code.expose()), ("redirect_uri", redirect_uri)]
            }
            PresentedGrant::RefreshToken(token) => {
                vec![("grant_type", "refresh_token"), ("refresh_token", token.expose())]
            }
        };
        if self.client_auth == ClientAuth::Body {
            fields.push(("client_id", &self.client_id));
            fields.push(("client_secret", presented.client_secret.expose()));
        }
        Fields(fields)
    }
}

impl Exchange for TokenClient {
    async fn exchange(&self, presented: &Presented) -> Result<Issued, FetchError> {
        let exchange = async {
            let stream = self.connector.connect(Need::Http1).await.map_err(FetchError::Connect)?.stream;
            // Declared before the connection, so dropped after it: while that lives, it shares their memory.
            let mut frames = Frames::default();
            let head = {
                let (mut sender, connection) =
                    http1::handshake(TokioIo::new(stream)).await.map_err(FetchError::Broken)?;
                let (request, frames) = (self.request(presented), &mut frames);
                let answer = async move {
                    let response = sender.send_request(request).await.map_err(FetchError::Broken)?;
                    let (head, body) = response.into_parts();
                    frames.collect(body).await.map(|()| head)
                };
                // The connection is driven here, so that it ends with the exchange.
                tokio::pin!(answer, connection);
                tokio::select! {
                    answer = &mut answer => answer,
                    _ = &mut connection => answer.await,
                }?
            };
            understand(&head, &frames.joined(), presented)
        };
        tokio::time::timeout(self.timeout, exchange).await.map_err(|_| FetchError::Timeout)?
    }
}

impl std::fmt::Debug for TokenClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenClient")
            .field("connector", &self.connector)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// HTTP Basic, with both halves form-encoded first (RFC 6749 section 2.3.1), in memory that is zeroed after use.
fn basic(client_id: &str, secret: &Secret) -> HeaderValue {
    let mut pair = Zeroizing::new(Vec::with_capacity(3 * (client_id.len() + secret.expose().len()) + 1));
    wire::form_encode(client_id, &mut pair);
    pair.push(b':');
    wire::form_encode(secret.expose(), &mut pair);
    let room = "Basic ".len() + pair.len().div_ceil(3) * 4;
    let mut text = Zeroizing::new(String::with_capacity(room));
    text.push_str("Basic ");
    BASE64_STANDARD.encode_string(&*pair, &mut text);
    let bytes = Bytes::from_owner(Zeroizing::new(std::mem::take(&mut *text).into_bytes()));
    let mut value = HeaderValue::from_maybe_shared(bytes).expect("base64 is visible ASCII");
    value.set_sensitive(true);
    value
}

fn understand(head: &Parts, body: &[u8], presented: &Presented) -> Result<Issued, FetchError> {
    let retry_after = retry_after(&head.headers);
    match wire::parse(body) {
        Some(Answer::Error(error, description)) => {
            // Checked as it came: what is cut off or left out could be the rest of a secret.
            let description =
                description.filter(|text| !presented.is_repeated_by(text)).and_then(|text| wire::printable(&text));
            Err(FetchError::OAuth { error, status: head.status, description, retry_after })
        }
        Some(Answer::Grant(grant)) if head.status == StatusCode::OK => {
            if grant.token_type == TokenType::Missing {
                tracing::warn!("the token response names no token type; taken as Bearer");
            }
            let lifetime = shorter(grant.expires_in, jwt_lifetime(grant.access_token.expose(), &head.headers));
            Ok(Issued {
                access_token: Some(grant.access_token).filter(|_| grant.token_type != TokenType::Other),
                lifetime,
                refresh_token: grant.refresh_token,
            })
        }
        _ if head.status == StatusCode::OK && body.is_empty() => Err(FetchError::Empty),
        _ if head.status == StatusCode::OK => Err(FetchError::Malformed),
        _ => Err(FetchError::Status { status: head.status, retry_after }),
    }
}

/// The pieces of an answer's body, in hyper's memory. They are zeroed when they are dropped, if the
/// connection is gone by then; of pieces that share one buffer, only the last is.
#[derive(Default)]
struct Frames(Vec<Bytes>);

impl Frames {
    async fn collect(&mut self, body: Incoming) -> Result<(), FetchError> {
        let mut body = Limited::new(body, MAX_ANSWER_BYTES);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| match error.downcast::<hyper::Error>() {
                Ok(error) => FetchError::Broken(*error),
                Err(other) => {
                    debug_assert!(other.is::<LengthLimitError>());
                    FetchError::Oversize
                }
            })?;
            self.0.extend(frame.into_data());
        }
        Ok(())
    }

    /// The whole body, in memory that is zeroed after use.
    fn joined(&self) -> Zeroizing<Vec<u8>> {
        // Allocates once: a buffer that grows would leave copies of the token behind it.
        Zeroizing::new(self.0.concat())
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        for frame in self.0.drain(..) {
            if let Ok(mut bytes) = frame.try_into_mut() {
                bytes.zeroize();
            }
        }
    }
}

/// A JWT's `exp`, counted from the response's own `Date`: the local wall clock has no say.
pub(crate) fn jwt_lifetime(access_token: &str, headers: &HeaderMap) -> Option<Duration> {
    let expiry = wire::jwt_expiry(access_token)?;
    let date = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    let now = date.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    let seconds = expiry.checked_sub(now).filter(|seconds| *seconds > 0)?;
    Some(Duration::from_secs(seconds).min(wire::MAX_LIFETIME))
}

/// The shorter of two, or the one there is.
fn shorter(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

/// `Retry-After` in seconds or as a date (RFC 9110 section 10.2.3), the latter counted from the response's `Date`.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let from = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    Some(until.duration_since(from).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::{basic, jwt_lifetime, retry_after, shorter};
    use crate::secret::Secret;

    const DATE: (&str, &str) = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
    const DATE_UNIX: u64 = 784_111_777;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn jwt(expiry: u64) -> String {
        let part = |json: String| BASE64_URL_SAFE_NO_PAD.encode(json);
        format!("{}.{}.c2ln", part("{}".into()), part(format!("{{\"exp\":{expiry}}}")))
    }

    #[test]
    fn the_expiry_of_a_jwt_counts_from_the_response_s_own_date() {
        assert_eq!(jwt_lifetime(&jwt(DATE_UNIX + 299), &headers(&[DATE])), Some(Duration::from_secs(299)));
        assert_eq!(jwt_lifetime(&jwt(DATE_UNIX + 299), &headers(&[])), None, "no date to count from");
        assert_eq!(jwt_lifetime(&jwt(DATE_UNIX), &headers(&[DATE])), None, "never zero");
        assert_eq!(jwt_lifetime(&jwt(u64::MAX), &headers(&[DATE])), Some(Duration::from_secs(86_400)), "a day at most");
        assert_eq!(jwt_lifetime("opaque", &headers(&[DATE])), None);
    }

    #[test]
    fn of_two_stated_lifetimes_the_shorter_counts_and_of_one_that_one() {
        let (short, long) = (Some(Duration::from_secs(60)), Some(Duration::from_secs(299)));
        assert_eq!((shorter(short, long), shorter(long, short)), (short, short));
        assert_eq!((shorter(None, long), shorter(long, None), shorter(None, None)), (long, long, None));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let asked = |value| retry_after(&headers(&[DATE, ("retry-after", value)]));
        assert_eq!(asked("5"), Some(Duration::from_secs(5)));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:47 GMT"), Some(Duration::from_secs(10)));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:27 GMT"), Some(Duration::ZERO), "past already");
        assert_eq!(asked("soon"), None);
    }

    #[test]
    fn basic_credentials_are_form_encoded_and_sensitive() {
        let value = basic("an id", &Secret::new("s:e%c".to_owned()));
        // an+id:s%3Ae%25c
        assert_eq!(value.to_str().expect("ASCII"), "Basic YW4raWQ6cyUzQWUlMjVj");
        assert!(value.is_sensitive());
    }
}

//! The data API: the gate that every request passes, and the paths behind it.

use std::{future, io::Write as _, time::Instant};

use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    State, accounts,
    book::{Consent, TokenState},
    locked, probe,
    record::Seen,
    reply::{self, Pieces, Reply},
    script::ApiFault,
};

const REVOKE: &str = "/api/v1/revoke";

/// Answers one request, by the rules or by the script.
pub(super) async fn answer(state: &State, request: Request<Incoming>) -> Reply {
    let token = token_state(state, request.headers());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let number = locked(&state.record).arrived(Seen {
        at: Instant::now(),
        method: method.clone(),
        target: request.uri().to_string(),
        headers: request.headers().clone(),
        token,
        status: None,
    });
    let fault = locked(&state.script).api_fault;
    let mut reply = match fault {
        None => by_rules(state, token, request).await,
        Some(ApiFault::SlowHead(pause)) => {
            sleep(pause).await;
            by_rules(state, token, request).await
        }
        Some(ApiFault::Hang) => future::pending().await,
        Some(ApiFault::AlwaysUnauthorized) => unauthorized(StatusCode::UNAUTHORIZED),
        Some(ApiFault::ConsentRevoked) => not_consented(),
        Some(ApiFault::ConsentRevokedGzip) => not_consented_in_gzip(),
        Some(ApiFault::TooManyRequests) => too_many_requests(state),
        Some(ApiFault::Maintenance) => reply::fdx_error(StatusCode::SERVICE_UNAVAILABLE, 503, "Scheduled maintenance"),
        Some(ApiFault::DieInBody) => reply::streamed(Pieces::breaking_off()),
    };
    for name in ["ob-correlation-id", "ob-trace-id"] {
        reply.headers_mut().insert(name, support_id());
    }
    let status = reply.status();
    locked(&state.record).answered(number, status);
    tracing::debug!(
        target: "sandbox", %method, path, status = status.as_u16(), ?token, "the data API was asked"
    );
    reply
}

/// Lets a request with a good token through to its path.
async fn by_rules(state: &State, token: TokenState, request: Request<Incoming>) -> Reply {
    match token {
        TokenState::Valid => {}
        TokenState::Expired | TokenState::Revoked | TokenState::Unknown | TokenState::Missing => {
            take(request.into_body()).await;
            return unauthorized(state.settings.refusal);
        }
    }
    if locked(&state.book).consent == Consent::Withdrawn {
        return not_consented();
    }
    let path = request.uri().path();
    if path.starts_with(probe::PREFIX) {
        return probe::answer(request).await;
    }
    let method = request.method();
    if path == REVOKE {
        if method != Method::DELETE && method != Method::POST {
            return method_not_allowed("DELETE, POST");
        }
        locked(&state.book).revoke_consent();
        return reply::bare(StatusCode::NO_CONTENT);
    }
    let Some(path) = path.strip_prefix(accounts::PREFIX) else {
        return reply::fdx_error(StatusCode::NOT_FOUND, 601, "There is nothing at this path");
    };
    if method != Method::GET && method != Method::HEAD {
        return method_not_allowed("GET, HEAD");
    }
    match accounts::read(path, request.uri().query().unwrap_or_default()) {
        Ok(body) => reply::json(StatusCode::OK, &body),
        Err(error) => reply::fdx_error(error.status, error.code, error.message),
    }
}

/// Reads a body that nobody wants, up to a MiB: closing on it would reset the connection, and with it
/// the answer.
async fn take(body: Incoming) {
    let mut body = Limited::new(body, 1 << 20);
    while body.frame().await.is_some_and(|frame| frame.is_ok()) {}
}

fn token_state(state: &State, headers: &HeaderMap) -> TokenState {
    // Two of them would be a proxy's fault, so neither counts.
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return TokenState::Missing;
    };
    match value.to_str().ok().and_then(|value| value.split_once(' ')) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => locked(&state.book).state(token),
        Some(_) | None => TokenState::Missing,
    }
}

/// An expired or invalid token shows in what the body lacks: `code` and `debugMessage`.
fn unauthorized(status: StatusCode) -> Reply {
    reply::json(status, &json!({ "message": "The access token is expired or invalid." }))
}

fn not_consented() -> Reply {
    reply::json(StatusCode::UNAUTHORIZED, &not_consented_body())
}

fn not_consented_body() -> Value {
    reply::fdx_body(602, "Customer not authorized")
}

fn not_consented_in_gzip() -> Reply {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let body = encoder.write_all(not_consented_body().to_string().as_bytes()).and_then(|()| encoder.finish());
    let body = body.expect("writing to memory does not fail");
    let mut reply = reply::whole(StatusCode::UNAUTHORIZED, HeaderValue::from_static("application/json"), body);
    reply.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    reply
}

fn too_many_requests(state: &State) -> Reply {
    let pause = locked(&state.script).retry_after;
    let mut reply = reply::fdx_error(StatusCode::TOO_MANY_REQUESTS, 1207, "Too many requests");
    reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(pause.as_secs()));
    reply
}

fn method_not_allowed(allowed: &'static str) -> Reply {
    let mut reply = reply::fdx_error(StatusCode::METHOD_NOT_ALLOWED, 501, "The method is not supported here");
    reply.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    reply
}

/// A random UUID (RFC 9562 section 5.4), to quote to support.
fn support_id() -> HeaderValue {
    let bits = rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    let id = format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    HeaderValue::from_str(&id).expect("hexadecimal digits and hyphens are a header's value")
}

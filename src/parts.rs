//! What the fuzz targets of `tests/fuzz` and the counts of `tests/bench/instructions.rs` call: functions that read
//! what comes from the network, which are nobody else's business. Compiled for them alone.

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, Uri, request::Parts, uri::PathAndQuery};

use crate::{
    clock::Moment,
    proxy::{ProxyError, headers, target, verdict},
    token::{TokenCell, client, wire},
};

/// The request target for the API.
///
/// # Errors
/// When it is refused.
pub fn target_to_upstream(method: &Method, target: &Uri, prefix: &str) -> Result<PathAndQuery, ProxyError> {
    target::to_upstream(method, target, prefix)
}

/// Looks for what servers may read differently in a request.
///
/// # Errors
/// When there is such a thing.
pub fn check(head: &Parts) -> Result<(), ProxyError> {
    headers::check(head)
}

/// The same in an answer.
///
/// # Errors
/// When there is such a thing.
pub fn check_answer(headers: &HeaderMap) -> Result<(), ProxyError> {
    headers::check_answer(headers)
}

/// Makes a caller's fields fit for the API.
pub fn headers_to_upstream(headers: &mut HeaderMap) {
    headers::to_upstream(headers);
}

/// Makes the API's fields fit for the caller.
pub fn headers_to_client(headers: &mut HeaderMap) {
    headers::to_client(headers);
}

/// Makes the trailers of either fit for the other.
pub fn clean_trailers(trailers: &mut HeaderMap) {
    headers::clean_trailers(trailers);
}

/// Whether a complete answer says that the token is not good.
#[must_use]
pub fn is_about_the_token(status: StatusCode, headers: &HeaderMap, body: &[u8], is_head: bool) -> bool {
    verdict::is_about_the_token(status, headers, body, is_head)
}

/// A cell with a token that can be sent for an hour; `None` if no header can have it.
#[must_use]
pub fn token_cell(access_token: &str, now: Moment) -> Option<TokenCell> {
    TokenCell::holding(access_token, now)
}

/// What a token endpoint's body says.
#[derive(Debug)]
pub enum TokenResponse {
    /// A token.
    Grant {
        /// By `expires_in`.
        stated: Option<Duration>,
        /// By the token itself, counted from the response's `Date`.
        jwt: Option<Duration>,
    },
    /// An OAuth error, with what may be logged of its description.
    Error(Option<String>),
    /// Neither.
    Other,
}

/// Reads a token endpoint's answer, as far as that needs no configuration; `None` for one that is not understood.
#[must_use]
pub fn token_response(headers: &HeaderMap, body: &[u8]) -> Option<TokenResponse> {
    Some(match wire::parse(body)? {
        wire::Answer::Grant(grant) => TokenResponse::Grant {
            stated: grant.expires_in,
            jwt: client::jwt_lifetime(grant.access_token.expose(), headers),
        },
        wire::Answer::Error(_, description) => {
            TokenResponse::Error(description.and_then(|text| wire::printable(&text)))
        }
        wire::Answer::Other => TokenResponse::Other,
    })
}

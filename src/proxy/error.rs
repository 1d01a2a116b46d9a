//! Every way in which a request can fail at the sidecar, and what the caller is told of it.

use http::{
    HeaderName, HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER},
};

use super::{Forbidden, ResponseBody, upload::UploadFault};
use crate::{http_client::ConnectError, tls::Suspect, token::Unavailable};

/// Names the sidecar as the origin of an answer, with the reason.
pub(super) const REASON: HeaderName = HeaderName::from_static("x-token-valet-error");

/// Why a request was not forwarded, or its answer not passed on.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// There is no token to send.
    #[error("no access token")]
    Token(#[from] Unavailable),
    /// `upstream.max_in_flight` requests are on their way.
    #[error("too many requests are in flight")]
    Overloaded,
    /// `listen.max_connections` are open.
    #[error("too many connections are open")]
    Crowded,
    /// The request is not let in.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// CONNECT, as this is no forward proxy; TRACE, as its answer would show the token.
    #[error("the method is not served")]
    MethodNotAllowed,
    /// The request makes no sense.
    #[error("the request is malformed")]
    BadRequest,
    /// The caller stopped sending its body.
    #[error("the request's body stood still for too long")]
    UploadStalled,
    /// No connection to the API.
    #[error("cannot connect to the API")]
    Connect(#[from] ConnectError),
    /// The API closed the connection before it answered, or what it sent is not HTTP.
    #[error("the API broke the exchange off")]
    Broken(#[source] hyper::Error),
    /// The API stopped taking the request.
    #[error("the API stopped taking the request")]
    Stalled(#[source] hyper::Error),
    /// The end of the API's answer is not clear, or it switches protocols unasked.
    #[error("the API's answer is malformed")]
    Malformed,
    /// The head of the response took longer than `upstream.response_timeout`.
    #[error("the API did not answer in time")]
    ResponseTimeout,
}

impl ProxyError {
    /// The exchange broke off: by `fault` of the caller's body, or else the API's.
    pub(super) fn broken(error: hyper::Error, fault: Option<UploadFault>) -> Self {
        match fault {
            Some(UploadFault::Stalled) => Self::UploadStalled,
            Some(UploadFault::Broken) => Self::BadRequest,
            None => Self::Broken(error),
        }
    }

    /// The status that the caller gets.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Token(Unavailable::Transient { .. } | Unavailable::Crowded) | Self::Overloaded | Self::Crowded => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Token(Unavailable::Configuration | Unavailable::Reauthorize) | Self::Broken(_) | Self::Malformed => {
                StatusCode::BAD_GATEWAY
            }
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::UploadStalled => StatusCode::REQUEST_TIMEOUT,
            Self::Connect(ConnectError::Timeout) | Self::ResponseTimeout | Self::Stalled(_) => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::Connect(
                ConnectError::Resolve(_)
                | ConnectError::NoAddress
                | ConnectError::Tcp(_)
                | ConnectError::Tls(_)
                | ConnectError::NotHttp2
                | ConnectError::Http(_),
            ) => StatusCode::BAD_GATEWAY,
        }
    }

    /// One stable word, for machines.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Token(Unavailable::Transient { .. }) => "token_unavailable",
            Self::Token(Unavailable::Configuration) => "token_config",
            Self::Token(Unavailable::Reauthorize) => "reauthorize",
            Self::Token(Unavailable::Crowded) | Self::Overloaded | Self::Crowded => "overloaded",
            Self::Forbidden(_) => "forbidden",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::BadRequest => "bad_request",
            Self::UploadStalled | Self::Stalled(_) => "body_timeout",
            Self::Connect(ConnectError::Timeout) => "connect_timeout",
            Self::Connect(ConnectError::Tls(_)) => "upstream_tls",
            Self::Connect(
                ConnectError::Resolve(_)
                | ConnectError::NoAddress
                | ConnectError::Tcp(_)
                | ConnectError::NotHttp2
                | ConnectError::Http(_),
            ) => "upstream_connect",
            Self::Broken(_) | Self::Malformed => "upstream_broken",
            Self::ResponseTimeout => "response_timeout",
        }
    }

    /// The configuration keys that an operator should look at.
    #[must_use]
    pub fn keys(&self) -> Option<&'static str> {
        let Self::Connect(ConnectError::Tls(error)) = self else { return None };
        error.suspect().map(|suspect| match suspect {
            Suspect::Url => "upstream.url",
            Suspect::Authorities => "upstream.ca_file",
            Suspect::Version => "upstream.tls_min",
            Suspect::ClientCertificate => "upstream.client_cert_file",
        })
    }

    /// One fixed sentence, for people. What lies behind it is in the log.
    fn title(&self) -> &'static str {
        match self {
            Self::Token(Unavailable::Transient { .. }) => "The sidecar has no valid access token at the moment",
            Self::Token(Unavailable::Crowded) => "Too many requests are waiting for an access token",
            Self::Token(Unavailable::Configuration) => "The sidecar cannot get an access token with its configuration",
            Self::Token(Unavailable::Reauthorize) => "The user must authorize the connection again",
            Self::Overloaded => "Too many requests are in flight",
            Self::Crowded => "Too many connections are open",
            Self::Forbidden(_) => "The sidecar does not let this request in",
            Self::MethodNotAllowed => "The sidecar does not serve this method",
            Self::BadRequest => "The request is malformed",
            Self::UploadStalled => "The request's body stood still for too long",
            Self::Connect(ConnectError::Timeout) => "Connecting to the API took too long",
            Self::Connect(ConnectError::Tls(_)) => "The TLS handshake with the API failed",
            Self::Connect(
                ConnectError::Resolve(_)
                | ConnectError::NoAddress
                | ConnectError::Tcp(_)
                | ConnectError::NotHttp2
                | ConnectError::Http(_),
            ) => "The API cannot be connected to",
            Self::Broken(_) => "The API broke the exchange off",
            Self::Stalled(_) => "The API stopped taking the request",
            Self::Malformed => "The API's answer is malformed",
            Self::ResponseTimeout => "The API did not answer in time",
        }
    }

    /// When the caller may try again, in whole seconds from 1: half a one is not a value of `Retry-After`.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Token(Unavailable::Transient { retry_after }) => {
                Some(retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0)).map(|s| s.max(1))
            }
            Self::Token(Unavailable::Crowded) | Self::Overloaded | Self::Crowded => Some(1),
            Self::Token(Unavailable::Configuration | Unavailable::Reauthorize)
            | Self::Forbidden(_)
            | Self::MethodNotAllowed
            | Self::BadRequest
            | Self::UploadStalled
            | Self::Connect(_)
            | Self::Broken(_)
            | Self::Stalled(_)
            | Self::Malformed
            | Self::ResponseTimeout => None,
        }
    }

    /// The answer, in the form of RFC 9457.
    pub(super) fn response(&self) -> Response<ResponseBody> {
        let (status, reason) = (self.status(), self.reason());
        let mut problem = serde_json::json!({
            "type": format!("urn:token-valet:error:{reason}"),
            "title": self.title(),
            "status": status.as_u16(),
            "reason": reason,
        });
        // Names the key that would let it in. Of all errors only this one repeats what the caller said.
        if let Self::Forbidden(forbidden) = self {
            problem["detail"] = forbidden.to_string().into();
        }
        let mut response = Response::new(ResponseBody::own(problem.to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(REASON, HeaderValue::from_static(reason));
        // Nobody knows where the next request would begin; or the connection is one too many.
        if matches!(self, Self::BadRequest | Self::Crowded) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(seconds) = self.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        io,
        time::Duration,
    };

    use super::{Forbidden, ProxyError, Unavailable};
    use crate::{
        http_client::ConnectError,
        proxy::guard::Words,
        readme::{ANY, Table, broken, each, text},
        report::Report,
        tls::HandshakeError,
    };

    fn retry_after(millis: u64) -> Option<u64> {
        ProxyError::Token(Unavailable::Transient { retry_after: Duration::from_millis(millis) }).retry_after()
    }

    #[test]
    fn retry_after_is_rounded_up_to_whole_seconds_from_one() {
        assert_eq!(retry_after(0), Some(1));
        assert_eq!(retry_after(1_000), Some(1));
        assert_eq!(retry_after(1_001), Some(2));
    }

    #[test]
    fn what_only_a_person_can_heal_has_no_retry_after() {
        for unavailable in [Unavailable::Configuration, Unavailable::Reauthorize] {
            let response = ProxyError::Token(unavailable).response();
            assert_eq!(response.status(), 502);
            assert!(!response.headers().contains_key("retry-after"));
        }
    }

    fn all() -> Vec<ProxyError> {
        let unavailable = each!(Unavailable {
            Unavailable::Transient { .. } => [Unavailable::Transient { retry_after: Duration::ZERO }],
            Unavailable::Crowded => [Unavailable::Crowded],
            Unavailable::Configuration => [Unavailable::Configuration],
            Unavailable::Reauthorize => [Unavailable::Reauthorize],
        });
        let words = || Words::of(b"WORDS");
        let name = || http::HeaderName::from_static("name");
        let forbidden = each!(Forbidden {
            Forbidden::Host(_) => [Forbidden::Host(words())],
            Forbidden::Origin(_) => [Forbidden::Origin(words())],
            Forbidden::CrossSite => [Forbidden::CrossSite],
            Forbidden::Uid(_) => [Forbidden::Uid(ANY.into())],
            Forbidden::Header(_) => [Forbidden::Header(name())],
            Forbidden::Override(_) => [Forbidden::Override(name())],
            Forbidden::AmbiguousPath => [Forbidden::AmbiguousPath],
            Forbidden::NotAllowed => [Forbidden::NotAllowed],
        });
        let mut errors = each!(ProxyError {
            ProxyError::Token(_) => [ProxyError::Token(Unavailable::Crowded)],
            ProxyError::Overloaded => [ProxyError::Overloaded],
            ProxyError::Crowded => [ProxyError::Crowded],
            ProxyError::Forbidden(_) => [ProxyError::Forbidden(Forbidden::NotAllowed)],
            ProxyError::MethodNotAllowed => [ProxyError::MethodNotAllowed],
            ProxyError::BadRequest => [ProxyError::BadRequest],
            ProxyError::UploadStalled => [ProxyError::UploadStalled],
            // What they say, and what to do, is in a table of their own.
            ProxyError::Connect(_) => [
                ProxyError::Connect(ConnectError::Resolve(io::ErrorKind::NotFound.into())),
                ProxyError::Connect(ConnectError::NoAddress),
                ProxyError::Connect(ConnectError::Tcp(io::ErrorKind::ConnectionRefused.into())),
                ProxyError::Connect(ConnectError::Tls(HandshakeError::Downgrade)),
                ProxyError::Connect(ConnectError::NotHttp2),
                ProxyError::Connect(ConnectError::Http(broken())),
                ProxyError::Connect(ConnectError::Timeout),
            ],
            ProxyError::Broken(_) => [ProxyError::Broken(broken())],
            ProxyError::Stalled(_) => [ProxyError::Stalled(broken())],
            ProxyError::Malformed => [ProxyError::Malformed],
            ProxyError::ResponseTimeout => [ProxyError::ResponseTimeout],
        });
        errors.extend(unavailable.into_iter().map(ProxyError::Token));
        errors.extend(forbidden.into_iter().map(ProxyError::Forbidden));
        errors
    }

    /// As the README has it: with the cause where that decides what to do.
    fn words(error: &ProxyError) -> String {
        match error {
            ProxyError::Token(_) => text(Report(error)),
            _ => text(error),
        }
    }

    #[test]
    fn the_readme_tells_what_each_of_them_means_and_its_reason() {
        let table = Table::below("Requests");
        let mut reasons: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        for error in all() {
            reasons.entry(words(&error)).or_default().insert(error.reason());
        }
        table.assert_texts(reasons.keys().map(String::as_str));
        for (words, reasons) in &reasons {
            table.row(words).assert_words(0, reasons);
        }
        let readme = include_str!("../../README.md");
        let of_callers = readme.split_once("\n## What the application sees\n").expect("such a section").1;
        let of_callers = of_callers.split("\n## ").next().expect("it begins");
        for reason in reasons.values().flatten() {
            assert!(of_callers.contains(&format!("`{reason}`")), "`{reason}` is not told to callers");
        }
        for error in all() {
            table.row(&words(&error)).assert_keys(error.keys());
        }
    }
}

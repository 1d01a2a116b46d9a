//! Every way in which an exchange can fail, and what helps.

use std::time::Duration;

use http::StatusCode;

use super::{store::StoreError, wire::OAuthError};
use crate::{http_client::ConnectError, secret::SecretError, tls::Suspect};

/// Who is to blame for a failed exchange, and so what helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The network or the provider: trying again helps.
    Transient,
    /// The configuration: an operator must act.
    Configuration,
    /// The grant is gone: the user must authorize again.
    GrantGone,
}

impl Class {
    /// One word, for metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Configuration => "configuration",
            Self::GrantGone => "grant_gone",
        }
    }
}

/// Why an exchange gave no token. Nothing of it holds a secret or an unchecked part of the answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No connection; nothing was sent.
    #[error("cannot connect to the token endpoint")]
    Connect(#[source] ConnectError),
    /// The exchange took longer than `token.timeout`.
    #[error("the token endpoint did not answer in time")]
    Timeout,
    /// The connection ended, or what came is not HTTP.
    #[error("the connection to the token endpoint broke")]
    Broken(#[source] hyper::Error),
    /// The answer is over 64 KiB.
    #[error("the token endpoint's answer is over 64 KiB")]
    Oversize,
    /// 200 without a body.
    #[error("the token endpoint answered 200 with an empty body")]
    Empty,
    /// 200 with something else than a token response.
    #[error("the token endpoint answered 200, but not with a token response")]
    Malformed,
    /// The token has characters that no header may have.
    #[error("the access token has characters that cannot be sent in a header")]
    UnusableToken,
    /// `token_type` names another type.
    #[error("the token's type is not Bearer")]
    NotBearer,
    /// An OAuth error.
    #[error("the token endpoint refuses: `{error}` (status {})", status.as_u16())]
    OAuth {
        /// What it says.
        error: OAuthError,
        /// The status that came with it.
        status: StatusCode,
        /// Up to 200 printable characters of what it adds.
        description: Option<String>,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// Another status than 200, without an OAuth error.
    #[error("the token endpoint answered with status {}", status.as_u16())]
    Status {
        /// The status.
        status: StatusCode,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The code was presented before and gave nothing: a code must not be used twice (RFC 6749 section 4.1.2).
    #[error("the authorization code was used before; the user must authorize again")]
    CodeUsed,
    /// The state file cannot be used; nothing was sent.
    #[error("the state file cannot be used")]
    Store(#[from] StoreError),
    /// A secret file gives no secret, and none had been read before.
    #[error("a secret cannot be read")]
    Secret(#[source] SecretError),
}

impl FetchError {
    /// Who is to blame.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Connect(_)
            | Self::Timeout
            | Self::Broken(_)
            | Self::Oversize
            | Self::Empty
            | Self::Malformed
            | Self::UnusableToken
            | Self::NotBearer => Class::Transient,
            Self::OAuth { error, status, .. } => match error {
                OAuthError::InvalidGrant => Class::GrantGone,
                OAuthError::InvalidClient
                | OAuthError::InvalidRequest
                | OAuthError::InvalidScope
                | OAuthError::UnauthorizedClient
                | OAuthError::UnsupportedGrantType
                | OAuthError::UnsupportedResponseType
                | OAuthError::UnsupportedTokenType
                | OAuthError::AccessDenied => Class::Configuration,
                OAuthError::ServerError | OAuthError::TemporarilyUnavailable => Class::Transient,
                OAuthError::Other if is_transient(*status) || !status.is_client_error() => Class::Transient,
                OAuthError::Other => Class::Configuration,
            },
            Self::Status { status, .. } => match status.as_u16() {
                // Temporary by definition (RFC 9110 section 15.4), such as to a page about maintenance.
                302 | 303 | 307 => Class::Transient,
                300..=399 | 401 | 403 | 404 | 405 | 415 => Class::Configuration,
                _ => Class::Transient,
            },
            Self::CodeUsed => Class::GrantGone,
            // Another replica has its turn.
            Self::Store(StoreError::Locked { .. }) => Class::Transient,
            Self::Store(_) => Class::Configuration,
            Self::Secret(_) => Class::Configuration,
        }
    }

    /// Returns true if the request may have reached the endpoint although no answer came back, so
    /// that a rotated refresh token may be lost unless the same one is presented again soon.
    #[must_use]
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Timeout | Self::Broken(_) | Self::Oversize | Self::Empty | Self::Malformed)
    }

    /// Returns true if nothing of the request was sent.
    #[must_use]
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Secret(_) | Self::Store(_))
    }

    /// The OAuth error, if it is one.
    #[must_use]
    pub fn oauth_error(&self) -> Option<OAuthError> {
        match self {
            Self::OAuth { error, .. } => Some(*error),
            _ => None,
        }
    }

    /// What the endpoint adds to its OAuth error, made safe to be logged.
    #[must_use]
    pub fn description(&self) -> Option<&str> {
        match self {
            Self::OAuth { description, .. } => description.as_deref(),
            _ => None,
        }
    }

    /// When the endpoint wants to be asked again.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::OAuth { retry_after, .. } | Self::Status { retry_after, .. } => *retry_after,
            Self::Connect(_)
            | Self::Timeout
            | Self::Broken(_)
            | Self::Oversize
            | Self::Empty
            | Self::Malformed
            | Self::UnusableToken
            | Self::NotBearer
            | Self::CodeUsed
            | Self::Store(_)
            | Self::Secret(_) => None,
        }
    }

    /// The configuration keys that an operator should look at.
    #[must_use]
    pub fn keys(&self) -> Option<&'static str> {
        match self {
            Self::OAuth { error, .. } => match error {
                OAuthError::InvalidClient => Some("token.client_id, token.client_secret_file"),
                OAuthError::InvalidGrant => Some("token.code_file, token.redirect_uri, token.refresh_token_file"),
                OAuthError::InvalidScope => Some("token.scope, token.client_auth"),
                OAuthError::InvalidRequest => Some("token.client_auth, token.body, token.redirect_uri"),
                OAuthError::UnauthorizedClient | OAuthError::UnsupportedGrantType => Some("token.grant"),
                OAuthError::UnsupportedResponseType
                | OAuthError::UnsupportedTokenType
                | OAuthError::AccessDenied
                | OAuthError::ServerError
                | OAuthError::TemporarilyUnavailable
                | OAuthError::Other => None,
            },
            Self::Status { status, .. } => match status.as_u16() {
                415 => Some("token.body"),
                300..=399 | 401 | 403 | 404 | 405 => Some("token.url"),
                _ => None,
            },
            Self::Connect(ConnectError::Tls(error)) => error.suspect().and_then(|suspect| match suspect {
                Suspect::Url => Some("token.url"),
                Suspect::Authorities => Some("token.ca_file"),
                Suspect::Version => Some("token.tls_min"),
                // It is not shown there.
                Suspect::ClientCertificate => None,
            }),
            Self::Connect(ConnectError::Resolve(_) | ConnectError::NoAddress) => Some("token.url"),
            Self::Connect(
                ConnectError::Tcp(_) | ConnectError::NotHttp2 | ConnectError::Http(_) | ConnectError::Timeout,
            )
            | Self::Timeout
            | Self::Broken(_)
            | Self::Oversize
            | Self::Empty
            | Self::Malformed
            | Self::UnusableToken
            | Self::NotBearer
            | Self::Secret(_) => None,
            Self::CodeUsed => Some("token.code_file"),
            Self::Store(_) => Some("token.state_file"),
        }
    }
}

/// The statuses after which the same request may be tried again.
fn is_transient(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use http::StatusCode;

    use super::{Class, FetchError, OAuthError};
    use crate::{
        http_client::ConnectError,
        readme::{Table, broken, each, text},
        secret::SecretSource,
        token::store::StoreError,
    };

    /// Those that are not known by a number of their own have `N`, which none of these is.
    const NAMED: [u16; 5] = [301, 302, 401, 404, 415];

    fn refused(error: OAuthError, status: StatusCode) -> FetchError {
        FetchError::OAuth { error, status, description: None, retry_after: None }
    }

    fn answered(status: u16) -> FetchError {
        let status = StatusCode::from_u16(status).expect("a status");
        FetchError::Status { status, retry_after: None }
    }

    fn oauth_errors() -> Vec<FetchError> {
        let known = each!(OAuthError {
            OAuthError::InvalidClient => [OAuthError::InvalidClient],
            OAuthError::InvalidGrant => [OAuthError::InvalidGrant],
            OAuthError::InvalidRequest => [OAuthError::InvalidRequest],
            OAuthError::InvalidScope => [OAuthError::InvalidScope],
            OAuthError::UnauthorizedClient => [OAuthError::UnauthorizedClient],
            OAuthError::UnsupportedGrantType => [OAuthError::UnsupportedGrantType],
            OAuthError::UnsupportedResponseType => [OAuthError::UnsupportedResponseType],
            OAuthError::UnsupportedTokenType => [OAuthError::UnsupportedTokenType],
            OAuthError::AccessDenied => [OAuthError::AccessDenied],
            OAuthError::ServerError => [OAuthError::ServerError],
            OAuthError::TemporarilyUnavailable => [OAuthError::TemporarilyUnavailable],
            OAuthError::Other => [OAuthError::Other],
        });
        let mut errors: Vec<FetchError> =
            known.into_iter().map(|error| refused(error, StatusCode::BAD_REQUEST)).collect();
        errors.push(refused(OAuthError::Other, StatusCode::SERVICE_UNAVAILABLE));
        errors
    }

    fn all() -> Vec<FetchError> {
        let secret = SecretSource::File("/nonexistent".into()).read().expect_err("there is none");
        let locked = StoreError::Locked { path: "FILE".into(), patience: std::time::Duration::ZERO };
        let mut errors = each!(FetchError {
            FetchError::Connect(_) => [FetchError::Connect(ConnectError::Timeout)],
            FetchError::Timeout => [FetchError::Timeout],
            FetchError::Broken(_) => [FetchError::Broken(broken())],
            FetchError::Oversize => [FetchError::Oversize],
            FetchError::Empty => [FetchError::Empty],
            FetchError::Malformed => [FetchError::Malformed],
            FetchError::UnusableToken => [FetchError::UnusableToken],
            FetchError::NotBearer => [FetchError::NotBearer],
            FetchError::OAuth { .. } => [refused(OAuthError::InvalidClient, StatusCode::BAD_REQUEST)],
            FetchError::Status { .. } => [answered(429), answered(503)],
            FetchError::CodeUsed => [FetchError::CodeUsed],
            FetchError::Store(_) => [
                FetchError::Store(locked),
                FetchError::Store(StoreError::SymbolicLink { path: "FILE".into() }),
            ],
            FetchError::Secret(_) => [FetchError::Secret(secret)],
        });
        errors.extend(oauth_errors());
        errors.extend(NAMED.map(answered));
        errors
    }

    /// As the README has it.
    fn words(error: &FetchError) -> String {
        match error {
            FetchError::Status { status, .. } if !NAMED.contains(&status.as_u16()) => {
                text(error).replace(status.as_str(), "N")
            }
            _ => text(error).replace("(status 400)", "(status N)"),
        }
    }

    fn level(class: Class) -> &'static str {
        match class {
            Class::Transient => "warn",
            Class::Configuration | Class::GrantGone => "error",
        }
    }

    #[test]
    fn the_readme_tells_what_each_of_them_means_at_which_level_and_by_which_keys() {
        let table = Table::below("Token requests");
        let mut levels: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        for error in all() {
            levels.entry(words(&error)).or_default().insert(level(error.class()));
        }
        table.assert_texts(levels.keys().map(String::as_str));
        for (words, levels) in &levels {
            table.row(words).assert_words(0, levels);
        }
        for error in all() {
            let row = table.row(&words(&error));
            row.assert_keys(error.keys());
            let is_gone = error.class() == Class::GrantGone;
            assert!(!is_gone || row.action().contains("a new authorization"), "{row:?}");
        }
    }

    #[test]
    fn a_status_without_a_row_of_its_own_is_like_one_that_has_it() {
        let alike = |status: u16| (answered(status).class(), answered(status).keys());
        for status in 300..=599 {
            let like = match status {
                302 | 303 | 307 => 302,
                300..=399 => 301,
                403 => 401,
                405 => 404,
                401 | 404 | 415 => status,
                _ => 503,
            };
            assert_eq!(alike(status), alike(like), "{status}");
        }
    }
}

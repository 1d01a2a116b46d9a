//! What is presented at the next exchange: the client's secret, and the code, refresh token or
//! nothing more. Everything that comes from a file is read anew each time.

use prometheus_client::metrics::{counter::Counter, family::Family};

use super::client::FetchError;
use crate::{
    config,
    metrics::Outcome,
    report::Report,
    secret::{Secret, SecretSource},
};

/// What is presented to the token endpoint.
#[derive(Clone, Debug)]
pub struct Presented {
    pub(super) client_secret: Secret,
    pub(super) grant: PresentedGrant,
}

/// The grant itself (RFC 6749 section 1.3).
#[derive(Clone, Debug)]
pub(super) enum PresentedGrant {
    /// The client alone.
    ClientCredentials,
    /// The code of the callback, with the redirect URI that it was issued for.
    Code { code: Secret, redirect_uri: String },
    /// A refresh token.
    RefreshToken(Secret),
}

impl Presented {
    /// Returns true if `text`, which came back, repeats a secret that was sent.
    pub(super) fn is_repeated_by(&self, text: &str) -> bool {
        let of_grant = match &self.grant {
            PresentedGrant::ClientCredentials => None,
            PresentedGrant::Code { code, .. } => Some(code),
            PresentedGrant::RefreshToken(token) => Some(token),
        };
        of_grant.into_iter().chain([&self.client_secret]).any(|secret| text.contains(secret.expose()))
    }
}

/// Keeps what the provider gave, and knows what the files held when they were last read.
#[derive(Debug)]
pub(super) struct Credentials {
    client_secret: Rereader,
    grant: Grant,
}

#[derive(Debug)]
enum Grant {
    ClientCredentials,
    /// A code is presented once; `refresh_token` is what it gave.
    Code {
        code: Rereader,
        redirect_uri: String,
        presented: Option<Secret>,
        refresh_token: Option<Secret>,
    },
    /// `current` is the file's token, or the one that replaced it.
    RefreshToken {
        file: Rereader,
        current: Option<Secret>,
    },
}

impl Credentials {
    pub(super) fn new(client_secret: SecretSource, grant: config::Grant, reloads: &Family<Outcome, Counter>) -> Self {
        let reread = |source| Rereader { source, last_good: None, reloads: reloads.clone() };
        let grant = match grant {
            config::Grant::ClientCredentials => Grant::ClientCredentials,
            config::Grant::AuthorizationCode { code, redirect_uri } => {
                Grant::Code { code: reread(code), redirect_uri, presented: None, refresh_token: None }
            }
            config::Grant::RefreshToken { refresh_token } => {
                Grant::RefreshToken { file: reread(refresh_token), current: None }
            }
        };
        Self { client_secret: reread(client_secret), grant }
    }

    /// What to present now.
    pub(super) fn present(&mut self) -> Result<Presented, FetchError> {
        let client_secret = self.client_secret.read()?.0;
        let grant = match &mut self.grant {
            Grant::ClientCredentials => PresentedGrant::ClientCredentials,
            Grant::Code { code, redirect_uri, presented, refresh_token } => {
                let newest = code.read()?.0;
                if presented.as_ref() != Some(&newest) {
                    *presented = Some(newest.clone());
                    *refresh_token = None;
                    PresentedGrant::Code { code: newest, redirect_uri: redirect_uri.clone() }
                } else if let Some(token) = refresh_token {
                    PresentedGrant::RefreshToken(token.clone())
                } else {
                    return Err(FetchError::CodeUsed);
                }
            }
            Grant::RefreshToken { file, current } => {
                let (newest, change) = file.read()?;
                let token = match current {
                    Some(current) if change == Change::None => current,
                    other => other.insert(newest),
                };
                PresentedGrant::RefreshToken(token.clone())
            }
        };
        Ok(Presented { client_secret, grant })
    }

    /// The exchange succeeded and gave this refresh token; `None` keeps the old one.
    pub(super) fn adopt(&mut self, issued: Option<Secret>) {
        let Some(issued) = issued else { return };
        match &mut self.grant {
            // RFC 6749 section 4.4.3: there should be none; the client's own credentials renew this grant.
            Grant::ClientCredentials => {}
            Grant::Code { refresh_token, .. } => *refresh_token = Some(issued),
            Grant::RefreshToken { current, .. } => *current = Some(issued),
        }
    }

    /// The exchange ended before anything was sent: a code in it is as good as new.
    pub(super) fn unsent(&mut self) {
        if let Grant::Code { presented, refresh_token: None, .. } = &mut self.grant {
            *presented = None;
        }
    }

    /// Returns true if an exchange may give a refresh token that replaces the one presented.
    pub(super) fn may_rotate(&self) -> bool {
        !matches!(self.grant, Grant::ClientCredentials)
    }

    /// Returns true if a file now holds something else than when it was last read.
    pub(super) fn have_changed(&self) -> bool {
        let of_grant = match &self.grant {
            Grant::ClientCredentials => false,
            Grant::Code { code, .. } => code.has_changed(),
            Grant::RefreshToken { file, .. } => file.has_changed(),
        };
        of_grant || self.client_secret.has_changed()
    }
}

/// A secret that is read anew before each exchange; the last good value serves while that fails.
#[derive(Debug)]
struct Rereader {
    source: SecretSource,
    last_good: Option<Secret>,
    reloads: Family<Outcome, Counter>,
}

/// How a secret compares with the last time that it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    None,
    First,
    Replaced,
}

impl Rereader {
    fn read(&mut self) -> Result<(Secret, Change), FetchError> {
        match (self.source.read(), &self.last_good) {
            (Ok(secret), Some(last)) if secret == *last => Ok((secret, Change::None)),
            (Ok(secret), last) => {
                let change = if last.is_some() { Change::Replaced } else { Change::First };
                if change == Change::Replaced {
                    self.count("success");
                }
                self.last_good = Some(secret.clone());
                Ok((secret, change))
            }
            (Err(error), Some(last)) => {
                self.count("failure");
                tracing::warn!(error = %Report(&error), "a secret cannot be read; its last good value is used");
                Ok((last.clone(), Change::None))
            }
            (Err(error), None) => Err(FetchError::Secret(error)),
        }
    }

    fn count(&self, result: &'static str) {
        self.reloads.get_or_create(&Outcome { result }).inc();
    }

    fn has_changed(&self) -> bool {
        // Unreadable is not another value: a mount in the middle of its swap looks like that.
        self.source.read().is_ok_and(|secret| self.last_good.as_ref() != Some(&secret))
    }
}

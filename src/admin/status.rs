//! How it stands, in a word and in detail: `/status` for machines, and what the page for people shows.
//! Never a token, a secret or a header value.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::Admin;
use crate::token::{Attempt, Class, State, Status};

/// All of it at one moment.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// One word.
    pub(super) state: &'static str,
    /// What that means, and what to do.
    pub(super) meaning: &'static str,
    pub(super) version: &'static str,
    /// The beginning of the hash of the configuration's files.
    pub(super) configuration: Option<String>,
    pub(super) uptime_s: u64,
    pub(super) token: Token,
    pub(super) last_error: Option<LastError>,
    /// The oldest first.
    pub(super) attempts: Vec<Exchange>,
    /// Of each minute, the oldest first; the last is not over.
    pub(super) traffic: Vec<Minute>,
    pub(super) certificates: Vec<Certificate>,
}

#[derive(Debug, Serialize)]
pub(super) struct Token {
    pub(super) valid: bool,
    pub(super) generation: u64,
    pub(super) expires_in_s: u64,
    pub(super) next_attempt_in_s: Option<u64>,
    pub(super) consecutive_failures: u32,
    pub(super) rejections_passed_on: bool,
    pub(super) refresh_token_persisted: bool,
    pub(super) claims: Option<serde_json::Value>,
}

#[derive(Debug, Serialize)]
pub(super) struct LastError {
    pub(super) ago_s: u64,
    pub(super) error: String,
    pub(super) look_at: Option<&'static str>,
}

#[derive(Debug, Serialize)]
pub(super) struct Exchange {
    pub(super) ago_s: u64,
    pub(super) took_ms: u64,
    pub(super) cause: &'static str,
    pub(super) result: &'static str,
    pub(super) life_s: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct Minute {
    pub(super) requests: u64,
    pub(super) errors: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Certificate {
    pub(super) cert: &'static str,
    pub(super) expires: String,
}

impl Report {
    pub(super) fn of(admin: &Admin) -> Self {
        let now = admin.clock.now();
        let ago = |moment| now.saturating_since(moment).as_secs();
        let status = admin.sources.renewal.status();
        let left = admin.sources.tokens.time_left(now);
        let attempts = admin.sources.renewal.attempts();
        let (state, meaning) = state(&status, left, admin.orders.ending.get());
        let last_error = attempts.iter().rev().find_map(|attempt| {
            let error = attempt.error.clone()?;
            Some(LastError { ago_s: ago(attempt.at + attempt.took), error, look_at: attempt.look_at })
        });
        let exchange = |attempt: &Attempt| Exchange {
            ago_s: ago(attempt.at),
            took_ms: u64::try_from(attempt.took.as_millis()).unwrap_or(u64::MAX),
            cause: attempt.cause,
            result: attempt.result,
            life_s: attempt.life.map(|life| life.as_secs()),
        };
        let minutes = admin.sources.traffic.minutes();
        Self {
            state,
            meaning,
            version: env!("CARGO_PKG_VERSION"),
            configuration: admin.orders.reloader.as_ref().map(|reloader| reloader.borrow().fingerprint()),
            uptime_s: ago(admin.started_at),
            token: Token {
                valid: left.is_some(),
                generation: status.generation,
                expires_in_s: left.unwrap_or_default().as_secs(),
                next_attempt_in_s: status.next_attempt.map(|next| next.saturating_since(now).as_secs()),
                consecutive_failures: status.failures,
                rejections_passed_on: admin.sources.renewal.is_breaker_open(),
                refresh_token_persisted: status.persistent,
                claims: status.claims.and_then(|claims| serde_json::to_value(&*claims).ok()),
            },
            last_error,
            attempts: attempts.iter().map(exchange).collect(),
            traffic: minutes.iter().map(|m| Minute { requests: m.requests, errors: m.errors }).collect(),
            certificates: admin
                .sources
                .metrics
                .certificates()
                .into_iter()
                .map(|(cert, end)| certificate(cert, end))
                .collect(),
        }
    }
}

fn certificate(cert: &'static str, end: u64) -> Certificate {
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(end);
    Certificate { cert, expires: humantime::format_rfc3339_seconds(end).to_string() }
}

/// One word, and what to do about it.
fn state(status: &Status, left: Option<Duration>, is_ending: bool) -> (&'static str, &'static str) {
    match (status.state, left.is_some()) {
        _ if is_ending => ("ending", "The process was told to end; requests under way are finished."),
        (State::Starting, _) => ("starting", "The first access token is on its way."),
        (State::Fresh, true) => ("serving", "The access token is fresh; requests are served."),
        (State::Fresh, false) => ("expired", "The access token expired before its time; another one is on its way."),
        (State::Failing(Class::Transient) | State::Doubtful, true) => {
            ("degraded", "The token cannot be refreshed at the moment; the present one serves until it expires.")
        }
        (State::Failing(Class::Configuration), true) => (
            "degraded",
            "The provider refuses the configuration; the present token serves until it expires. See the last error.",
        ),
        (State::Failing(Class::GrantGone), true) => (
            "degraded",
            "The user's authorization is gone; the present token serves until it expires. A new code or \
             refresh token is needed.",
        ),
        (State::Failing(Class::Transient) | State::Doubtful, false) => {
            ("unavailable", "There is no valid access token; it heals by itself once the provider gives one.")
        }
        (State::Failing(Class::Configuration), false) => {
            ("misconfigured", "The provider refuses the configuration: see the last error for the key to look at.")
        }
        (State::Failing(Class::GrantGone), false) => (
            "reauthorize",
            "The user's authorization is gone: have the user authorize again, and replace the file of the code or \
             refresh token.",
        ),
    }
}

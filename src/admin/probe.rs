//! What probes are told: whether it is so and, with `?verbose`, each condition that decides. Everyone who reaches
//! the port may ask: there are fixed words and numbers in it, and nothing that a provider or a user wrote.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use super::{Admin, Vital, answer, text};
use crate::{
    clock::Moment,
    config::Gate,
    token::{Class, State, Status},
};

/// Whether it is so, and why.
#[derive(Debug, Serialize)]
pub(super) struct Verdict {
    ok: bool,
    /// The whole answer without `?verbose`: the word for it, or what the first condition that fails says.
    reason: &'static str,
    conditions: Vec<Condition>,
}

/// One thing that it depends on.
#[derive(Debug, Serialize)]
struct Condition {
    name: &'static str,
    holds: bool,
    /// False if the configuration has it told only.
    decides: bool,
    #[serde(skip)]
    complaint: &'static str,
    #[serde(flatten)]
    detail: Detail,
}

/// What tells more of a condition.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Detail {
    None {},
    Pulse {
        /// Of the last sign of life.
        age_s: u64,
        /// At more than that, it stands still.
        limit_s: u64,
    },
    Token {
        /// Who is to blame for the last failed exchange, if none has succeeded since.
        last_error: Option<&'static str>,
        /// `None` while an exchange is under way.
        next_attempt_in_s: Option<u64>,
    },
}

impl Verdict {
    /// `word`, if all conditions that decide hold.
    fn new(word: &'static str, conditions: Vec<Condition>) -> Self {
        let failed = conditions.iter().find(|condition| condition.decides && !condition.holds);
        Self { ok: failed.is_none(), reason: failed.map_or(word, |failed| failed.complaint), conditions }
    }

    /// `/livez`
    pub(super) fn alive(admin: &Admin) -> Self {
        let condition = |part: &Vital| Condition {
            name: part.name,
            holds: !part.is_still(),
            decides: true,
            complaint: part.complaint,
            detail: Detail::Pulse { age_s: part.pulse.age().as_secs(), limit_s: part.limit.as_secs() },
        };
        Self::new("alive", admin.sources.vital.iter().map(condition).collect())
    }

    /// `/startupz`
    pub(super) fn started(admin: &Admin) -> Self {
        let status = admin.sources.renewal.status();
        let token = Condition {
            name: "first_token",
            holds: status.generation > 0,
            decides: decides(admin.startup),
            complaint: "waiting for the first access token",
            detail: Detail::of_token(&status, admin.clock.now()),
        };
        Self::new("started", vec![token])
    }

    /// `/readyz`
    pub(super) fn ready(admin: &Admin) -> Self {
        let now = admin.clock.now();
        let running = Condition {
            name: "not_ending",
            holds: !admin.orders.ending.get(),
            decides: true,
            complaint: "the process ends",
            detail: Detail::None {},
        };
        let token = Condition {
            name: "token_valid",
            holds: admin.sources.tokens.time_left(now).is_some(),
            decides: decides(admin.readiness),
            complaint: "no valid access token",
            detail: Detail::of_token(&admin.sources.renewal.status(), now),
        };
        Self::new("ready", vec![running, token])
    }

    /// The status is the same in either form, and a query that is not known changes nothing.
    pub(super) fn answer(&self, query: Option<&str>) -> Response<Full<Bytes>> {
        let status = if self.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let mut keys = query.unwrap_or_default().split('&').map(|pair| pair.split('=').next());
        if keys.any(|key| key == Some("verbose")) {
            let told = serde_json::to_string(self).expect("text and numbers are JSON");
            answer(status, "application/json", told)
        } else {
            text(status, self.reason)
        }
    }
}

impl Detail {
    fn of_token(status: &Status, now: Moment) -> Self {
        let last_error = match status.state {
            State::Starting | State::Fresh => None,
            State::Failing(class) => Some(class),
            State::Doubtful => Some(Class::GrantGone),
        };
        let next_attempt_in_s = status.next_attempt.map(|next| next.saturating_since(now).as_secs());
        Self::Token { last_error: last_error.map(Class::as_str), next_attempt_in_s }
    }
}

fn decides(gate: Gate) -> bool {
    match gate {
        Gate::Token => true,
        Gate::Serving => false,
    }
}

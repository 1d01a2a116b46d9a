//! What goes wrong, and when.

use std::{collections::VecDeque, time::Duration};

use http::StatusCode;

use super::server::Presence;
use crate::config::{SandboxFault, TokenFault};

/// What the data API can do instead of its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiFault {
    /// Refuses any token with 401 and no `code`, however new it is.
    AlwaysUnauthorized,
    /// 401 with `code` 602: the consent is gone.
    ConsentRevoked,
    /// The same, with the body in gzip.
    ConsentRevokedGzip,
    /// 429 with `code` 1207 and `Retry-After`.
    TooManyRequests,
    /// 503 with `code` 503.
    Maintenance,
    /// Takes the request and never answers.
    Hang,
    /// Sends half of the body that it announced, then closes the connection.
    DieInBody,
    /// The right answer, so much later.
    SlowHead(Duration),
}

/// The faults to come.
#[derive(Debug)]
pub(super) struct Script {
    /// Told by the handle to be down.
    pub(super) down: bool,
    pub(super) token_fault: Option<TokenFault>,
    pub(super) next_token_faults: VecDeque<TokenFault>,
    pub(super) token_error: Option<(StatusCode, String)>,
    pub(super) api_fault: Option<ApiFault>,
    pub(super) retry_after: Duration,
    schedule: Vec<SandboxFault>,
}

impl Script {
    pub(super) fn new(schedule: Vec<SandboxFault>) -> Self {
        Self {
            down: false,
            token_fault: None,
            next_token_faults: VecDeque::new(),
            token_error: None,
            api_fault: None,
            retry_after: Duration::from_secs(5),
            schedule,
        }
    }

    /// What this exchange meets: first its own fault, then the standing one, then the scheduled one.
    pub(super) fn take_token_fault(&mut self, elapsed: Duration) -> Option<TokenFault> {
        let scheduled = |entry: &&SandboxFault| entry.fault != TokenFault::Down && entry.during.contains(&elapsed);
        self.next_token_faults
            .pop_front()
            .or(self.token_fault)
            .or_else(|| self.schedule.iter().find(scheduled).map(|entry| entry.fault))
    }

    /// Whether the provider is to be there, and when the schedule next changes that.
    pub(super) fn presence(&self, elapsed: Duration) -> (Presence, Option<Duration>) {
        let downs = || self.schedule.iter().filter(|entry| entry.fault == TokenFault::Down).map(|entry| &entry.during);
        let down =
            self.down || self.token_fault == Some(TokenFault::Down) || downs().any(|during| during.contains(&elapsed));
        let change = downs().flat_map(|during| [during.start, during.end]).filter(|&offset| offset > elapsed).min();
        (if down { Presence::Down } else { Presence::Up }, change)
    }
}

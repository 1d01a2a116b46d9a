//! What the provider has seen.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use http::{HeaderMap, Method, StatusCode};

use super::book::TokenState;
use crate::config::TokenFault;

/// A token request, as it arrived, secrets and all: it is made up.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// When it had arrived whole and was decided on.
    pub at: Instant,
    /// Its `grant_type`, if it could be read.
    pub grant_type: Option<String>,
    /// The fields of its body; empty if it could not be read.
    pub fields: BTreeMap<String, String>,
    /// Its `Content-Type`.
    pub content_type: Option<String>,
    /// The two halves of its HTTP Basic credentials, without any further decoding.
    pub basic: Option<(String, String)>,
    /// All its headers.
    pub headers: HeaderMap,
    /// What the script did to it.
    pub fault: Option<TokenFault>,
    /// What it was answered; `None` if the script left it without an answer.
    pub status: Option<StatusCode>,
    /// The true life of the token that it was given.
    pub lifetime: Option<Duration>,
}

/// A request to the data API, as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When its head had arrived.
    pub at: Instant,
    /// Its method.
    pub method: Method,
    /// Its path and query, byte for byte.
    pub target: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// What its token was worth on arrival.
    pub token: TokenState,
    /// What it was answered; `None` before that, and for good if the client went away first.
    pub status: Option<StatusCode>,
}

/// How many requests to the data API there were of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Those with a valid token.
    pub valid: u64,
    /// Those with a token past its life.
    pub expired: u64,
    /// Those with a token that was revoked within its life.
    pub revoked: u64,
    /// Those with a token that the provider never issued.
    pub unknown: u64,
    /// Those without a token.
    pub missing: u64,
    /// Those answered, by status.
    pub by_status: BTreeMap<u16, u64>,
}

/// Everything seen, within bounds.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) exchanges: Ring<Exchange>,
    pub(super) requests: Ring<Seen>,
    pub(super) tally: Tally,
}

impl Record {
    pub(super) fn new(memory: usize) -> Self {
        Self { exchanges: Ring::new(memory), requests: Ring::new(memory), tally: Tally::default() }
    }

    /// A request has arrived. Returns its number, for [`answered`](Self::answered).
    pub(super) fn arrived(&mut self, seen: Seen) -> u64 {
        let count = match seen.token {
            TokenState::Valid => &mut self.tally.valid,
            TokenState::Expired => &mut self.tally.expired,
            TokenState::Revoked => &mut self.tally.revoked,
            TokenState::Unknown => &mut self.tally.unknown,
            TokenState::Missing => &mut self.tally.missing,
        };
        *count += 1;
        self.requests.push(seen)
    }

    /// A request is about to be answered.
    pub(super) fn answered(&mut self, number: u64, status: StatusCode) {
        *self.tally.by_status.entry(status.as_u16()).or_default() += 1;
        if let Some(seen) = self.requests.entry(number) {
            seen.status = Some(status);
        }
    }
}

/// The latest of a sequence.
#[derive(Debug)]
pub(super) struct Ring<T> {
    entries: VecDeque<T>,
    /// The number of the oldest entry still kept.
    first: u64,
    limit: usize,
}

impl<T: Clone> Ring<T> {
    fn new(limit: usize) -> Self {
        Self { entries: VecDeque::new(), first: 0, limit }
    }

    /// Returns the entry's number, which stays the same.
    pub(super) fn push(&mut self, entry: T) -> u64 {
        self.entries.push_back(entry);
        let number = self.first + self.entries.len() as u64 - 1;
        if self.entries.len() > self.limit {
            self.entries.pop_front();
            self.first += 1;
        }
        number
    }

    /// The entry, unless it has been dropped since.
    pub(super) fn entry(&mut self, number: u64) -> Option<&mut T> {
        let index = number.checked_sub(self.first)?;
        self.entries.get_mut(usize::try_from(index).ok()?)
    }

    pub(super) fn to_vec(&self) -> Vec<T> {
        self.entries.iter().cloned().collect()
    }
}

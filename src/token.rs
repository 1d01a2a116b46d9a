//! The access token: how it is obtained, kept fresh, and handed to requests.
//!
//! One background task, the [`Refresher`], is the only writer of the [`TokenCell`]. A request does
//! no more than load the cell; without a valid token it waits at a [`Renewal`], for a bounded time.

pub(crate) mod client;
mod credentials;
mod error;
mod history;
mod outage;
mod refresher;
mod rejection;
mod renewal;
mod reread;
mod schedule;
mod status;
mod store;
#[cfg(test)]
mod tests;
mod trial;
pub(crate) mod wire;

use std::{fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::HeaderValue;
use zeroize::Zeroizing;

pub use self::{
    client::{Exchange, Issued, TokenClient},
    credentials::Presented,
    error::{Class, FetchError},
    history::Attempt,
    refresher::Refresher,
    rejection::FollowUp,
    renewal::{Renewal, Replay, TooOften, Unavailable},
    status::{State, Status},
    store::{CodeRecord, CodeState, Fingerprint, Locked, MAX_STATE_BYTES, Record, Store, StoreError, WriteStep},
    trial::try_credentials,
    wire::Claims,
};
use crate::clock::Moment;

/// One access token with its life.
pub struct Token {
    bearer: Bearer,
    issued_at: Moment,
    refresh_at: Moment,
    hard_expiry: Moment,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("generation", &self.bearer.generation)
            .field("issued_at", &self.issued_at)
            .field("refresh_at", &self.refresh_at)
            .field("hard_expiry", &self.hard_expiry)
            .finish_non_exhaustive()
    }
}

/// What a request takes of a token: a clone counts one reference.
#[derive(Clone)]
pub struct Bearer {
    /// The value of `Authorization`, built once per token and marked as sensitive. Its bytes are zeroed with the last clone.
    pub authorization: HeaderValue,
    /// Tells this token from the others of this process: 1 is the first, each later one is larger.
    pub generation: u64,
}

impl Bearer {
    /// Returns `None` if the token has characters other than visible ASCII (RFC 6749 appendix A.12,
    /// less the space): it would say something else on the wire.
    fn new(access_token: &str, generation: u64) -> Option<Self> {
        if access_token.is_empty() || !access_token.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        let mut text = Zeroizing::new(Vec::with_capacity("Bearer ".len() + access_token.len()));
        text.extend_from_slice(b"Bearer ");
        text.extend_from_slice(access_token.as_bytes());
        let mut authorization = HeaderValue::from_maybe_shared(Bytes::from_owner(text)).ok()?;
        authorization.set_sensitive(true);
        Some(Self { authorization, generation })
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bearer").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// Where the current token is: written by the refresher alone, read by every request without a lock.
#[derive(Clone, Debug, Default)]
pub struct TokenCell(Arc<ArcSwapOption<Token>>);

impl TokenCell {
    /// What to send at `now`; `None` if there is no token or `now` is at or past its hard expiry.
    #[must_use]
    pub fn load(&self, now: Moment) -> Option<Bearer> {
        let token = self.0.load();
        token.as_ref().filter(|token| now < token.hard_expiry).map(|token| token.bearer.clone())
    }

    /// How long the current token can still be sent; `None` if it cannot.
    #[must_use]
    pub fn time_left(&self, now: Moment) -> Option<Duration> {
        let token = self.0.load();
        token.as_ref().map(|token| token.hard_expiry.saturating_since(now)).filter(|left| !left.is_zero())
    }

    #[cfg(any(fuzzing, feature = "parts"))]
    pub(crate) fn holding(access_token: &str, now: Moment) -> Option<Self> {
        let cell = Self::default();
        let hard_expiry = now + Duration::from_secs(3_600);
        cell.publish(Token { bearer: Bearer::new(access_token, 1)?, issued_at: now, refresh_at: now, hard_expiry });
        Some(cell)
    }

    fn publish(&self, token: Token) {
        self.0.store(Some(Arc::new(token)));
    }
}

//! How a request waits for a token while there is none: for a bounded time, among a bounded number.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Semaphore, watch};

use super::{
    Bearer, TokenCell,
    client::Class,
    refresher::{State, Status},
};
use crate::{
    clock::{Clock, Moment},
    config,
};

/// The requests' handle to the refresher.
///
/// Nothing that a request does or omits here can cancel or start an exchange.
#[derive(Clone, Debug)]
pub struct Renewal {
    cell: TokenCell,
    status: watch::Receiver<Status>,
    waiters: Arc<Semaphore>,
    wait: Duration,
    clock: Clock,
}

/// Why there is no token to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Not yet, or not at the moment: it heals by itself. The next attempt is due after `retry_after`.
    #[error("no valid access token at the moment")]
    Transient {
        /// Zero while an exchange is under way.
        retry_after: Duration,
    },
    /// As many requests as `token.max_waiters` allows are waiting already.
    #[error("too many requests are waiting for an access token")]
    Crowded,
    /// An operator must act.
    #[error("the provider refuses the sidecar's configuration")]
    Configuration,
    /// The user must authorize again.
    #[error("the user's authorization is gone")]
    Reauthorize,
}

impl Renewal {
    pub(super) fn new(config: &config::Token, cell: TokenCell, status: watch::Receiver<Status>, clock: Clock) -> Self {
        let waiters = Arc::new(Semaphore::new(config.max_waiters));
        Self { cell, status, waiters, wait: config.wait, clock }
    }

    /// What the refresher is at.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Completes once there has been a token.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn first_token(&mut self) {
        let _ = self.status.wait_for(|status| status.generation > 0).await;
    }

    /// Waits for a valid token, at most `token.wait`; not at all when no attempt is due by then.
    ///
    /// # Errors
    /// See [`Unavailable`].
    ///
    /// # Cancel safety
    /// Dropping the future gives the place up and changes nothing else.
    pub async fn token(&self) -> Result<Bearer, Unavailable> {
        let _place = self.waiters.try_acquire().map_err(|_| Unavailable::Crowded)?;
        let deadline = self.clock.now() + self.wait;
        let mut status = self.status.clone();
        loop {
            // In this order: a token is published before its status.
            let unavailable = self.unavailable(&status.borrow_and_update());
            let now = self.clock.now();
            if let Some(bearer) = self.cell.load(now) {
                return Ok(bearer);
            }
            match unavailable {
                Unavailable::Transient { retry_after } if now < deadline && now + retry_after < deadline => {}
                Unavailable::Transient { .. }
                | Unavailable::Crowded
                | Unavailable::Configuration
                | Unavailable::Reauthorize => return Err(unavailable),
            }
            tokio::select! {
                changed = status.changed() => if changed.is_err() { return Err(unavailable) },
                () = self.clock.sleep_until(deadline) => {}
            }
        }
    }

    fn unavailable(&self, status: &Status) -> Unavailable {
        match status.state {
            State::Failing(Class::Configuration) => Unavailable::Configuration,
            State::Failing(Class::GrantGone) => Unavailable::Reauthorize,
            State::Starting | State::Fresh | State::Failing(Class::Transient) | State::Doubtful => {
                Unavailable::Transient { retry_after: self.until(status.next_attempt) }
            }
        }
    }

    fn until(&self, next_attempt: Option<Moment>) -> Duration {
        next_attempt.map_or(Duration::ZERO, |next| next.saturating_since(self.clock.now()))
    }
}

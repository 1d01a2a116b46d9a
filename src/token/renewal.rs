//! What requests do about a token that is missing or rejected: wait for another, for a bounded time
//! and among a bounded number.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::{Notify, Semaphore, watch};

use super::{
    Bearer, Class, TokenCell,
    history::{Attempt, History},
    rejection::{Decision, FollowUp, Rejections},
    status::{State, Status},
};
use crate::{
    clock::{Clock, Moment},
    config,
    metrics::{Outcome, Reason, TokenMetrics},
};

/// The requests' handle to the refresher.
///
/// Nothing that a request does or omits here can cancel or start an exchange.
#[derive(Clone, Debug)]
pub struct Renewal {
    sight: Sight,
    waiters: Arc<Semaphore>,
    /// Only looked at when the API rejects a token, never on the way of a request that goes well.
    rejections: Arc<Mutex<Rejections>>,
    /// The newest token that the API was seen to take.
    accepted: Arc<AtomicU64>,
    orders: Orders,
    wait: Duration,
    clock: Clock,
    metrics: TokenMetrics,
}

/// What the refresher lets others see.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    pub(super) cell: TokenCell,
    pub(super) status: watch::Receiver<Status>,
    pub(super) history: History,
}

/// What the refresher is told to do before its time.
#[derive(Clone, Debug)]
pub(super) struct Orders {
    /// The newest token that is to be replaced.
    pub(super) replace: watch::Sender<u64>,
    /// The next attempt is wanted now, whatever the token.
    pub(super) asked: Arc<Notify>,
}

/// Refreshes were asked for so often that this one is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token was refreshed before its time too often of late")]
pub struct TooOften;

/// How a request fared that was sent again with a newer token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// The API took it.
    Accepted,
    /// The API rejected that token too.
    Rejected,
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
    #[error("the configuration gives no access token")]
    Configuration,
    /// The user must authorize again.
    #[error("the user's authorization is gone")]
    Reauthorize,
}

impl Unavailable {
    /// One word, for metrics.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Transient { .. } => "transient",
            Self::Crowded => "crowded",
            Self::Configuration => "configuration",
            Self::Reauthorize => "reauthorize",
        }
    }
}

/// Counts a request that waits, also when it goes away while it does.
struct Waiting<'a>(&'a TokenMetrics);

impl<'a> Waiting<'a> {
    fn new(metrics: &'a TokenMetrics) -> Self {
        metrics.waiting.inc();
        Self(metrics)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.dec();
    }
}

impl Renewal {
    pub(super) fn new(
        config: &config::Token,
        sight: Sight,
        orders: Orders,
        clock: Clock,
        metrics: TokenMetrics,
    ) -> Self {
        Self {
            sight,
            waiters: Arc::new(Semaphore::new(config.max_waiters)),
            rejections: Arc::new(Mutex::new(Rejections::new(clock.now()))),
            accepted: Arc::default(),
            orders,
            wait: config.wait,
            clock,
            metrics,
        }
    }

    /// What the refresher is at.
    #[must_use]
    pub fn status(&self) -> Status {
        self.sight.status.borrow().clone()
    }

    /// The last few token requests, the oldest first.
    #[must_use]
    pub fn attempts(&self) -> Vec<Attempt> {
        self.sight.history.attempts()
    }

    /// What the refresher is at, and each change of it.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Status> {
        self.sight.status.clone()
    }

    /// Waits for a valid token, at most `token.wait`; not at all when no attempt is due by then.
    ///
    /// # Errors
    /// See [`Unavailable`].
    ///
    /// # Cancel safety
    /// Dropping the future gives the place up and changes nothing else.
    pub async fn token(&self) -> Result<Bearer, Unavailable> {
        let began = self.clock.now();
        let outcome = match self.waiters.try_acquire() {
            Ok(_place) => {
                let _counted = Waiting::new(&self.metrics);
                self.wait_until(began + self.wait).await
            }
            Err(_) => Err(Unavailable::Crowded),
        };
        self.metrics.wait.observe(self.clock.now().saturating_since(began).as_secs_f64());
        if let Err(unavailable) = &outcome {
            self.metrics.unavailable.get_or_create(&Reason { reason: unavailable.as_str() }).inc();
        }
        outcome
    }

    async fn wait_until(&self, deadline: Moment) -> Result<Bearer, Unavailable> {
        let mut status = self.sight.status.clone();
        loop {
            // In this order: a token is published before its status.
            let unavailable = self.unavailable(&status.borrow_and_update());
            let now = self.clock.now();
            if let Some(bearer) = self.sight.cell.load(now) {
                return Ok(bearer);
            }
            // It expired before its time, as after a suspend, and the refresher does not know yet.
            let Status { state, generation, .. } = *status.borrow();
            if state == State::Fresh {
                self.orders.replace.send_replace(generation);
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

    /// The API took the token of this `generation`. Once per thread and token is enough.
    pub fn accepted(&self, generation: u64) {
        self.accepted.fetch_max(generation, Relaxed);
    }

    /// The API rejected the token of this `generation`. Has it replaced, unless it is already, or
    /// that is known not to help.
    ///
    /// Returns whether there is, or may soon be, a newer one.
    pub fn reject(&self, generation: u64, follow_up: FollowUp) -> bool {
        let now = self.clock.now();
        // Too late: the token in use now is another one, against which nothing has been said.
        if self.sight.status.borrow().generation > generation {
            return true;
        }
        let accepted = self.accepted.load(Relaxed) >= generation;
        let mut rejections = self.rejections.lock().unwrap_or_else(PoisonError::into_inner);
        let decision = rejections.rejected(generation, accepted, follow_up, now);
        drop(rejections);
        match decision {
            Decision::Refresh => {
                tracing::info!(token.generation = generation, "the API rejects the access token; it is replaced");
                self.orders.replace.send_replace(generation);
                true
            }
            Decision::Join => true,
            Decision::Hold => false,
        }
    }

    /// Has the next exchange start as soon as it may: a second after the last one, and not before the
    /// provider's `Retry-After`. While one is under way, that is it.
    ///
    /// # Errors
    /// When there is no room for another forced exchange: ten in a burst, then one in 10 s.
    pub fn ask(&self) -> Result<(), TooOften> {
        if self.sight.status.borrow().next_attempt.is_none() {
            return Ok(());
        }
        let mut rejections = self.rejections.lock().unwrap_or_else(PoisonError::into_inner);
        if !rejections.take_forced(self.clock.now()) {
            return Err(TooOften);
        }
        drop(rejections);
        tracing::info!("a refresh of the access token was asked for");
        self.orders.asked.notify_one();
        Ok(())
    }

    /// Waits for a token newer than `generation`, at most `token.wait`. `None` if the exchange for
    /// it fails, or takes too long.
    ///
    /// # Cancel safety
    /// Dropping the future gives the place up and changes nothing else.
    pub async fn after(&self, generation: u64) -> Option<Bearer> {
        let _place = self.waiters.try_acquire().ok()?;
        let _counted = Waiting::new(&self.metrics);
        let deadline = self.clock.now() + self.wait;
        let mut status = self.sight.status.clone();
        let failures = status.borrow().failures;
        loop {
            let Status { state, next_attempt, failures: failed, .. } = *status.borrow_and_update();
            let now = self.clock.now();
            if let Some(bearer) = self.sight.cell.load(now).filter(|bearer| bearer.generation > generation) {
                return Some(bearer);
            }
            let is_due = match state {
                // The refresher has not heard of the rejection yet, or is about to act on it.
                State::Starting | State::Fresh => true,
                State::Failing(Class::Transient) | State::Doubtful => now + self.until(next_attempt) < deadline,
                State::Failing(Class::Configuration | Class::GrantGone) => false,
            };
            if failed > failures || !is_due || now >= deadline {
                return None;
            }
            tokio::select! {
                changed = status.changed() => changed.ok()?,
                () = self.clock.sleep_until(deadline) => {}
            }
        }
    }

    /// How it went with a token from [`after`](Self::after).
    pub fn replayed(&self, replay: Replay) {
        let now = self.clock.now();
        let result = match replay {
            Replay::Accepted => "accepted",
            Replay::Rejected => "rejected",
        };
        self.metrics.replays.get_or_create(&Outcome { result }).inc();
        let mut rejections = self.rejections.lock().unwrap_or_else(PoisonError::into_inner);
        match replay {
            Replay::Accepted => rejections.replay_accepted(),
            Replay::Rejected => {
                if !rejections.is_open(now) {
                    tracing::warn!("the API rejects fresh access tokens too; its rejections are passed on for a while");
                }
                rejections.replay_rejected(now);
            }
        }
    }

    /// Returns true while rejections of the token are passed on without a token request.
    #[must_use]
    pub fn is_breaker_open(&self) -> bool {
        self.rejections.lock().unwrap_or_else(PoisonError::into_inner).is_open(self.clock.now())
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

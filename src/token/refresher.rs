//! The background task that keeps the token fresh: the only writer of the [`TokenCell`].

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use rand::rngs::StdRng;
use tokio::sync::{Notify, watch};

use super::{
    Bearer, Class, FetchError, Renewal, Token, TokenCell,
    client::{Exchange, Issued},
    credentials::Credentials,
    history::{Attempt, History},
    outage::{Failed, Outage},
    renewal::{Orders, Sight},
    schedule::{Failure, Schedule},
    status::{State, Status},
    store::Store,
    wire::{self, OAuthError},
};
use crate::{
    clock::{Clock, Moment, Pulse},
    config,
    metrics::{Refresh, TokenMetrics},
    shutdown::Drain,
};

/// How often the secret files are looked at while the provider refuses what they hold.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Why an exchange is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Start,
    Scheduled,
    Retry,
    Rejected,
    Secret,
    Asked,
}

impl Cause {
    fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Scheduled => "scheduled",
            Self::Retry => "retry",
            Self::Rejected => "rejected",
            Self::Secret => "secret",
            Self::Asked => "asked",
        }
    }

    /// Whether somebody has asked for it, or done something that it puts to the test, and watches the log.
    fn is_awaited(self) -> bool {
        matches!(self, Self::Secret | Self::Asked)
    }
}

/// How often it shows that it is alive.
const BEAT: Duration = Duration::from_secs(15);

/// Obtains a token, and another one before it expires, for as long as the process runs.
#[derive(Debug)]
pub struct Refresher<E> {
    endpoint: E,
    credentials: Credentials,
    schedule: Schedule,
    default_lifetime: Duration,
    clock: Clock,
    cell: TokenCell,
    metrics: TokenMetrics,
    status: watch::Sender<Status>,
    /// The newest token that requests want replaced before its time.
    replace: watch::Receiver<u64>,
    /// An operator wants the next attempt now.
    asked: Arc<Notify>,
    history: History,
    pulse: Pulse,
    outage: Outage,
    next_attempt: Moment,
    cause: Cause,
}

impl<E: Exchange> Refresher<E> {
    /// A refresher that has not started, the cell it will write, and the handle to wait at. `store` is
    /// that of `token.state_file`; `dice` must be seeded differently in each replica.
    #[must_use]
    pub fn new(
        config: &config::Token,
        endpoint: E,
        store: Option<Store>,
        clock: Clock,
        dice: StdRng,
        metrics: TokenMetrics,
    ) -> (Self, TokenCell, Renewal) {
        let now = clock.now();
        let cell = TokenCell::default();
        let (status, receiver) = watch::channel(Status::starting(now));
        let (wanted, replace) = watch::channel(0);
        let asked = Arc::new(Notify::new());
        let orders = Orders { replace: wanted, asked: Arc::clone(&asked) };
        let history = History::default();
        let sight = Sight { cell: cell.clone(), status: receiver, history: history.clone() };
        let renewal = Renewal::new(config, sight, orders, clock.clone(), metrics.clone());
        let refresher = Self {
            endpoint,
            credentials: Credentials::new(config, store, clock.clone(), &metrics.secret_reloads),
            schedule: Schedule::new(config.refresh_at.clone(), config.retry_max, dice),
            default_lifetime: config.default_lifetime,
            clock,
            cell: cell.clone(),
            metrics,
            status,
            replace,
            asked,
            history,
            pulse: Pulse::default(),
            outage: Outage::default(),
            next_attempt: now,
            cause: Cause::Start,
        };
        (refresher, cell, renewal)
    }

    /// Beats at least every quarter of a minute, but for the time of an exchange.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Runs until the drain begins. An exchange that is under way then is finished first if it may
    /// bring the only copy of a new refresh token.
    ///
    /// A panic is a fault of this program, but must not cost the token: it is logged, counts as a
    /// failure, and the work goes on.
    pub async fn run(mut self, mut drain: Drain) {
        while AssertUnwindSafe(self.keep_fresh(&mut drain)).catch_unwind().await.is_err() {
            tracing::error!("the refresher panicked, which is a fault of token-valet; it goes on");
            self.recover();
            // Whatever it was, it must not go round without a pause.
            tokio::select! {
                biased;
                () = drain.begun() => {}
                () = self.clock.sleep_until(self.next_attempt) => {}
            }
        }
        if !self.credentials.persist().await {
            tracing::error!("the process ends with a refresh token that could not be stored");
        }
    }

    async fn keep_fresh(&mut self, drain: &mut Drain) {
        loop {
            tokio::select! {
                biased;
                () = drain.begun() => return,
                () = self.due() => {}
            }
            if self.credentials.may_rotate() {
                self.refresh(drain).await;
            } else {
                let mut end = drain.clone();
                tokio::select! {
                    biased;
                    () = end.begun() => return,
                    () = self.refresh(drain) => {}
                }
            }
        }
    }

    /// Waits for the next attempt's time, or for what makes it come earlier: another secret once the
    /// provider has refused the last, the API's rejection of a token that was thought to be good, or
    /// somebody who asks for it.
    /// Meanwhile, stores what could not be stored.
    async fn due(&mut self) {
        loop {
            self.pulse.beat();
            let Status { state, generation, .. } = *self.status.borrow();
            let refused = match state {
                State::Failing(Class::Configuration | Class::GrantGone) | State::Doubtful => true,
                State::Starting | State::Fresh | State::Failing(Class::Transient) => false,
            };
            if refused && self.cause != Cause::Secret && self.credentials.have_changed() {
                tracing::info!("a secret was replaced; it is tried at once");
                self.hasten(Cause::Secret);
            }
            let persisted = self.credentials.persist().await;
            self.status.send_if_modified(|status| std::mem::replace(&mut status.persistent, persisted) != persisted);
            let now = self.clock.now();
            if now >= self.next_attempt {
                return;
            }
            let look_again = now + if refused || !persisted { WATCH_INTERVAL } else { BEAT };
            let pause = self.clock.sleep_until(self.next_attempt.min(look_again));
            // Otherwise the next attempt comes as early as it may.
            let may_be_rejected = state == State::Fresh && self.cause == Cause::Scheduled;
            tokio::select! {
                () = unwanted(&mut self.replace, generation), if may_be_rejected => self.hasten(Cause::Rejected),
                () = self.asked.notified() => self.hasten(Cause::Asked),
                () = pause => {}
            }
        }
    }

    fn hasten(&mut self, cause: Cause) {
        self.cause = cause;
        self.next_attempt = self.next_attempt.min(self.schedule.no_earlier(self.clock.now()));
        self.status.send_modify(|status| status.next_attempt = Some(self.next_attempt));
    }

    async fn refresh(&mut self, drain: &Drain) {
        let cause = self.cause;
        // What was asked for until now is this.
        let _ = self.asked.notified().now_or_never();
        self.status.send_modify(|status| status.next_attempt = None);
        let presented = self.credentials.present().await;
        if drain.has_begun() {
            // Waiting for the state file took until the end: an exchange that begins now could be cut off.
            return self.credentials.withdraw().await;
        }
        // Before the request: the provider counts the token's life from some moment after this one.
        let issued_at = self.clock.now();
        self.schedule.started(issued_at);
        let outcome = match presented {
            Ok(presented) => self.endpoint.exchange(&presented).await,
            Err(error) => Err(error),
        };
        let took = self.clock.now().saturating_since(issued_at);
        let outcome = match outcome {
            Ok(issued) => self.publish(issued_at, issued).await,
            Err(error) => Err(error),
        };
        self.count(cause, &outcome, took);
        match outcome {
            Ok(life) => self.history.note(Attempt::succeeded(issued_at, took, cause.as_str(), life)),
            Err(error) => {
                self.history.note(Attempt::failed(issued_at, took, cause.as_str(), &error));
                self.back_off(&error, issued_at, cause).await;
            }
        }
    }

    fn count(&self, cause: Cause, outcome: &Result<Duration, FetchError>, took: Duration) {
        let (result, oauth_error) = match outcome {
            Ok(_) => ("success", ""),
            Err(error) => (error.class().as_str(), error.oauth_error().map_or("", OAuthError::as_str)),
        };
        let refresh = Refresh { cause: cause.as_str(), result, oauth_error };
        self.metrics.refreshes.get_or_create(&refresh).inc();
        self.metrics.refresh_duration.observe(took.as_secs_f64());
    }

    /// Returns how long the token may be sent.
    async fn publish(&mut self, issued_at: Moment, issued: Issued) -> Result<Duration, FetchError> {
        // Before the access token is used, and also if that is of no use: the old refresh token may be gone.
        self.credentials.accepted(issued.refresh_token).await;
        let Status { generation, failures, .. } = *self.status.borrow();
        let generation = generation + 1;
        let access_token = issued.access_token.ok_or(FetchError::NotBearer)?;
        let bearer = Bearer::new(access_token.expose(), generation).ok_or(FetchError::UnusableToken)?;
        let claims = wire::jwt_claims(access_token.expose()).map(Arc::new);
        let lifetime = issued.lifetime.unwrap_or_else(|| {
            self.metrics.lifetime_unknown.inc();
            tracing::warn!(assumed = ?self.default_lifetime, "the token response states no lifetime");
            self.default_lifetime
        });
        let life = self.schedule.succeeded(issued_at, lifetime);
        self.cell.publish(Token { bearer, issued_at, refresh_at: life.refresh_at, hard_expiry: life.hard_expiry });
        let (used_at, persistent) = (self.credentials.used_at(), self.credentials.is_persisted());
        self.cause = Cause::Scheduled;
        self.plan(life.refresh_at, |status| {
            status.state = State::Fresh;
            status.generation = generation;
            status.claims = claims;
            status.failures = 0;
            status.issued_at = Some(issued_at);
            status.hard_expiry = Some(life.hard_expiry);
            status.refresh_token_used_at = used_at;
            status.persistent = persistent;
        });
        let now = self.clock.now();
        tracing::info!(
            token.generation = generation,
            token.expires_in_s = life.hard_expiry.saturating_since(now).as_secs(),
            refresh_in_s = self.next_attempt.saturating_since(now).as_secs(),
            elapsed_ms = u64::try_from(now.saturating_since(issued_at).as_millis()).unwrap_or(u64::MAX),
            "the access token was refreshed"
        );
        if let Some(outage) = self.outage.end(now) {
            tracing::info!(outage_s = outage.as_secs(), attempts = failures, "the token outage is over");
        }
        Ok(life.hard_expiry.saturating_since(issued_at))
    }

    /// After an exchange that began at `started_at`.
    async fn back_off(&mut self, error: &FetchError, started_at: Moment, cause: Cause) {
        self.credentials.refused(error).await;
        let class = error.class();
        let now = self.clock.now();
        let failure = Failure { class, ambiguous: error.is_ambiguous(), retry_after: error.retry_after() };
        let Status { state, failures, hard_expiry, .. } = *self.status.borrow();
        let valid_until = hard_expiry.filter(|expiry| now < *expiry);
        let wanted = self.schedule.failed(now, failure, valid_until);
        let after = state.after(error.class(), self.credentials.are_used_up());
        let failures = failures.saturating_add(1);
        self.cause = Cause::Retry;
        self.plan(wanted, |status| {
            status.state = after;
            status.failures = failures;
        });
        let is_told = self.outage.failed(started_at, after, failures) || cause.is_awaited();
        let retry_in = self.next_attempt.saturating_since(now);
        Failed { error, nth: failures, retry_in, token_valid: valid_until.is_some() }.log(is_told);
    }

    /// Plans the next attempt after one that never came to its end.
    fn recover(&mut self) {
        let now = self.clock.now();
        let failure = Failure { class: Class::Transient, ambiguous: true, retry_after: None };
        let valid_until = self.status.borrow().hard_expiry.filter(|expiry| now < *expiry);
        let wanted = self.schedule.failed(now, failure, valid_until);
        self.outage.begin(now);
        self.cause = Cause::Retry;
        self.plan(wanted, |status| {
            status.state = State::Failing(Class::Transient);
            status.failures = status.failures.saturating_add(1);
        });
    }

    /// Tells everyone how it stands and when it goes on.
    fn plan(&mut self, wanted: Moment, change: impl FnOnce(&mut Status)) {
        self.next_attempt = self.schedule.no_earlier(wanted);
        self.status.send_modify(|status| {
            status.next_attempt = Some(self.next_attempt);
            change(status);
        });
    }
}

/// Completes when requests want this token, or a newer one, replaced.
async fn unwanted(replace: &mut watch::Receiver<u64>, generation: u64) {
    if replace.wait_for(|unwanted| *unwanted >= generation).await.is_err() {
        // Nobody is left who could want it.
        std::future::pending().await
    }
}

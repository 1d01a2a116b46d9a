//! The background task that keeps the token fresh: the only writer of the [`TokenCell`].

use std::time::Duration;

use rand::rngs::StdRng;
use tokio::sync::watch;

use super::{
    Bearer, Renewal, Token, TokenCell,
    client::{Class, Exchange, FetchError, Issued},
    credentials::Credentials,
    schedule::{Failure, Schedule},
};
use crate::{
    clock::{Clock, Moment},
    config,
    report::Report,
    shutdown::Drain,
};

/// How often the secret files are looked at while the provider refuses what they hold.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// What the refresher is at, for requests without a token, probes and people.
#[derive(Clone, Debug)]
pub struct Status {
    /// How the last exchange ended.
    pub state: State,
    /// When the next one starts; `None` while one is under way.
    pub next_attempt: Option<Moment>,
    /// The number of the newest token; 0 before the first.
    pub generation: u64,
    /// Failed exchanges since the last token.
    pub failures: u32,
}

/// How the last exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// There was none yet.
    Starting,
    /// With a token.
    Fresh,
    /// Without. A token from before may still be valid.
    Failing(Class),
    /// The provider says that the grant is gone, for the first time: one more exchange will tell.
    Doubtful,
}

/// Obtains a token, and another one before it expires, for as long as the process runs.
#[derive(Debug)]
pub struct Refresher<E> {
    endpoint: E,
    credentials: Credentials,
    schedule: Schedule,
    default_lifetime: Duration,
    clock: Clock,
    cell: TokenCell,
    /// When the token in the cell can no longer be sent.
    hard_expiry: Option<Moment>,
    status: watch::Sender<Status>,
    next_attempt: Moment,
}

impl<E: Exchange> Refresher<E> {
    /// A refresher that has not started, the cell it will write, and the handle to wait at.
    /// `dice` must be seeded differently in each replica.
    #[must_use]
    pub fn new(config: &config::Token, endpoint: E, clock: Clock, dice: StdRng) -> (Self, TokenCell, Renewal) {
        let now = clock.now();
        let cell = TokenCell::default();
        let (status, receiver) =
            watch::channel(Status { state: State::Starting, next_attempt: Some(now), generation: 0, failures: 0 });
        let renewal = Renewal::new(config, cell.clone(), receiver, clock.clone());
        let refresher = Self {
            endpoint,
            credentials: Credentials::new(config.client_secret.clone(), config.grant.clone()),
            schedule: Schedule::new(config.refresh_at.clone(), config.retry_max, dice),
            default_lifetime: config.default_lifetime,
            clock,
            cell: cell.clone(),
            hard_expiry: None,
            status,
            next_attempt: now,
        };
        (refresher, cell, renewal)
    }

    /// Runs until the drain begins. An exchange that is under way then is finished first if it may
    /// bring the only copy of a new refresh token.
    pub async fn run(mut self, mut drain: Drain) {
        loop {
            tokio::select! {
                biased;
                () = drain.begun() => return,
                () = self.due() => {}
            }
            if self.credentials.may_rotate() {
                self.refresh().await;
            } else {
                tokio::select! {
                    biased;
                    () = drain.begun() => return,
                    () = self.refresh() => {}
                }
            }
        }
    }

    /// Waits for the next attempt's time, or for another secret once the provider has refused the last.
    async fn due(&mut self) {
        loop {
            let now = self.clock.now();
            if now >= self.next_attempt {
                return;
            }
            if !self.is_refused() {
                return self.clock.sleep_until(self.next_attempt).await;
            }
            if self.credentials.have_changed() {
                tracing::info!("a secret was replaced; it is tried at once");
                return self.clock.sleep_until(self.schedule.no_earlier(now)).await;
            }
            self.clock.sleep_until(self.next_attempt.min(now + WATCH_INTERVAL)).await;
        }
    }

    fn is_refused(&self) -> bool {
        match self.status.borrow().state {
            State::Failing(Class::Configuration | Class::GrantGone) | State::Doubtful => true,
            State::Starting | State::Fresh | State::Failing(Class::Transient) => false,
        }
    }

    async fn refresh(&mut self) {
        // Before the request: the provider counts the token's life from some moment after this one.
        let issued_at = self.clock.now();
        self.schedule.started(issued_at);
        self.status.send_modify(|status| status.next_attempt = None);
        let outcome = match self.credentials.present() {
            Ok(presented) => self.endpoint.exchange(&presented).await,
            Err(error) => Err(error),
        };
        match outcome.and_then(|issued| self.publish(issued_at, issued)) {
            Ok(()) => {}
            Err(error) => self.back_off(&error),
        }
    }

    fn publish(&mut self, issued_at: Moment, issued: Issued) -> Result<(), FetchError> {
        // Adopted even if the access token is of no use: the old one may be gone.
        self.credentials.adopt(issued.refresh_token);
        let generation = self.status.borrow().generation + 1;
        let bearer = Bearer::new(issued.access_token.expose(), generation).ok_or(FetchError::UnusableToken)?;
        let lifetime = issued.lifetime.unwrap_or_else(|| {
            tracing::warn!(assumed = ?self.default_lifetime, "the token response states no lifetime");
            self.default_lifetime
        });
        let life = self.schedule.succeeded(issued_at, lifetime);
        self.hard_expiry = Some(life.hard_expiry);
        self.cell.publish(Token { bearer, issued_at, refresh_at: life.refresh_at, hard_expiry: life.hard_expiry });
        self.plan(life.refresh_at, State::Fresh);
        let now = self.clock.now();
        tracing::info!(
            token.generation = generation,
            token.expires_in_s = life.hard_expiry.saturating_since(now).as_secs(),
            refresh_in_s = self.next_attempt.saturating_since(now).as_secs(),
            elapsed_ms = u64::try_from(now.saturating_since(issued_at).as_millis()).unwrap_or(u64::MAX),
            "the access token was refreshed"
        );
        Ok(())
    }

    fn back_off(&mut self, error: &FetchError) {
        if error.is_unsent() {
            self.credentials.unsent();
        }
        let class = error.class();
        let now = self.clock.now();
        let failure = Failure { class, ambiguous: error.is_ambiguous(), retry_after: error.retry_after() };
        let valid_until = self.hard_expiry.filter(|expiry| now < *expiry);
        let wanted = self.schedule.failed(now, failure, valid_until);
        self.plan(wanted, self.state_after(error));
        let failures = self.status.borrow().failures;
        log_failure(error, failures, self.next_attempt.saturating_since(now), valid_until.is_some());
    }

    fn state_after(&self, error: &FetchError) -> State {
        let doubted = match self.status.borrow().state {
            State::Doubtful | State::Failing(Class::GrantGone) => true,
            State::Starting | State::Fresh | State::Failing(Class::Transient | Class::Configuration) => false,
        };
        match error.class() {
            Class::GrantGone if !doubted && !matches!(error, FetchError::CodeUsed) => State::Doubtful,
            class => State::Failing(class),
        }
    }

    fn plan(&mut self, wanted: Moment, state: State) {
        self.next_attempt = self.schedule.no_earlier(wanted);
        self.status.send_modify(|status| {
            status.state = state;
            status.next_attempt = Some(self.next_attempt);
            if state == State::Fresh {
                status.generation += 1;
                status.failures = 0;
            } else {
                status.failures = status.failures.saturating_add(1);
            }
        });
    }
}

/// Transient failures heal by themselves; for the others somebody must act.
fn log_failure(error: &FetchError, failures: u32, retry_in: Duration, token_valid: bool) {
    macro_rules! log {
        ($level:expr) => {
            tracing::event!(
                $level,
                error = %Report(error),
                description = error.description(),
                look_at = error.keys(),
                attempt = failures,
                retry_in_s = retry_in.as_secs(),
                token.valid = token_valid,
                "the access token could not be refreshed"
            )
        };
    }
    match error.class() {
        Class::Transient => log!(tracing::Level::WARN),
        Class::Configuration | Class::GrantGone => log!(tracing::Level::ERROR),
    }
}

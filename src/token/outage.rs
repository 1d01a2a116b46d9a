//! Failed exchanges in a row: which of them the log tells, and how long the row lasted.

use std::time::Duration;

use tracing::Level;

use super::{Class, FetchError, State};
use crate::{clock::Moment, report::Report};

/// Of failures that are all alike, each so-manieth gets its line: at `token.retry_max = "1s"` one in some 10 s.
const TOLD_EVERY: u32 = 10;

/// One row of failures, from the first on; written by the refresher alone.
#[derive(Debug, Default)]
pub(super) struct Outage {
    /// When the first exchange of it began; `None` while there is no outage.
    since: Option<Moment>,
    /// What the last failure led to.
    state: Option<State>,
}

/// One failed exchange, for its line.
#[derive(Debug)]
pub(super) struct Failed<'a> {
    pub(super) error: &'a FetchError,
    /// How many there were since the last token, this one included.
    pub(super) nth: u32,
    pub(super) retry_in: Duration,
    /// Whether a token from before is still valid.
    pub(super) token_valid: bool,
}

impl Outage {
    /// The `nth` exchange, begun at `at`, failed and led to `state`. Returns true if people should know:
    /// it is the first, or unlike the one before, or the row has grown by another ten.
    pub(super) fn failed(&mut self, at: Moment, state: State, nth: u32) -> bool {
        self.begin(at);
        self.state.replace(state) != Some(state) || nth.is_multiple_of(TOLD_EVERY)
    }

    /// An exchange ended without an outcome, which its own line tells.
    pub(super) fn begin(&mut self, at: Moment) {
        self.since.get_or_insert(at);
    }

    /// There is a token again; `None` if there was no outage.
    pub(super) fn end(&mut self, now: Moment) -> Option<Duration> {
        let since = std::mem::take(self).since;
        since.map(|since| now.saturating_since(since))
    }
}

impl Failed<'_> {
    /// Writes its line: that of one among many for those who look closely alone.
    pub(super) fn log(&self, is_told: bool) {
        macro_rules! log {
            ($level:expr) => {
                tracing::event!(
                    $level,
                    error = %Report(self.error),
                    description = self.error.description(),
                    look_at = self.error.keys(),
                    attempt = self.nth,
                    retry_in_s = self.retry_in.as_secs(),
                    token.valid = self.token_valid,
                    "the access token could not be refreshed"
                )
            };
        }
        match self.error.class() {
            _ if !is_told => log!(Level::DEBUG),
            // It heals by itself; for the others somebody must act.
            Class::Transient => log!(Level::WARN),
            Class::Configuration | Class::GrantGone => log!(Level::ERROR),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Outage;
    use crate::{
        clock::Clock,
        token::{Class, State},
    };

    const DOWN: State = State::Failing(Class::Transient);
    const REFUSED: State = State::Failing(Class::Configuration);

    /// The numbers of those that are told.
    fn told(states: &[State]) -> Vec<u32> {
        let (mut outage, now) = (Outage::default(), Clock::kernel().now());
        let nth = (1..).zip(states);
        nth.filter(|(nth, state)| outage.failed(now, **state, *nth)).map(|(nth, _)| nth).collect()
    }

    #[test]
    fn of_failures_that_are_alike_the_first_and_every_tenth_are_told() {
        assert_eq!(told(&[DOWN; 35]), [1, 10, 20, 30]);
    }

    #[test]
    fn failure_unlike_the_one_before_is_told() {
        assert_eq!(told(&[DOWN, DOWN, REFUSED, REFUSED, DOWN, DOWN]), [1, 3, 5]);
        let gone = State::Failing(Class::GrantGone);
        assert_eq!(told(&[State::Doubtful, gone, gone]), [1, 2], "the doubt ends");
    }

    #[test]
    fn outage_lasts_from_its_first_exchange_to_the_token_and_the_next_is_another() {
        let (mut outage, start) = (Outage::default(), Clock::kernel().now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(outage.end(at(0)), None);
        assert!(outage.failed(at(1), DOWN, 1) && !outage.failed(at(5), DOWN, 2));
        assert_eq!(outage.end(at(8)), Some(Duration::from_secs(7)));
        assert_eq!(outage.end(at(9)), None);
        assert!(outage.failed(at(10), DOWN, 1), "told anew");
        assert_eq!(outage.end(at(11)), Some(Duration::from_secs(1)));
    }
}

//! When the next token request starts. Pure: it is told the time and rolls seeded dice, nothing else.

use std::{ops::Range, time::Duration};

use rand::{RngExt, rngs::StdRng};

use super::Class;
use crate::clock::Moment;

/// Token requests start at least this far apart, whatever their cause.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// A token is replaced at most this long before its hard expiry.
const MAX_LEAD: Duration = Duration::from_secs(3_600);
/// The shortest back-off, and the step that the first one grows from.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// The longest back-off while a token is still valid.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A fault of the configuration is tried again after the first of these, then twice as long each time, up to the second.
const CONFIGURATION_PAUSE: Range<Duration> = Duration::from_secs(30)..Duration::from_secs(300);
/// A grant that is said to be gone is tried once more after this,
const CONFIRM_PAUSE: Duration = Duration::from_secs(30);
/// and from then on this often.
const PROBE_PAUSE: Duration = Duration::from_secs(3_600);
/// What a provider's `Retry-After` is taken for at least and at most.
const RETRY_AFTER: Range<Duration> = Duration::from_millis(500)..Duration::from_secs(300);

/// The life of one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) refresh_at: Moment,
    pub(super) hard_expiry: Moment,
}

impl Life {
    /// A token that lives for `lifetime` from `issued_at`, to be replaced after `fraction` of its usable
    /// life, where `earliest` is the smallest fraction that could have been drawn.
    pub(super) fn plan(issued_at: Moment, lifetime: Duration, fraction: f64, earliest: f64) -> Self {
        let skew = (lifetime / 50).clamp(Duration::from_secs(1), Duration::from_secs(10)).min(lifetime / 4);
        let usable = lifetime.saturating_sub(skew);
        // The bound on the lead shrinks with the draw as the lead itself does, or replicas would agree on it.
        let lead = usable.mul_f64(1.0 - fraction).min(MAX_LEAD.mul_f64((1.0 - fraction) / (1.0 - earliest)));
        Self { refresh_at: issued_at + usable.saturating_sub(lead), hard_expiry: issued_at + usable }
    }
}

/// What the schedule needs to know of a failure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    pub(super) class: Class,
    /// The request may have been served although no answer came back.
    pub(super) ambiguous: bool,
    pub(super) retry_after: Option<Duration>,
}

/// Remembers what bounds the next attempt.
#[derive(Debug)]
pub(super) struct Schedule {
    refresh_at: Range<f64>,
    retry_max: Duration,
    dice: StdRng,
    last_start: Option<Moment>,
    /// Set by the provider's `Retry-After`; no cause overrides it.
    not_before: Option<Moment>,
    last_backoff: Duration,
    /// Failures of the same class in a row.
    row: Option<(Class, u32)>,
    /// Whether the last failure was ambiguous: only the first of several has its quick repetition.
    was_ambiguous: bool,
}

impl Schedule {
    pub(super) fn new(refresh_at: Range<f64>, retry_max: Duration, dice: StdRng) -> Self {
        Self {
            refresh_at,
            retry_max,
            dice,
            last_start: None,
            not_before: None,
            last_backoff: BACKOFF_MIN,
            row: None,
            was_ambiguous: false,
        }
    }

    /// Must be told of each attempt as it starts.
    pub(super) fn started(&mut self, now: Moment) {
        self.last_start = Some(now);
        self.not_before = None;
    }

    /// The first moment from `wanted` on at which an attempt may start.
    pub(super) fn no_earlier(&self, wanted: Moment) -> Moment {
        let spaced = self.last_start.map_or(wanted, |start| wanted.max(start + MIN_INTERVAL));
        self.not_before.map_or(spaced, |bound| spaced.max(bound))
    }

    /// Plans the life of a token; its `refresh_at` is when the next attempt is wanted.
    pub(super) fn succeeded(&mut self, issued_at: Moment, lifetime: Duration) -> Life {
        self.last_backoff = BACKOFF_MIN;
        self.row = None;
        self.was_ambiguous = false;
        // The range may be a single point, which `random_range` would refuse as half-open.
        let fraction = self.dice.random_range(self.refresh_at.start..=self.refresh_at.end);
        Life::plan(issued_at, lifetime, fraction, self.refresh_at.start)
    }

    /// When to try again; `hard_expiry` is that of the token in use, if one is valid.
    pub(super) fn failed(&mut self, now: Moment, failure: Failure, hard_expiry: Option<Moment>) -> Moment {
        let nth = match self.row {
            Some((class, count)) if class == failure.class => count.saturating_add(1),
            _ => 1,
        };
        self.row = Some((failure.class, nth));
        let newly_ambiguous = failure.ambiguous && !self.was_ambiguous;
        self.was_ambiguous = failure.ambiguous;
        let pause = match failure.class {
            Class::Transient => self.backoff(now, hard_expiry, newly_ambiguous),
            Class::Configuration => {
                let doubled = CONFIGURATION_PAUSE.start.saturating_mul(2_u32.saturating_pow(nth - 1));
                doubled.min(CONFIGURATION_PAUSE.end)
            }
            Class::GrantGone if nth == 1 => CONFIRM_PAUSE,
            Class::GrantGone => PROBE_PAUSE,
        };
        if let Some(asked) = failure.retry_after {
            let asked = asked.clamp(RETRY_AFTER.start, RETRY_AFTER.end);
            self.not_before = Some(now + asked.mul_f64(self.dice.random_range(1.0..=1.1)));
        }
        self.no_earlier(now + pause)
    }

    /// Decorrelated jitter: at random between the minimum and three times the last one, within a cap.
    fn backoff(&mut self, now: Moment, hard_expiry: Option<Moment>, ambiguous: bool) -> Duration {
        let cap = match hard_expiry {
            Some(expiry) => (expiry.saturating_since(now) / 4).clamp(MIN_INTERVAL, BACKOFF_MAX),
            None => self.retry_max,
        };
        let high = (self.last_backoff * 3).max(BACKOFF_MIN);
        let drawn = self.dice.random_range(BACKOFF_MIN..=high).min(cap);
        self.last_backoff = drawn;
        // The server may hold a rotated token that never arrived; it forgives the old one for a short while only.
        if ambiguous { drawn.min(MIN_INTERVAL) } else { drawn }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::{Strategy, any, prop, prop_assert, prop_oneof, proptest};
    use rand::{SeedableRng, rngs::StdRng};

    use super::{Failure, Life, Schedule};
    use crate::{
        clock::{Clock, Moment},
        token::Class,
    };

    fn schedule(seed: u64) -> Schedule {
        Schedule::new(0.70..0.80, Duration::from_secs(30), StdRng::seed_from_u64(seed))
    }

    fn origin() -> Moment {
        Clock::kernel().now()
    }

    fn seconds(s: f64) -> Duration {
        Duration::from_secs_f64(s)
    }

    #[test]
    fn a_flinks_token_of_299_s_is_sent_for_293_s_and_refreshed_before() {
        let start = origin();
        let life = Life::plan(start, seconds(299.0), 0.75, 0.7);
        assert_eq!(life.hard_expiry, start + seconds(293.02));
        let planned = life.refresh_at.saturating_since(start).as_secs_f64();
        assert!((planned - 293.02 * 0.75).abs() < 0.001, "{planned}");
    }

    #[test]
    fn a_long_lived_token_is_refreshed_an_hour_before_its_end_at_most_and_still_spread() {
        let lead = |fraction| {
            let life = Life::plan(origin(), seconds(86_400.0), fraction, 0.7);
            life.hard_expiry.saturating_since(life.refresh_at).as_secs_f64().round()
        };
        assert_eq!((lead(0.7), lead(0.8)), (3_600.0, 2_400.0));
    }

    #[test]
    fn a_configuration_fault_is_tried_after_30_s_growing_to_5_min() {
        let mut schedule = schedule(1);
        let start = origin();
        let failure = Failure { class: Class::Configuration, ambiguous: false, retry_after: None };
        let pauses: Vec<_> =
            (0..6).map(|_| schedule.failed(start, failure, None).saturating_since(start).as_secs()).collect();
        assert_eq!(pauses, [30, 60, 120, 240, 300, 300]);
    }

    #[test]
    fn a_gone_grant_is_confirmed_after_30_s_and_then_probed_hourly() {
        let mut schedule = schedule(1);
        let start = origin();
        let failure = Failure { class: Class::GrantGone, ambiguous: false, retry_after: None };
        let pauses: Vec<_> =
            (0..3).map(|_| schedule.failed(start, failure, None).saturating_since(start).as_secs()).collect();
        assert_eq!(pauses, [30, 3_600, 3_600]);
    }

    #[test]
    fn an_ambiguous_exchange_is_repeated_within_a_second() {
        for seed in 0..200 {
            let mut schedule = schedule(seed);
            let start = origin();
            schedule.started(start);
            let failure = Failure { class: Class::Transient, ambiguous: true, retry_after: None };
            let next = schedule.failed(start + seconds(0.1), failure, None);
            assert!(next.saturating_since(start) <= seconds(1.1), "{next:?}");
        }
    }

    fn failures() -> impl Strategy<Value = Failure> {
        let class = prop_oneof![
            4 => proptest::strategy::Just(Class::Transient),
            1 => proptest::strategy::Just(Class::Configuration),
            1 => proptest::strategy::Just(Class::GrantGone)
        ];
        let retry_after = prop::option::of(any::<u64>().prop_map(Duration::from_secs));
        (class, any::<bool>(), retry_after).prop_map(|(class, ambiguous, retry_after)| Failure {
            class,
            ambiguous,
            retry_after,
        })
    }

    proptest! {
        #[test]
        fn every_plan_refreshes_within_the_usable_life(lifetime in 1_u64..=86_400, seed in any::<u64>()) {
            let start = origin();
            let lifetime = Duration::from_secs(lifetime);
            let life = schedule(seed).succeeded(start, lifetime);
            prop_assert!(start < life.refresh_at && life.refresh_at < life.hard_expiry);
            prop_assert!(life.hard_expiry < start + lifetime);
            let usable = life.hard_expiry.saturating_since(start);
            prop_assert!(life.refresh_at.saturating_since(start) >= usable.mul_f64(0.6999));
            prop_assert!(life.hard_expiry.saturating_since(life.refresh_at) <= Duration::from_secs(3_600));
        }

        #[test]
        fn attempts_are_a_second_apart_and_never_before_retry_after(
            failures in prop::collection::vec(failures(), 1..40),
            seed in any::<u64>(),
            took in 0_u64..12,
            live in prop::option::of(0_u64..300),
        ) {
            let mut schedule = schedule(seed);
            let mut now = origin();
            for failure in failures {
                let start = schedule.no_earlier(now);
                schedule.started(start);
                let failed_at = start + Duration::from_secs(took);
                let expiry = live.map(|s| failed_at + Duration::from_secs(s));
                now = schedule.failed(failed_at, failure, expiry);
                prop_assert!(now >= start + Duration::from_secs(1));
                if let Some(asked) = failure.retry_after {
                    let bounded = asked.clamp(Duration::from_millis(500), Duration::from_secs(300));
                    prop_assert!(now >= failed_at + bounded);
                    prop_assert!(schedule.no_earlier(failed_at) >= failed_at + bounded);
                }
                let longest = match failure.class {
                    Class::Transient => 30,
                    Class::Configuration => 300,
                    Class::GrantGone => 3_600,
                };
                let longest = if failure.retry_after.is_some() { longest.max(330) } else { longest };
                prop_assert!(now <= failed_at + Duration::from_secs(longest));
            }
        }
    }
}

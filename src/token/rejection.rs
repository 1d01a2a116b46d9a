//! What a rejected token costs: when the API's refusal of a token may have it replaced at once, and
//! when the API is refusing everything and token requests would not help. Pure, like the schedule.

use std::time::Duration;

use crate::clock::Moment;

/// Forced refreshes that may come in a burst.
const BUCKET_SIZE: u32 = 10;
/// How long until there is room for one more.
const BUCKET_REFILL: Duration = Duration::from_secs(10);
/// How long the breaker is open for the first time,
const HOLD_MIN: Duration = Duration::from_secs(30);
/// and at the most; it doubles in between.
const HOLD_MAX: Duration = Duration::from_secs(600);

/// What to do about the rejection of the current token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Have it replaced.
    Refresh,
    /// That is asked for already; wait for it.
    Join,
    /// Pass the rejection on.
    Hold,
}

/// What the rejected request will tell about the token that replaces the rejected one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowUp {
    /// It is sent again: whether the newer token helps will be known.
    Replay,
    /// Nothing, as it cannot be sent again.
    None,
}

/// Remembers the rejections of tokens, to bound what they can cost.
#[derive(Debug)]
pub(super) struct Rejections {
    /// The newest token whose replacement was asked for.
    replaced: u64,
    /// Tokens in a row that were rejected and never accepted.
    row: u32,
    /// The newest of them.
    counted: u64,
    bucket: Bucket,
    /// When a token was last replaced without a way to know whether that would help.
    unverified: Option<Moment>,
    open_until: Option<Moment>,
    next_hold: Duration,
}

impl Rejections {
    pub(super) fn new(now: Moment) -> Self {
        Self {
            replaced: 0,
            row: 0,
            counted: 0,
            bucket: Bucket::full(now),
            unverified: None,
            open_until: None,
            next_hold: HOLD_MIN,
        }
    }

    /// The current token, `generation`, was rejected; `accepted` tells whether the API took it from
    /// other requests.
    pub(super) fn rejected(&mut self, generation: u64, accepted: bool, follow_up: FollowUp, now: Moment) -> Decision {
        if self.is_open(now) {
            return Decision::Hold;
        }
        if generation <= self.replaced {
            return Decision::Join;
        }
        if generation > self.counted {
            self.row = if accepted { 1 } else { self.row + 1 };
            self.counted = generation;
        }
        // Once the hold is over, one more token is tried.
        let on_trial = self.open_until.take().is_some();
        if self.row > 1 && !on_trial {
            self.open(now);
            return Decision::Hold;
        }
        let is_soon = |at: Moment| now < at + HOLD_MIN;
        if (follow_up == FollowUp::None && self.unverified.is_some_and(is_soon)) || !self.bucket.take(now) {
            return Decision::Hold;
        }
        if follow_up == FollowUp::None {
            self.unverified = Some(now);
        }
        self.replaced = generation;
        Decision::Refresh
    }

    /// Takes the room of one forced refresh, if there is any.
    pub(super) fn take_forced(&mut self, now: Moment) -> bool {
        self.bucket.take(now)
    }

    /// A request that was sent again with a newer token was rejected again: the token is not the reason.
    pub(super) fn replay_rejected(&mut self, now: Moment) {
        if !self.is_open(now) {
            self.open(now);
        }
    }

    /// A request that was sent again with a newer token was accepted: replacing tokens helps.
    pub(super) fn replay_accepted(&mut self) {
        self.row = 0;
        self.open_until = None;
        self.next_hold = HOLD_MIN;
    }

    /// Returns true while rejections have no token replaced.
    pub(super) fn is_open(&self, now: Moment) -> bool {
        self.open_until.is_some_and(|until| now < until)
    }

    fn open(&mut self, now: Moment) {
        self.open_until = Some(now + self.next_hold);
        self.next_hold = (self.next_hold * 2).min(HOLD_MAX);
    }
}

/// Room for a burst, and a slow refill.
#[derive(Debug)]
struct Bucket {
    left: u32,
    refilled: Moment,
}

impl Bucket {
    fn full(now: Moment) -> Self {
        Self { left: BUCKET_SIZE, refilled: now }
    }

    fn take(&mut self, now: Moment) -> bool {
        while self.left < BUCKET_SIZE && now >= self.refilled + BUCKET_REFILL {
            self.left += 1;
            self.refilled = self.refilled + BUCKET_REFILL;
        }
        if self.left == BUCKET_SIZE {
            self.refilled = now;
        }
        let has_room = self.left > 0;
        self.left -= u32::from(has_room);
        has_room
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::{prelude::any, prop_assert, prop_oneof, proptest, strategy::Strategy};

    use super::{Decision, FollowUp, Rejections};
    use crate::clock::{Clock, Moment};

    fn start() -> (Rejections, Moment) {
        let now = Clock::kernel().now();
        (Rejections::new(now), now)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn simultaneous_rejections_have_a_token_replaced_once() {
        let (mut rejections, now) = start();
        assert_eq!(rejections.rejected(1, false, FollowUp::Replay, now), Decision::Refresh);
        assert_eq!(rejections.rejected(1, false, FollowUp::Replay, now), Decision::Join);
    }

    #[test]
    fn two_tokens_in_a_row_that_nobody_accepts_open_the_breaker() {
        let (mut rejections, now) = start();
        assert_eq!(rejections.rejected(1, false, FollowUp::Replay, now), Decision::Refresh);
        assert_eq!(rejections.rejected(2, false, FollowUp::Replay, now), Decision::Hold);
        assert_eq!(rejections.rejected(2, false, FollowUp::Replay, now + SECOND * 29), Decision::Hold);
        assert_eq!(rejections.rejected(2, false, FollowUp::Replay, now + SECOND * 30), Decision::Refresh);
        assert_eq!(rejections.rejected(3, false, FollowUp::Replay, now + SECOND * 31), Decision::Hold);
        assert_eq!(rejections.rejected(3, false, FollowUp::Replay, now + SECOND * 90), Decision::Hold);
        assert_eq!(rejections.rejected(3, false, FollowUp::Replay, now + SECOND * 91), Decision::Refresh);
    }

    #[test]
    fn a_token_that_was_accepted_in_between_starts_a_new_row() {
        let (mut rejections, now) = start();
        for generation in 1..=5 {
            assert_eq!(rejections.rejected(generation, true, FollowUp::Replay, now + SECOND), Decision::Refresh);
        }
    }

    #[test]
    fn a_rejected_replay_opens_the_breaker_and_only_an_accepted_one_closes_it() {
        let (mut rejections, now) = start();
        assert_eq!(rejections.rejected(1, true, FollowUp::Replay, now), Decision::Refresh);
        rejections.replay_rejected(now);
        rejections.replay_rejected(now);
        assert_eq!(rejections.rejected(2, true, FollowUp::Replay, now + SECOND * 29), Decision::Hold);
        rejections.replay_accepted();
        assert_eq!(rejections.rejected(2, true, FollowUp::Replay, now + SECOND * 29), Decision::Refresh);
    }

    #[test]
    fn a_request_that_is_not_sent_again_has_a_token_replaced_once_in_30_s() {
        let (mut rejections, now) = start();
        assert_eq!(rejections.rejected(1, true, FollowUp::None, now), Decision::Refresh);
        assert_eq!(rejections.rejected(2, true, FollowUp::None, now + SECOND * 29), Decision::Hold);
        assert_eq!(rejections.rejected(2, true, FollowUp::Replay, now + SECOND * 29), Decision::Refresh);
        assert_eq!(rejections.rejected(3, true, FollowUp::None, now + SECOND * 30), Decision::Refresh);
    }

    #[test]
    fn the_hold_doubles_up_to_ten_minutes() {
        let (mut rejections, mut now) = start();
        let holds: Vec<_> = (1..=7)
            .map(|generation| {
                assert_eq!(rejections.rejected(generation, false, FollowUp::Replay, now), Decision::Refresh);
                rejections.replay_rejected(now);
                let opened = now;
                while rejections.is_open(now) {
                    now = now + SECOND;
                }
                now.saturating_since(opened).as_secs()
            })
            .collect();
        assert_eq!(holds, [30, 60, 120, 240, 480, 600, 600]);
    }

    #[derive(Clone, Debug)]
    enum Event {
        Wait(u64),
        Rejected(bool),
        ReplayAccepted,
        ReplayRejected,
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            (0_u64..20).prop_map(Event::Wait),
            any::<bool>().prop_map(Event::Rejected),
            proptest::strategy::Just(Event::ReplayAccepted),
            proptest::strategy::Just(Event::ReplayRejected),
        ];
        proptest::collection::vec(event, 0..300)
    }

    proptest! {
        #[test]
        fn forced_refreshes_never_exceed_the_bucket(events in events()) {
            let (mut rejections, began) = start();
            let (mut now, mut generation, mut refreshes) = (began, 1_u64, 0_u64);
            for event in events {
                match event {
                    Event::Wait(seconds) => now = now + Duration::from_secs(seconds),
                    Event::Rejected(accepted) => {
                        let open = rejections.is_open(now);
                        let decision = rejections.rejected(generation, accepted, FollowUp::Replay, now);
                        prop_assert!(!open || decision == Decision::Hold);
                        if decision == Decision::Refresh {
                            generation += 1;
                            refreshes += 1;
                        }
                    }
                    Event::ReplayAccepted => rejections.replay_accepted(),
                    Event::ReplayRejected => rejections.replay_rejected(now),
                }
                prop_assert!(refreshes <= 10 + now.saturating_since(began).as_secs() / 10);
            }
        }
    }
}

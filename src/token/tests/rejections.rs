//! The API rejects tokens: rightly, wrongly, all of them, or on one path only.

use std::{rc::Rc, time::Duration};

use proptest::{
    collection::vec,
    prelude::{Strategy, any},
    proptest,
};
use tokio::{task::spawn_local, time::sleep};

use super::{Fault, Outcome, Time, World, cases, config, millis, seconds, spans, world::simulate};
use crate::token::{Bearer, FollowUp, Replay, TooOften, wire::OAuthError};

/// How the API judges a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Accepted,
    Rejected,
}

impl World {
    /// A provider that answers at once with tokens that last for the whole test: every exchange but
    /// the first one is forced.
    fn with_long_lives(seed: u64, latency: Duration) -> Rc<Self> {
        Self::start(&config(|_| {}), seed, Time::new(), move |_| Outcome::token("86400").after(latency, Duration::ZERO))
    }

    /// A request and, if its token is rejected, what the proxy does then. `accepted` tells whether other
    /// requests are. Returns the token that was used last.
    async fn call(&self, api: impl Fn(&Bearer) -> Verdict, latency: Duration, accepted: bool, replays: bool) -> Bearer {
        let bearer = self.bearer().await.expect("a healthy provider");
        sleep(latency).await;
        if accepted {
            self.renewal.accepted(bearer.generation);
        }
        let follow_up = if replays { FollowUp::Replay } else { FollowUp::None };
        if api(&bearer) == Verdict::Accepted || !self.renewal.reject(bearer.generation, follow_up) || !replays {
            return bearer;
        }
        let Some(newer) = self.renewal.after(bearer.generation).await else { return bearer };
        assert!(newer.generation > bearer.generation, "replayed with the rejected token");
        sleep(latency).await;
        self.renewal.replayed(match api(&newer) {
            Verdict::Accepted => Replay::Accepted,
            Verdict::Rejected => Replay::Rejected,
        });
        newer
    }

    /// When forced exchanges were started.
    fn forced(&self) -> Vec<Duration> {
        self.provider.calls().iter().skip(1).map(|call| call.started).collect()
    }
}

fn traffic() -> impl Strategy<Value = Vec<(Duration, Duration, bool)>> {
    vec((spans(1..3_000), spans(0..400), any::<bool>()), 10..60)
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn simultaneous_rejections_cost_one_exchange_and_late_ones_none(
        count in 1_usize..300,
        latencies in vec(spans(0..900), 1..20),
        latency in spans(0..900),
        late in spans(1..100_000),
        seed in any::<u64>(),
    ) {
        simulate(async {
            let world = World::with_long_lives(seed, latency);
            world.bearer().await.expect("a healthy provider");
            sleep(seconds(5)).await;
            let requests: Vec<_> = (0..count)
                .map(|nth| {
                    let (world, latency) = (Rc::clone(&world), latencies[nth % latencies.len()]);
                    spawn_local(async move {
                        let revoked = |bearer: &Bearer| {
                            if bearer.generation == 1 { Verdict::Rejected } else { Verdict::Accepted }
                        };
                        world.call(revoked, latency, false, true).await.generation
                    })
                })
                .collect();
            for request in requests {
                assert_eq!(request.await.expect("no panic"), 2, "replayed with the one new token");
            }
            assert_eq!(world.provider.count(), 2, "one exchange for all: {world:?}");
            // An answer to a request that was sent with the first token.
            sleep(late).await;
            assert!(world.renewal.reject(1, FollowUp::None) && world.renewal.reject(1, FollowUp::Replay));
            let newest = world.renewal.after(1).await.expect("there already");
            sleep(seconds(60)).await;
            assert_eq!((newest.generation, world.provider.count()), (2, 2));
        });
    }
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn an_api_that_rejects_for_ever_costs_at_most_two_forced_refreshes_per_hold(
        traffic in traffic(),
        latency in spans(0..1_500),
        seed in any::<u64>(),
    ) {
        simulate(async {
            let world = World::with_long_lives(seed, latency);
            world.bearer().await.expect("a healthy provider");
            while world.time.now() < seconds(3_600) {
                for (gap, latency, replays) in traffic.iter().copied() {
                    sleep(gap).await;
                    world.spawn(move |world| async move { world.call(|_| Verdict::Rejected, latency, false, replays).await });
                }
            }
            world.finish().await;
            // As if each hold began the moment the one before ended: in truth they begin later.
            let mut began = Vec::from([Duration::ZERO]);
            for hold in [30, 60, 120, 240, 480, 600, 600, 600, 600, 600, 600] {
                began.push(*began.last().expect("one at least") + seconds(hold));
            }
            let forced = world.forced();
            assert!(!forced.is_empty());
            for (nth, at) in forced.iter().enumerate() {
                let holds = began.iter().filter(|begin| **begin <= *at).count();
                assert!(nth < 2 * holds, "{} forced refreshes within {holds} holds: {forced:?}", nth + 1);
            }
            world.provider.assert_spaced();
        });
    }

    #[test]
    fn one_path_always_rejected_beside_accepted_ones_costs_at_most_two_forced_refreshes_in_30_s(
        traffic in traffic(),
        latency in spans(0..1_000),
        seed in any::<u64>(),
    ) {
        simulate(async {
            let world = World::with_long_lives(seed, latency);
            world.bearer().await.expect("a healthy provider");
            while world.time.now() < seconds(600) {
                for (gap, latency, _) in traffic.iter().copied() {
                    sleep(gap / 4).await;
                    world.spawn(move |world| async move { world.call(|_| Verdict::Rejected, latency, true, true).await });
                }
            }
            world.finish().await;
            let forced = world.forced();
            assert!(!forced.is_empty());
            for three in forced.windows(3) {
                assert!(three[2] - three[0] >= seconds(30), "three forced refreshes: {three:?}");
            }
        });
    }

    #[test]
    fn rejections_that_cannot_be_replayed_cost_one_forced_refresh_in_30_s(
        traffic in traffic(),
        latency in spans(0..1_000),
        seed in any::<u64>(),
    ) {
        simulate(async {
            let world = World::with_long_lives(seed, latency);
            world.bearer().await.expect("a healthy provider");
            while world.time.now() < seconds(300) {
                for (gap, latency, _) in traffic.iter().copied() {
                    sleep(gap / 4).await;
                    world.spawn(move |world| async move { world.call(|_| Verdict::Rejected, latency, true, false).await });
                }
            }
            world.finish().await;
            let forced = world.forced();
            assert!(!forced.is_empty());
            for two in forced.windows(2) {
                assert!(two[1] - two[0] >= seconds(29), "two forced refreshes: {two:?}");
            }
        });
    }

    #[test]
    fn a_token_that_was_revoked_is_replaced_at_once_also_after_others_were_rejected_wrongly(
        latency in spans(0..1_000),
        pause in spans(600_000..1_300_000),
        seed in any::<u64>(),
    ) {
        simulate(async {
            let world = World::with_long_lives(seed, latency);
            world.bearer().await.expect("a healthy provider");
            for _ in 0..3 {
                world.call(|_| Verdict::Rejected, millis(50), true, true).await;
            }
            sleep(pause).await;
            let revoked = world.bearer().await.expect("a healthy provider").generation;
            let judge = |bearer: &Bearer| {
                if bearer.generation <= revoked { Verdict::Rejected } else { Verdict::Accepted }
            };
            assert!(world.call(judge, millis(50), true, true).await.generation > revoked, "{world:?}");
            assert!(!world.renewal.is_breaker_open());
        });
    }
}

#[test]
fn a_refresh_that_is_asked_for_comes_at_once_and_not_more_often_than_forced_ones_may() {
    simulate(async {
        let world = World::with_long_lives(1, millis(100));
        sleep(seconds(10)).await;
        assert_eq!(world.renewal.ask(), Ok(()));
        sleep(millis(50)).await;
        // One that is under way is what was asked for.
        assert_eq!(world.renewal.ask(), Ok(()));
        sleep(seconds(5)).await;
        assert_eq!(world.forced(), [seconds(10)]);

        let asked: Vec<_> = (0..20).map(|_| world.renewal.ask()).collect();
        assert_eq!(asked.iter().filter(|asked| asked.is_ok()).count(), 9, "ten in a burst");
        assert_eq!(asked.last(), Some(&Err(TooOften)));
        sleep(seconds(5)).await;
        assert_eq!(world.forced().len(), 2, "those at once are one");
    });
}

#[test]
fn a_refresh_that_is_asked_for_ends_a_long_pause_but_not_one_that_the_provider_asks_for() {
    for (fault, retry_after) in [(Fault::OAuth(OAuthError::InvalidClient), None), (Fault::Status(503), Some(60))] {
        simulate(async {
            let at_once = |outcome: Outcome| outcome.after(Duration::ZERO, Duration::ZERO);
            let world =
                World::start(&config(|_| {}), 1, Time::new(), move |_| at_once(Outcome::Fault(fault, retry_after)));
            // The first one, and for the client's id one more with what the files say by then.
            sleep(seconds(4)).await;
            let before = world.provider.count();
            assert_eq!(world.renewal.ask(), Ok(()));
            sleep(seconds(2)).await;
            let more = usize::from(retry_after.is_none());
            assert_eq!(world.provider.count(), before + more, "{fault:?}");
        });
    }
}

//! From one token to the next: never expired, never in a hurry, through outages of every kind.

use std::{cell::RefCell, rc::Rc, time::Duration};

use proptest::{
    collection::vec,
    prelude::{Strategy, any, prop, prop_oneof},
    proptest,
};
use tokio::time::{sleep, timeout};

use super::{
    Ask, Outcome, Reply, TICK, Time, World, cases, config, failures, millis, seconds, spans, transient_faults,
    world::{Impatient, simulate},
};
use crate::token::{Class, FollowUp};

/// What `expires_in` says, and the life that may be believed: `None` if it states none.
const LIVES: [(Option<&str>, Option<u64>); 19] = [
    (None, None),
    (Some("0"), None),
    (Some("-1"), None),
    (Some("1"), Some(1)),
    (Some("5"), Some(5)),
    (Some("10"), Some(10)),
    (Some("11"), Some(11)),
    (Some("60"), Some(60)),
    (Some("299"), Some(299)),
    (Some("300"), Some(300)),
    (Some("3600"), Some(3_600)),
    (Some("2147483648"), Some(86_400)),
    (Some("18446744073709551615"), Some(86_400)),
    (Some("\"299\""), Some(299)),
    (Some("299.9"), Some(299)),
    (Some("\"NaN\""), None),
    (Some("null"), None),
    (Some("1e400"), None),
    // Not JSON: no token at all.
    (Some("NaN"), None),
];

/// The life that an unknown one is taken for.
const DEFAULT_LIFE: u64 = 120;

fn token((expires_in, _): (Option<&str>, Option<u64>)) -> Outcome {
    Outcome::Token { expires_in: expires_in.map(str::to_owned), refresh_token: None }
}

/// The part of a life that may be used, worked out anew: all but 2 %, that within 1 s to 10 s, and a quarter at most.
fn usable(life: u64) -> Duration {
    let life = Duration::from_secs(life);
    life - (life / 50).max(seconds(1)).min(seconds(10)).min(life / 4)
}

impl World {
    /// Fails if a request was sent with a token at or past its hard expiry, or past its end at the server.
    fn assert_stamps_valid(&self) {
        let calls = self.provider.calls();
        for stamp in self.stamps.borrow().iter() {
            let call = &calls[stamp.token];
            let Outcome::Token { expires_in, .. } = &call.outcome else { panic!("no token: {call:?}") };
            let (_, stated) = LIVES.iter().find(|(json, _)| *json == expires_in.as_deref()).expect("one of the list");
            let hard_expiry = call.started + usable(stated.unwrap_or(DEFAULT_LIFE));
            assert!(stamp.at < hard_expiry, "{stamp:?} at or after {hard_expiry:?}, from {call:?}");
            if let (Some(life), Some(handled)) = (stated, call.handled) {
                assert!(stamp.at < handled + seconds(*life), "{stamp:?}, expired at the server: {call:?}");
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    /// A request; it may have to connect first, and go away after so many polls.
    Request {
        connecting: Option<Duration>,
        polls: Option<usize>,
    },
    /// The API rejects the current token.
    Reject,
    Suspend(Duration),
    StepWall(i64),
}

fn events() -> impl Strategy<Value = Vec<(Duration, Event)>> {
    let event = prop_oneof![
        12 => (prop::option::of(spans(0..3_000)), prop::option::of(1_usize..4))
            .prop_map(|(connecting, polls)| Event::Request { connecting, polls }),
        2 => prop::strategy::Just(Event::Reject),
        1 => spans(0..400_000).prop_map(Event::Suspend),
        1 => (-1_000_000_i64..1_000_000).prop_map(Event::StepWall),
    ];
    vec((prop_oneof![4 => spans(0..2_000), 1 => spans(0..60_000)], event), 1..200)
}

/// Requests as they come, and what a machine does beside; at the end, all of them have an answer.
async fn live(world: &Rc<World>, events: Vec<(Duration, Event)>) {
    for (gap, event) in events {
        sleep(gap).await;
        match event {
            Event::Request { connecting, polls } => {
                world.spawn(move |world| async move {
                    let request = world.request(connecting);
                    match polls {
                        Some(polls) => drop(Impatient::new(request, polls).await),
                        None => drop(request.await),
                    }
                });
            }
            Event::Reject => {
                world.renewal.reject(world.renewal.status().generation, FollowUp::Replay);
            }
            Event::Suspend(span) => world.time.suspend(span),
            Event::StepWall(seconds) => world.time.step_wall(seconds),
        }
    }
    sleep(seconds(20)).await;
    world.finish().await;
}

/// Tokens of all kinds of lives, failures of all kinds, fast and slow.
fn replies() -> impl Strategy<Value = Vec<Reply>> {
    let outcome = prop_oneof![3 => prop::sample::select(LIVES.to_vec()).prop_map(token), 1 => failures()];
    vec(
        (spans(0..5_000), spans(0..5_000), outcome).prop_map(|(there, back, outcome)| outcome.after(there, back)),
        1..30,
    )
}

fn in_turn(replies: Vec<Reply>) -> impl FnMut(Ask) -> Reply + 'static {
    move |ask| replies[ask.nth % replies.len()].clone()
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn no_request_is_stamped_with_an_expired_token(events in events(), replies in replies(), seed in any::<u64>()) {
        simulate(async {
            let world = World::start(&config(|_| {}), seed, Time::new(), in_turn(replies));
            live(&world, events).await;
            world.assert_stamps_valid();
            world.provider.assert_spaced();
        });
    }

    #[test]
    fn a_healthy_provider_never_makes_a_request_wait_after_the_first_token(
        life in prop_oneof![30_u64..400, 400_u64..100_000],
        latencies in vec((spans(0..1_000), spans(0..1_000)), 1..20),
        steps in vec(-1_000_000_i64..1_000_000, 0..4),
        seed in any::<u64>(),
    ) {
        simulate(async {
            let expires_in = life.to_string();
            let world = World::start(&config(|_| {}), seed, Time::new(), move |ask| {
                let (there, back) = latencies[ask.nth % latencies.len()];
                Outcome::token(&expires_in).after(there, back)
            });
            world.request(None).await.expect("within `token.wait`");
            for step in 0..400 {
                if let Some(seconds) = steps.get(step / 100).filter(|_| step % 100 == 0) {
                    world.time.step_wall(*seconds);
                }
                sleep(seconds(life.min(86_400) * 4) / 400).await;
                assert!(world.is_valid(), "no token: {world:?}");
            }
            // No moment was missed between the samples: each token came before its predecessor's end.
            let calls = world.provider.calls();
            assert!(calls.len() >= 4);
            for pair in calls.windows(2).filter(|pair| pair[1].ended.is_some()) {
                assert!(pair[1].end() < pair[0].started + usable(life.min(86_400)), "{pair:?}");
            }
        });
    }

    #[test]
    fn a_transient_outage_shorter_than_the_lead_less_one_back_off_costs_no_request(
        life in prop_oneof![30_u64..400, 400_u64..10_000],
        faults in vec(transient_faults(), 1..20),
        latencies in vec(spans(0..250), 1..20),
        early in spans(0..5_000),
        part in 0.0..1.0,
        seed in any::<u64>(),
    ) {
        simulate(async {
            let expires_in = life.to_string();
            let outage = Rc::new(RefCell::new(Duration::ZERO..Duration::ZERO));
            let during = Rc::clone(&outage);
            let world = World::start(&config(|_| {}), seed, Time::new(), move |ask| {
                let latency = latencies[ask.nth % latencies.len()];
                let outcome = if ask.nth > 0 && during.borrow().contains(&ask.at) {
                    Outcome::Fault(faults[ask.nth % faults.len()], None)
                } else {
                    Outcome::token(&expires_in)
                };
                outcome.after(latency, latency)
            });
            world.request(None).await.expect("within `token.wait`");
            let status = world.renewal.status();
            let now = world.clock.now();
            let refresh_at = world.time.now() + status.next_attempt.expect("planned").saturating_since(now);
            let hard_expiry = world.time.now() + status.hard_expiry.expect("a token").saturating_since(now);
            // The last failure may have begun just before the end of the outage. Then comes one back-off
            // (a second near the end, a quarter of what is left before), and the exchange that succeeds.
            let longest = (hard_expiry - refresh_at) - seconds(1) - millis(500) - millis(500) - 2 * TICK;
            let begin = refresh_at.saturating_sub(early);
            *outage.borrow_mut() = begin..refresh_at + longest.mul_f64(part);
            world.time.sleep_until(refresh_at).await;
            while world.time.now() < hard_expiry + seconds(5) {
                assert!(world.is_valid(), "no token: {world:?}");
                sleep((hard_expiry - refresh_at) / 200).await;
            }
        });
    }
}

proptest! {
    #![proptest_config(cases(3))]

    #[test]
    fn exchanges_never_overlap_and_start_a_second_apart_whatever_the_lifetime(
        faults in vec(prop::option::weighted(0.3, failures()), 1..20),
        latencies in vec(spans(0..6_000), 1..20),
        events in events(),
        seed in any::<u64>(),
    ) {
        for life in LIVES {
            let (faults, latencies, events) = (faults.clone(), latencies.clone(), events.clone());
            simulate(async {
                let world = World::start(&config(|_| {}), seed, Time::new(), move |ask| {
                    let outcome = faults[ask.nth % faults.len()].clone().unwrap_or_else(|| token(life));
                    outcome.after(latencies[ask.nth % latencies.len()], latencies[ask.nth % 7 % latencies.len()])
                });
                live(&world, events).await;
                world.provider.assert_spaced();
                world.assert_stamps_valid();
            });
            // Without a failure or a rejection, and as fast as can be, it must not get hectic either.
            simulate(async {
                let world =
                    World::start(&config(|_| {}), seed, Time::new(), move |_| token(life).after(Duration::ZERO, TICK));
                sleep(seconds(300)).await;
                world.provider.assert_spaced();
                let shortest = usable(life.1.unwrap_or(DEFAULT_LIFE)).mul_f64(0.7).max(seconds(1));
                let most = 2 + (300.0 / shortest.as_secs_f64()).ceil() as usize;
                let is_token = life.0 != Some("NaN");
                assert!(!is_token || world.provider.count() <= most, "{life:?}: {}", world.provider.count());
                assert!(world.provider.count() > 1 || usable(life.1.unwrap_or(DEFAULT_LIFE)).mul_f64(0.69) > seconds(300));
            });
        }
    }
}

/// The longest pause after a failure of this kind: a `Retry-After` of five minutes is obeyed, plus a tenth.
async fn longest_pause(outcome: &Outcome) -> Duration {
    let (class, asked) = match outcome {
        Outcome::Fault(fault, retry_after) => {
            let error = fault.error(*retry_after).await;
            (error.class(), error.retry_after())
        }
        Outcome::Token { .. } | Outcome::Hang | Outcome::Panic => (Class::Transient, None),
    };
    let pause = match class {
        Class::Transient => seconds(30),
        Class::Configuration => seconds(300),
        Class::GrantGone => seconds(3_600),
    };
    let asked = asked.map_or(Duration::ZERO, |asked| asked.clamp(millis(500), seconds(300)).mul_f64(1.1));
    pause.max(asked).max(seconds(1))
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn every_outage_is_followed_by_a_token_within_the_longest_pause_of_its_class(
        failures in prop_oneof![
            2 => vec((failures(), spans(0..10_000)), 1..12),
            1 => (failures(), spans(0..10_000), 1_usize..12).prop_map(|(one, span, times)| vec![(one, span); times]),
        ],
        life in 20_u64..4_000,
        first in any::<bool>(),
        seed in any::<u64>(),
    ) {
        simulate(async {
            let expires_in = life.to_string();
            // The outage is there at the start, or begins with the first refresh.
            let before = usize::from(first);
            let script = failures.clone();
            let world = World::start(&config(|_| {}), seed, Time::new(), move |ask| {
                match ask.nth.checked_sub(before).and_then(|nth| script.get(nth)) {
                    Some((outcome, latency)) => outcome.clone().after(*latency, Duration::ZERO),
                    None => Outcome::token(&expires_in).after(millis(50), millis(50)),
                }
            });
            let last = before + failures.len();
            let whole = timeout(seconds(48 * 3_600), async {
                while world.provider.calls().get(last).is_none_or(|call| call.ended.is_none()) {
                    sleep(seconds(5)).await;
                }
            });
            assert!(whole.await.is_ok(), "it never came to an end: {world:?}");
            let calls = world.provider.calls().clone();
            for pair in calls.windows(2).skip(before).take(failures.len()) {
                let pause = pair[1].started - pair[0].end();
                let longest = longest_pause(&pair[0].outcome).await;
                assert!(pause <= longest + 2 * TICK, "{pause:?} over {longest:?}: {pair:?}");
            }
            assert!(calls[last].is_success());
            assert!(world.bearer().await.is_ok(), "no token after the outage: {world:?}");
            assert!(!world.refresher.is_finished());
        });
    }
}

//! Requests that wait for a token: how many, how long, and what becomes of those that go away.

use std::{
    pin::Pin,
    rc::Rc,
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use proptest::{
    collection::vec,
    prelude::{Strategy, any, prop_oneof},
    proptest,
};
use tokio::{
    task::spawn_local,
    time::{sleep, timeout},
};

use super::{
    Ask, Ending, Fault, Outcome, TICK, Time, World, cases, config, millis, seconds, spans,
    world::{Impatient, simulate},
};
use crate::token::{Bearer, State, Unavailable, wire::OAuthError};

/// `token.wait` by default.
const WAIT: Duration = seconds(2);

/// What a caller does before it goes away.
#[derive(Clone, Copy, Debug)]
enum Caller {
    /// It waits for any token, or for one that is newer than the first,
    Polls { newer: bool, polls: usize },
    /// and is dropped after so many polls, or after this time.
    Stays { newer: bool, span: Duration },
}

fn callers() -> impl Strategy<Value = Vec<(Duration, Caller)>> {
    let caller = prop_oneof![
        (any::<bool>(), 0_usize..4).prop_map(|(newer, polls)| Caller::Polls { newer, polls }),
        (any::<bool>(), spans(0..2_500)).prop_map(|(newer, span)| Caller::Stays { newer, span }),
    ];
    vec((spans(0..200), caller), 1..60)
}

async fn wait(world: &World, newer: bool) -> Option<Bearer> {
    if newer { world.renewal.after(1).await } else { world.renewal.token().await.ok() }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn callers_that_are_dropped_at_any_await_lose_nothing(
        callers in callers(),
        places in 1_usize..8,
        there in spans(0..9_000),
        back in spans(1..900),
        outcome in prop_oneof![
            proptest::strategy::Just(Outcome::token("60")),
            proptest::strategy::Just(Outcome::Fault(Fault::Timeout, None)),
        ],
        seed in any::<u64>(),
    ) {
        simulate(async {
            // The first exchange is the one that the callers come and go during; the next takes 1.2 s.
            let first = outcome.after(there, back);
            let config = config(|token| token.max_waiters = places);
            let world = World::start(&config, seed, Time::new(), move |ask| match ask.nth {
                0 => first.clone(),
                _ => Outcome::token("60").after(millis(600), millis(600)),
            });
            for (gap, caller) in callers {
                sleep(gap).await;
                world.spawn(move |world| async move {
                    match caller {
                        Caller::Polls { newer, polls } => drop(Impatient::new(wait(&world, newer), polls).await),
                        Caller::Stays { newer, span } => drop(timeout(span, wait(&world, newer)).await),
                    }
                });
            }
            sleep(seconds(13)).await;
            world.finish().await;
            assert_eq!(world.metrics.waiting.get(), 0, "nobody is left: {world:?}");
            assert!(world.provider.calls().iter().all(|call| call.ending != Ending::Dropped), "cancelled: {world:?}");
            let calls = world.provider.calls().clone();
            assert_eq!(calls[0].end() - calls[0].started, there + back, "it went on as if nobody had come");
            let status = world.renewal.status();
            let generation = calls.iter().filter(|call| call.is_success()).count() as u64;
            assert_eq!((status.state, status.generation, status.failures), (State::Fresh, generation, 0));

            // All of the places are there: for as many as there may be, and not one more.
            world.time.suspend(seconds(60));
            let waiters: Vec<_> = (0..places)
                .map(|_| {
                    let world = Rc::clone(&world);
                    spawn_local(async move { world.renewal.token().await })
                })
                .collect();
            tokio::task::yield_now().await;
            assert_eq!(world.metrics.waiting.get(), i64::try_from(places).expect("few"));
            assert_eq!(world.renewal.token().await.expect_err("full"), Unavailable::Crowded);
            for waiter in waiters {
                let outcome = waiter.await.expect("no panic");
                assert!(!matches!(outcome, Err(Unavailable::Crowded)), "a place is missing: {world:?}");
            }
        });
    }

    #[test]
    fn waiters_are_bounded_and_the_next_is_turned_away_at_once(
        places in 0_usize..50,
        more in 1_usize..10,
        latency in spans(1..1_990),
    ) {
        simulate(async {
            let config = config(|token| token.max_waiters = places);
            let world = World::start(&config, 1, Time::new(), move |_| Outcome::token("60").after(latency, seconds(0)));
            let waiters: Vec<_> = (0..places + more)
                .map(|_| {
                    let world = Rc::clone(&world);
                    spawn_local(async move { (world.renewal.token().await, world.time.now()) })
                })
                .collect();
            for (nth, waiter) in waiters.into_iter().enumerate() {
                let (outcome, at) = waiter.await.expect("no panic");
                if nth < places {
                    assert_eq!(outcome.expect("a place and a token").generation, 1);
                } else {
                    assert_eq!(outcome.expect_err("no place"), Unavailable::Crowded);
                    assert_eq!(at, Duration::ZERO);
                }
            }
        });
    }

    #[test]
    fn nobody_waits_longer_than_token_wait_or_for_an_attempt_that_comes_later(
        faults in vec((proptest::option::of(1_u64..20), spans(0..6_000)), 1..10),
        arrivals in vec(spans(0..1_500), 1..60),
        seed in any::<u64>(),
    ) {
        simulate(async {
            let world = World::start(&config(|_| {}), seed, Time::new(), move |ask| {
                let (retry_after, latency) = faults[ask.nth % faults.len()];
                Outcome::Fault(Fault::Status(503), retry_after).after(latency, seconds(0))
            });
            for gap in arrivals {
                sleep(gap).await;
                let status = world.renewal.status();
                let due = status.next_attempt.map(|next| next.saturating_since(world.clock.now()));
                world.spawn(move |world| async move {
                    let began = world.time.now();
                    let outcome = world.renewal.token().await;
                    let waited = world.time.now() - began;
                    let Err(Unavailable::Transient { retry_after }) = outcome else { panic!("{outcome:?}") };
                    assert!(waited <= WAIT + TICK, "waited for {waited:?}");
                    if let Some(due) = due.filter(|due| *due >= WAIT) {
                        assert_eq!((waited, retry_after), (Duration::ZERO, due), "no attempt is due in time");
                    }
                    // It was told the next attempt's time, unless it is under way.
                    let next = world.renewal.status().next_attempt;
                    let left = next.map_or(Duration::ZERO, |next| next.saturating_since(world.clock.now()));
                    assert_eq!(retry_after, left);
                    // It was not sent away while there was hope.
                    assert!(waited >= WAIT || waited + left >= WAIT, "sent away after {waited:?}, {left:?} too early");
                });
            }
            world.finish().await;
            assert_eq!(world.metrics.waiting.get(), 0);
        });
    }

    #[test]
    fn a_panic_in_the_exchange_costs_waiters_nothing_but_time(
        panics in vec(spans(0..300), 1..3),
        arrivals in vec(spans(0..100), 1..10),
        seed in any::<u64>(),
    ) {
        simulate(async {
            let many = panics.len();
            let world = World::start(&config(|token| token.wait = seconds(20)), seed, Time::new(), move |ask| {
                match panics.get(ask.nth) {
                    Some(latency) => Outcome::Panic.after(*latency, seconds(0)),
                    None => Outcome::token("60").after(millis(100), millis(100)),
                }
            });
            let mut waiters = Vec::new();
            for gap in arrivals {
                sleep(gap).await;
                let world = Rc::clone(&world);
                waiters.push(spawn_local(async move { world.renewal.token().await }));
            }
            for waiter in waiters {
                assert_eq!(waiter.await.expect("no panic here").expect("the next token").generation, 1);
            }
            assert_eq!(world.provider.count(), many + 1);
            world.provider.assert_spaced();
            // And it goes on as ever, a panic with a token in use included.
            sleep(seconds(200)).await;
            assert!(world.is_valid() && !world.refresher.is_finished());
            assert_eq!(world.renewal.status().state, State::Fresh);
        });
    }
}

#[test]
fn waiters_get_the_next_token_within_token_wait_of_a_single_panic() {
    for seed in 0..50 {
        simulate(async {
            let world = World::start(&config(|_| {}), seed, Time::new(), |Ask { nth, .. }| {
                let outcome = if nth == 0 { Outcome::Panic } else { Outcome::token("60") };
                outcome.after(millis(200), millis(200))
            });
            world.renewal.token().await.expect("a second attempt within a second");
        });
    }
}

#[test]
fn faults_that_need_a_person_are_answered_at_once() {
    let cases = [
        (OAuthError::InvalidClient, 1, Unavailable::Configuration),
        // The first time, it is not believed yet.
        (OAuthError::InvalidGrant, 2, Unavailable::Reauthorize),
    ];
    for (error, failures, expected) in cases {
        simulate(async {
            let fault = Outcome::Fault(Fault::OAuth(error), None);
            let world =
                World::start(&config(|_| {}), 1, Time::new(), move |_| fault.clone().after(millis(300), seconds(0)));
            // Those who wait already, and those who come later.
            let early = spawn_local({
                let world = Rc::clone(&world);
                async move { (world.renewal.token().await, world.time.now()) }
            });
            while world.renewal.status().failures < failures {
                sleep(millis(1)).await;
            }
            let now = world.time.now();
            assert_eq!(world.renewal.token().await.expect_err("no token"), expected);
            assert_eq!(world.time.now(), now, "at once");
            let (outcome, at) = early.await.expect("no panic");
            assert!(at <= millis(300) + TICK && outcome.is_err());
            assert_eq!(outcome.expect_err("no token") == expected, failures == 1);
        });
    }
}

#[test]
fn a_live_token_is_served_whatever_the_provider_says() {
    for error in [OAuthError::InvalidClient, OAuthError::InvalidGrant, OAuthError::ServerError] {
        simulate(async {
            let world = World::start(&config(|_| {}), 1, Time::new(), move |ask| match ask.nth {
                0 => Outcome::token("300").after(millis(10), millis(10)),
                _ => Outcome::Fault(Fault::OAuth(error), None).after(millis(10), millis(10)),
            });
            world.bearer().await.expect("the first token");
            while world.time.now() < seconds(293) {
                assert!(world.is_valid(), "{world:?}");
                sleep(seconds(1)).await;
            }
            assert_ne!(world.renewal.status().state, State::Fresh);
            sleep(seconds(2)).await;
            assert!(!world.is_valid());
        });
    }
}

/// Polls the waiting request from within its waker: in the very moment in which it is told of a change.
struct Eager {
    waiting: Mutex<Option<Waiting>>,
    outcome: Mutex<Option<Result<Bearer, Unavailable>>>,
}

type Waiting = Pin<Box<dyn Future<Output = Result<Bearer, Unavailable>> + Send>>;

impl Eager {
    fn poll(self: &Arc<Self>) {
        let waker = Waker::from(Arc::clone(self));
        let Ok(mut waiting) = self.waiting.try_lock() else { return };
        let Some(future) = waiting.as_mut() else { return };
        if let Poll::Ready(outcome) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            *waiting = None;
            *self.outcome.lock().expect("no holder panics") = Some(outcome);
        }
    }
}

impl Wake for Eager {
    fn wake(self: Arc<Self>) {
        self.poll();
    }
}

#[test]
fn who_is_woken_by_the_status_finds_the_token() {
    simulate(async {
        let world =
            World::start(&config(|_| {}), 1, Time::new(), |_| Outcome::token("299").after(millis(500), millis(500)));
        let renewal = world.renewal.clone();
        let waiting: Waiting = Box::pin(async move { renewal.token().await });
        let eager = Arc::new(Eager { waiting: Mutex::new(Some(waiting)), outcome: Mutex::default() });
        eager.poll();
        sleep(seconds(1) + TICK).await;
        let outcome = eager.outcome.lock().expect("no holder panics").take();
        assert_eq!(outcome.expect("woken").expect("published before the status").generation, 1);
    });
}

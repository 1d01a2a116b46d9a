//! What is presented to the provider, and when: codes once, refresh tokens in order, nothing too early.

use std::{cell::RefCell, fs, rc::Rc, time::Duration};

use proptest::{
    collection::vec,
    prelude::{Strategy, any, prop, prop_oneof},
    proptest,
};
use tempfile::NamedTempFile;
use tokio::time::sleep;

use super::{
    Ask, Ending, Fault, Outcome, Reply, TICK, Time, World, cases, config, failures, faults, millis, provider::Grant,
    seconds, spans, world::simulate,
};
use crate::{
    config,
    secret::{Secret, SecretSource},
    token::{FollowUp, Store},
};

fn file(content: &str) -> NamedTempFile {
    let file = NamedTempFile::new().expect("a temporary file");
    write(&file, content);
    file
}

fn write(file: &NamedTempFile, content: &str) {
    fs::write(file.path(), content).expect("writable");
}

fn source(file: &NamedTempFile) -> SecretSource {
    SecretSource::File(file.path().to_owned())
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// The file holds this one of a few secrets now.
    Write(u8),
    /// The API rejects the current token.
    Reject,
}

fn events(longest_gap: u64) -> impl Strategy<Value = Vec<(Duration, Event)>> + Clone {
    let event = prop_oneof![2 => (0_u8..4).prop_map(Event::Write), 1 => prop::strategy::Just(Event::Reject)];
    vec((spans(0..longest_gap), event), 1..20)
}

async fn play(world: &World, file: &NamedTempFile, events: &[(Duration, Event)]) {
    for (gap, event) in events {
        sleep(*gap).await;
        match event {
            Event::Write(nth) => write(file, &format!("secret-{nth}")),
            Event::Reject => {
                world.renewal.reject(world.renewal.status().generation, FollowUp::Replay);
            }
        }
    }
    sleep(seconds(5)).await;
}

/// Success and failure in any order; a token may bring another refresh token, or none.
fn replies() -> impl Strategy<Value = Vec<Reply>> {
    let token = (10_u64..60, prop::option::of(any::<u16>())).prop_map(|(life, rotated)| Outcome::Token {
        expires_in: Some(life.to_string()),
        refresh_token: rotated.map(|number| format!("rotated-{number}")),
    });
    let outcome = prop_oneof![2 => token, 3 => failures()];
    let reply =
        (spans(0..1_500), spans(0..1_500), outcome).prop_map(|(there, back, outcome)| outcome.after(there, back));
    vec(reply, 1..20)
}

fn in_turn(replies: Vec<Reply>) -> impl FnMut(Ask) -> Reply + 'static {
    move |ask| replies[ask.nth % replies.len()].clone()
}

fn by_code(code: &NamedTempFile) -> config::Grant {
    let redirect_uri = "https://app.example.com/callback".to_owned();
    config::Grant::AuthorizationCode { code: source(code), redirect_uri }
}

fn by_token(token: &NamedTempFile) -> config::Grant {
    config::Grant::RefreshToken { refresh_token: source(token) }
}

/// Returns true if nothing of such a request was sent.
fn is_unsent(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Fault(Fault::Connect | Fault::Secret, _))
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn retry_after_is_obeyed_by_schedule_rejection_and_secret_change(
        faults in vec((prop::option::weighted(0.8, (faults(), prop::option::weighted(0.8, 0_u64..40))), spans(0..2_000)), 1..12),
        events in events(4_000),
        seed in any::<u64>(),
    ) {
        simulate(async {
            let secret = file("secret-0");
            let config = config(|token| token.client_secret = source(&secret));
            let world = World::start(&config, seed, Time::new(), move |ask| {
                let (fault, latency) = faults[ask.nth % faults.len()];
                let outcome = fault.map_or_else(|| Outcome::token("20"), |(fault, after)| Outcome::Fault(fault, after));
                outcome.after(latency, seconds(0))
            });
            play(&world, &secret, &events).await;
            let calls = world.provider.calls().clone();
            for pair in calls.windows(2) {
                let Outcome::Fault(fault, after) = pair[0].outcome else { continue };
                let Some(asked) = fault.error(after).await.retry_after() else { continue };
                let pause = pair[1].started - pair[0].end();
                assert!(pause >= asked.clamp(millis(500), seconds(300)), "after {pause:?}: {pair:?}");
            }
        });
    }

    #[test]
    fn a_code_is_never_sent_twice(
        replies in replies(),
        events in events(8_000),
        is_stored in prop::bool::weighted(0.2),
        seed in any::<u64>(),
    ) {
        simulate(async {
            let (code, directory) = (file("secret-0"), tempfile::tempdir().expect("a directory"));
            let store = is_stored.then(|| Store::open(&directory.path().join("state.json")).expect("writable"));
            let config = config(|token| token.grant = by_code(&code));
            let world = World::start_with(&config, store, seed, Time::new(), in_turn(replies));
            play(&world, &code, &events).await;
            let calls = world.provider.calls();
            for (nth, call) in calls.iter().enumerate() {
                let Grant::Code(_) = &call.presented else { continue };
                // Only if nothing of it went out may it be presented once more.
                let again = calls[nth + 1..].iter().any(|later| later.presented == call.presented);
                assert!(!again || is_unsent(&call.outcome), "sent twice, first at {:?}: {world:?}", call.started);
            }
            assert!(matches!(calls[0].presented, Grant::Code(_)));
        });
    }

    #[test]
    fn the_newest_refresh_token_is_presented_and_kept_until_there_is_another(
        replies in replies(),
        events in events(8_000),
        has_code in any::<bool>(),
        seed in any::<u64>(),
    ) {
        simulate(async {
            let first = file("secret-9");
            let config = config(|token| token.grant = if has_code { by_code(&first) } else { by_token(&first) });
            let world = World::start(&config, seed, Time::new(), in_turn(replies));
            let is_wanted = |event| matches!(event, Event::Reject) || has_code;
            let events: Vec<_> = events.into_iter().filter(|(_, event)| is_wanted(*event)).collect();
            play(&world, &first, &events).await;
            sleep(seconds(100)).await;
            let mut newest = (!has_code).then(|| "secret-9".to_owned());
            let calls = world.provider.calls();
            for (nth, call) in calls.iter().enumerate() {
                let issued = match &call.outcome {
                    Outcome::Token { refresh_token, .. } if call.is_success() => Some(refresh_token.clone()),
                    Outcome::Fault(Fault::UnusableToken, _) => Some(None),
                    _ => None,
                };
                match (&call.presented, issued) {
                    // What a new code gives is all that counts from then on.
                    (Grant::Code(_), Some(issued)) => newest = issued,
                    (Grant::RefreshToken(presented), issued) => {
                        assert_eq!(Some(presented), newest.as_ref(), "{world:?}");
                        newest = issued.flatten().or(newest);
                    }
                    (Grant::Code(_) | Grant::ClientCredentials, _) => {}
                }
                if call.is_success() && newest.is_some() {
                    let next = calls.get(nth + 1).map_or(world.time.now(), |next| next.started);
                    assert!(next <= call.started + seconds(60), "{newest:?} was lost after {call:?}: {world:?}");
                }
            }
        });
    }

    #[test]
    fn an_ambiguous_exchange_is_repeated_within_about_a_second_with_the_same_refresh_token(
        before in vec((faults(), spans(0..1_000)), 0..8),
        ambiguous in prop::sample::select(vec![
            Fault::Timeout,
            Fault::Broken,
            Fault::Oversize,
            Fault::Empty,
            Fault::Malformed,
        ]),
        has_token in any::<bool>(),
        took in spans(0..10_000),
        seed in any::<u64>(),
    ) {
        simulate(async {
            let token = SecretSource::Value(Secret::new("the-one".to_owned()));
            let config = config(|config| config.grant = config::Grant::RefreshToken { refresh_token: token });
            let lost = usize::from(has_token) + before.len();
            // An ambiguous one before it has had its own quick repetition.
            let last = before.last().copied();
            let world = World::start(&config, seed, Time::new(), move |ask| {
                let nth = ask.nth.checked_sub(usize::from(has_token));
                match nth.map(|nth| before.get(nth)) {
                    None => Outcome::token("60").after(millis(10), millis(10)),
                    Some(Some((fault, latency))) => Outcome::Fault(*fault, None).after(*latency, seconds(0)),
                    Some(None) if ask.nth == lost => Outcome::Fault(ambiguous, None).after(took, seconds(0)),
                    Some(None) => Outcome::token("60").after(millis(10), millis(10)),
                }
            });
            // Each of those before may be followed by an hour's pause.
            sleep(seconds(9 * 3_660)).await;
            if let Some((fault, _)) = last && fault.error(None).await.is_ambiguous() {
                return;
            }
            let calls = world.provider.calls();
            assert_eq!(calls[lost].presented, calls[lost + 1].presented);
            let pause = calls[lost + 1].started - calls[lost].end();
            assert!(pause <= seconds(1) + 2 * TICK, "{pause:?} later: {calls:?}");
        });
    }
}

/// A first code gave a refresh token; a second one was sent, and nobody knows what became of it.
async fn after_a_lost_second_code(third: Outcome) -> Vec<Grant> {
    let code = file("first");
    let config = config(|token| token.grant = by_code(&code));
    let world = World::start(&config, 1, Time::new(), move |ask| {
        match ask.nth {
            0 => Outcome::Token { expires_in: Some("20".to_owned()), refresh_token: Some("of-first".to_owned()) },
            1 => Outcome::Fault(Fault::Timeout, None),
            2 => third.clone(),
            _ => Outcome::token("20"),
        }
        .after(millis(10), millis(10))
    });
    sleep(seconds(1)).await;
    write(&code, "second");
    sleep(seconds(100)).await;
    let calls = world.provider.calls();
    calls.iter().map(|call| call.presented.clone()).collect()
}

#[test]
fn a_refresh_token_that_is_used_after_a_lost_code_is_kept() {
    let presented = simulate(after_a_lost_second_code(Outcome::token("20")));
    assert_eq!(presented[1], Grant::Code("second".to_owned()));
    assert!(presented.len() > 4, "it was lost: {presented:?}");
    assert!(presented[2..].iter().all(|grant| *grant == Grant::RefreshToken("of-first".to_owned())), "{presented:?}");
}

#[test]
fn a_new_code_that_gives_the_same_refresh_token_as_the_old_one_keeps_it() {
    simulate(async {
        let code = file("first");
        let config = config(|token| token.grant = by_code(&code));
        let world = World::start(&config, 1, Time::new(), |_| {
            let refresh_token = Some("the-one".to_owned());
            Outcome::Token { expires_in: Some("20".to_owned()), refresh_token }.after(millis(10), millis(10))
        });
        sleep(seconds(1)).await;
        write(&code, "second");
        sleep(seconds(100)).await;
        let calls = world.provider.calls();
        assert_eq!(calls[1].presented, Grant::Code("second".to_owned()));
        assert!(calls.len() > 4, "it was lost: {world:?}");
        assert!(calls[2..].iter().all(|call| call.presented == Grant::RefreshToken("the-one".to_owned())));
    });
}

#[test]
fn a_lost_code_is_not_sent_again_because_a_later_exchange_could_not_connect() {
    let presented = simulate(after_a_lost_second_code(Outcome::Fault(Fault::Connect, None)));
    let codes = presented.iter().filter(|grant| matches!(grant, Grant::Code(_))).count();
    assert_eq!(codes, 2, "{presented:?}");
}

#[test]
fn a_secret_that_was_replaced_is_tried_within_a_second_or_two() {
    for fault in [401, 301] {
        simulate(async {
            let secret = file("one");
            let config = config(|token| token.client_secret = source(&secret));
            let world = World::start(&config, 1, Time::new(), move |ask| match ask.nth {
                0 => Outcome::Fault(Fault::Status(fault), None).after(millis(10), seconds(0)),
                _ => Outcome::token("60").after(millis(10), seconds(0)),
            });
            sleep(seconds(7)).await;
            assert_eq!(world.provider.count(), 1);
            write(&secret, "another");
            sleep(seconds(2)).await;
            assert!(world.is_valid(), "{world:?}");
        });
    }
}

/// What a drain does to an exchange that is under way, by grant.
#[test]
fn a_drain_waits_only_for_an_exchange_that_may_bring_a_refresh_token() {
    let token = || SecretSource::Value(Secret::new("the-one".to_owned()));
    let grants = [
        (config::Grant::ClientCredentials, Ending::Dropped),
        (config::Grant::RefreshToken { refresh_token: token() }, Ending::Answered),
    ];
    for (grant, ending) in grants {
        simulate(async {
            let seen = Rc::new(RefCell::new(0));
            let config = config(|config| config.grant = grant);
            let world = World::start(&config, 1, Time::new(), {
                let seen = Rc::clone(&seen);
                move |_| {
                    *seen.borrow_mut() += 1;
                    Outcome::token("60").after(seconds(2), seconds(2))
                }
            });
            sleep(seconds(1)).await;
            world.trigger.start();
            sleep(seconds(100)).await;
            assert_eq!(world.provider.calls()[0].ending, ending);
            assert!(world.refresher.is_finished());
            assert_eq!(*seen.borrow(), 1, "none is started any more");
        });
    }
}

/// A request that hangs is the only one, for as long as it does.
#[test]
fn an_exchange_that_hangs_is_not_overtaken() {
    simulate(async {
        let world = World::start(&config(|_| {}), 1, Time::new(), |_| Outcome::Hang.after(seconds(0), seconds(0)));
        for _ in 0..100 {
            assert!(world.bearer().await.is_err());
            world.renewal.reject(0, FollowUp::Replay);
        }
        assert_eq!(world.provider.count(), 1);
        assert_eq!(world.provider.calls()[0].ending, Ending::Open);
    });
}

//! The token's life in simulated time: properties that hold under any schedule.
//!
//! A [`World`] is a refresher, the requests' handles to it, and a scripted [`Provider`], on one thread
//! whose timers are paused: they jump ahead whenever everybody sleeps, so an hour takes milliseconds.
//! What is asserted is worked out from the provider's records and the [`Time`] of the simulation
//! alone; neither the clock nor the schedule under test is believed.

mod grants;
mod lives;
mod provider;
mod rejections;
mod replicas;
mod secrecy;
mod waiters;
mod world;

use std::time::Duration;

use proptest::{
    prelude::{ProptestConfig, Strategy, any, prop, prop_oneof},
    test_runner::RngSeed,
};

use self::{
    provider::{Ask, Ending, Fault, Outcome, Provider, Reply},
    world::{Time, World, config},
};
use super::wire::OAuthError;

/// Differences below this are the timers': they turn in whole milliseconds.
const TICK: Duration = Duration::from_millis(2);

/// The same cases at every run.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, rng_seed: RngSeed::Fixed(20_260_101), failure_persistence: None, ..Default::default() }
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn spans(millis: std::ops::Range<u64>) -> impl Strategy<Value = Duration> + Clone {
    millis.prop_map(Duration::from_millis)
}

/// Failures that heal by themselves.
fn transient_faults() -> impl Strategy<Value = Fault> + Clone {
    prop::sample::select(vec![
        Fault::Connect,
        Fault::Timeout,
        Fault::Broken,
        Fault::Oversize,
        Fault::Empty,
        Fault::Malformed,
        Fault::UnusableToken,
        Fault::NotBearer,
        Fault::OAuth(OAuthError::ServerError),
        Fault::Status(302),
        Fault::Status(429),
        Fault::Status(503),
    ])
}

/// Every failure there is.
fn faults() -> impl Strategy<Value = Fault> + Clone {
    prop_oneof![
        3 => transient_faults(),
        1 => prop::sample::select(vec![
            Fault::OAuth(OAuthError::InvalidClient),
            Fault::OAuth(OAuthError::AccessDenied),
            Fault::Status(301),
            Fault::Status(401),
            Fault::Secret,
        ]),
        1 => prop::sample::select(vec![Fault::OAuth(OAuthError::InvalidGrant), Fault::CodeUsed]),
    ]
}

/// What a provider may ask for in `Retry-After`, in seconds: sense, nonsense, or nothing.
fn retry_after() -> impl Strategy<Value = Option<u64>> + Clone {
    prop::option::of(prop_oneof![3 => 0_u64..400, 1 => any::<u64>()])
}

/// Outcomes that are no token, a panic among them.
fn failures() -> impl Strategy<Value = Outcome> + Clone {
    prop_oneof![
        12 => (faults(), retry_after()).prop_map(|(fault, after)| Outcome::Fault(fault, after)),
        1 => prop::strategy::Just(Outcome::Panic),
    ]
}

//! Killed at random moments.

use std::{
    thread::{scope, sleep},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use token_valet::sandbox::Settings;

use crate::harness::{Grant, Scene};

/// Sidecars at once: each waits for its provider and its timers most of the time.
const SIDECARS: u64 = 8;

#[test]
#[allow(clippy::print_stderr, reason = "a failure must be repeatable")]
fn a_grant_survives_two_hundred_kills_while_its_refresh_token_rotates() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seed = number("CRASH_SEED").unwrap_or_else(rand::random);
    let kills = number("CRASH_KILLS").unwrap_or(208).div_ceil(SIDECARS);
    eprintln!("CRASH_SEED={seed} CRASH_KILLS={}", kills * SIDECARS);
    let exchanges: usize = scope(|scope| {
        let threads: Vec<_> = (0..SIDECARS)
            .map(|number| scope.spawn(move || survive(kills, StdRng::seed_from_u64(seed.wrapping_add(number)))))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("its own message is above")).sum()
    });
    eprintln!("{} kills, {exchanges} exchanges", kills * SIDECARS);
    assert!(exchanges as u64 >= kills * SIDECARS / 2, "most were killed before they did anything: {exchanges}");
}

/// Returns how many exchanges there were.
fn survive(kills: u64, mut dice: StdRng) -> usize {
    // Refreshed after little more than 1 s, the shortest that there is.
    let life = Duration::from_secs(2);
    let settings =
        Settings { rotate_refresh_tokens: true, rotation_grace: true, token_life: life, ..Settings::default() };
    let scene = Scene::new(Grant::RefreshToken, settings);
    for kill in 1..=kills {
        let sidecar = scene.start();
        let moment = Duration::from_millis(dice.random_range(20..=1_500));
        sleep(moment);
        sidecar.kill();
        // Panics if the file is torn.
        let record = scene.record();
        let stored = record.as_ref().is_some_and(|record| record.refresh_token.is_some());
        assert!(stored || record.is_none(), "kill {kill} after {moment:?}: {record:?}");
        let refused = scene.provider.exchanges().iter().find_map(|e| e.status.filter(|status| !status.is_success()));
        assert_eq!(refused, None, "before kill {kill}");
    }
    scene.assert_alive("all kills");
    scene.provider.exchanges().len()
}

//! Killed at each step of the store.

use std::time::Duration;

use token_valet::sandbox::Settings;

use crate::{
    harness::{Answer, Grant, Scene, eventually},
    strace::{assert_among, assert_synced, each, killed_at, steps_seen, watch},
};

fn rotating() -> Scene {
    // Refreshed after little more than 1 s, the shortest that there is.
    let life = Duration::from_secs(2);
    let settings =
        Settings { rotate_refresh_tokens: true, rotation_grace: true, token_life: life, ..Settings::default() };
    Scene::new(Grant::RefreshToken, settings)
}

#[test]
#[allow(clippy::print_stderr, reason = "how thorough it was")]
fn a_grant_survives_a_kill_at_each_step_of_its_store() {
    let scene = rotating();
    let sidecar = watch(&scene);
    eventually("three exchanges, stored", || {
        scene.provider.exchanges().len() >= 3 && scene.newest_is_stored() && sidecar.get() == Answer::Ok
    });
    drop(sidecar);
    assert_synced(&scene);
    let steps = steps_seen(&scene);
    assert_among(
        &steps,
        &[
            ("state/state.json.lock", "flock"),
            ("state/state.json.tmp", "openat"),
            ("state/state.json.tmp", "write"),
            ("state/state.json.tmp", "fsync"),
            ("state/state.json.tmp", "rename"),
            ("state", "fsync"),
        ],
    );
    each(&steps, |step| {
        let scene = killed_at(step, rotating);
        // Panics if the file is torn.
        scene.record();
        scene.assert_alive(&step.to_string());
    });
    eprintln!("killed at {} steps", steps.len());
}

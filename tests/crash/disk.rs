//! A disk that fails for a while.

use std::time::Duration;

use token_valet::sandbox::Settings;

use crate::{
    harness::{Answer, Grant, Scene, eventually},
    strace::{Step, fail_at},
};

/// Without any grace: only the newest refresh token is good.
fn rotating(life: Duration) -> Scene {
    let settings = Settings { rotate_refresh_tokens: true, token_life: life, ..Settings::default() };
    Scene::new(Grant::RefreshToken, settings)
}

#[test]
fn a_token_is_published_although_it_cannot_be_stored_and_stored_when_that_works_again() {
    for (step, error) in [
        (Step::new("state/state.json.tmp", "write", 1), "ENOSPC"),
        (Step::new("state/state.json.tmp", "fsync", 1), "EIO"),
        (Step::new("state/state.json.tmp", "rename", 1), "ENOSPC"),
        (Step::new("state", "fsync", 1), "EIO"),
    ] {
        let what = format!("{error} at {step}");
        // Longer than the test: what stores it later is not the next exchange.
        let scene = rotating(Duration::from_secs(120));
        let mut sidecar = fail_at(&scene, &step, 3, error);
        sidecar.answers(&Answer::Ok, &what);
        if step != Step::new("state", "fsync", 1) {
            assert!(!scene.newest_is_stored(), "{what} did not happen: {}", sidecar.log());
        }
        eventually(&format!("the refresh token stored after {what}"), || scene.newest_is_stored());
        assert!(sidecar.is_running(), "after {what}: {}", sidecar.log());
        assert_eq!(scene.provider.exchanges().len(), 1, "{what} cost an exchange: {}", sidecar.log());
        drop(sidecar);
        scene.assert_alive(&what);
    }
}

#[test]
fn a_disk_without_room_for_a_temporary_file_costs_no_token() {
    // The first is made at the start, and its failure would be a fault of the configuration.
    let step = Step::new("state/state.json.tmp", "openat", 2);
    for error in ["ENOSPC", "EROFS", "EMFILE"] {
        let scene = rotating(Duration::from_secs(2));
        let mut sidecar = fail_at(&scene, &step, 3, error);
        eventually("seven exchanges", || scene.provider.exchanges().len() >= 7);
        sidecar.answers(&Answer::Ok, error);
        eventually("the refresh token stored", || scene.newest_is_stored());
        assert!(sidecar.is_running(), "{}", sidecar.log());
        drop(sidecar);
        scene.assert_alive(error);
    }
}

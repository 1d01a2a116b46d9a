//! Killed around the one exchange of an authorization code, which must not be presented twice
//! (RFC 6749 section 4.1.2).

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use token_valet::{config::TokenFault, sandbox::Settings};

use crate::{
    harness::{Answer, Grant, Scene, eventually},
    strace::{assert_among, each, killed_at, steps_seen, watch},
};

fn scene() -> Scene {
    let life = Duration::from_secs(2);
    let settings =
        Settings { rotate_refresh_tokens: true, rotation_grace: true, token_life: life, ..Settings::default() };
    Scene::new(Grant::Code, settings)
}

/// A new start asks for the user, and does not present the code.
fn assert_reauthorize(scene: &Scene, presented: usize, after: &str) {
    let sidecar = scene.start();
    let wanted = Answer::Refused("502".to_owned(), "reauthorize".to_owned());
    sidecar.answers(&wanted, after);
    // Time enough for an attempt that would be one too many.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(sidecar.get(), wanted, "after {after}");
    assert_eq!(scene.codes_presented(), presented, "the code was presented again after {after}");
}

#[test]
fn a_code_whose_answer_was_not_stored_is_never_presented_again() {
    for fault in [TokenFault::Slow, TokenFault::Hang] {
        let scene = scene();
        scene.provider.next_token_faults([fault]);
        let sidecar = scene.start();
        eventually("the code arrived", || scene.codes_presented() == 1);
        sidecar.kill();
        let record = scene.record();
        assert_eq!(record.and_then(|record| record.code).as_deref(), Some("exchanging"));
        assert_reauthorize(&scene, 1, "an answer that was not stored");
    }
}

#[test]
fn a_code_that_could_not_be_sent_is_presented_after_a_restart() {
    let scene = scene();
    scene.provider.go_down();
    let sidecar = scene.start();
    sidecar.fails(2);
    // An attempt that has just begun is none of which it could be known that it was not sent.
    eventually("the attempt's end", || scene.record().and_then(|record| record.code).as_deref() != Some("exchanging"));
    sidecar.kill();
    scene.provider.come_back();
    assert_eq!(scene.codes_presented(), 0);
    scene.assert_alive("the provider came back");
}

#[test]
fn a_code_without_an_answer_is_not_forgotten_when_its_record_cannot_be_read() {
    let scene = scene();
    scene.provider.next_token_faults([TokenFault::Hang]);
    let sidecar = scene.start();
    eventually("the code arrived", || scene.codes_presented() == 1);
    let open_to = |mode| fs::set_permissions(scene.state_file(), fs::Permissions::from_mode(mode)).expect("ours");
    open_to(0o604);
    // The first has no answer, the next one cannot read what was noted.
    sidecar.fails(2);
    open_to(0o600);
    sidecar.kill();
    assert_eq!(scene.record().and_then(|record| record.code).as_deref(), Some("exchanging"));
    assert_reauthorize(&scene, 1, "a record that could not be read");
}

#[test]
fn a_new_code_without_an_answer_is_not_presented_again_when_the_old_refresh_token_cannot_be_sent() {
    let scene = scene();
    let sidecar = scene.start();
    eventually("a stored refresh token", || scene.newest_is_stored());
    sidecar.kill();

    fs::write(scene.path("code"), "another").expect("ours");
    let presented =
        || scene.provider.exchanges().iter().filter(|e| e.fields.get("code").is_some_and(|c| c == "another")).count();
    scene.provider.set_token_fault(Some(TokenFault::Hang));
    let sidecar = scene.start();
    eventually("the new code arrived", || presented() == 1);
    scene.provider.go_down();
    sidecar.fails(3);
    scene.provider.set_token_fault(None);
    scene.provider.come_back();
    eventually("an answer", || sidecar.get() != Answer::Other);
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(presented(), 1, "{}", sidecar.log());
}

#[test]
#[allow(clippy::print_stderr, reason = "how thorough it was")]
fn a_code_is_presented_once_at_most_and_lost_only_where_that_cannot_be_known() {
    let calibration = scene();
    let sidecar = watch(&calibration);
    eventually("a stored refresh token", || calibration.newest_is_stored());
    drop(sidecar);
    let steps = steps_seen(&calibration);
    assert_among(&steps, &[("state/state.json.tmp", "write"), ("state/state.json.tmp", "rename")]);
    each(&steps, |step| {
        let scene = killed_at(step, scene);
        let presented = scene.codes_presented();
        let record = scene.record();
        let (stored, code) = record.map_or((None, None), |record| (record.refresh_token, record.code));
        match (stored, code.as_deref()) {
            (None, Some("exchanging")) => assert_reauthorize(&scene, presented, &step.to_string()),
            (None, Some(other)) => panic!("{other} without a refresh token after {step}"),
            (None, None) => {
                assert_eq!(presented, 0, "not even noted before {step}");
                scene.assert_alive(&step.to_string());
            }
            (Some(_), _) => {
                assert_eq!(presented, 1, "after {step}");
                scene.assert_alive(&step.to_string());
            }
        }
    });
    eprintln!("killed at {} steps", steps.len());
}

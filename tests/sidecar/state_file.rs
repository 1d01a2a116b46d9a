//! A refresh token, or the memory of a code, over restarts.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use rustix::process::Signal;
use tempfile::TempDir;
use token_valet::sandbox::{Provider, Settings};

use crate::harness::{ACCOUNTS, Setup, Sidecar, provider, wait_until, with_mount};

/// A directory that outlives the sidecars.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("state.json")
    }
}

fn rotating() -> Provider {
    provider(Settings { rotate_refresh_tokens: true, punish_reuse: true, ..Settings::default() })
}

fn at(setup: Setup, file: &Path) -> Setup {
    setup.set("token.state_file", file.to_str().expect("UTF-8"))
}

fn stop(mut sidecar: Sidecar) {
    sidecar.process.signal(Signal::TERM);
    assert_eq!(sidecar.process.exit_code(), 0);
}

fn mode(file: &Path) -> u32 {
    fs::metadata(file).expect("it is there").permissions().mode() & 0o777
}

#[test]
fn a_rotated_refresh_token_survives_restarts_at_a_provider_that_punishes_reuse() {
    let (provider, place) = (rotating(), Place::new());
    for _ in 0..4 {
        let sidecar = at(Setup::by_refresh_token(&provider), &place.file()).start();
        sidecar.wait_until_it_serves();
        stop(sidecar);
    }
    let presented: Vec<_> = provider.exchanges().iter().map(|e| e.fields["refresh_token"].clone()).collect();
    assert_eq!(presented.len(), 4);
    assert_eq!(presented.iter().collect::<std::collections::BTreeSet<_>>().len(), 4, "one was presented twice");
    assert_eq!(mode(&place.file()), 0o600);
}

#[test]
fn a_code_is_presented_once_and_its_refresh_token_goes_on_after_a_restart_without_the_code() {
    let (provider, place) = (rotating(), Place::new());
    let sidecar = at(Setup::by_code(&provider), &place.file()).start();
    sidecar.wait_until_it_serves();
    stop(sidecar);

    let gone = at(Setup::by_code(&provider), &place.file()).set("token.code_file", "/nowhere/code");
    let sidecar = gone.start();
    sidecar.wait_until_it_serves();
    stop(sidecar);
    let grants: Vec<_> = provider.exchanges().iter().map(|exchange| exchange.grant_type.clone()).collect();
    assert_eq!(grants, [Some("authorization_code".into()), Some("refresh_token".into())]);
}

#[test]
fn a_code_that_was_refused_is_not_presented_again_after_a_restart() {
    let (provider, place) = (provider(Settings::default()), Place::new());
    for _ in 0..2 {
        let setup = at(Setup::by_code(&provider), &place.file()).set_file("token.code_file", "unknown-code");
        let sidecar = setup.start();
        wait_until("the refusal", || sidecar.get(ACCOUNTS).header("x-token-valet-error") == Some("reauthorize"));
        stop(sidecar);
    }
    assert_eq!(provider.exchanges().len(), 1);
}

#[test]
fn a_new_code_replaces_what_the_old_one_gave() {
    let (provider, place) = (provider(Settings::default()), Place::new());
    let setup = at(Setup::by_code(&provider), &place.file()).set_file("token.code_file", "unknown-code");
    let sidecar = setup.start();
    wait_until("the refusal", || sidecar.get(ACCOUNTS).header("x-token-valet-error") == Some("reauthorize"));
    sidecar.setup.replace_file("token.code_file", &Settings::default().code);
    sidecar.wait_until_it_serves();
}

#[test]
fn another_refresh_token_in_the_configured_file_beats_the_stored_one() {
    let (provider, place) = (provider(Settings::default()), Place::new());
    let setup = at(Setup::by_refresh_token(&provider), &place.file()).set_file("token.refresh_token_file", "stale");
    let sidecar = setup.start();
    wait_until("the refusal", || !provider.exchanges().is_empty());
    sidecar.setup.replace_file("token.refresh_token_file", &Settings::default().refresh_token);
    sidecar.wait_until_it_serves();
    stop(sidecar);
    let sidecar = at(Setup::by_refresh_token(&provider), &place.file()).start();
    sidecar.wait_until_it_serves();
}

#[test]
fn a_place_that_is_not_safe_or_not_there_is_refused_at_the_start_with_a_way_out() {
    let (provider, place) = (provider(Settings::default()), Place::new());
    let file = place.file();
    let refused = |file: &Path, expected: &str| {
        let setup = at(Setup::by_refresh_token(&provider), file);
        let mut process = setup.spawn("run");
        assert_eq!(process.exit_code(), 78);
        let said = process.stderr();
        assert!(said.contains("`token.state_file`: ") && said.contains(expected), "{said}");
    };
    refused(&place.0.path().join("missing/state.json"), "hint: create `");
    fs::write(&file, "{").expect("writable");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o604)).expect("ours");
    refused(&file, "hint: run `chmod 600 ");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("ours");
    refused(&file, "to start from the configured grant again");
    let link = place.0.path().join("link.json");
    symlink(&file, &link).expect("a link can be made");
    refused(&link, "hint: name the file that");
    assert!(provider.exchanges().is_empty(), "nothing was sent");
}

#[test]
fn permissions_of_the_group_are_taken_away_with_a_warning() {
    let (provider, place) = (provider(Settings::default()), Place::new());
    stop(served(at(Setup::by_refresh_token(&provider), &place.file())));
    fs::set_permissions(place.file(), fs::Permissions::from_mode(0o660)).expect("ours");
    let sidecar = served(at(Setup::by_refresh_token(&provider), &place.file()));
    assert_eq!(mode(&place.file()), 0o600);
    assert!(sidecar.process.log().iter().any(|line| line["level"] == "WARN"), "{}", sidecar.process.stderr());
}

fn served(setup: Setup) -> Sidecar {
    let sidecar = setup.start();
    sidecar.wait_until_it_serves();
    sidecar
}

#[test]
fn two_replicas_that_share_a_state_file_do_not_present_what_the_other_has_used_up() {
    let life = crate::harness::seconds(2);
    let provider =
        provider(Settings { rotate_refresh_tokens: true, punish_reuse: true, token_life: life, ..Settings::default() });
    let place = Place::new();
    let first = served(at(Setup::by_refresh_token(&provider), &place.file()));
    let second = served(at(Setup::by_refresh_token(&provider), &place.file()));
    wait_until("some turns of both", || provider.exchanges().len() >= 8);
    for sidecar in [first, second] {
        sidecar.get(ACCOUNTS).assert_accounts();
    }
    assert!(provider.exchanges().iter().all(|exchange| exchange.status == Some(http::StatusCode::OK)));
}

#[test]
fn a_state_file_has_no_meaning_for_client_credentials() {
    let (provider, place) = (provider(Settings::default()), Place::new());
    let setup = at(Setup::partner(&provider), &place.file());
    let mut process = setup.spawn("check");
    assert_eq!(process.exit_code(), 78);
    assert!(process.stderr().contains("`token.state_file` has no meaning for the grant `client_credentials`"));
}

#[test]
fn a_place_that_vanishes_while_running_costs_no_token_and_is_used_again_when_it_is_back() {
    let provider = provider(Settings {
        rotate_refresh_tokens: true,
        token_life: crate::harness::seconds(2),
        ..Settings::default()
    });
    let place = Place::new();
    let (here, away) = (place.0.path().join("here"), place.0.path().join("away"));
    fs::create_dir(&here).expect("writable");
    let sidecar = served(at(Setup::by_refresh_token(&provider), &here.join("state.json")));
    fs::rename(&here, &away).expect("ours");
    let before = provider.exchanges().len();
    wait_until("two more refreshes", || provider.exchanges().len() >= before + 2);
    sidecar.get(ACCOUNTS).assert_accounts();
    let log = sidecar.process.stderr();
    assert!(log.contains("the refresh token cannot be stored"), "{log}");
    fs::rename(&away, &here).expect("ours");
    sidecar.process.logged("the refresh token is stored again");
    stop(sidecar);
    served(at(Setup::by_refresh_token(&provider), &here.join("state.json")));
}

#[test]
fn a_record_without_a_refresh_token_starts_from_the_file_s() {
    use sha2::{Digest, Sha256};
    let (provider, place) = (provider(Settings::default()), Place::new());
    let hash: String =
        Sha256::digest(Settings::default().refresh_token).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(place.file(), format!(r#"{{"version":1,"seed_sha256":"{hash}"}}"#)).expect("writable");
    fs::set_permissions(place.file(), fs::Permissions::from_mode(0o600)).expect("ours");
    served(at(Setup::by_refresh_token(&provider), &place.file()));
}

#[test]
fn a_state_file_that_is_removed_while_running_is_written_again_and_nothing_is_presented_twice() {
    let provider = provider(Settings {
        rotate_refresh_tokens: true,
        punish_reuse: true,
        token_life: crate::harness::seconds(2),
        ..Settings::default()
    });
    let place = Place::new();
    let sidecar = served(at(Setup::by_refresh_token(&provider), &place.file()));
    let before = provider.exchanges().len();
    fs::remove_file(place.file()).expect("it is there");
    wait_until("the file to be back", || place.file().exists());
    wait_until("a refresh", || provider.exchanges().len() > before + 1);
    sidecar.get(ACCOUNTS).assert_accounts();
    assert!(provider.exchanges().iter().all(|exchange| exchange.status == Some(http::StatusCode::OK)));
}

#[test]
fn a_file_that_is_mounted_by_itself_is_refused_as_nothing_can_be_renamed_over_it() {
    let (provider, place, mounted) = (rotating(), Place::new(), Place::new());
    for file in [place.file(), mounted.file()] {
        fs::write(&file, "{}").expect("a writable directory");
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("our own file");
    }
    let setup = at(Setup::by_refresh_token(&provider), &place.file());
    let configuration = setup.write();
    for command in ["check", "run"] {
        let arguments = [command, "-c", configuration.to_str().expect("UTF-8")];
        let mut process = with_mount(&mounted.file(), &place.file(), &arguments);
        assert_eq!(process.exit_code(), 78, "{}", process.stderr());
        let said = process.stderr();
        let problem = format!("`token.state_file` is {:?}, which is mounted as a single file", place.file());
        assert!(said.contains(&problem) && said.contains("hint: mount its directory instead"), "{said}");
    }
    assert!(provider.exchanges().is_empty());

    // Its directory, as volumes are.
    let (empty, arguments) = (Place::new(), ["run", "-c", configuration.to_str().expect("UTF-8")]);
    let mut process = with_mount(empty.0.path(), place.0.path(), &arguments);
    process.addresses();
    wait_until("the token to be stored", || empty.file().exists());
    process.signal(Signal::TERM);
    assert_eq!(process.exit_code(), 0);
}

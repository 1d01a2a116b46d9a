//! What the process cannot do, once it listens.

use std::{fs, os::unix::fs::symlink, path::Path};

use tempfile::TempDir;
use token_valet::sandbox::{Provider, Settings};

use crate::harness::{Setup, Sidecar, provider, seconds, wait_until};

/// A sidecar whose secret file is a link, which is then led to the right secret in another directory.
fn with_its_secret_led_elsewhere(provider: &Provider, configure: impl FnOnce(Setup) -> Setup) -> (Sidecar, TempDir) {
    let places = tempfile::tempdir().expect("a temporary directory");
    let (link, new) = (places.path().join("mounted/secret"), places.path().join("elsewhere/secret"));
    for path in [&link, &new] {
        fs::create_dir(path.parent().expect("it has one")).expect("a writable directory");
    }
    let secret = Settings::default().client_secret;
    fs::write(places.path().join("mounted/first"), &secret).expect("a writable directory");
    fs::write(&new, &secret).expect("a writable directory");
    lead(&link, Path::new("first"));
    let setup = Setup::partner(provider).set("token.client_secret_file", link.to_str().expect("UTF-8"));
    let sidecar = configure(setup).start();
    sidecar.wait_until_it_serves();
    lead(&link, &new);
    (sidecar, places)
}

/// Replaces a link in one step.
fn lead(link: &Path, target: &Path) {
    let new = link.with_extension("new");
    symlink(target, &new).expect("a writable directory");
    fs::rename(new, link).expect("a writable directory");
}

fn short_lived() -> Provider {
    provider(Settings { token_life: seconds(2), ..Settings::default() })
}

#[test]
fn the_process_is_confined_to_its_directories_and_can_gain_no_privileges() {
    let provider = short_lived();
    let (sidecar, _places) = with_its_secret_led_elsewhere(&provider, |setup| setup);
    assert_eq!(sidecar.process.logged("listening")["confinement"], "whole", "this needs Linux 6.10");
    let warning = sidecar.process.logged("a secret cannot be read; its last good value is used");
    assert!(warning["error"].as_str().is_some_and(|error| error.contains("Permission denied")), "{warning}");
    sidecar.wait_until_it_serves();

    for thread in fs::read_dir(format!("/proc/{}/task", sidecar.process.id())).expect("it runs") {
        let status = fs::read_to_string(thread.expect("a thread").path().join("status")).expect("it runs");
        assert!(status.contains("\nNoNewPrivs:\t1\n"), "{status}");
    }
}

#[test]
fn a_process_that_may_go_anywhere_follows_a_link_to_another_directory() {
    let provider = short_lived();
    let (sidecar, _places) = with_its_secret_led_elsewhere(&provider, |setup| setup.set("process.confine", false));
    assert_eq!(sidecar.process.logged("listening")["confinement"], "none");
    let before = provider.exchanges().len();
    wait_until("two more exchanges", || provider.exchanges().len() >= before + 2);
    let log = sidecar.process.log();
    assert!(log.iter().all(|line| line["message"] != "a secret cannot be read; its last good value is used"));
}

//! Secret files that others may read: a warning, and never a refusal.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
};

use rcgen::{CertificateParams, KeyPair};
use token_valet::sandbox::{Provider, Settings};

use crate::harness::{ACCOUNTS, Process, Setup, Sidecar, provider, wait_until};

const WARNING: &str = "a secret file is readable by others";
const SECRET: &str = "token.client_secret_file";
const CODE: &str = "token.code_file";
const KEY: &str = "upstream.client_key_file";

/// The files that were warned of, by the last part of their names.
fn warned_of(process: &Process) -> Vec<String> {
    let log = process.log();
    let warnings = log.iter().filter(|line| line["message"] == WARNING);
    let files = warnings.map(|line| {
        assert_eq!(line["level"], "WARN");
        assert!(line["hint"].as_str().is_some_and(|hint| hint.contains("0400")), "{line}");
        let path = line["file"].as_str().expect("a path");
        path.rsplit('/').next().expect("a name").to_owned()
    });
    files.collect()
}

/// Replaces a key's file by one with this mode.
fn replace(setup: &Setup, key: &str, content: &str, mode: u32) {
    let path = setup.replace_file("of-another-name", content);
    fs::set_permissions(&path, Permissions::from_mode(mode)).expect("its owner may");
    fs::rename(&path, path.replace("of-another-name", key)).expect("a writable directory");
}

/// Has another token obtained.
fn renew(sidecar: &Sidecar, provider: &Provider) {
    let count = provider.exchanges().len();
    provider.revoke_tokens();
    sidecar.get(ACCOUNTS).assert_accounts();
    assert!(provider.exchanges().len() > count);
}

#[test]
fn secret_files_readable_by_others_are_warned_of_once_and_used_all_the_same() {
    let provider = provider(Settings::default());
    let (settings, key) = (Settings::default(), KeyPair::generate().expect("a key"));
    let certificate = CertificateParams::new(vec!["client.example".to_owned()]).expect("a sound name");
    let certificate = certificate.self_signed(&key).expect("a certificate").pem();
    let setup = Setup::by_code(&provider)
        .set_file("upstream.client_cert_file", &certificate)
        .set_file(KEY, &key.serialize_pem())
        .set("reload.poll", "100ms");
    replace(&setup, SECRET, &settings.client_secret, 0o644);
    replace(&setup, CODE, &settings.code, 0o604);
    replace(&setup, KEY, &key.serialize_pem(), 0o444);
    let sidecar = setup.start();
    sidecar.wait_until_it_serves();
    renew(&sidecar, &provider);
    let mut warned_of = warned_of(&sidecar.process);
    warned_of.sort();
    assert_eq!(warned_of, [SECRET, CODE, KEY]);
}

#[test]
fn secret_files_for_their_owner_and_group_are_not_warned_of() {
    let provider = provider(Settings::default());
    let setup = Setup::by_code(&provider);
    replace(&setup, SECRET, &Settings::default().client_secret, 0o440);
    replace(&setup, CODE, &Settings::default().code, 0o400);
    let sidecar = setup.start();
    sidecar.wait_until_it_serves();
    assert_eq!(warned_of(&sidecar.process), [""; 0]);
}

#[test]
fn a_replaced_secret_file_is_warned_of_if_others_may_read_that_one() {
    let provider = provider(Settings::default());
    let secret = Settings::default().client_secret;
    let setup = Setup::partner(&provider);
    replace(&setup, SECRET, &secret, 0o400);
    let sidecar = setup.start();
    sidecar.wait_until_it_serves();
    assert_eq!(warned_of(&sidecar.process), [""; 0]);
    replace(&sidecar.setup, SECRET, &secret, 0o644);
    renew(&sidecar, &provider);
    assert_eq!(warned_of(&sidecar.process), [SECRET]);
    replace(&sidecar.setup, SECRET, &secret, 0o400);
    renew(&sidecar, &provider);
    assert_eq!(warned_of(&sidecar.process), [SECRET]);
}

#[test]
fn of_a_mounted_secret_the_mode_of_the_file_behind_its_link_counts() {
    for (mode, warnings) in [(0o644, &[SECRET][..]), (0o400, &[])] {
        let provider = provider(Settings::default());
        let setup = Setup::partner(&provider);
        let link = setup.replace_file(SECRET, "");
        let target = setup.replace_file("mounted", &Settings::default().client_secret);
        fs::set_permissions(&target, Permissions::from_mode(mode)).expect("its owner may");
        fs::remove_file(&link).expect("a writable directory");
        symlink(&target, &link).expect("a writable directory");
        let sidecar = setup.start();
        wait_until("a token", || sidecar.probe("/readyz") == 200);
        assert_eq!(warned_of(&sidecar.process), warnings);
    }
}

#[test]
fn check_warns_of_them_too_and_finds_no_fault() {
    let provider = provider(Settings::default());
    let setup = Setup::partner(&provider);
    replace(&setup, SECRET, &Settings::default().client_secret, 0o644);
    let mut check = setup.spawn("check");
    assert_eq!(check.exit_code(), 0);
    let said = check.stderr();
    assert!(
        said.starts_with("warning: the secret file \"") && said.contains("is readable by others\n  hint: "),
        "{said}"
    );
    assert!(check.stdout().contains("no fault found"));

    replace(&setup, SECRET, &Settings::default().client_secret, 0o440);
    let mut check = setup.spawn("check");
    assert_eq!((check.exit_code(), &*check.stderr()), (0, ""));
}

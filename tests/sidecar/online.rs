//! `token-valet check --online`: what it says of a provider, and that it shows and uses up nothing.

use std::{
    fs::{self, Permissions},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    thread,
};

use rustix::process::Signal;
use serde_json::Value;
use token_valet::{
    config::TokenFault,
    sandbox::{Provider, Settings},
};

use crate::{
    harness::{Process, Setup, provider, wait_until},
    raw_api::RawApi,
};

/// What it left behind.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) code: i32,
    /// Without the line about the file.
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

#[track_caller]
pub(crate) fn check_online(setup: &Setup) -> Checked {
    let path = setup.write();
    // Else it warns of secrets that others may read.
    for entry in fs::read_dir(path.parent().expect("a file is somewhere")).expect("a directory") {
        fs::set_permissions(entry.expect("a file").path(), Permissions::from_mode(0o600)).expect("ours");
    }
    let path = path.to_str().expect("the path of a temporary directory is UTF-8");
    let mut process = Process::spawn(&["check", "--online", "-c", path], &[]);
    let code = process.exit_code();
    let no_fault = format!("{path}: no fault found\n");
    let stdout = process.stdout();
    let stdout = stdout.strip_prefix(&no_fault).expect("the file is looked at first").to_owned();
    Checked { code, stdout, stderr: process.stderr() }
}

/// Host and port of a URL.
fn place(url: &str) -> &str {
    let rest = url.split_once("://").expect("a URL").1;
    rest.split_once('/').map_or(rest, |(place, _)| place)
}

fn api_ok(provider: &Provider) -> String {
    format!("the API at {}: ok, TLS 1.3, HTTP/1.1\n", place(&provider.api_url()))
}

fn token_ok(provider: &Provider) -> String {
    format!("the token endpoint at {}: ok, a token that lives 299 s\n", place(&provider.token_url()))
}

#[test]
fn good_provider_is_0_with_a_line_for_each_part_and_is_asked_for_one_token_and_nothing_else() {
    let provider = provider(Settings::default());
    let checked = check_online(&Setup::partner(&provider));
    assert_eq!((checked.code, &*checked.stderr), (0, ""));
    assert_eq!(checked.stdout, api_ok(&provider) + &token_ok(&provider));
    assert_eq!(provider.exchanges().len(), 1);
    assert!(provider.requests().is_empty(), "{:?}", provider.requests());
}

#[test]
fn token_without_a_lifetime_is_told_so() {
    let provider = provider(Settings { expires_in: Some(Value::Null), ..Settings::default() });
    let checked = check_online(&Setup::partner(&provider));
    assert_eq!(checked.code, 0, "{checked:?}");
    assert!(checked.stdout.ends_with("does not say how long it lives (`token.default_lifetime`)\n"), "{checked:?}");
}

#[test]
fn provider_that_is_down_is_1_with_a_fault_for_each_part() {
    let provider = provider(Settings::default());
    provider.go_down();
    let checked = check_online(&Setup::partner(&provider));
    assert_eq!((checked.code, &*checked.stdout), (1, ""));
    let refused = "the host does not take the connection: Connection refused (os error 111)";
    let (api, token) = (provider.api_url(), provider.token_url());
    let expected = format!(
        "error: cannot connect to the API: {refused}\n  at {}\n\n\
         error: cannot connect to the token endpoint: {refused}\n  at {}\n",
        place(&api),
        place(&token)
    );
    assert_eq!(checked.stderr, expected);
}

#[test]
fn wrong_secret_is_1_with_the_keys_to_look_at_and_is_not_shown() {
    let provider = provider(Settings::default());
    let setup = Setup::partner(&provider).set_file("token.client_secret_file", "planted-and-wrong");
    let checked = check_online(&setup);
    assert_eq!((checked.code, checked.stdout.clone()), (1, api_ok(&provider)));
    let expected = format!(
        "error: the token endpoint refuses: `invalid_client` (status 400)\n  at {}\n  which adds: The client id or secret \
         is wrong.\n\nhint: look at `token.client_id`, `token.client_secret_file`\n",
        place(&provider.token_url())
    );
    assert_eq!(checked.stderr, expected);
    assert!(!format!("{checked:?}").contains("planted"), "{checked:?}");
    assert_eq!(provider.exchanges().len(), 1, "not again and again");
}

#[test]
fn certificate_that_is_not_believed_is_1_with_the_key_to_look_at_and_the_secret_stays_here() {
    let provider = provider(Settings::default());
    let other = self::provider(Settings::default());
    for (table, part) in [("upstream", "the API"), ("token", "the token endpoint")] {
        let setup = Setup::partner(&provider).set_file(&format!("{table}.ca_file"), other.ca_pem());
        let checked = check_online(&setup);
        assert_eq!(checked.code, 1, "{checked:?}");
        let start = format!("error: cannot connect to {part}: the TLS handshake failed: the host's certificate is ");
        assert!(checked.stderr.starts_with(&start), "{checked:?}");
        assert!(checked.stderr.ends_with(&format!("\n\nhint: look at `{table}.ca_file`\n")), "{checked:?}");
        let good = if table == "token" { api_ok(&provider) } else { token_ok(&provider) };
        assert_eq!(checked.stdout, good, "the other part is looked at all the same");
    }
    assert_eq!(provider.exchanges().len(), 1, "that of the first round");
}

#[test]
fn endpoint_and_api_that_say_nothing_are_given_up_in_time() {
    let provider = provider(Settings::default());
    provider.set_token_fault(Some(TokenFault::Hang));
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("https://{}", silent.local_addr().expect("it is bound"));
    let setup = Setup::partner(&provider).set("upstream.url", url).set("upstream.connect_timeout", "1s");
    let checked = check_online(&setup.set("token.timeout", "1s"));
    assert_eq!((checked.code, &*checked.stdout), (1, ""));
    for words in ["cannot connect to the API: connecting took too long", "the token endpoint did not answer in time"] {
        assert!(checked.stderr.contains(words), "{checked:?}");
    }
}

#[test]
fn grants_that_an_exchange_would_use_up_are_left_alone_and_that_is_said() {
    let provider = provider(Settings::default());
    for (setup, harm) in [
        (Setup::by_code(&provider), "use up the code"),
        (Setup::by_refresh_token(&provider), "replace the refresh token"),
    ] {
        let checked = check_online(&setup);
        assert_eq!((checked.code, &*checked.stderr), (0, ""));
        let line = format!(
            "the token endpoint at {}: ok, TLS 1.3, HTTP/1.1; no token was asked for, as that could {harm}\n",
            place(&provider.token_url())
        );
        assert_eq!(checked.stdout, api_ok(&provider) + &line);
    }
    assert!(provider.exchanges().is_empty());
}

#[test]
fn api_without_tls_is_told_so_and_one_that_closes_at_once_is_none() {
    let provider = provider(Settings::default());
    let api = RawApi::start();
    let url = format!("http://{}", api.address());
    let checked = check_online(&Setup::partner(&provider).set("upstream.url", url));
    assert_eq!(checked.code, 0, "{checked:?}");
    let line = format!("the API at {}: ok, no TLS, HTTP/1.1\n", api.address());
    assert_eq!(checked.stdout, line + &token_ok(&provider));

    let port = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", port.local_addr().expect("it is bound"));
    thread::spawn(move || port.accept().map(drop));
    let checked = check_online(&Setup::partner(&provider).set("upstream.url", url));
    assert_eq!(checked.code, 1, "{checked:?}");
    assert!(checked.stderr.contains("does not take the connection: it is closed at once"), "{checked:?}");
}

#[test]
fn signal_ends_it_at_once() {
    let provider = provider(Settings::default());
    provider.set_token_fault(Some(TokenFault::Hang));
    let setup = Setup::partner(&provider).set("token.timeout", "60s");
    let path = setup.write();
    let mut process = Process::spawn(&["check", "--online", "-c", path.to_str().expect("UTF-8")], &[]);
    wait_until("the token request", || !provider.exchanges().is_empty());
    process.signal(Signal::INT);
    assert_eq!(process.exit_code(), 1);
    assert!(process.stderr().ends_with("error: SIGINT cut it off\n"), "{process:?}");
}

#[test]
fn faulty_file_is_78_and_nobody_is_asked() {
    let provider = provider(Settings::default());
    let setup = Setup::partner(&provider).set("token.timeout", 20);
    let path = setup.write();
    let mut process = Process::spawn(&["check", "--online", "-c", path.to_str().expect("UTF-8")], &[]);
    assert_eq!((process.exit_code(), process.stdout()), (78, String::new()));
    assert!(provider.exchanges().is_empty());
}

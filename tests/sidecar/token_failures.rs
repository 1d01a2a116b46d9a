//! A token endpoint that fails, in every way: what callers see meanwhile, and that it heals by itself.

use std::io::{BufRead, Write};

use http::StatusCode;
use token_valet::{
    config::TokenFault,
    sandbox::{Provider, Settings},
};

use crate::{
    harness::{ACCOUNTS, Connection, Response, Setup, Sidecar, holds_for, provider, seconds, wait_for, wait_until},
    scripted_api::ScriptedApi,
};

/// The log's line about an exchange that failed.
const FAILED: &str = "the access token could not be refreshed";

/// A 503 for want of a token, which must say when to come back.
#[track_caller]
fn assert_unavailable(response: &Response) {
    response.assert_problem(503, "token_unavailable");
    let retry_after = response.header("retry-after").and_then(|seconds| seconds.parse().ok());
    assert!(retry_after.is_some_and(|seconds: u64| (1..=300).contains(&seconds)), "{response:?}");
}

/// Waits until the endpoint has been asked without giving a token.
#[track_caller]
fn wait_for_a_failure(sidecar: &Sidecar) -> serde_json::Value {
    sidecar.process.logged(FAILED)
}

#[test]
fn provider_that_is_down_at_the_start_is_503_until_it_comes_back() {
    let provider = provider(Settings::default());
    provider.go_down();
    let sidecar = Setup::partner(&provider).set("token.wait", "100ms").start();
    assert_unavailable(&sidecar.get(ACCOUNTS));
    assert_unavailable(&sidecar.ask("POST", ACCOUNTS, &[("Authorization", "Bearer own")], b"{}"));
    assert_eq!(wait_for_a_failure(&sidecar)["level"], "WARN");

    provider.come_back();
    sidecar.wait_until_it_serves();
    let tally = provider.tally();
    assert_eq!((tally.missing, tally.unknown), (0, 0), "{tally:?}");
}

#[test]
fn request_before_the_first_token_waits_for_it() {
    let provider = provider(Settings::default());
    provider.set_token_fault(Some(TokenFault::Slow));
    let sidecar = Setup::partner(&provider).start();
    sidecar.get(ACCOUNTS).assert_accounts();
    assert_eq!(provider.exchanges().len(), 1);
}

#[test]
fn caller_that_waits_for_100_continue_gets_the_503_instead() {
    let provider = provider(Settings::default());
    provider.go_down();
    let sidecar = Setup::partner(&provider).set("token.wait", "100ms").start();
    let mut caller = sidecar.connect();
    let fields = [("Expect", "100-continue"), ("Content-Length", "2")];
    caller.send_head("POST", ACCOUNTS, &fields).expect("it listens");
    assert_unavailable(&caller.response("POST").expect("an answer"));
}

#[test]
fn wrong_secret_is_502_at_once_and_heals_when_the_file_is_replaced() {
    let provider = provider(Settings::default());
    // A request that waited would not be answered before the deadline.
    let setup = Setup::partner(&provider).set("token.wait", "60s");
    let sidecar = setup.set_file("token.client_secret_file", "not-the-secret").start();
    let refused = sidecar.get(ACCOUNTS);
    refused.assert_problem(502, "token_config");
    assert_eq!(refused.header("retry-after"), None);

    let line = wait_for_a_failure(&sidecar);
    assert_eq!(line["level"], "ERROR");
    assert!(line["error"].as_str().is_some_and(|error| error.contains("invalid_client")), "{line}");
    assert!(line["look_at"].as_str().is_some_and(|keys| keys.contains("token.client_secret_file")), "{line}");

    holds_for(seconds(3), "the endpoint is left alone", || {
        sidecar.get(ACCOUNTS).assert_problem(502, "token_config");
        provider.exchanges().len() <= 2
    });
    sidecar.setup.replace_file("token.client_secret_file", &Settings::default().client_secret);
    sidecar.wait_until_it_serves();
}

#[test]
fn endpoint_that_hangs_is_503_after_the_wait_and_then_heals() {
    let provider = provider(Settings::default());
    provider.set_token_fault(Some(TokenFault::Hang));
    // Longer than the deadline: whoever is answered did not wait for the exchange to end.
    let setup = Setup::partner(&provider).set("token.timeout", "60s").set("token.wait", "200ms");
    let sidecar = setup.start();
    wait_until("the exchange", || !provider.exchanges().is_empty());
    assert_unavailable(&sidecar.get(ACCOUNTS));
    drop(sidecar);

    let sidecar = Setup::partner(&provider).set("token.timeout", "1s").set("token.wait", "200ms").start();
    assert_unavailable(&sidecar.get(ACCOUNTS));
    wait_for_a_failure(&sidecar);
    provider.set_token_fault(None);
    sidecar.wait_until_it_serves();
}

/// An endpoint with this fault is a 503, and a 200 once the fault is gone.
#[track_caller]
fn heals_after(fault: TokenFault) -> Provider {
    let provider = provider(Settings::default());
    provider.set_token_fault(Some(fault));
    let sidecar = Setup::partner(&provider).set("token.wait", "0s").start();
    assert_eq!(wait_for_a_failure(&sidecar)["level"], "WARN");
    assert_unavailable(&sidecar.get(ACCOUNTS));
    provider.set_token_fault(None);
    sidecar.wait_until_it_serves();
    assert_eq!(provider.exchanges()[0].fault, Some(fault));
    provider
}

#[test]
fn empty_200_is_tried_again() {
    heals_after(TokenFault::Empty);
}

#[test]
fn malformed_200_is_tried_again() {
    heals_after(TokenFault::Malformed);
}

#[test]
fn web_page_is_tried_again() {
    heals_after(TokenFault::Html);
}

#[test]
fn server_error_is_tried_again() {
    heals_after(TokenFault::ServerError);
}

#[test]
fn reset_is_tried_again() {
    heals_after(TokenFault::Reset);
}

#[test]
fn too_many_requests_is_tried_again_after_the_pause_asked_for() {
    let provider = provider(Settings::default());
    let pause = seconds(3);
    provider.set_retry_after(pause);
    provider.next_token_faults([TokenFault::TooManyRequests]);
    let sidecar = Setup::partner(&provider).set("token.wait", "0s").start();
    wait_for_a_failure(&sidecar);
    assert_unavailable(&sidecar.get(ACCOUNTS));
    sidecar.wait_until_it_serves();
    let exchanges = provider.exchanges();
    assert_eq!(exchanges.len(), 2);
    assert!(exchanges[1].at - exchanges[0].at >= pause);
}

#[test]
fn redirect_is_not_followed_and_the_log_names_the_url() {
    let provider = provider(Settings::default());
    provider.set_token_fault(Some(TokenFault::Redirect));
    let sidecar = Setup::partner(&provider).set("token.wait", "0s").start();
    let line = wait_for_a_failure(&sidecar);
    assert_unavailable(&sidecar.get(ACCOUNTS));
    assert_eq!((&line["level"], &line["look_at"]), (&"WARN".into(), &"token.url".into()));
    assert!(line["error"].as_str().is_some_and(|error| error.contains("302")), "{line}");
}

#[test]
fn endpoint_that_does_not_take_the_format_is_502_and_the_log_names_the_key() {
    let endpoint = ScriptedApi::start(|mut stream| {
        stream.read_until(b'}', &mut Vec::new()).expect("a token request");
        let answer = b"HTTP/1.1 415 Unsupported Media Type\r\nContent-Length: 0\r\n\r\n";
        // An error means that the sidecar has gone, which the test will notice.
        let _ = stream.get_mut().write_all(answer);
    });
    let provider = provider(Settings::default());
    let url = format!("http://{}/token", endpoint.address());
    let sidecar = Setup::partner(&provider).set("token.url", url).set("token.wait", "60s").start();
    sidecar.get(ACCOUNTS).assert_problem(502, "token_config");
    let line = wait_for_a_failure(&sidecar);
    assert_eq!((&line["level"], &line["look_at"]), (&"ERROR".into(), &"token.body".into()), "{line}");
}

#[test]
fn endpoint_with_a_foreign_certificate_is_never_told_the_secret() {
    let provider = provider(Settings::default());
    let other = self::provider(Settings::default());
    let setup = Setup::partner(&provider).set_file("token.ca_file", other.ca_pem()).set("token.wait", "0s");
    let sidecar = setup.start();
    let line = wait_for_a_failure(&sidecar);
    assert!(line["look_at"].as_str().is_some_and(|keys| keys.contains("token.ca_file")), "{line}");
    assert_unavailable(&sidecar.get(ACCOUNTS));
    assert!(provider.exchanges().is_empty());
}

#[test]
fn refused_grant_is_doubted_first_then_the_user_must_authorize_and_a_new_token_heals() {
    let provider = provider(Settings::default());
    provider.set_token_error(Some((StatusCode::BAD_REQUEST, "invalid_grant")));
    let sidecar = Setup::by_refresh_token(&provider).set("token.wait", "0s").start();
    let line = wait_for_a_failure(&sidecar);
    assert!(line["error"].as_str().is_some_and(|error| error.contains("invalid_grant")), "{line}");
    assert!(line["look_at"].as_str().is_some_and(|keys| keys.contains("token.refresh_token_file")), "{line}");
    assert_unavailable(&sidecar.get(ACCOUNTS));

    // Another refresh token is tried at once, which settles the matter without the pause.
    sidecar.setup.replace_file("token.refresh_token_file", "another-that-is-gone");
    let refused = wait_for("the doubt to end", || {
        let response = sidecar.get(ACCOUNTS);
        (response.status != 503).then_some(response)
    });
    refused.assert_problem(502, "reauthorize");
    assert_eq!(refused.header("retry-after"), None);

    provider.set_token_error(None);
    sidecar.setup.replace_file("token.refresh_token_file", &Settings::default().refresh_token);
    sidecar.wait_until_it_serves();
}

#[test]
fn code_that_gave_nothing_is_not_presented_again() {
    let provider = provider(Settings::default());
    provider.next_token_faults([TokenFault::Reset]);
    let sidecar = Setup::by_code(&provider).set("token.wait", "0s").start();
    let refused = wait_for("the code to be given up", || {
        let response = sidecar.get(ACCOUNTS);
        (response.status != 503).then_some(response)
    });
    refused.assert_problem(502, "reauthorize");
    assert_eq!(provider.exchanges().len(), 1);
}

#[test]
fn live_token_serves_while_the_endpoint_fails_and_never_beyond_its_life() {
    let provider = provider(Settings { token_life: seconds(5), ..Settings::default() });
    let sidecar = Setup::partner(&provider).set("token.wait", "0s").start();
    sidecar.wait_until_it_serves();
    provider.set_token_fault(Some(TokenFault::ServerError));

    let mut caller = sidecar.connect();
    let mut served_after_a_failure = 0;
    let refused = wait_for("the token to expire", || {
        let failed = provider.exchanges().len() > 1;
        let response = caller.ask("GET", ACCOUNTS, &[], b"").expect("an answer");
        if response.status != 200 {
            return Some(response);
        }
        served_after_a_failure += u32::from(failed);
        None
    });
    assert_unavailable(&refused);
    assert!(served_after_a_failure > 0, "a failed refresh displaced the live token");
    assert!(provider.exchanges().len() > 1);

    holds_for(seconds(1), "there is no token", || {
        assert_unavailable(&caller.ask("GET", ACCOUNTS, &[], b"").expect("an answer"));
        Connection::open(sidecar.admin).ask("GET", "/readyz", &[], b"").is_ok_and(|response| response.status == 503)
    });
    provider.set_token_fault(None);
    sidecar.wait_until_it_serves();
    let tally = provider.tally();
    assert_eq!((tally.expired, tally.missing), (0, 0), "{tally:?}");
}

/// Its lines about exchanges that failed.
fn told(sidecar: &Sidecar) -> Vec<serde_json::Value> {
    sidecar.process.log().into_iter().filter(|line| line["message"] == FAILED).collect()
}

#[test]
fn of_many_failures_the_first_the_tenth_and_those_unlike_the_one_before_have_a_line_and_so_has_the_end() {
    let provider = provider(Settings::default());
    provider.set_token_fault(Some(TokenFault::ServerError));
    let sidecar = Setup::partner(&provider).set("token.wait", "0s").start();
    wait_until("ten failures", || told(&sidecar).len() >= 2);
    wait_until("another", || provider.exchanges().len() > 11);
    let attempts: Vec<_> = told(&sidecar).iter().map(|line| line["attempt"].clone()).collect();
    assert_eq!(attempts, [1, 10]);

    provider.set_token_error(Some((StatusCode::UNAUTHORIZED, "invalid_client")));
    provider.set_token_fault(None);
    let unlike = wait_for("a failure of another class", || told(&sidecar).get(2).cloned());
    assert_eq!(unlike["level"], "ERROR", "{unlike}");
    let failures = unlike["attempt"].as_u64().expect("a number");
    assert!((12..20).contains(&failures), "{unlike}");

    provider.set_token_error(None);
    // Looked at every second, and tried at once: the content is what counts.
    sidecar.setup.replace_file("token.client_secret_file", "not-the-secret");
    let tried = wait_for("what comes of the new secret, which is no better", || told(&sidecar).get(3).cloned());
    assert_eq!(tried["attempt"], failures + 1);
    sidecar.setup.replace_file("token.client_secret_file", &Settings::default().client_secret);
    let over = sidecar.process.logged("the token outage is over");
    assert_eq!((&over["level"], &over["attempts"]), (&"INFO".into(), &(failures + 1).into()));
    let length = over["outage_s"].as_u64().expect("a number");
    assert!((10..60).contains(&length), "eleven pauses of about a second: {over}");
    assert_eq!(told(&sidecar).len(), 4);
}

#[test]
fn start_without_a_failure_is_no_outage() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).start();
    sidecar.get(ACCOUNTS).assert_accounts();
    sidecar.process.logged("the access token was refreshed");
    assert!(!sidecar.process.stderr().contains("outage"));
}

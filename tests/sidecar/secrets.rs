//! No secret is ever written anywhere, whatever happens and however much is logged.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::StatusCode;
use token_valet::{
    config::TokenFault,
    sandbox::{ApiFault, Certificate, Provider, Settings},
};

use crate::harness::{ACCOUNTS, ECHO, SINK, Setup, Sidecar, provider, seconds, wait_for, wait_until};

const CLIENT_SECRET: &str = "planted-client-secret-q7Rk2";
const WRONG_SECRET: &str = "planted-wrong-secret-M4wXe";
const CODE: &str = "planted-code-8sVn1";
const REFRESH_TOKEN: &str = "planted-refresh-token-Jd5zU";
const WRONG_REFRESH_TOKEN: &str = "planted-wrong-refresh-token-aB9cT";
const OF_CALLER: &str = "planted-callers-token-L0pHs";
const IN_QUERY: &str = "planted-query-Ge3fY";
const IN_BODY: &str = "planted-body-Wt6iC";
/// This one must be found: paths are logged.
const CANARY: &str = "planted-path-Xn2vO";

fn settings() -> Settings {
    Settings {
        client_secret: CLIENT_SECRET.to_owned(),
        code: CODE.to_owned(),
        refresh_token: REFRESH_TOKEN.to_owned(),
        rotate_refresh_tokens: true,
        token_life: seconds(2),
        ..Settings::default()
    }
}

/// Everything logged that can be.
fn loud(setup: Setup) -> Setup {
    setup
        .set_file("token.client_secret_file", CLIENT_SECRET)
        .set("token.wait", "5s")
        .set("token.timeout", "1s")
        .set("upstream.response_timeout", "500ms")
        .set("log.level", "trace")
        .set("log.access", "all")
}

/// Sends requests that carry what must not be logged, on every way through the proxy.
fn go_through_requests(sidecar: &Sidecar, provider: &Provider) {
    let own = format!("Bearer {OF_CALLER}");
    let fields = [("Authorization", own.as_str()), ("Proxy-Authorization", own.as_str())];
    let ask = |target: &str| sidecar.ask("POST", &format!("{target}?q={IN_QUERY}"), &fields, IN_BODY.as_bytes());
    for target in [ECHO, SINK, ACCOUNTS, "/sandbox/status/500", "/sandbox/slow/60000", &format!("/{CANARY}")] {
        ask(target);
    }
    assert_eq!(sidecar.ask("CONNECT", "elsewhere.example:443", &fields, b"").status, 405);
    sidecar.connect().send(format!("no HTTP at all {OF_CALLER}\r\n\r\n").as_bytes()).expect("it listens");
    for fault in [ApiFault::AlwaysUnauthorized, ApiFault::ConsentRevoked, ApiFault::DieInBody, ApiFault::Hang] {
        provider.set_api_fault(Some(fault));
        // Whether it ends well is not what this is about.
        let _ = sidecar.connect().ask("GET", &format!("{ACCOUNTS}?q={IN_QUERY}"), &fields, b"");
    }
    provider.set_api_fault(None);
    provider.revoke_tokens();
    ask(ECHO);
    provider.go_down();
    ask(ECHO);
    provider.come_back();
}

/// Has the token endpoint fail in every way.
fn go_through_token_failures(sidecar: &Sidecar, provider: &Provider) {
    for fault in [
        TokenFault::Empty,
        TokenFault::Malformed,
        TokenFault::Html,
        TokenFault::ServerError,
        TokenFault::Reset,
        TokenFault::Hang,
    ] {
        provider.next_token_faults([fault]);
        wait_until("the fault to be met", || provider.exchanges().iter().any(|seen| seen.fault == Some(fault)));
        sidecar.wait_until_it_serves();
    }
}

/// Ends the sidecar and looks at all that it wrote.
#[track_caller]
fn assert_silent(mut sidecar: Sidecar, provider: &Provider) {
    sidecar.process.signal(rustix::process::Signal::TERM);
    assert_eq!(sidecar.process.exit_code(), 0);
    let written = sidecar.process.stdout() + &sidecar.process.stderr();
    // Else the search proves nothing.
    assert!(written.contains(CANARY), "the canary was not found");
    assert!(written.contains("\"level\":\"DEBUG\"") || written.contains("\"level\":\"TRACE\""), "it is not verbose");

    for secret in [CLIENT_SECRET, WRONG_SECRET, CODE, REFRESH_TOKEN, WRONG_REFRESH_TOKEN, OF_CALLER, IN_QUERY, IN_BODY]
    {
        assert!(!written.contains(secret), "`{secret}` was written");
    }
    let client_id = Settings::default().client_id;
    for secret in [CLIENT_SECRET, WRONG_SECRET] {
        let pair = BASE64_STANDARD.encode(format!("{client_id}:{secret}"));
        assert!(!written.contains(&pair), "the credentials of HTTP Basic were written");
    }
    let issued = provider.issued_secrets();
    assert!(!issued.is_empty());
    for token in issued {
        // A JWT's parts all count but the first, which says nothing; and so do parts of the parts.
        for part in token.split('.').rev().take(2) {
            let (start, end) = (&part[..12], &part[part.len() - 12..]);
            // Every JWT of this provider's has the same claims in front.
            let is_common = token.contains('.') && token.split('.').nth(1) == Some(part);
            assert!(is_common || !written.contains(start), "the start of a token was written");
            assert!(!written.contains(end), "the end of a token was written");
        }
    }
}

#[test]
fn partner_writes_no_secret() {
    let provider = provider(settings());
    let setup = loud(Setup::partner(&provider)).set_file("token.client_secret_file", WRONG_SECRET);
    let sidecar = setup.start();
    sidecar.get(ACCOUNTS).assert_problem(502, "token_config");
    sidecar.setup.replace_file("token.client_secret_file", CLIENT_SECRET);
    sidecar.wait_until_it_serves();
    go_through_requests(&sidecar, &provider);
    go_through_token_failures(&sidecar, &provider);
    assert_silent(sidecar, &provider);
}

#[test]
fn partner_that_authenticates_by_the_body_writes_no_secret() {
    let provider = provider(Settings { client_auth: None, token_body: None, ..settings() });
    let setup = loud(Setup::partner(&provider)).set("token.client_auth", "body").set("token.body", "form");
    let sidecar = setup.start();
    sidecar.wait_until_it_serves();
    go_through_requests(&sidecar, &provider);
    assert_silent(sidecar, &provider);
}

#[test]
fn data_recipient_with_a_code_writes_no_secret() {
    let provider = provider(settings());
    let setup = loud(Setup::by_code(&provider)).set_file("token.code_file", CODE);
    let sidecar = setup.start();
    sidecar.wait_until_it_serves();
    go_through_requests(&sidecar, &provider);
    wait_until("a refresh", || provider.exchanges().iter().filter(|seen| seen.lifetime.is_some()).count() >= 2);
    assert_silent(sidecar, &provider);
}

#[test]
fn data_recipient_with_a_refresh_token_writes_no_secret() {
    let provider = provider(settings());
    let setup = loud(Setup::by_refresh_token(&provider)).set_file("token.refresh_token_file", WRONG_REFRESH_TOKEN);
    let sidecar = setup.start();
    let refused = "the access token could not be refreshed";
    let line = sidecar.process.logged(refused);
    assert!(line["error"].as_str().is_some_and(|error| error.contains("invalid_grant")), "{line}");
    sidecar.setup.replace_file("token.refresh_token_file", REFRESH_TOKEN);
    sidecar.wait_until_it_serves();
    go_through_requests(&sidecar, &provider);

    provider.set_token_error(Some((StatusCode::BAD_REQUEST, "invalid_client")));
    wait_for("the token to expire", || (sidecar.get(ACCOUNTS).status == 502).then_some(()));
    assert_silent(sidecar, &provider);
}

#[test]
fn sidecar_before_a_false_provider_writes_no_secret() {
    let provider = provider(settings());
    let impostor = self::provider(Settings { certificate: Certificate::OtherHost, ..settings() });
    let setup = loud(Setup::partner(&provider)).set("upstream.url", impostor.api_url());
    let sidecar = setup.set_file("upstream.ca_file", impostor.ca_pem()).start();
    let own = format!("Bearer {OF_CALLER}");
    let target = format!("/{CANARY}?{IN_QUERY}");
    sidecar.ask("GET", &target, &[("Authorization", &own)], b"").assert_problem(502, "upstream_tls");
    sidecar.connect().send(format!("no HTTP at all {OF_CALLER}\r\n\r\n").as_bytes()).expect("it listens");
    sidecar.process.logged("a connection ended early");
    assert_silent(sidecar, &provider);
}

//! Who is let in at the local port, and for what.

use serde_json::json;
use token_valet::sandbox::{Provider, Settings};

use crate::harness::{ACCOUNTS, ECHO, Response, Setup, Sidecar, provider};

fn start(set: impl FnOnce(Setup) -> Setup) -> (Provider, Sidecar) {
    let provider = provider(Settings::default());
    let sidecar = set(Setup::partner(&provider)).start();
    sidecar.wait_until_it_serves();
    (provider, sidecar)
}

/// One request with exactly these lines, on a connection of its own.
#[track_caller]
fn ask(sidecar: &Sidecar, lines: &[&str]) -> Response {
    let mut caller = sidecar.connect();
    let head: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    caller.send(format!("{head}\r\n").as_bytes()).expect("it listens");
    caller.response("GET").expect("an answer")
}

#[test]
fn a_page_whose_name_was_made_to_lead_here_is_told_which_key_it_would_need() {
    let (provider, sidecar) = start(|setup| setup);
    let before = provider.requests().len();
    for host in ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example"] {
        let refused = ask(&sidecar, &["GET /api/fdx/5/accounts HTTP/1.1", &format!("Host: {host}")]);
        refused.assert_problem(403, "forbidden");
        let detail = refused.json()["detail"].as_str().expect("a detail").to_owned();
        assert!(detail.contains(&format!("`{host}`")) && detail.contains("`listen.allowed_hosts`"), "{detail}");
    }
    let absolute = ["GET http://evil.example/api/fdx/5/accounts HTTP/1.1", "Host: localhost"];
    ask(&sidecar, &absolute).assert_problem(403, "forbidden");
    assert_eq!(provider.requests().len(), before, "nothing reached the API");
    let line = sidecar.process.logged("a request was not served");
    assert!(line["error"].as_str().is_some_and(|error| error.contains("`evil.example`")), "{line}");

    let api = provider.address().to_string();
    for host in ["localhost", "LOCALHOST.", "127.0.0.1:8080", "[::1]", &api] {
        ask(&sidecar, &["GET /api/fdx/5/accounts HTTP/1.1", &format!("Host: {host}")]).assert_accounts();
    }
}

#[test]
fn other_names_are_allowed_where_the_configuration_says_so() {
    let (_provider, sidecar) = start(|setup| setup.set("listen.allowed_hosts", json!(["Valet.example", "localhost"])));
    ask(&sidecar, &["GET /api/fdx/5/accounts HTTP/1.1", "Host: valet.example:1"]).assert_accounts();
    ask(&sidecar, &["GET /api/fdx/5/accounts HTTP/1.1", "Host: [::1]"]).assert_problem(403, "forbidden");
    let (_provider, sidecar) = start(|setup| setup.set("listen.allowed_hosts", json!(["*"])));
    ask(&sidecar, &["GET /api/fdx/5/accounts HTTP/1.1", "Host: anything.example"]).assert_accounts();
}

#[test]
fn what_a_web_page_sends_is_refused_unless_its_origin_is_allowed() {
    let (provider, sidecar) = start(|setup| setup.set("listen.allow_origins", json!(["http://localhost:3000"])));
    let before = provider.requests().len();
    for fields in [
        [("Origin", "https://evil.example"), ("X-Other", "1")],
        [("Origin", "null"), ("Sec-Fetch-Site", "cross-site")],
        [("X-Other", "1"), ("Sec-Fetch-Site", "cross-site")],
        [("X-Other", "1"), ("Sec-Fetch-Site", "same-site")],
    ] {
        let refused = sidecar.ask("GET", ACCOUNTS, &fields, b"");
        refused.assert_problem(403, "forbidden");
        assert!(refused.json()["detail"].as_str().is_some_and(|text| text.contains("`listen.allow_origins`")));
    }
    assert_eq!(provider.requests().len(), before, "nothing reached the API");
    let fields = [("Origin", "http://localhost:3000"), ("Sec-Fetch-Site", "same-site")];
    sidecar.ask("GET", ACCOUNTS, &fields, b"").assert_accounts();
}

#[test]
fn a_required_header_is_demanded_and_kept_from_the_api_and_the_log() {
    let (_provider, sidecar) = {
        let provider = provider(Settings::default());
        let sidecar = Setup::partner(&provider).set("listen.require_header", "X-Token-Valet: open-sesame").start();
        (provider, sidecar)
    };
    sidecar.get(ACCOUNTS).assert_problem(403, "forbidden");
    sidecar.ask("GET", ACCOUNTS, &[("X-Token-Valet", "open-sesam")], b"").assert_problem(403, "forbidden");
    let echo = sidecar.ask("GET", ECHO, &[("x-token-valet", "open-sesame")], b"");
    assert!(echo.echoed("x-token-valet").is_empty(), "{echo:?}");
    let told = sidecar.process.stderr();
    assert!(told.contains("x-token-valet") && !told.contains("sesam"), "{told}");
}

#[test]
fn only_what_the_rules_allow_is_forwarded_and_no_spelling_slips_past_them() {
    let (provider, sidecar) =
        start(|setup| setup.set("upstream.allow", json!(["GET /api/fdx/5/**", "* /sandbox/echo"])));
    sidecar.ask("POST", ECHO, &[], b"body").json();
    let before = provider.requests().len();
    for (method, path) in [
        ("POST", "/api/v1/revoke"),
        ("DELETE", "/api/fdx/5/accounts"),
        ("GET", "/api/v1/revoke"),
        ("GET", "/API/fdx/5/accounts"),
        ("GET", "/api/fdx/5/../../v1/revoke"),
        ("GET", "/api/fdx/5/%2e%2e/%2E%2E/v1/revoke"),
        ("GET", "/api/fdx/5/..%2f..%2fv1%2frevoke"),
        ("GET", "/api/fdx/5//accounts"),
        ("GET", "/api/fdx/5/accounts;x=1"),
        ("GET", "/api/fdx/5/..\\..\\v1\\revoke"),
        ("GET", "/api/fdx/5/%61ccounts"),
        ("GET", "/api/fdx/5/%c0%ae%c0%ae/accounts"),
        ("OPTIONS", "*"),
    ] {
        let refused = sidecar.ask(method, path, &[], b"");
        refused.assert_problem(403, "forbidden");
        assert!(refused.json()["detail"].is_string(), "{refused:?}");
    }
    assert_eq!(provider.requests().len(), before, "nothing reached the API");
    sidecar.get("/api/fdx/5/accounts?next=/../;//%2e").assert_accounts();
}

#[test]
fn fields_that_could_make_another_request_of_one_that_is_allowed_are_refused() {
    let (provider, sidecar) = start(|setup| setup.set("upstream.allow", json!(["GET /api/fdx/5/**"])));
    let before = provider.requests().len();
    for field in ["X-HTTP-Method-Override: DELETE", "x-http-method: PUT", "X-Original-URL: /admin"] {
        let refused = ask(&sidecar, &["GET /api/fdx/5/accounts HTTP/1.1", "Host: localhost", field]);
        refused.assert_problem(403, "forbidden");
        let detail = refused.json()["detail"].to_string();
        let name = field.split(':').next().expect("a name").to_ascii_lowercase();
        assert!(detail.contains(&format!("`{name}`")) && detail.contains("`upstream.allow`"), "{detail}");
    }
    assert_eq!(provider.requests().len(), before, "nothing reached the API");
    let (_provider, sidecar) = start(|setup| setup);
    let passed = ["GET /api/fdx/5/accounts HTTP/1.1", "Host: localhost", "X-HTTP-Method-Override: DELETE"];
    ask(&sidecar, &passed).assert_accounts();
}

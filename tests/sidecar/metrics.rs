//! What Prometheus scrapes.

use http::StatusCode;
use token_valet::sandbox::{ApiFault, Provider, Settings};

use crate::harness::{ACCOUNTS, Connection, ECHO, Setup, Sidecar, provider, wait_until};

pub(crate) fn scraped(sidecar: &Sidecar) -> String {
    let response = Connection::open(sidecar.admin).ask("GET", "/metrics", &[], b"").expect("an answer");
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    String::from_utf8(response.body).expect("text")
}

/// The value of one line of them.
#[track_caller]
pub(crate) fn value(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix("token_valet_")?.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no `{name}` in:\n{text}"))
}

fn served(provider: &Provider) -> Sidecar {
    let sidecar = Setup::partner(provider).start();
    sidecar.wait_until_it_serves();
    sidecar
}

#[test]
fn a_good_life_and_a_rejected_token_are_told_by_cause_and_result() {
    let provider = provider(Settings::default());
    let sidecar = served(&provider);
    let text = scraped(&sidecar);
    assert!(text.ends_with("# EOF\n"), "{text}");
    assert_eq!(value(&text, r#"token_refreshes_total{cause="start",result="success",oauth_error=""}"#), 1.0);
    assert_eq!((value(&text, "token_valid"), value(&text, "token_generation")), (1.0, 1.0));
    let (asked, expiry) =
        (value(&text, "token_last_success_timestamp_seconds"), value(&text, "token_expiry_timestamp_seconds"));
    // A token of 299 s is sent for 293 s.
    assert!((292.0..=294.0).contains(&(expiry - asked)), "{asked} {expiry}");
    let next = value(&text, "token_next_attempt_timestamp_seconds") - asked;
    assert!((204.0..=236.0).contains(&next), "{next}");

    provider.revoke_tokens();
    sidecar.get(ACCOUNTS).assert_accounts();
    let text = scraped(&sidecar);
    assert_eq!(value(&text, r#"token_refreshes_total{cause="rejected",result="success",oauth_error=""}"#), 1.0);
    assert_eq!(value(&text, r#"token_rejections_total{status="401",action="replay"}"#), 1.0);
    assert_eq!(value(&text, r#"token_replays_total{result="accepted"}"#), 1.0);
    assert_eq!(value(&text, "token_breaker_open"), 0.0);

    provider.set_api_fault(Some(ApiFault::AlwaysUnauthorized));
    assert_eq!(sidecar.get(ACCOUNTS).status, 401);
    assert_eq!(value(&scraped(&sidecar), "token_breaker_open"), 1.0);
}

#[test]
fn failures_are_told_by_class_and_known_error_and_requests_without_a_token_too() {
    let provider = provider(Settings::default());
    provider.set_token_error(Some((StatusCode::BAD_REQUEST, "invalid_client")));
    let sidecar = Setup::partner(&provider).start();
    wait_until("the refusal", || sidecar.get(ACCOUNTS).header("x-token-valet-error") == Some("token_config"));
    let text = scraped(&sidecar);
    let refused = r#"token_refreshes_total{cause="start",result="configuration",oauth_error="invalid_client"}"#;
    assert_eq!(value(&text, refused), 1.0);
    assert_eq!((value(&text, "token_valid"), value(&text, "token_consecutive_failures")), (0.0, 1.0));
    assert!(value(&text, r#"token_unavailable_total{reason="configuration"}"#) >= 1.0);
    assert_eq!(value(&text, "token_waiting_requests"), 0.0);
}

#[test]
fn requests_are_told_by_method_code_and_source_and_with_their_times_and_bytes() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).set("listen.threads", 2).start();
    sidecar.wait_until_it_serves();
    let count = |text: &str, labels: &str| value(text, &format!("http_requests_total{{{labels}}}"));
    let before = count(&scraped(&sidecar), r#"method="GET",code="200",source="upstream""#);
    for _ in 0..4 {
        sidecar.get(ACCOUNTS).assert_accounts();
    }
    assert_eq!(sidecar.ask("X-ODD", "/sandbox/status/500", &[], b"").status, 500);
    assert_eq!(sidecar.ask("POST", ECHO, &[], &[b'x'; 1_000]).status, 200);
    assert_eq!(sidecar.ask("GET", ACCOUNTS, &[("Origin", "https://evil.example")], b"").status, 403);
    provider.go_down();
    assert_eq!(sidecar.ask("PUT", ECHO, &[], b"x").status, 502);
    provider.come_back();

    // What is over at the caller may not be counted yet.
    wait_until("no request under way", || value(&scraped(&sidecar), "http_requests_in_flight") == 0.0);
    let text = scraped(&sidecar);
    assert_eq!(count(&text, r#"method="GET",code="200",source="upstream""#), before + 4.0);
    assert_eq!(count(&text, r#"method="_OTHER",code="500",source="upstream""#), 1.0);
    assert_eq!(count(&text, r#"method="GET",code="403",source="sidecar""#), 1.0);
    assert_eq!(count(&text, r#"method="PUT",code="502",source="sidecar""#), 1.0);
    assert_eq!(value(&text, r#"upstream_errors_total{reason="upstream_connect"}"#), 1.0);
    assert_eq!(value(&text, r#"http_request_duration_seconds_count{method="POST"}"#), 1.0);
    let (all, upstream) = (
        value(&text, r#"http_request_duration_seconds_sum{method="GET"}"#),
        value(&text, r#"upstream_duration_seconds_sum{method="GET"}"#),
    );
    assert!(0.0 < upstream && upstream < all, "{upstream} of {all}");
    assert!(value(&text, "http_request_body_bytes_total") >= 1_000.0);
    assert!(value(&text, "http_response_body_bytes_total") > 1_000.0);
    assert_eq!(value(&text, &format!("build_info{{version={:?}}}", env!("CARGO_PKG_VERSION"))), 1.0);
    for name in ["cpu_seconds_total", "resident_memory_bytes", "start_time_seconds", "max_fds", "threads"] {
        let found = text.lines().any(|line| line.starts_with(&format!("process_{name} ")));
        assert!(found, "process_{name}:\n{text}");
    }
}

#[test]
fn a_caller_that_goes_away_is_told_as_such_and_connections_are_counted_while_they_are_open() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).set("upstream.pool_idle_timeout", "500ms").start();
    sidecar.wait_until_it_serves();
    let connections = |state: &str| value(&scraped(&sidecar), &format!("upstream_connections{{state={state:?}}}"));
    wait_until("the connections to be closed", || connections("open") == 0.0 && connections("idle") == 0.0);
    sidecar.get(ACCOUNTS).assert_accounts();
    assert_eq!((connections("open"), connections("idle")), (1.0, 1.0));
    let mut caller = sidecar.connect();
    caller.send_head("GET", "/sandbox/slow/60000", &[]).expect("it listens");
    wait_until("the request to be under way", || value(&scraped(&sidecar), "http_requests_in_flight") == 1.0);
    assert_eq!((connections("open"), connections("idle")), (1.0, 0.0));
    drop(caller);
    wait_until("its end to be counted", || {
        scraped(&sidecar).contains(r#"http_requests_total{method="GET",code="499",source="sidecar"} 1"#)
    });
    wait_until("its connection to be closed", || connections("open") == 0.0);
}

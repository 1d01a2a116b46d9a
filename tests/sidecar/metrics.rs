//! What Prometheus scrapes.

use http::StatusCode;
use token_valet::sandbox::{ApiFault, Provider, Settings};

use crate::harness::{ACCOUNTS, Connection, Setup, Sidecar, provider, wait_until};

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

//! What people and machines see of how it stands.

use http::StatusCode;
use serde_json::Value;
use token_valet::{config::TokenFault, sandbox::Settings};

use crate::harness::{ACCOUNTS, Connection, Response, Setup, Sidecar, provider, seconds, wait_until};

fn look(sidecar: &Sidecar, page: &str) -> Response {
    let answer = Connection::open(sidecar.admin).ask("GET", page, &[], b"").expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    answer
}

fn status(sidecar: &Sidecar) -> Value {
    look(sidecar, "/status").json()
}

fn page(sidecar: &Sidecar) -> String {
    String::from_utf8(look(sidecar, "/").body).expect("UTF-8")
}

#[track_caller]
fn wait_for_state(sidecar: &Sidecar, state: &str) {
    wait_until(&format!("the state to be {state}"), || status(sidecar)["state"] == state);
    let page = page(sidecar);
    assert!(page.contains(&format!("<h1>{state}</h1>")), "{page}");
}

#[test]
fn a_sidecar_that_serves_says_what_its_token_is_for_and_until_when() {
    let provider = provider(Settings::default());
    let sidecar = Setup::by_code(&provider).start();
    sidecar.wait_until_it_serves();
    sidecar.ask("GET", "/sandbox/status/500", &[], b"");
    wait_for_state(&sidecar, "serving");
    let told = status(&sidecar);
    let token = &told["token"];
    let left = token["expires_in_s"].as_u64().expect("seconds");
    assert!((270..=293).contains(&left), "{told}");
    assert_eq!((&token["valid"], &token["generation"]), (&true.into(), &1.into()));
    assert_eq!(token["claims"]["client_id"], Settings::default().client_id);
    assert!(token["claims"]["sub"].as_str().is_some_and(|sub| sub.len() == 36), "{told}");
    assert_eq!(told["attempts"][0]["cause"], "start");
    assert_eq!((&told["attempts"][0]["result"], &told["attempts"][0]["life_s"]), (&"success".into(), &293.into()));
    assert_eq!(told["traffic"][0]["errors"], 1);
    assert!(told["traffic"][0]["requests"].as_u64() >= Some(2), "{told}");
    assert_eq!(told["last_error"], Value::Null);
    let certificates: Vec<_> = told["certificates"].as_array().expect("a list").iter().map(|c| &c["cert"]).collect();
    assert_eq!(certificates, ["upstream_ca", "token_ca"]);
    let page = page(&sidecar);
    assert!(page.contains("<strong id=\"left\" data-seconds=\""), "{page}");
    assert!(page.contains("aria-label=\"1 token and 0 failures in "), "{page}");
}

#[test]
fn each_way_to_fail_has_its_word_and_the_error_with_what_to_look_at() {
    let provider = provider(Settings { token_life: seconds(3), ..Settings::default() });
    provider.set_token_fault(Some(TokenFault::ServerError));
    let sidecar = Setup::partner(&provider).set("token.wait", "0s").start();
    wait_for_state(&sidecar, "unavailable");
    provider.set_token_fault(None);
    wait_for_state(&sidecar, "serving");
    provider.set_token_error(Some((StatusCode::UNAUTHORIZED, "invalid_client")));
    wait_for_state(&sidecar, "degraded");
    wait_for_state(&sidecar, "misconfigured");
    let told = status(&sidecar);
    let error = told["last_error"]["error"].as_str().expect("text");
    assert!(error.contains("`invalid_client`"), "{error}");
    let look_at = told["last_error"]["look_at"].as_str().expect("keys");
    assert!(look_at.contains("token.client_id"), "{look_at}");
    let page = page(&sidecar);
    assert!(page.contains("<h2>Last error, ") && page.contains("none that is valid"), "{page}");
    assert!(page.contains("<circle class=\"failure\""), "{page}");
}

#[test]
fn a_revoked_consent_asks_for_another_authorization() {
    let provider = provider(Settings { token_life: seconds(2), ..Settings::default() });
    let sidecar = Setup::by_code(&provider).start();
    sidecar.wait_until_it_serves();
    let settings = Settings::default();
    provider.set_token_error(Some((StatusCode::BAD_REQUEST, "invalid_grant")));
    wait_until("the grant to be gone", || sidecar.get(ACCOUNTS).status != 200);
    let told = status(&sidecar);
    assert!(["reauthorize", "unavailable"].contains(&told["state"].as_str().expect("a word")), "{told}");
    assert!(told["last_error"]["error"].as_str().is_some_and(|error| error.contains("invalid_grant")), "{told}");
    for secret in provider.issued_secrets().iter().chain([&settings.client_secret, &settings.code]) {
        assert!(!told.to_string().contains(secret.as_str()) && !page(&sidecar).contains(secret.as_str()));
    }
}

#[test]
fn the_page_has_nothing_from_elsewhere_and_is_for_people_on_this_machine() {
    let provider = provider(Settings::default());
    let sidecar = Setup::partner(&provider).start();
    let answer = look(&sidecar, "/");
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = answer.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
    let text = String::from_utf8(answer.body).expect("UTF-8");
    assert!(!text.contains("://") && !text.contains("style="), "{text}");
    for page in ["/", "/status"] {
        for field in [("Sec-Fetch-Site", "cross-site"), ("Origin", "https://evil.example")] {
            let refused = Connection::open(sidecar.admin).ask("GET", page, &[field], b"").expect("an answer");
            assert_eq!(refused.status, 403, "{page} {field:?}");
        }
        let posted = Connection::open(sidecar.admin).ask("POST", page, &[], b"").expect("an answer");
        assert_eq!(posted.status, 405, "{page}");
        let mut rebound = Connection::open(sidecar.admin);
        rebound.send(format!("GET {page} HTTP/1.1\r\nHost: evil.example\r\n\r\n").as_bytes()).expect("it listens");
        assert_eq!(rebound.response("GET").expect("an answer").status, 403, "{page}");
    }
}

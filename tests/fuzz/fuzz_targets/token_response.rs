//! A token endpoint's answer. Input: its `Date`, a line; then its body, which is also tried as the
//! claims of a JWT, as `expires_in` and as a description.

#![no_main]

use std::time::Duration;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, header::DATE};
use libfuzzer_sys::fuzz_target;
use serde_json::json;
use token_valet::parts::{TokenResponse, token_response};
use token_valet_fuzz::line;

const DAY: Duration = Duration::from_secs(86_400);

fuzz_target!(|data: &[u8]| {
    let (date, body) = line(data);
    let mut headers = HeaderMap::new();
    if let Ok(date) = HeaderValue::from_bytes(date) {
        headers.insert(DATE, date);
    }
    read(&headers, body);

    let jwt = format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(body));
    let answer = read(&headers, json!({"access_token": jwt}).to_string().as_bytes());
    assert!(matches!(answer, Some(TokenResponse::Grant { stated: None, .. })), "{answer:?}");

    let Ok(text) = str::from_utf8(body) else { return };
    let answer = read(&headers, format!(r#"{{"access_token":"t","expires_in":{text}}}"#).as_bytes());
    if let Ok(seconds @ 1..) = text.parse::<u32>()
        && !text.starts_with(['0', '+'])
    {
        let expected = DAY.min(Duration::from_secs(seconds.into()));
        let is_exact =
            matches!(answer, Some(TokenResponse::Grant { stated: Some(life), jwt: None }) if life == expected);
        assert!(is_exact, "{seconds} s: {answer:?}");
    }

    let answer = read(&headers, json!({"error": "x", "error_description": text}).to_string().as_bytes());
    assert!(matches!(answer, Some(TokenResponse::Error(_))), "{answer:?}");
});

fn read(headers: &HeaderMap, body: &[u8]) -> Option<TokenResponse> {
    let answer = token_response(headers, body);
    match &answer {
        Some(TokenResponse::Grant { stated, jwt }) => {
            for life in [stated, jwt].into_iter().flatten() {
                assert!(!life.is_zero() && *life <= DAY, "neither over at once nor eternal: {life:?}");
            }
            assert!(jwt.is_none() || headers.contains_key(DATE), "nothing to count from");
        }
        Some(TokenResponse::Error(Some(description))) => assert_printable(description),
        Some(TokenResponse::Error(None) | TokenResponse::Other) | None => {}
    }
    answer
}

/// It cannot forge a log line, and no word of it is long enough to be a secret.
fn assert_printable(text: &str) {
    assert!(!text.is_empty() && text.len() <= 200, "{} bytes", text.len());
    assert!(text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()), "{text:?}");
    assert!(text.split(' ').all(|word| !word.is_empty() && word.len() <= 24), "{text:?}");
}

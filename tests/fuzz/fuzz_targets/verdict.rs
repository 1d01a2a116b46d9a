//! Is an answer about the token? Input: a status, `HEAD` if that was the method, and how many times
//! the body comes; then fields, a line each; an empty line; and the body.

#![no_main]

use std::io::Write;

use flate2::{
    Compression,
    write::{DeflateEncoder, GzEncoder, ZlibEncoder},
};
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CONTENT_ENCODING, WWW_AUTHENTICATE},
};
use libfuzzer_sys::fuzz_target;
use peak_alloc::PeakAlloc;
use serde_json::Value;
use token_valet::parts::is_about_the_token;
use token_valet_fuzz::{fields, line};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// 64 KiB of JSON that says little take most: a hundred times that, in small maps.
const MOST_MEMORY: usize = 16 * 1024 * 1024;
/// What a decompression bomb may take before it is given up: its first 64 KiB, in a vector that grows.
const MOST_MEMORY_OF_A_BOMB: usize = 512 * 1024;
/// A compressed body that is longer is not looked at.
const MOST_DECODED: usize = 64 * 1024;
/// The longest body that is tried, before it is compressed.
const MOST_PLAIN: usize = 512 * 1024;

fuzz_target!(|data: &[u8]| {
    let (first, rest) = line(data);
    let (mut headers, body) = fields(rest);
    let mut words = first.split(|b| *b == b' ');
    let Some(Ok(status)) = words.next().map(StatusCode::from_bytes) else { return };
    let (mut is_head, mut times) = (false, 1);
    for word in words {
        is_head |= word == b"HEAD";
        times = str::from_utf8(word).ok().and_then(|word| word.parse().ok()).unwrap_or(times);
    }

    // As it came, in whatever coding it claims to have.
    judged(status, &headers, body, is_head, MOST_MEMORY);

    headers.remove(CONTENT_ENCODING);
    let names_the_token = status == StatusCode::UNAUTHORIZED && challenges(&headers, "invalid_token");
    if is_head {
        assert_eq!(judged(status, &headers, body, true, MOST_MEMORY), status == StatusCode::UNAUTHORIZED);
    }
    let body = body.repeat(times.min(MOST_PLAIN / body.len().max(1)));
    let plain = (body.len() <= MOST_DECODED).then(|| judged(status, &headers, &body, false, MOST_MEMORY));
    if let Some(verdict) = plain {
        assert_reasoned(verdict, status, names_the_token, &headers, &body);
    }
    let most_memory = if plain.is_some() { MOST_MEMORY } else { MOST_MEMORY_OF_A_BOMB };
    // One of them each time: compressing takes longer than all else.
    let (coding, packed) = match data.iter().copied().map(usize::from).sum::<usize>() % 4 {
        0 => ("gzip", gzip(&body)),
        1 => ("x-gzip", [gzip(&body[..body.len() / 2]), gzip(&body[body.len() / 2..])].concat()),
        2 => ("deflate", zlib(&body)),
        _ => ("Deflate", raw_deflate(&body)),
    };
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding));
    let verdict = judged(status, &headers, &packed, false, most_memory);
    assert_eq!(verdict, plain.unwrap_or(names_the_token), "{coding} of {} bytes", body.len());
});

/// The verdict, within a bound of memory.
fn judged(status: StatusCode, headers: &HeaderMap, body: &[u8], is_head: bool, most_memory: usize) -> bool {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let verdict = is_about_the_token(status, headers, body, is_head);
    let taken = MEMORY.peak_usage().saturating_sub(before);
    assert!(taken <= most_memory, "{taken} bytes for a body of {}", body.len());
    verdict
}

fn assert_reasoned(verdict: bool, status: StatusCode, names_the_token: bool, headers: &HeaderMap, body: &[u8]) {
    let object = match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Some(object),
        _ => None,
    };
    let said = |key| object.as_ref().and_then(|object| object.get(key)).filter(|value| !value.is_null());
    if names_the_token {
        assert!(verdict, "the challenge says so");
    } else if said("code").is_some() {
        assert!(!verdict, "an FDX code is the API's own answer");
    } else if status == StatusCode::UNAUTHORIZED {
        assert!(verdict, "a 401 without a code is about the token");
    } else {
        let lacks_scope =
            said("error").is_some_and(|e| e == "insufficient_scope") || challenges(headers, "insufficient_scope");
        assert_eq!(verdict, object.is_some() && !lacks_scope, "{status} is left alone unless an object says no more");
    }
}

fn challenges(headers: &HeaderMap, error: &str) -> bool {
    headers.get_all(WWW_AUTHENTICATE).iter().any(|value| value.to_str().is_ok_and(|text| text.contains(error)))
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).expect("memory");
    encoder.finish().expect("memory")
}

fn zlib(body: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).expect("memory");
    encoder.finish().expect("memory")
}

fn raw_deflate(body: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).expect("memory");
    encoder.finish().expect("memory")
}

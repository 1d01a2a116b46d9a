//! Header fields, both ways. Input: fields, a line each.

#![no_main]

use std::collections::BTreeSet;

use http::{HeaderMap, HeaderValue, Request, Version};
use libfuzzer_sys::fuzz_target;
use token_valet::parts::{check, check_answer, clean_trailers, headers_to_client, headers_to_upstream};
use token_valet_fuzz::fields;

/// RFC 9110 sections 7.6.1 and 11.7, RFC 9112 section 6.1, and what old clients send.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

fuzz_target!(|data: &[u8]| {
    let (received, _) = fields(data);

    for version in [Version::HTTP_10, Version::HTTP_11] {
        let mut request = Request::new(());
        *request.version_mut() = version;
        *request.headers_mut() = received.clone();
        let is_sound = is_host_sound(&received, version) && is_length_sound(&received) && is_coding_sound(&received);
        assert_eq!(check(&request.into_parts().0).is_ok(), is_sound, "{version:?} {received:?}");
    }
    let is_sound = is_length_sound(&received) && is_coding_sound(&received);
    assert_eq!(check_answer(&received).is_ok(), is_sound, "{received:?}");

    let ends_here = ending_here(&received);

    let mut answer = received.clone();
    headers_to_client(&mut answer);
    assert_kept(&received, &answer, &with(&ends_here, &["x-token-valet-error"]));

    let mut request = received.clone();
    headers_to_upstream(&mut request);
    if request.contains_key("te") {
        assert!(values(&received, "te").iter().any(|te| options(te).any(|te| te == "trailers")), "{received:?}");
        assert_eq!(values(&request, "te"), ["trailers"], "no other coding can be asked for");
        request.remove("te");
    }
    assert_kept(&received, &request, &ends_here);

    let mut trailers = received.clone();
    clean_trailers(&mut trailers);
    assert_kept(&received, &trailers, &with(&ends_here, &["authorization", "content-length", "host"]));
});

/// The names that this hop is the last to see.
fn ending_here(received: &HeaderMap) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = HOP_BY_HOP.map(str::to_owned).into();
    names.extend(values(received, "connection").iter().flat_map(|value| options(value)));
    // An option, and the name of no field.
    names.remove("close");
    if received.contains_key("transfer-encoding") {
        names.insert("content-length".to_owned());
    }
    names
}

fn with(names: &BTreeSet<String>, more: &[&str]) -> BTreeSet<String> {
    names.iter().cloned().chain(more.iter().map(|name| (*name).to_owned())).collect()
}

/// Nothing of `ends_here` is left, everything else is, each name's values in their order.
fn assert_kept(received: &HeaderMap, sent: &HeaderMap, ends_here: &BTreeSet<String>) {
    for name in received.keys().chain(sent.keys()) {
        let expected = if ends_here.contains(name.as_str()) { Vec::new() } else { values(received, name.as_str()) };
        assert_eq!(values(sent, name.as_str()), expected, "{name} of {received:?}");
    }
}

fn values<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a HeaderValue> {
    headers.get_all(name).iter().collect()
}

/// The members of a list, in lower case (RFC 9110 section 5.6.1).
fn options(value: &HeaderValue) -> impl Iterator<Item = String> + use<> {
    let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
    text.split(',').map(|option| option.trim_matches([' ', '\t']).to_owned()).collect::<Vec<_>>().into_iter()
}

fn is_host_sound(headers: &HeaderMap, version: Version) -> bool {
    match values(headers, "host")[..] {
        [] => version == Version::HTTP_10,
        [host] => !host.is_empty(),
        _ => false,
    }
}

fn is_coding_sound(headers: &HeaderMap) -> bool {
    match values(headers, "transfer-encoding")[..] {
        [] => true,
        [coding] => coding.to_str().is_ok_and(|coding| coding.eq_ignore_ascii_case("chunked")),
        _ => false,
    }
}

/// RFC 9110 section 8.6: `1*DIGIT`.
fn is_length_sound(headers: &HeaderMap) -> bool {
    match values(headers, "content-length")[..] {
        [] => true,
        [length] => !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

//! Which fields of a message go on: hop-by-hop fields end here, both ways (RFC 9110 section 7.6.1).

use std::mem;

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TE, TRANSFER_ENCODING},
    request::Parts,
    uri::Authority,
};

use super::{ProxyError, error::REASON};

/// Whether the field concerns one connection, whether or not `Connection` names it.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            // Not in any RFC, but sent by old clients instead of `Connection`.
            | "proxy-connection"
            | "proxy-authentication-info"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            // hyper frames each side anew.
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Refuses what one server may read otherwise than another: a second or empty `Host`, HTTP/1.1
/// without one (RFC 9112 section 3.2), HTTP/2 with one that is not its `:authority` (RFC 9113 section
/// 8.3.1), a `Content-Length` that is not one number, and any `Transfer-Encoding` but a single `chunked`
/// (RFC 9112 section 6.1).
pub(crate) fn check(head: &Parts) -> Result<(), ProxyError> {
    let authority = head.uri.authority().filter(|_| head.version == Version::HTTP_2);
    let mut hosts = lines(&head.headers, HOST);
    let is_host_sound = match (hosts.next(), hosts.next()) {
        (Some(host), None) => {
            let is_authority =
                |authority: &Authority| host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes());
            !host.is_empty() && authority.is_none_or(is_authority)
        }
        (None, _) => head.version < Version::HTTP_11 || authority.is_some(),
        (Some(_), Some(_)) => false,
    };
    if is_host_sound && is_framing_sound(&head.headers) { Ok(()) } else { Err(ProxyError::BadRequest) }
}

/// Refuses an answer whose end is stated in a way that callers may read differently (RFC 9112 section 6).
pub(crate) fn check_answer(headers: &HeaderMap) -> Result<(), ProxyError> {
    if is_framing_sound(headers) { Ok(()) } else { Err(ProxyError::Malformed) }
}

/// Whether there is no `Content-Length`, or a single number (RFC 9110 section 8.6), and no `Transfer-Encoding`, or a
/// single `chunked`.
fn is_framing_sound(headers: &HeaderMap) -> bool {
    let (mut has_length, mut has_coding) = (false, false);
    headers.iter().all(|(name, value)| {
        if *name == CONTENT_LENGTH {
            let is_number = !value.is_empty() && value.as_bytes().iter().all(u8::is_ascii_digit);
            is_number && !mem::replace(&mut has_length, true)
        } else if *name == TRANSFER_ENCODING {
            value.as_bytes().eq_ignore_ascii_case(b"chunked") && !mem::replace(&mut has_coding, true)
        } else {
            true
        }
    })
}

/// Sets each of these, whatever the caller said.
pub(crate) fn set(headers: &mut HeaderMap, fields: &[(HeaderName, HeaderValue)]) {
    for (name, value) in fields {
        headers.insert(name.clone(), value.clone());
    }
}

/// Makes a caller's fields fit for the API. `Host` and `Authorization` are set by whoever sends them.
pub(crate) fn to_upstream(headers: &mut HeaderMap) {
    // Most have none, which one look tells.
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    let takes_trailers = lines(headers, TE).flat_map(list).any(|word| word.eq_ignore_ascii_case(b"trailers"));
    strip_hop_by_hop(headers);
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// HTTP/2 may split a cookie field to compress it better; elsewhere it has one line (RFC 9113 section 8.2.3).
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else { return };
    let mut cookie = first.as_bytes().to_vec();
    for crumb in [second].into_iter().chain(crumbs) {
        cookie.extend_from_slice(b"; ");
        cookie.extend_from_slice(crumb.as_bytes());
    }
    headers.insert(COOKIE, HeaderValue::try_from(cookie).expect("values and semicolons are a value"));
}

/// Removes from a trailer section what could change how its message is read or whom it is from
/// (RFC 9110 section 6.5.1).
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    strip_hop_by_hop(trailers);
    for name in [CONTENT_LENGTH, HOST, AUTHORIZATION] {
        trailers.remove(name);
    }
}

/// The elements of a value that is a list (RFC 9110 section 5.6.1).
pub(super) fn list(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii)
}

/// Whether `Connection` names this option, which is in lower case.
pub(super) fn connection_names(headers: &HeaderMap, option: &str) -> bool {
    let is_named = |named: &[u8]| named.eq_ignore_ascii_case(option.as_bytes());
    has(headers, &CONNECTION) && lines(headers, CONNECTION).flat_map(list).any(is_named)
}

/// Makes the API's fields fit for the caller.
pub(crate) fn to_client(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    // The sidecar alone may say that an answer is its own.
    if has(headers, &REASON) {
        headers.remove(REASON);
    }
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let mut named = Vec::new();
    while let Some(name) = headers.keys().find(|name| is_hop_by_hop(name)).cloned() {
        if name == CONNECTION {
            // All of its lines; they go together.
            named = named_by_connection(headers);
        } else if name == TRANSFER_ENCODING {
            // It overrides the length (RFC 9112 section 6.3), which would be believed once it is gone.
            headers.remove(CONTENT_LENGTH);
        }
        headers.remove(name);
    }
    for name in named {
        headers.remove(name);
    }
}

/// Sets a field that has one line, or none, as `Host` has by [`check`]: others would stay.
pub(super) fn set_line(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    match headers.iter_mut().find(|(one, _)| **one == name) {
        Some((_, line)) => *line = value,
        None => drop(headers.insert(name, value)),
    }
}

/// Whether a field is there. For those that mostly are not: it costs less than to look for their lines.
pub(super) fn has(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.keys().any(|one| one == name)
}

/// The lines of a field. Most messages have few fields, and a look at them all costs less than a name's hash.
pub(super) fn lines(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &HeaderValue> {
    headers.iter().filter(move |(one, _)| **one == name).map(|(_, value)| value)
}

/// The fields that `Connection` names; mostly none, which takes no memory.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let is_field =
        |option: &[u8]| !option.eq_ignore_ascii_case(b"keep-alive") && !option.eq_ignore_ascii_case(b"close");
    let mut named = Vec::new();
    for line in lines(headers, CONNECTION) {
        // Most have one of the two and nothing else.
        if is_field(line.as_bytes()) {
            let fields = list(line).filter(|option| is_field(option));
            named.extend(fields.filter_map(|option| HeaderName::from_bytes(option).ok()));
        }
    }
    named
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue, Version};

    use super::{check, check_answer, clean_trailers, join_cookies, to_client, to_upstream};

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| {
                let name: HeaderName = name.parse().expect("a name");
                (name, HeaderValue::from_str(value).expect("a value"))
            })
            .collect()
    }

    #[test]
    fn hop_by_hop_fields_and_those_that_connection_names_end_here() {
        let mut headers = map(&[
            ("connection", "close, X-Private ,,"),
            ("connection", "x-second"),
            ("x-private", "1"),
            ("x-second", "2"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("proxy-connection", "close"),
            ("proxy-authorization", "Basic eA=="),
            ("proxy-authenticate", "Basic"),
            ("proxy-authentication-info", "nextnonce=x"),
            ("x-kept", "a"),
            ("x-kept", "b"),
            ("trailer", "x-sum"),
        ]);
        to_client(&mut headers);
        let mut left: Vec<_> = headers.iter().map(|(n, v)| (n.as_str(), v.to_str().expect("ASCII"))).collect();
        // The order of different fields means nothing (RFC 9110 section 5.3).
        left.sort_by_key(|(name, _)| *name);
        assert_eq!(left, [("trailer", "x-sum"), ("x-kept", "a"), ("x-kept", "b")]);
    }

    #[test]
    fn only_the_wish_for_trailers_goes_on_as_this_hop_s_own() {
        for (te, sent) in [("trailers", Some("trailers")), ("gzip;q=0.5, Trailers", Some("trailers")), ("gzip", None)] {
            let mut headers = map(&[("te", te), ("connection", "te")]);
            to_upstream(&mut headers);
            assert_eq!(headers.get("te").map(|value| value.to_str().expect("ASCII")), sent);
            assert!(!headers.contains_key("connection"));
        }
    }

    #[test]
    fn trailers_lose_what_could_change_the_meaning_of_their_message() {
        let mut trailers = map(&[
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("host", "elsewhere"),
            ("authorization", "Bearer x"),
            ("connection", "x-private"),
            ("x-private", "1"),
            ("x-sum", "abc"),
        ]);
        clean_trailers(&mut trailers);
        assert_eq!(trailers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-sum"]);
    }

    #[test]
    fn what_servers_may_read_differently_is_refused() {
        let is_sound = |version, fields: &[(&str, &str)]| {
            let mut request = http::Request::new(());
            *request.version_mut() = version;
            *request.headers_mut() = map(fields);
            check(&request.into_parts().0).is_ok()
        };
        let (old, new) = (Version::HTTP_10, Version::HTTP_11);
        assert!(is_sound(new, &[("host", "a")]));
        assert!(is_sound(old, &[]));
        assert!(!is_sound(new, &[]));
        assert!(!is_sound(new, &[("host", "")]));
        assert!(!is_sound(new, &[("host", "a"), ("host", "a")]));
        assert!(is_sound(new, &[("host", "a"), ("transfer-encoding", "Chunked")]));
        for length in ["", "+5", "5, 5", "5 "] {
            assert!(!is_sound(new, &[("host", "a"), ("content-length", length)]), "{length}");
        }
        assert!(!is_sound(new, &[("host", "a"), ("content-length", "5"), ("content-length", "5")]));
        for coding in ["gzip, chunked", "chunked, chunked", "identity", "", "xchunked"] {
            assert!(!is_sound(new, &[("host", "a"), ("transfer-encoding", coding)]), "{coding}");
        }
        assert!(!is_sound(new, &[("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]));
    }

    #[test]
    fn an_answer_whose_end_is_not_clear_is_refused() {
        let is_sound = |fields: &[(&str, &str)]| check_answer(&map(fields)).is_ok();
        assert!(is_sound(&[("content-length", "5")]));
        assert!(is_sound(&[("transfer-encoding", "chunked")]));
        assert!(is_sound(&[]));
        for fields in [
            &[("content-length", "5, 5")][..],
            &[("content-length", "+5")],
            &[("content-length", "")],
            &[("content-length", "5"), ("content-length", "5")],
            &[("transfer-encoding", "gzip, chunked")],
            &[("transfer-encoding", "xchunked")],
        ] {
            assert!(!is_sound(fields), "{fields:?}");
        }
    }

    #[test]
    fn a_length_beside_a_coding_is_removed_even_if_connection_names_the_coding() {
        for connection in ["close", "transfer-encoding"] {
            let mut headers =
                map(&[("connection", connection), ("transfer-encoding", "chunked"), ("content-length", "5")]);
            to_client(&mut headers);
            assert!(headers.is_empty(), "{headers:?}");
        }
    }

    #[test]
    fn over_http2_the_authority_is_the_host_and_a_host_must_not_say_otherwise() {
        let is_sound = |fields: &[(&str, &str)]| {
            let mut request = http::Request::new(());
            *request.version_mut() = Version::HTTP_2;
            *request.uri_mut() = "http://localhost:8080/".parse().expect("a URI");
            *request.headers_mut() = map(fields);
            check(&request.into_parts().0).is_ok()
        };
        assert!(is_sound(&[]));
        assert!(is_sound(&[("host", "LOCALHOST:8080")]));
        assert!(!is_sound(&[("host", "elsewhere")]));
        assert!(!is_sound(&[("host", "localhost:8080"), ("host", "localhost:8080")]));
    }

    #[test]
    fn a_cookie_that_was_split_is_whole_again() {
        let mut headers = map(&[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3; d=4"), ("x-other", "e")]);
        join_cookies(&mut headers);
        assert_eq!(headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2; c=3; d=4"]);
        let mut headers = map(&[("cookie", "a=1; b=2")]);
        join_cookies(&mut headers);
        assert_eq!(headers["cookie"], "a=1; b=2");
    }
}

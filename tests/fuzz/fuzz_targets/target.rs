//! The request target. Input: a method, the configured prefix, and the caller's target, a line each.

#![no_main]

use http::{Method, Uri, uri::PathAndQuery};
use libfuzzer_sys::fuzz_target;
use token_valet::parts::target_to_upstream;
use token_valet_fuzz::line;

fuzz_target!(|data: &[u8]| {
    let (method, rest) = line(data);
    let (prefix, target) = line(rest);
    let (Ok(method), Ok(prefix), Ok(uri)) = (Method::from_bytes(method), str::from_utf8(prefix), Uri::try_from(target))
    else {
        return;
    };
    if !is_prefix(prefix) {
        return;
    }
    let result = target_to_upstream(&method, &uri, prefix);
    let callers = path_and_query(target);
    // Of the whole server, and not of the part of it that a prefix permits.
    let is_odd_asterisk = callers == b"*" && (method != Method::OPTIONS || !prefix.is_empty());
    let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    if method == Method::CONNECT || method == Method::TRACE || has_user || is_odd_asterisk {
        assert!(result.is_err(), "{method} {uri} is refused");
        return;
    }
    let Ok(ours) = result else {
        assert!(uri.scheme().is_none() && uri.authority().is_some(), "only a target without a path is refused");
        return;
    };
    // As it is written on the wire.
    let ours = Uri::from(ours).to_string().into_bytes();
    let expected = if callers == b"*" { callers } else { [prefix.as_bytes(), &callers].concat() };
    assert_eq!(ours.escape_ascii().to_string(), expected.escape_ascii().to_string(), "byte for byte");
    assert!(ours.iter().all(|b| *b > b' ' && *b != 0x7f), "no end of the target but its own");
});

/// What a configuration can give: nothing, or a path without a slash at its end.
fn is_prefix(text: &str) -> bool {
    let is_path = || text.parse::<PathAndQuery>().is_ok_and(|path| path.path() == text);
    text.is_empty() || (text.is_ascii() && text.starts_with('/') && !text.ends_with('/') && is_path())
}

/// The path and query of a target, by RFC 9112 section 3.2 and without the parser that is used.
fn path_and_query(target: &[u8]) -> Vec<u8> {
    let target = target.split(|b| *b == b'#').next().expect("there is always a first part");
    let rest = match target.windows(3).position(|part| part == b"://") {
        Some(scheme) if !target.starts_with(b"/") => {
            let hierarchy = &target[scheme + 3..];
            let authority = hierarchy.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(hierarchy.len());
            &hierarchy[authority..]
        }
        _ => target,
    };
    if rest.starts_with(b"/") || rest == b"*" { rest.to_vec() } else { [b"/", rest].concat() }
}

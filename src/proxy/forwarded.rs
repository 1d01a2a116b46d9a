//! What the API is told of where a request comes from: by default nothing, as the bank is not ours.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{FORWARDED, HOST, VIA},
    request::Parts,
};

use crate::{config::Forwarded, listener::Peer};

/// Tells one request from the others in the logs of everyone on its way.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// A caller without an address (RFC 7239 section 6.2).
const UNKNOWN: &str = "unknown";
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// A random id for a request whose caller gave it none: 32 hexadecimal digits.
pub(super) fn new_request_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Adds what `upstream.forwarded` says, behind what callers before us have said.
pub(super) fn introduce(choice: Forwarded, head: &mut Parts, peer: Peer) {
    let ip = match peer {
        Peer::Tcp(address) => Some(address.ip().to_canonical()),
        Peer::Unix { .. } => None,
    };
    match choice {
        Forwarded::Off => return,
        Forwarded::XForwarded => {
            append(&mut head.headers, FOR, &ip.map_or(UNKNOWN.to_owned(), |ip| ip.to_string()));
            if let Some(host) = host(head) {
                head.headers.entry(FORWARDED_HOST).or_insert(host);
            }
            head.headers.entry(PROTO).or_insert(HeaderValue::from_static("http"));
        }
        Forwarded::Forwarded => {
            let element = element(ip, host(head).as_ref());
            append(&mut head.headers, FORWARDED, &element);
        }
    }
    let protocol = match head.version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    };
    append(&mut head.headers, VIA, &format!("{protocol} token-valet"));
    let made = || HeaderValue::try_from(new_request_id()).expect("hexadecimal digits are a header's value");
    head.headers.entry(REQUEST_ID).or_insert_with(made);
}

/// The host that the caller named: in the target, if it did so there (RFC 9112 section 3.2.2).
fn host(head: &Parts) -> Option<HeaderValue> {
    let authority = head.uri.authority().and_then(|authority| HeaderValue::try_from(authority.as_str()).ok());
    authority.or_else(|| head.headers.get(HOST).cloned())
}

/// RFC 7239 section 4.
fn element(ip: Option<IpAddr>, host: Option<&HeaderValue>) -> String {
    let node = match ip {
        Some(IpAddr::V4(ip)) => ip.to_string(),
        Some(IpAddr::V6(ip)) => format!("\"[{ip}]\""),
        None => UNKNOWN.to_owned(),
    };
    let is_plain = |b: &u8| b.is_ascii_alphanumeric() || b".-_:[]".contains(b);
    let host = host.and_then(|host| host.to_str().ok()).filter(|host| host.as_bytes().iter().all(is_plain));
    let host = host.map(|host| format!(";host=\"{host}\"")).unwrap_or_default();
    format!("for={node}{host};proto=http")
}

/// Adds an element to a list; all of its lines become one.
fn append(headers: &mut HeaderMap, name: HeaderName, element: &str) {
    let mut list = Vec::new();
    for line in headers.get_all(&name) {
        list.extend_from_slice(line.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(element.as_bytes());
    headers.insert(name, HeaderValue::try_from(list).expect("values and commas are a value"));
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue, Request, request::Parts};

    use super::introduce;
    use crate::{config::Forwarded, listener::Peer};

    fn introduced(choice: Forwarded, peer: &str, fields: &[(&'static str, &'static str)]) -> Parts {
        let peer = peer.parse().map_or(Peer::Unix { uid: 0 }, Peer::Tcp);
        let mut request = Request::new(());
        for (name, value) in fields {
            request.headers_mut().append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let mut head = request.into_parts().0;
        introduce(choice, &mut head, peer);
        head
    }

    fn values(head: &Parts, name: &str) -> Vec<String> {
        head.headers.get_all(name).iter().map(|value| value.to_str().expect("ASCII").to_owned()).collect()
    }

    #[test]
    fn nothing_is_added_by_default() {
        assert!(introduced(Forwarded::Off, "127.0.0.1:1", &[]).headers.is_empty());
    }

    #[test]
    fn the_caller_comes_last_in_what_was_said_before() {
        let fields = [("host", "localhost:8080"), ("x-forwarded-for", "10.0.0.1"), ("x-forwarded-for", "10.0.0.2")];
        let head = introduced(Forwarded::XForwarded, "[::ffff:127.0.0.1]:1", &fields);
        assert_eq!(values(&head, "x-forwarded-for"), ["10.0.0.1, 10.0.0.2, 127.0.0.1"]);
        assert_eq!(values(&head, "x-forwarded-host"), ["localhost:8080"]);
        assert_eq!(values(&head, "x-forwarded-proto"), ["http"]);
        assert_eq!(values(&head, "via"), ["1.1 token-valet"]);
        assert!(values(&head, "forwarded").is_empty());
    }

    #[test]
    fn the_standard_s_form_quotes_what_it_must_and_leaves_out_what_it_cannot_say() {
        let head = introduced(Forwarded::Forwarded, "[::1]:1", &[("host", "localhost:8080")]);
        assert_eq!(values(&head, "forwarded"), ["for=\"[::1]\";host=\"localhost:8080\";proto=http"]);
        let head = introduced(Forwarded::Forwarded, "127.0.0.1:1", &[("host", "a\";for=b"), ("forwarded", "for=x")]);
        assert_eq!(values(&head, "forwarded"), ["for=x, for=127.0.0.1;proto=http"]);
    }

    #[test]
    fn a_caller_by_a_unix_socket_is_unknown() {
        let head = introduced(Forwarded::Forwarded, "a socket", &[("host", "localhost")]);
        assert_eq!(values(&head, "forwarded"), ["for=unknown;host=\"localhost\";proto=http"]);
        let head = introduced(Forwarded::XForwarded, "a socket", &[]);
        assert_eq!(values(&head, "x-forwarded-for"), ["unknown"]);
    }

    #[test]
    fn a_request_id_is_made_only_where_the_caller_gave_none() {
        let head = introduced(Forwarded::Forwarded, "127.0.0.1:1", &[("x-request-id", "mine")]);
        assert_eq!(values(&head, "x-request-id"), ["mine"]);
        let made = values(&introduced(Forwarded::Forwarded, "127.0.0.1:1", &[]), "x-request-id");
        assert!(made.len() == 1 && made[0].len() == 32, "{made:?}");
    }
}

//! Which fields of a message go on: hop-by-hop fields end here, both ways (RFC 9110 section 7.6.1).

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE},
};

/// The fields that concern one connection, whether or not `Connection` names them.
static HOP_BY_HOP: [HeaderName; 8] = [
    HeaderName::from_static("keep-alive"),
    // Not in any RFC, but sent by old clients instead of `Connection`.
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authentication-info"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    // hyper frames each side anew.
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Makes a caller's fields fit for the API. `Authorization` is set by whoever has the token.
pub(super) fn to_upstream(headers: &mut HeaderMap, host: &HeaderValue) {
    strip_hop_by_hop(headers);
    headers.insert(HOST, host.clone());
}

/// Makes the API's fields fit for the caller.
pub(super) fn to_client(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    for name in named_by_connection(headers) {
        headers.remove(name);
    }
    headers.remove(CONNECTION);
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// The fields that `Connection` names; mostly none, which takes no memory.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|option| !option.eq_ignore_ascii_case(b"close") && !option.eq_ignore_ascii_case(b"keep-alive"))
        .filter_map(|option| HeaderName::from_bytes(option).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue, header::HOST};

    use super::{to_client, to_upstream};

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
            ("x-kept", "a"),
            ("x-kept", "b"),
            ("trailer", "x-sum"),
        ]);
        to_client(&mut headers);
        let left: Vec<_> = headers.iter().map(|(n, v)| (n.as_str(), v.to_str().expect("ASCII"))).collect();
        assert_eq!(left, [("x-kept", "a"), ("x-kept", "b"), ("trailer", "x-sum")]);
    }

    #[test]
    fn the_host_becomes_the_api_s_even_if_connection_names_it() {
        let mut headers = map(&[("host", "localhost:8080"), ("connection", "host")]);
        to_upstream(&mut headers, &HeaderValue::from_static("ob.example"));
        assert_eq!(headers.get_all(HOST).iter().collect::<Vec<_>>(), ["ob.example"]);
    }
}

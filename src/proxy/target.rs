//! Where a request goes: the caller's path and query, byte for byte, behind the configured prefix.

use http::{
    Method, Uri,
    uri::{Authority, PathAndQuery},
};

use super::ProxyError;

/// The request target for the API, in origin form (RFC 9112 section 3.2.1), or the `*` of OPTIONS.
///
/// An absolute target loses its scheme and authority: there is one upstream, whatever a caller names.
///
/// # Errors
/// [`ProxyError::MethodNotAllowed`] for CONNECT and TRACE; [`ProxyError::BadRequest`] for a target
/// without a path, with a user name or password, or a `*` that is not for the whole server.
pub(crate) fn to_upstream(method: &Method, target: &Uri, prefix: &str) -> Result<PathAndQuery, ProxyError> {
    // No tunnels; and a TRACE would show the caller the token that it is sent with (RFC 9110 section 9.3.8).
    if method == Method::CONNECT || method == Method::TRACE {
        return Err(ProxyError::MethodNotAllowed);
    }
    // It is deprecated, and read differently here and there (RFC 9110 section 4.2.4).
    if target.authority().map(Authority::as_str).is_some_and(|authority| authority.contains('@')) {
        return Err(ProxyError::BadRequest);
    }
    let path_and_query = target.path_and_query().ok_or(ProxyError::BadRequest)?;
    // It asks about the server as a whole (RFC 9112 section 3.2.4), of which a prefix permits a part.
    if path_and_query == "*" {
        let may_ask = method == Method::OPTIONS && prefix.is_empty();
        return if may_ask { Ok(path_and_query.clone()) } else { Err(ProxyError::BadRequest) };
    }
    if prefix.is_empty() {
        // Of `http://host#fragment` the parser keeps no path at all, and would write none.
        let is_root = path_and_query == "/";
        return Ok(if is_root { PathAndQuery::from_static("/") } else { path_and_query.clone() });
    }
    PathAndQuery::try_from(format!("{prefix}{path_and_query}")).map_err(|_| ProxyError::BadRequest)
}

#[cfg(test)]
mod tests {
    use http::{Method, Uri};
    use proptest::{prelude::proptest, prop_assert_eq};

    use super::to_upstream;

    fn rewritten(target: &str, prefix: &str) -> String {
        let target: Uri = target.parse().expect("a valid target");
        to_upstream(&Method::GET, &target, prefix).expect("accepted").to_string()
    }

    #[test]
    fn odd_paths_and_queries_pass_byte_for_byte() {
        for target in ["/", "//", "/a//b/../c/./d", "/%2F%2e%fF;x=1?", "/?", "/?a=%00&b=c?d", "/a;b?x=y;z"] {
            assert_eq!(rewritten(target, ""), target);
            assert_eq!(rewritten(target, "/v1"), format!("/v1{target}"));
        }
    }

    #[test]
    fn an_absolute_target_loses_its_authority() {
        assert_eq!(rewritten("http://elsewhere:81/a?b", ""), "/a?b");
    }

    #[test]
    fn a_user_name_in_the_target_is_refused() {
        let target = Uri::from_static("http://user:password@elsewhere/a");
        assert!(to_upstream(&Method::GET, &target, "").is_err());
    }

    #[test]
    fn an_absolute_target_without_a_path_means_the_root() {
        assert_eq!(rewritten("http://elsewhere", ""), "/");
        assert_eq!(rewritten("http://elsewhere", "/v1"), "/v1/");
        assert_eq!(rewritten("http://elsewhere?b", ""), "/?b");
        assert_eq!(rewritten("http://elsewhere#c", ""), "/");
        assert_eq!(rewritten("http://elsewhere#c", "/v1"), "/v1/");
    }

    #[test]
    fn the_asterisk_is_for_options_and_for_a_whole_server() {
        let asterisk = Uri::from_static("*");
        let sent = to_upstream(&Method::OPTIONS, &asterisk, "").expect("accepted");
        assert_eq!(sent, "*");
        assert!(to_upstream(&Method::GET, &asterisk, "").is_err());
        assert!(to_upstream(&Method::OPTIONS, &asterisk, "/v1").is_err());
    }

    #[test]
    fn trace_is_refused() {
        assert!(to_upstream(&Method::TRACE, &Uri::from_static("/"), "").is_err());
    }

    #[test]
    fn connect_is_refused() {
        let target: Uri = "host:443".parse().expect("authority form");
        assert!(to_upstream(&Method::CONNECT, &target, "").is_err());
    }

    proptest! {
        #[test]
        fn any_target_that_parses_is_kept(target in "/[!-~&&[^#\"<>`{}]]{0,40}", prefix in "(/[a-z]{1,5}){0,2}") {
            if let Ok(uri) = target.parse::<Uri>() {
                let ours = to_upstream(&Method::GET, &uri, &prefix).expect("accepted").to_string();
                prop_assert_eq!(ours, format!("{prefix}{target}"));
            }
        }
    }
}

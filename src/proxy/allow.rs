//! What may be asked of the API: the rules of `upstream.allow`, and paths that could slip past them.

use http::{HeaderMap, HeaderName, Method};

use super::guard::Forbidden;
use crate::config::{AllowRule, Config, Rest, Segment};

/// By these a server may take a request for another one than its method and target say.
static OVERRIDES: [HeaderName; 5] = [
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-method-override"),
    HeaderName::from_static("x-original-url"),
    HeaderName::from_static("x-rewrite-url"),
];

/// The rules, and whether paths must be unambiguous.
#[derive(Debug)]
pub(super) struct Allow {
    rules: Vec<AllowRule>,
    has_prefix: bool,
}

impl Allow {
    /// By `upstream.allow`, and by the path of `upstream.url`, which no request is to leave.
    pub(super) fn new(config: &Config) -> Self {
        Self { rules: config.upstream.allow.clone(), has_prefix: !config.upstream.prefix.is_empty() }
    }

    /// Checks what the caller asks for itself.
    pub(super) fn check(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<(), Forbidden> {
        if self.rules.is_empty() && !self.has_prefix {
            return Ok(());
        }
        if let Some(field) = OVERRIDES.iter().find(|field| headers.contains_key(*field)) {
            return Err(Forbidden::Override(field.clone()));
        }
        if is_ambiguous(path) {
            return Err(Forbidden::AmbiguousPath);
        }
        let is_allowed = self.rules.is_empty() || self.rules.iter().any(|rule| rule.permits(method, path));
        if is_allowed { Ok(()) } else { Err(Forbidden::NotAllowed) }
    }
}

impl AllowRule {
    fn permits(&self, method: &Method, path: &str) -> bool {
        if self.method.as_ref().is_some_and(|one| one != method) {
            return false;
        }
        let Some(path) = path.strip_prefix('/') else { return false };
        let mut given = path.split('/');
        let begins = self.segments.iter().all(|segment| match (segment, given.next()) {
            (Segment::Exactly(text), Some(given)) => text == given,
            (Segment::Any, Some(given)) => !given.is_empty(),
            (Segment::Exactly(_) | Segment::Any, None) => false,
        });
        let is_more = given.next().is_some();
        begins && is_more == (self.rest == Rest::Anything)
    }
}

/// Whether servers may make different paths of it: by resolving dot segments, by decoding what need not
/// have been encoded, by taking a backslash for a slash, by merging slashes, by cutting off parameters.
fn is_ambiguous(path: &str) -> bool {
    let has_odd_segment = || path.split('/').skip(1).any(|segment| segment == "." || segment == "..");
    path.contains("//") || path.contains([';', '\\']) || has_odd_segment() || has_odd_escape(path)
}

/// An escape of an unreserved character (RFC 3986 section 2.3), a slash or a backslash; or none at all. Or
/// escapes that are not UTF-8 together: a lax decoder takes an overlong form of a dot or slash for one.
fn has_odd_escape(path: &str) -> bool {
    let mut decoded = Vec::new();
    let mut parts = path.split('%');
    decoded.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for escaped in parts {
        let digits = escaped.get(..2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) else { return true };
        if byte.is_ascii_alphanumeric() || b"-._~/\\\0;%".contains(&byte) {
            return true;
        }
        decoded.push(byte);
        decoded.extend_from_slice(&escaped.as_bytes()[2..]);
    }
    std::str::from_utf8(&decoded).is_err()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::{Allow, AllowRule, Forbidden, Rest, Segment};

    fn rule(method: Option<Method>, path: &str) -> AllowRule {
        let (path, rest) = match path.strip_suffix("/**") {
            Some(path) => (path, Rest::Anything),
            None => (path, Rest::Nothing),
        };
        let segment = |text: &str| if text == "*" { Segment::Any } else { Segment::Exactly(text.to_owned()) };
        AllowRule { method, segments: path.split('/').skip(1).map(segment).collect(), rest }
    }

    fn permits(rules: Vec<AllowRule>, method: &Method, path: &str) -> bool {
        Allow { rules, has_prefix: false }.check(method, path, &HeaderMap::new()).is_ok()
    }

    #[test]
    fn without_rules_everything_is_allowed() {
        assert!(permits(Vec::new(), &Method::DELETE, "/a//b/../%2e;c"));
    }

    #[test]
    fn a_rule_allows_its_method_and_what_lies_under_its_path() {
        let fdx = || vec![rule(Some(Method::GET), "/api/fdx/5/**")];
        assert!(permits(fdx(), &Method::GET, "/api/fdx/5/accounts"));
        assert!(permits(fdx(), &Method::GET, "/api/fdx/5/accounts/1/transactions"));
        assert!(permits(fdx(), &Method::GET, "/api/fdx/5/"));
        for (method, path) in [
            (Method::POST, "/api/fdx/5/accounts"),
            (Method::HEAD, "/api/fdx/5/accounts"),
            (Method::GET, "/api/fdx/5"),
            (Method::GET, "/api/fdx/50/accounts"),
            (Method::GET, "/API/fdx/5/accounts"),
            (Method::GET, "/api/v1/revoke"),
            (Method::GET, "/"),
            (Method::GET, "*"),
        ] {
            assert!(!permits(fdx(), &method, path), "{method} {path}");
        }
    }

    #[test]
    fn a_star_is_one_segment_and_never_an_empty_one() {
        let rules = || vec![rule(None, "/accounts/*/balance")];
        assert!(permits(rules(), &Method::PUT, "/accounts/42/balance"));
        for path in ["/accounts/balance", "/accounts/4/2/balance", "/accounts//balance", "/accounts/42/balance/"] {
            assert!(!permits(rules(), &Method::PUT, path), "{path}");
        }
    }

    #[test]
    fn what_could_be_read_as_another_path_is_refused_before_the_rules_and_behind_a_prefix() {
        let everything = Allow { rules: vec![rule(None, "/**")], has_prefix: false };
        let prefixed = Allow { rules: Vec::new(), has_prefix: true };
        for path in [
            "/a/../b",
            "/a/./b",
            "/..",
            "/a/%2e%2e/b",
            "/a/%2E./b",
            "//a",
            "/a//b",
            "/a;v=1",
            "/a%2Fb",
            "/a%2fb",
            "/a%5cb",
            "/a\\b",
            "/%61",
            "/%7Ea",
            "/a%2",
            "/a%zz",
            "/a%",
            "/a%00b",
            "/a%252e",
            "/a%3Bb",
        ] {
            for allow in [&everything, &prefixed] {
                assert_eq!(allow.check(&Method::GET, path, &HeaderMap::new()), Err(Forbidden::AmbiguousPath), "{path}");
            }
        }
        for path in ["/a/b.c/...", "/a/.b", "/caf%C3%A9", "/a%20b", "/a%3Fb", "/a:b@c,d"] {
            for allow in [&everything, &prefixed] {
                assert_eq!(allow.check(&Method::GET, path, &HeaderMap::new()), Ok(()), "{path}");
            }
        }
    }
}

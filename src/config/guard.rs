//! Who may use the local port, and for what.

use http::{HeaderName, HeaderValue, Method, Uri};

use super::values::{Mismatch, Parsed, Raw, string};

/// The names by which callers may call the sidecar; a guard against DNS rebinding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedHosts {
    /// Any.
    Any,
    /// These: in lower case, without a port and a final dot, IPv6 addresses in brackets.
    Only(Vec<String>),
}

/// A field that every request must have.
#[derive(Clone, Debug)]
pub struct RequiredHeader {
    /// Its name.
    pub name: HeaderName,
    /// Its whole value.
    pub value: HeaderValue,
}

/// What may be asked of the API: one entry of `upstream.allow`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowRule {
    /// `None` for any.
    pub method: Option<Method>,
    /// Those of the path after its first slash.
    pub segments: Vec<Segment>,
    /// What may follow them.
    pub rest: Rest,
}

/// One segment of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// This one, byte for byte.
    Exactly(String),
    /// `*`: any, but not an empty one.
    Any,
}

/// What may follow the segments of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Nothing.
    Nothing,
    /// `**`: a slash and anything.
    Anything,
}

/// A host's name without its port and final dot (RFC 3986 section 3.2). `None` if it makes no sense: what
/// follows the name is nothing but a port.
pub(crate) fn host_name(authority: &str) -> Option<&str> {
    let end = match authority.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (name, rest) = authority.split_at(end);
    let port = rest.strip_prefix(':').unwrap_or(rest);
    let is_port = port.bytes().all(|b| b.is_ascii_digit()) && (port.is_empty() || port.parse::<u16>().is_ok());
    let has_colon = port.len() < rest.len();
    if !is_port || (!rest.is_empty() && !has_colon) {
        return None;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    (!name.is_empty() && !name.contains('@')).then_some(name)
}

/// A host's name, as callers send it.
pub(super) fn host(raw: &Raw<'_>) -> Parsed<String> {
    let expected = "a host's name without a port, such as \"localhost\" or \"[::1]\"";
    let text = string(raw, expected)?;
    let is_name = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]*".contains(&b));
    let name =
        host_name(text).filter(|name| is_name(name) && name.len() + usize::from(text.ends_with('.')) == text.len());
    name.map(str::to_ascii_lowercase).ok_or_else(|| Mismatch::expected(expected))
}

/// An origin as browsers send it (RFC 6454 section 7).
pub(super) fn origin(raw: &Raw<'_>) -> Parsed<HeaderValue> {
    let expected = "an origin, such as \"http://localhost:3000\"";
    let mismatch = || Mismatch::expected(expected);
    let text = string(raw, expected)?;
    let uri: Uri = text.parse().map_err(|_| mismatch())?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Err(mismatch()) };
    // Without a path, and nothing else either.
    if format!("{scheme}://{authority}") != text || authority.as_str().contains('@') {
        return Err(mismatch());
    }
    HeaderValue::try_from(text.to_ascii_lowercase()).map_err(|_| mismatch())
}

/// A field, written as in a request.
pub(super) fn required_header(raw: &Raw<'_>) -> Parsed<RequiredHeader> {
    let expected = "a header field, such as \"X-Token-Valet: true\"";
    // It may be a secret.
    let mismatch = || Mismatch::statement(format!("cannot be read, expected {expected}"));
    let text = string(raw, expected)?;
    let (name, value) = text.split_once(':').ok_or_else(mismatch)?;
    let name = name.parse().map_err(|_| mismatch())?;
    let value = value.trim();
    if value.is_empty() {
        return Err(mismatch());
    }
    let mut value = HeaderValue::try_from(value).map_err(|_| mismatch())?;
    value.set_sensitive(true);
    Ok(RequiredHeader { name, value })
}

/// A method and a path, such as `GET /api/fdx/5/**`.
pub(super) fn allow_rule(raw: &Raw<'_>) -> Parsed<AllowRule> {
    let expected = "a method and a path, such as \"GET /api/fdx/5/**\"";
    let mismatch = || Mismatch::expected(expected);
    let (method, path) = string(raw, expected)?.split_once(' ').ok_or_else(mismatch)?;
    let method = match method {
        "*" => None,
        _ => Some(method.parse().map_err(|_| mismatch())?),
    };
    let path = path.strip_prefix('/').ok_or_else(mismatch)?;
    if !path.bytes().all(|b| b.is_ascii_graphic() && !b"?#".contains(&b)) {
        return Err(mismatch());
    }
    let mut segments: Vec<&str> = path.split('/').collect();
    let rest = match segments.last() {
        Some(&"**") => {
            segments.pop();
            Rest::Anything
        }
        Some(_) | None => Rest::Nothing,
    };
    let segment = |text: &str| match text {
        "*" => Ok(Segment::Any),
        _ if text.contains('*') => {
            Err(mismatch().hint("`*` stands for a whole segment, and `**` for the rest of a path"))
        }
        _ => Ok(Segment::Exactly(text.to_owned())),
    };
    Ok(AllowRule { method, segments: segments.into_iter().map(segment).collect::<Result<_, _>>()?, rest })
}

#[cfg(test)]
mod tests {
    use super::{AllowRule, Raw, Rest, Segment, allow_rule, host, host_name, origin, required_header};

    #[test]
    fn a_host_s_name_is_what_is_left_without_port_and_final_dot() {
        for (authority, name) in [
            ("localhost", Some("localhost")),
            ("LocalHost:8080", Some("LocalHost")),
            ("localhost.", Some("localhost")),
            ("localhost.:80", Some("localhost")),
            ("[::1]:8080", Some("[::1]")),
            ("[::1]", Some("[::1]")),
            ("127.0.0.1:1", Some("127.0.0.1")),
            ("[::1", None),
            ("localhost:", Some("localhost")),
            ("localhost:80@evil.example", None),
            ("user@localhost", None),
            ("localhost:evil.example", None),
            ("127.0.0.1:80.evil.example", None),
            ("[::1].evil.example", None),
            ("[::1]evil.example", None),
            ("[::1]80", None),
            ("localhost:80:80", None),
            ("localhost:99999", None),
            ("localhost:-1", None),
            ("localhost:+1", None),
            (":80", None),
            ("", None),
        ] {
            assert_eq!(host_name(authority), name, "{authority}");
        }
    }

    #[test]
    fn a_name_in_the_configuration_has_no_port() {
        for good in ["localhost", "[::1]", "Valet.example", "valet.example.", "*"] {
            assert!(host(&Raw::Text(good)).is_ok(), "{good}");
        }
        for bad in ["localhost:8080", "http://localhost", "::1", "a b", "[::1]:80"] {
            assert!(host(&Raw::Text(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_origin_has_a_scheme_and_an_authority_and_no_more() {
        assert!(origin(&Raw::Text("http://localhost:3000")).is_ok_and(|value| value == "http://localhost:3000"));
        for bad in ["null", "*", "localhost:3000", "http://localhost/", "http://u@localhost", "http://localhost?a"] {
            assert!(origin(&Raw::Text(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_required_header_has_a_name_and_a_value_and_is_never_shown() {
        let header = required_header(&Raw::Text("X-Token-Valet: open sesame")).expect("a field");
        assert_eq!(header.name, "x-token-valet");
        assert_eq!(header.value, "open sesame");
        assert!(!format!("{header:?}").contains("sesame"));
        for bad in ["X-Token-Valet", "X-Token-Valet:", "X Y: z", ": a"] {
            let mismatch = required_header(&Raw::Text(bad)).expect_err("no field");
            assert!(!mismatch.problem(bad).contains(&format!("is {bad}")), "{bad}");
        }
    }

    #[test]
    fn a_rule_is_a_method_and_a_path_of_segments() {
        let rule = allow_rule(&Raw::Text("GET /api/*/5/**")).expect("a rule");
        let exactly = |text: &str| Segment::Exactly(text.to_owned());
        let segments = vec![exactly("api"), Segment::Any, exactly("5")];
        assert_eq!(rule, AllowRule { method: Some(http::Method::GET), segments, rest: Rest::Anything });
        assert!(allow_rule(&Raw::Text("* /")).is_ok_and(|rule| rule.method.is_none()));
        for bad in ["/api", "GET", "GET api", "GET /a?b", "GET /a**", "GET /**/a", "GET /a b", "G ET /a", "GET /a*"] {
            assert!(allow_rule(&Raw::Text(bad)).is_err(), "{bad}");
        }
    }
}

//! Which requests are let in at all. Whatever reaches the local port uses the token, so what a web page
//! could have a browser on this host send is refused, and what the operator did not allow.

use std::{cell::RefCell, fmt};

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{HOST, ORIGIN},
    request::Parts,
};
use subtle::ConstantTimeEq;

use super::headers::lines;
use crate::{
    config::{AllowedHosts, Config, RequiredHeader, host_name},
    listener::Peer,
};

/// Where a browser says that a request comes from (W3C Fetch Metadata, section 2.3).
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// How much of a caller's words is repeated to it, and to the log.
const MAX_WORDS: usize = 100;

/// The guard of the local port.
#[derive(Debug)]
pub(super) struct Guard {
    hosts: AllowedHosts,
    /// How the last caller that was let in named it: the next one says the same. Of each thread one, no longer than a
    /// request's head, which `listen.max_header_bytes` bounds.
    last_host: RefCell<Vec<u8>>,
    origins: Vec<HeaderValue>,
    required: Option<RequiredHeader>,
    /// Those who may come by a Unix socket; all, if empty.
    uids: Vec<u32>,
}

/// Why a request was not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// It calls the sidecar by another name.
    #[error("the request's host {0} is not in `listen.allowed_hosts`")]
    Host(Words),
    /// A web page has sent it.
    #[error("the request's origin {0} is not in `listen.allow_origins`")]
    Origin(Words),
    /// A browser says that another site's page has sent it.
    #[error("a browser sent the request for another site, which is not in `listen.allow_origins`")]
    CrossSite,
    /// A process of another user has sent it.
    #[error("the caller's uid {0} is not in `listen.allow_uids`")]
    Uid(u32),
    /// It lacks the field of `listen.require_header`.
    #[error("the request lacks the header field `{0}` with the value of `listen.require_header`")]
    Header(HeaderName),
    /// It has a field that could make another request of it.
    #[error("the request's header field `{0}` could get it past `upstream.allow` or the path of `upstream.url`")]
    Override(HeaderName),
    /// Its path can be read in more than one way.
    #[error("the request's path can be read in more than one way")]
    AmbiguousPath,
    /// No rule allows it.
    #[error("the request's method and path are not in `upstream.allow`")]
    NotAllowed,
}

/// Some words of a caller, cut short, and fit for a log and an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words(String);

impl Words {
    pub(super) fn of(value: &[u8]) -> Self {
        let printable = |b: &u8| if b.is_ascii_graphic() { char::from(*b) } else { '?' };
        Self(value.iter().take(MAX_WORDS).map(printable).collect())
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.0)
    }
}

impl Guard {
    /// By the keys of `[listen]`. The API's own name is always one of the allowed.
    pub(super) fn new(config: &Config) -> Self {
        let listen = &config.listen;
        let hosts = match listen.allowed_hosts.clone() {
            AllowedHosts::Any => AllowedHosts::Any,
            AllowedHosts::Only(mut names) => {
                let api = config.upstream.origin.host_header();
                names.extend(api.to_str().ok().and_then(host_name).map(str::to_owned));
                AllowedHosts::Only(names)
            }
        };
        Self {
            hosts,
            last_host: RefCell::default(),
            origins: listen.allow_origins.clone(),
            required: listen.require_header.clone(),
            uids: listen.allow_uids.clone(),
        }
    }

    /// Lets a request in, without the field that was for this guard alone.
    pub(super) fn admit(&self, head: &mut Parts, peer: Peer) -> Result<(), Forbidden> {
        match peer {
            Peer::Tcp(_) => self.check_host(head)?,
            // No browser comes this way, so there is nothing to say about names.
            Peer::Unix { uid } => self.check_uid(uid)?,
        }
        self.check_origin(&head.headers)?;
        self.check_required(&mut head.headers)
    }

    /// A page whose name was made to lead here (DNS rebinding) cannot hide that name. The authority of
    /// an absolute target or of HTTP/2 counts as the Host (RFC 9112 section 3.2.2).
    fn check_host(&self, head: &Parts) -> Result<(), Forbidden> {
        let AllowedHosts::Only(names) = &self.hosts else { return Ok(()) };
        let host = match (head.uri.authority(), lines(&head.headers, HOST).next()) {
            (Some(authority), _) => authority.as_str().as_bytes(),
            (None, Some(host)) => host.as_bytes(),
            // No browser speaks it.
            (None, None) if head.version < Version::HTTP_11 => return Ok(()),
            (None, None) => b"",
        };
        if *self.last_host.borrow() == host && !host.is_empty() {
            return Ok(());
        }
        let name = std::str::from_utf8(host).ok().and_then(host_name);
        if !name.is_some_and(|name| names.iter().any(|one| one.eq_ignore_ascii_case(name))) {
            return Err(Forbidden::Host(Words::of(host)));
        }
        self.last_host.replace(host.to_vec());
        Ok(())
    }

    fn check_uid(&self, uid: u32) -> Result<(), Forbidden> {
        if self.uids.is_empty() || self.uids.contains(&uid) { Ok(()) } else { Err(Forbidden::Uid(uid)) }
    }

    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Forbidden> {
        let mut origins = lines(headers, ORIGIN);
        if let Some(origin) = origins.next() {
            let is_allowed = self.origins.iter().any(|one| one.as_bytes().eq_ignore_ascii_case(origin.as_bytes()));
            let is_sole = origins.next().is_none();
            return if is_allowed && is_sole { Ok(()) } else { Err(Forbidden::Origin(Words::of(origin.as_bytes()))) };
        }
        // `none` is a person's own doing, such as an address that was typed in.
        let is_ours = |site: &HeaderValue| site == "same-origin" || site == "none";
        if lines(headers, FETCH_SITE).all(is_ours) { Ok(()) } else { Err(Forbidden::CrossSite) }
    }

    fn check_required(&self, headers: &mut HeaderMap) -> Result<(), Forbidden> {
        let Some(RequiredHeader { name, value }) = &self.required else { return Ok(()) };
        let mut given = headers.get_all(name).iter();
        // It may be a secret.
        let is_given = match (given.next(), given.next()) {
            (Some(one), None) => bool::from(one.as_bytes().ct_eq(value.as_bytes())),
            (Some(_), Some(_)) | (None, _) => false,
        };
        headers.remove(name);
        if is_given { Ok(()) } else { Err(Forbidden::Header(name.clone())) }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

    use http::{HeaderName, HeaderValue, Request, Version, request::Parts};

    use super::{Forbidden, Guard, Peer, RefCell};
    use crate::config::{AllowedHosts, RequiredHeader};

    const BY_TCP: Peer = Peer::Tcp(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1)));

    fn guard() -> Guard {
        Guard {
            last_host: RefCell::default(),
            hosts: AllowedHosts::Only(["localhost", "127.0.0.1", "[::1]", "ob.example"].map(str::to_owned).into()),
            origins: vec![HeaderValue::from_static("http://localhost:3000")],
            required: None,
            uids: Vec::new(),
        }
    }

    fn request(version: Version, target: &str, fields: &[(&'static str, &str)]) -> Parts {
        let mut request = Request::new(());
        *request.version_mut() = version;
        *request.uri_mut() = target.parse().expect("a target");
        for (name, value) in fields {
            let value = HeaderValue::from_bytes(value.as_bytes()).expect("a value");
            request.headers_mut().append(HeaderName::from_static(name), value);
        }
        request.into_parts().0
    }

    fn admitted(fields: &[(&'static str, &str)]) -> Result<(), Forbidden> {
        guard().admit(&mut request(Version::HTTP_11, "/", fields), BY_TCP)
    }

    #[test]
    fn only_the_allowed_names_get_in_whatever_their_port_and_case() {
        for host in ["localhost", "LOCALHOST:8080", "localhost.", "127.0.0.1:1", "[::1]:8080", "ob.example"] {
            assert_eq!(admitted(&[("host", host)]), Ok(()), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "xlocalhost", "[::2]", "é"] {
            assert!(matches!(admitted(&[("host", host)]), Err(Forbidden::Host(_))), "{host}");
        }
    }

    #[test]
    fn the_authority_of_the_target_counts_as_the_host() {
        let ask = |version, target, fields: &[(&'static str, &str)]| {
            guard().admit(&mut request(version, target, fields), BY_TCP)
        };
        assert_eq!(ask(Version::HTTP_2, "http://localhost:8080/", &[]), Ok(()));
        assert!(ask(Version::HTTP_2, "http://evil.example/", &[]).is_err());
        assert!(ask(Version::HTTP_11, "http://evil.example/", &[("host", "localhost")]).is_err());
        assert_eq!(ask(Version::HTTP_10, "/", &[]), Ok(()), "no browser speaks it");
        assert!(ask(Version::HTTP_11, "/", &[]).is_err());
    }

    #[test]
    fn the_name_that_was_let_in_last_lets_no_other_in() {
        let guard = guard();
        let ask = |fields: &[(&'static str, &str)]| guard.admit(&mut request(Version::HTTP_11, "/", fields), BY_TCP);
        for host in ["evil.example", "evil.example", "localhost", "evil.example", "localhost", "localhost"] {
            assert_eq!(ask(&[("host", host)]).is_ok(), host == "localhost", "{host}");
        }
        assert!(matches!(ask(&[]), Err(Forbidden::Host(_))));
    }

    #[test]
    fn by_a_unix_socket_the_user_counts_and_not_the_name() {
        let guard = Guard { uids: vec![1_000], ..guard() };
        let ask = |uid, fields: &[(&'static str, &str)]| {
            guard.admit(&mut request(Version::HTTP_11, "/", fields), Peer::Unix { uid })
        };
        assert_eq!(ask(1_000, &[("host", "whatever.example")]), Ok(()));
        assert_eq!(ask(1_001, &[("host", "localhost")]), Err(Forbidden::Uid(1_001)));
        assert_eq!(ask(1_000, &[("host", "localhost"), ("sec-fetch-site", "cross-site")]), Err(Forbidden::CrossSite));
        let anyone = self::guard().admit(&mut request(Version::HTTP_11, "/", &[]), Peer::Unix { uid: 7 });
        assert_eq!(anyone, Ok(()), "the socket's permissions decide");
    }

    #[test]
    fn the_refusal_names_the_host_in_printable_characters_and_the_key() {
        let refusal = admitted(&[("host", "evil\u{e9}.example")]).expect_err("another name").to_string();
        assert_eq!(refusal, "the request's host `evil??.example` is not in `listen.allowed_hosts`");
        let refusal = admitted(&[("host", &"x".repeat(5_000))]).expect_err("another name").to_string();
        assert!(refusal.len() < 200, "{refusal}");
    }

    #[test]
    fn what_a_page_of_another_site_sends_is_refused_unless_its_origin_is_allowed() {
        let ask = |fields: &[(&'static str, &str)]| admitted(&[&[("host", "localhost")], fields].concat());
        assert_eq!(ask(&[("origin", "http://localhost:3000"), ("sec-fetch-site", "same-site")]), Ok(()));
        assert_eq!(ask(&[("sec-fetch-site", "same-origin")]), Ok(()));
        assert_eq!(ask(&[("sec-fetch-site", "none")]), Ok(()));
        assert_eq!(ask(&[("sec-fetch-site", "cross-site")]), Err(Forbidden::CrossSite));
        assert_eq!(ask(&[("sec-fetch-site", "same-site")]), Err(Forbidden::CrossSite));
        assert_eq!(ask(&[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")]), Err(Forbidden::CrossSite));
        for origin in ["https://evil.example", "null", "http://localhost:3001", "http://localhost:3000.evil.example"] {
            assert!(matches!(ask(&[("origin", origin)]), Err(Forbidden::Origin(_))), "{origin}");
        }
        let twice = [("origin", "http://localhost:3000"), ("origin", "https://evil.example")];
        assert!(matches!(ask(&twice), Err(Forbidden::Origin(_))));
    }

    #[test]
    fn the_required_field_must_be_there_once_and_goes_no_further() {
        let name = HeaderName::from_static("x-token-valet");
        let value = HeaderValue::from_static("true");
        let guard = Guard { required: Some(RequiredHeader { name: name.clone(), value }), ..guard() };
        let ask = |fields: &[(&'static str, &str)]| {
            let mut head = request(Version::HTTP_11, "/", &[&[("host", "localhost")], fields].concat());
            let admitted = guard.admit(&mut head, BY_TCP);
            assert!(!head.headers.contains_key("x-token-valet"));
            admitted
        };
        assert_eq!(ask(&[("x-token-valet", "true")]), Ok(()));
        let refusal = Err(Forbidden::Header(name));
        for fields in [&[][..], &[("x-token-valet", "false")], &[("x-token-valet", "true"), ("x-token-valet", "true")]]
        {
            assert_eq!(ask(fields), refusal);
        }
    }
}

//! URLs of servers that are called: a scheme, a host and a port, and what follows them.

use std::net::IpAddr;

use http::{Uri, uri::PathAndQuery};
use rustls::pki_types::ServerName;

use super::{
    Origin, Scheme,
    values::{Mismatch, Parsed, Raw, string},
};

/// An absolute URL, taken apart.
#[derive(Debug)]
pub(super) struct Url {
    pub(super) origin: Origin,
    pub(super) path: PathAndQuery,
}

impl Url {
    /// Whether what is sent there can be read by others on the way.
    pub(super) fn is_exposed(&self) -> bool {
        self.origin.scheme == Scheme::Http && !is_loopback(&self.origin.host)
    }

    /// The path as something to put before other paths: no slash at its end.
    pub(super) fn prefix(&self) -> String {
        self.path.path().trim_end_matches('/').to_owned()
    }
}

/// An `https` or `http` URL without a query, to which paths are added.
pub(super) fn base_url(raw: &Raw<'_>) -> Parsed<Url> {
    let url = url(raw)?;
    match url.path.query() {
        Some(_) => Err(Mismatch::statement("has a query, expected scheme, host and path only")),
        None => Ok(url),
    }
}

/// An `https` or `http` URL. What may hold a secret, a password or a query, is not shown when it is refused.
pub(super) fn url(raw: &Raw<'_>) -> Parsed<Url> {
    let expected = "an https URL";
    let text = string(raw, expected)?;
    let (before_query, _) = text.split_once('?').unwrap_or((text, ""));
    if before_query.contains('@') {
        return Err(Mismatch::statement("has a user name or a password, expected none in a URL"));
    }
    if text.contains('#') {
        return Err(Mismatch::statement("has a fragment (`#`), which no server ever sees"));
    }
    let wrong = || Mismatch::statement(format!("is {before_query:?}, expected {expected}"));

    // The parser of `http` lets more than ASCII through, and a port that is none.
    let uri: Uri = text.parse().ok().filter(|_| text.is_ascii()).ok_or_else(wrong)?;
    let scheme = match uri.scheme_str() {
        Some("https") => Scheme::Https,
        Some("http") => Scheme::Http,
        Some(_) | None => return Err(wrong().hint("begin it with `https://`")),
    };
    let authority = uri.authority().ok_or_else(wrong)?;
    let port = match (authority.port_u16(), scheme) {
        (Some(port), _) if port > 0 => port,
        (None, _) if authority.as_str() != authority.host() => return Err(wrong()),
        (None, Scheme::Https) => 443,
        (None, Scheme::Http) => 80,
        (Some(_), _) => return Err(wrong()),
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    ServerName::try_from(host.as_str()).map_err(|_| wrong())?;
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    Ok(Url { origin: Origin { scheme, host, port }, path })
}

/// Whether only this machine can be meant.
fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback())
}

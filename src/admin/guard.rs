//! Who may have which page. Probes and scrapes come from other machines; whoever is told more, or has
//! something done, must be on this one, and what is done must not be a web page's doing.

use http::{HeaderMap, HeaderName, HeaderValue, Request, header::HOST, header::ORIGIN};

use crate::{config::host_name, listener::Peer};

/// Where a browser says that a request comes from (W3C Fetch Metadata, section 2.3).
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What a page is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It tells nothing that is nobody's business.
    Probe,
    /// It tells what only people on this machine are to know.
    Look,
    /// It does something.
    Act,
}

/// Why a page is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// Its caller is on another machine.
    #[error("only for callers on this machine")]
    Remote,
    /// It was called by a name that may have been made to lead here.
    #[error("only for callers that name an IP address or localhost as the host")]
    Host,
    /// Another web page asks for it.
    #[error("not for other web pages")]
    Page,
    /// A browser sends it.
    #[error("not for browsers")]
    Browser,
}

/// Lets a request for a page of this purpose in.
pub(super) fn admit<B>(request: &Request<B>, peer: Peer, purpose: Purpose) -> Result<(), Refusal> {
    match purpose {
        Purpose::Probe => Ok(()),
        Purpose::Look | Purpose::Act if !is_local(peer) => Err(Refusal::Remote),
        Purpose::Look | Purpose::Act if !is_called_by_address(request) => Err(Refusal::Host),
        Purpose::Look if is_of_another_page(request.headers()) => Err(Refusal::Page),
        Purpose::Act if is_of_browser(request.headers()) => Err(Refusal::Browser),
        Purpose::Look | Purpose::Act => Ok(()),
    }
}

fn is_local(peer: Peer) -> bool {
    match peer {
        Peer::Tcp(address) => address.ip().to_canonical().is_loopback(),
        Peer::Unix { .. } => true,
    }
}

/// A name of a web page's that was made to lead here (DNS rebinding) is none of these.
fn is_called_by_address<B>(request: &Request<B>) -> bool {
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    let host = authority.or_else(|| request.headers().get(HOST).and_then(|host| host.to_str().ok()));
    let Some(name) = host.and_then(host_name) else { return false };
    let ip = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || ip.parse::<std::net::IpAddr>().is_ok()
}

/// A page that a person opens, or that loads itself anew, is none.
fn is_of_another_page(headers: &HeaderMap) -> bool {
    let is_own = |site: &HeaderValue| site == "none" || site == "same-origin";
    headers.contains_key(ORIGIN) || !headers.get_all(FETCH_SITE).iter().all(is_own)
}

/// Browsers name an origin with all that may change something.
fn is_of_browser(headers: &HeaderMap) -> bool {
    headers.contains_key(ORIGIN) || headers.get_all(FETCH_SITE).iter().any(|site: &HeaderValue| site != "none")
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use http::Request;

    use super::{Peer, Purpose, Refusal, admit};

    fn act(peer: &str, fields: &[(&str, &str)]) -> Result<(), Refusal> {
        asked(peer, fields, Purpose::Act)
    }

    fn asked(peer: &str, fields: &[(&str, &str)], purpose: Purpose) -> Result<(), Refusal> {
        let request = fields
            .iter()
            .fold(Request::builder().uri("/refresh"), |request, (name, value)| request.header(*name, *value));
        let peer = Peer::Tcp(peer.parse::<SocketAddr>().expect("an address"));
        admit(&request.body(()).expect("a request"), peer, purpose)
    }

    #[test]
    fn what_acts_is_for_callers_on_this_machine() {
        let host = [("host", "127.0.0.1:9901")];
        for peer in ["127.0.0.1:5", "[::1]:5", "[::ffff:127.0.0.1]:5", "127.8.8.8:5"] {
            assert_eq!(act(peer, &host), Ok(()), "{peer}");
        }
        for peer in ["10.0.0.7:5", "[fe80::1]:5", "0.0.0.0:5", "[::ffff:10.0.0.7]:5"] {
            assert_eq!(act(peer, &host), Err(Refusal::Remote), "{peer}");
        }
    }

    #[test]
    fn what_acts_is_not_for_web_pages_whatever_name_they_were_given() {
        let local = "127.0.0.1:5";
        for host in ["localhost", "LOCALHOST:9901", "[::1]:9901", "10.0.0.7"] {
            assert_eq!(act(local, &[("host", host)]), Ok(()), "{host}");
        }
        for host in ["evil.example", "evil.example:9901", "localhost.evil.example", "127.0.0.1.evil.example", ""] {
            assert_eq!(act(local, &[("host", host)]), Err(Refusal::Host), "{host}");
        }
        assert_eq!(act(local, &[]), Err(Refusal::Host));
        for field in [("origin", "http://localhost:9901"), ("origin", "null"), ("sec-fetch-site", "same-origin")] {
            assert_eq!(act(local, &[("host", "localhost"), field]), Err(Refusal::Browser), "{field:?}");
        }
        assert_eq!(act(local, &[("host", "localhost"), ("sec-fetch-site", "none")]), Ok(()));
    }

    #[test]
    fn a_look_is_for_people_on_this_machine_and_their_browsers_but_no_other_page() {
        let look = |peer: &str, fields: &[(&str, &str)]| asked(peer, fields, Purpose::Look);
        let local = "127.0.0.1:5";
        for site in ["none", "same-origin"] {
            assert_eq!(look(local, &[("host", "localhost:9901"), ("sec-fetch-site", site)]), Ok(()));
        }
        for field in [("sec-fetch-site", "cross-site"), ("sec-fetch-site", "same-site"), ("origin", "http://a.example")]
        {
            assert_eq!(look(local, &[("host", "localhost:9901"), field]), Err(Refusal::Page), "{field:?}");
        }
        assert_eq!(look(local, &[("host", "evil.example")]), Err(Refusal::Host));
        assert_eq!(look("10.0.0.7:5", &[("host", "localhost")]), Err(Refusal::Remote));
    }

    #[test]
    fn a_probe_is_for_everyone() {
        let request = Request::builder().uri("/livez").header("host", "pod.example").body(()).expect("a request");
        let peer = Peer::Tcp("10.0.0.7:5".parse().expect("an address"));
        assert_eq!(admit(&request, peer, Purpose::Probe), Ok(()));
    }
}

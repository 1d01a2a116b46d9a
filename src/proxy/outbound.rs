//! A request as the API gets it, for as many times as it has to be sent.

use http::{
    HeaderMap, HeaderValue, Method, Request, Uri, Version,
    header::{AUTHORIZATION, CONNECTION, EXPECT, HOST, TE, TRANSFER_ENCODING},
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::Body;

use super::{
    fields::Fields,
    headers::{has, set_line},
    measure::Measure,
    upgrade::Upgrade,
    upload::Upload,
};
use crate::{
    config::{self, Origin},
    http_client::{Need, Protocol},
};

/// Who the API is, in the forms that requests need.
#[derive(Debug)]
pub(super) struct Api {
    host: HeaderValue,
    scheme: Scheme,
    authority: Authority,
}

impl Api {
    pub(super) fn new(origin: &Origin) -> Self {
        let host = origin.host_header();
        let authority = Authority::try_from(host.as_bytes()).expect("a URL's host and port are an authority");
        let scheme = match origin.scheme {
            config::Scheme::Http => Scheme::HTTP,
            config::Scheme::Https => Scheme::HTTPS,
        };
        Self { host, scheme, authority }
    }
}

/// A request but for its body, its token, and what depends on the connection.
pub(super) struct Outbound<'a> {
    pub(super) api: &'a Api,
    pub(super) method: &'a Method,
    pub(super) target: PathAndQuery,
    /// Without any hop-by-hop field.
    pub(super) fields: &'a Fields,
    /// Boxed, as it is rare.
    pub(super) upgrade: Option<Box<Upgrade>>,
    pub(super) measure: &'a Measure,
}

impl Outbound<'_> {
    /// Whether the API may change the protocol, and to what: once, and only to what was asked for.
    pub(super) fn granted(&mut self, answer: &HeaderMap) -> Option<(Box<Upgrade>, HeaderValue)> {
        let protocol = self.upgrade.as_ref()?.granted(answer)?;
        Some((self.upgrade.take()?, protocol))
    }

    /// What its connection must speak.
    pub(super) fn need(&self) -> Need {
        if self.upgrade.is_some() { Need::Http1 } else { Need::Any }
    }

    /// The request for a connection that speaks `protocol`.
    pub(super) fn request(&self, body: Upload, protocol: Protocol, authorization: HeaderValue) -> Request<Upload> {
        let gatekeeper = body.gatekeeper().cloned();
        let is_chunked = !body.is_end_stream() && body.size_hint().exact().is_none();
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        let headers = request.headers_mut();
        *headers = self.fields.give();
        headers.insert(AUTHORIZATION, authorization);
        match protocol {
            Protocol::Http1 => {
                set_line(headers, HOST, self.api.host.clone());
                if has(headers, &TE) {
                    // Of this hop, and named as such (RFC 9110 section 10.1.4).
                    headers.insert(CONNECTION, HeaderValue::from_static("te"));
                }
                if is_chunked {
                    // hyper sends the body of a GET or HEAD only if this is said.
                    headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
                }
                if let Some(upgrade) = &self.upgrade {
                    upgrade.ask(headers);
                }
                if let Some(gatekeeper) = gatekeeper {
                    headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
                    gatekeeper.watch(&mut request);
                }
                *request.uri_mut() = Uri::from(self.target.clone());
            }
            Protocol::Http2 => {
                // `:authority` says it (RFC 9113 section 8.3.1).
                headers.remove(HOST);
                // hyper tells nobody of a 100 over HTTP/2; an early answer ends the upload there all the same.
                if let Some(gatekeeper) = gatekeeper {
                    gatekeeper.open();
                }
                *request.uri_mut() = self.absolute();
                *request.version_mut() = Version::HTTP_2;
            }
        }
        request
    }

    fn absolute(&self) -> Uri {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.api.scheme.clone());
        parts.authority = Some(self.api.authority.clone());
        parts.path_and_query = Some(self.target.clone());
        Uri::from_parts(parts).expect("it has all three parts")
    }
}

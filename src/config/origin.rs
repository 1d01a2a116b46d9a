//! Servers that are called: how, and where.

use http::HeaderValue;

/// A scheme, a host and a port (RFC 6454).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Plain or over TLS.
    pub scheme: Scheme,
    /// A DNS name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// Stated, or the scheme's own.
    pub port: u16,
}

impl Origin {
    /// What `Host` says: the port only where it is not the scheme's own (RFC 9110 section 7.2).
    #[must_use]
    pub fn host_header(&self) -> HeaderValue {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let text = if self.port == self.scheme.default_port() { host } else { format!("{host}:{}", self.port) };
        HeaderValue::try_from(text).expect("a URL's host and port are visible ASCII")
    }
}

/// How an origin is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain text: to loopback hosts only, unless `allow_plaintext` is set.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// 80 or 443.
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

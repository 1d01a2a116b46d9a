//! Whom a TLS client believes, and what it speaks.

use std::path::PathBuf;

use rustls::pki_types::CertificateDer;

/// Whom a TLS client believes.
#[derive(Clone, Debug)]
pub struct Trust {
    /// The set of public authorities.
    pub roots: Roots,
    /// The file.
    pub ca_file: Option<PathBuf>,
    /// The certificates of `ca_file`, believed beside them.
    pub extra: Vec<CertificateDer<'static>>,
    /// The oldest version that is spoken.
    pub tls_min: TlsVersion,
}

/// A version of TLS. Older ones are not spoken at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// The set of public certificate authorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Roots {
    /// Mozilla's, built in.
    Bundled,
    /// The operating system's.
    System,
}

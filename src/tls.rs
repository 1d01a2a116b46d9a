//! Whom the sidecar believes, and who it says it is: the rustls configuration of its connections to
//! the provider.

mod handshake;
mod rotation;
mod stream;

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    client::Resumption,
    crypto::ring,
    sign::SingleCertAndKey,
    version::{TLS12, TLS13},
};

pub use self::{
    handshake::{HandshakeError, Names, Suspect},
    rotation::Rotation,
    stream::TlsStream,
};
use crate::config::{ClientIdentity, Roots, TlsVersion, Trust};

/// Why a TLS configuration cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The operating system's store gave no certificate at all.
    #[error("the operating system's certificate store is empty or cannot be read")]
    NoSystemRoots,
    /// A certificate of `ca_file` cannot be an authority.
    #[error("a certificate in the `ca_file` is not usable as an authority")]
    Authority(#[source] rustls::Error),
    /// The protocol versions and the cryptography do not fit together.
    #[error("the TLS library refuses its settings")]
    Settings(#[source] rustls::Error),
}

/// The configuration for one origin: the versions and the authorities of `trust`, and no client certificate.
///
/// Sessions are resumed within the process; nothing of them is stored.
///
/// # Errors
/// When no authority would be believed, or a certificate of `ca_file` is unusable.
pub fn client_config(trust: &Trust) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    match trust.roots {
        Roots::Bundled => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Roots::System => {
            // Stores in the field hold odd certificates; what matters is that some are usable.
            let found = rustls_native_certs::load_native_certs();
            let (usable, _) = roots.add_parsable_certificates(found.certs);
            if usable == 0 {
                return Err(TlsError::NoSystemRoots);
            }
        }
    }
    for certificate in &trust.extra {
        roots.add(certificate.clone()).map_err(TlsError::Authority)?;
    }
    let versions: &[&SupportedProtocolVersion] = match trust.tls_min {
        TlsVersion::Tls12 => &[&TLS13, &TLS12],
        TlsVersion::Tls13 => &[&TLS13],
    };
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .map_err(TlsError::Settings)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// The same, for a client that shows this certificate where one is asked for.
///
/// No session is resumed that was made without it: that would go on as whoever made it.
#[must_use]
pub fn with_identity(config: &ClientConfig, identity: &ClientIdentity) -> ClientConfig {
    let mut config = config.clone();
    config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(Arc::clone(&identity.certified)));
    config.resumption = Resumption::default();
    config
}

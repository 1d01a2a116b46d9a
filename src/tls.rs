//! Whom the sidecar believes: the rustls configuration of its connections to the provider.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::config::{Roots, Trust};

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

/// The configuration for one origin: TLS 1.2 and 1.3, and the authorities of `trust`.
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
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(TlsError::Settings)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

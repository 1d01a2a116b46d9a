//! The certificate by which the API knows the client (mTLS), and its key: two files that fit together.

use std::{error::Error, fmt, path::PathBuf, sync::Arc, time::SystemTime};

use rustls::{
    InconsistentKeys,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use zeroize::Zeroize;

use crate::{
    certificate,
    secret::{Secret, SecretError, SecretSource},
};

pub(super) const CERTIFICATE: &str = "upstream.client_cert_file";
pub(super) const KEY: &str = "upstream.client_key_file";

/// A client's certificate, and where it came from and may be replaced.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The files.
    pub files: IdentityFiles,
    /// What was in them.
    pub text: IdentityText,
    /// What that is.
    pub client: ClientIdentity,
}

/// Where the certificate and its key are.
#[derive(Clone, Debug)]
pub struct IdentityFiles {
    /// PEM: the certificate, then those between it and its authority.
    pub certificate: PathBuf,
    /// PEM: PKCS #8, PKCS #1 or SEC 1, not encrypted.
    pub key: PathBuf,
}

/// What was in the two files at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityText {
    certificate: Secret,
    key: Secret,
}

/// A certificate with its key, good to be shown.
#[derive(Clone)]
pub struct ClientIdentity {
    /// For the handshake.
    pub certified: Arc<CertifiedKey>,
    /// When the certificate is no longer valid.
    pub end: SystemTime,
}

impl IdentityFiles {
    /// Opens both files anew by their paths: a mounted secret is replaced by swapping a symbolic link.
    ///
    /// # Errors
    /// When one gives no text.
    pub fn read(&self) -> Result<IdentityText, IdentityError> {
        let read = |path: &PathBuf| SecretSource::File(path.clone()).read();
        Ok(IdentityText {
            certificate: read(&self.certificate).map_err(IdentityError::CertificateFile)?,
            key: read(&self.key).map_err(IdentityError::KeyFile)?,
        })
    }
}

impl IdentityText {
    /// # Errors
    /// When it is no certificate that is valid at `now` with the key that belongs to it.
    pub fn parse(&self, now: SystemTime) -> Result<ClientIdentity, IdentityError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(self.certificate.expose().as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| IdentityError::NoCertificate)?;
        let leaf = chain.first().ok_or(IdentityError::NoCertificate)?;
        let end = certificate::end(leaf).ok_or(IdentityError::NoCertificate)?;
        if end < now {
            return Err(IdentityError::Expired(end));
        }
        let mut key = PrivateKeyDer::from_pem_slice(self.key.expose().as_bytes()).map_err(|_| IdentityError::NoKey)?;
        let signer = ring::sign::any_supported_type(&key);
        key.zeroize();
        let certified = CertifiedKey::new(chain, signer.map_err(|_| IdentityError::UnusableKey)?);
        match certified.keys_match() {
            Ok(()) => Ok(ClientIdentity { certified: Arc::new(certified), end }),
            Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Err(IdentityError::OtherKey),
            Err(_) => Err(IdentityError::NoCertificate),
        }
    }
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientIdentity").field("end", &self.end).finish_non_exhaustive()
    }
}

/// Why two files are of no use as an identity. The rest of a sentence that [`key`](Self::key) begins;
/// nothing of the files is shown.
#[derive(Debug)]
pub enum IdentityError {
    /// The certificate's file cannot be read.
    CertificateFile(SecretError),
    /// The key's file cannot be read.
    KeyFile(SecretError),
    /// There is no certificate in its file, or a broken one.
    NoCertificate,
    /// The certificate's time is over.
    Expired(SystemTime),
    /// There is no private key in its file, or it is encrypted.
    NoKey,
    /// The key is of a kind that is not supported.
    UnusableKey,
    /// The key is that of another certificate.
    OtherKey,
}

impl IdentityError {
    /// The configuration key of the file that is to blame.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::CertificateFile(_) | Self::NoCertificate | Self::Expired(_) => CERTIFICATE,
            Self::KeyFile(_) | Self::NoKey | Self::UnusableKey | Self::OtherKey => KEY,
        }
    }

    /// What to do.
    pub(super) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::CertificateFile(_) | Self::KeyFile(_) => None,
            Self::NoCertificate => Some("it begins with `-----BEGIN CERTIFICATE-----`"),
            Self::Expired(_) => Some("have it renewed: the API would refuse it"),
            Self::NoKey => Some("it begins with `-----BEGIN PRIVATE KEY-----`; decrypt it if it is encrypted"),
            Self::UnusableKey => Some("use RSA of 2048 to 8192 bits, ECDSA on P-256 or P-384, or Ed25519"),
            Self::OtherKey => Some("both must come from the same request for a certificate"),
        }
    }
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CertificateFile(_) => f.write_str("gives no certificate"),
            Self::KeyFile(_) => f.write_str("gives no key"),
            Self::NoCertificate => f.write_str("holds no PEM certificate that can be understood"),
            Self::Expired(end) => {
                write!(f, "holds a certificate that expired at {}", humantime::format_rfc3339_seconds(*end))
            }
            Self::NoKey => f.write_str("holds no PEM private key that can be understood"),
            Self::UnusableKey => f.write_str("holds a private key of a kind that is not supported"),
            Self::OtherKey => write!(f, "holds a key that does not belong to the certificate of `{CERTIFICATE}`"),
        }
    }
}

impl Error for IdentityError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::CertificateFile(error) | Self::KeyFile(error) => Some(error),
            Self::NoCertificate | Self::Expired(_) | Self::NoKey | Self::UnusableKey | Self::OtherKey => None,
        }
    }
}

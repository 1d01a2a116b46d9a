//! Why a handshake failed, in words, by who is to blame.

use std::{
    error::Error,
    fmt, io,
    time::{Duration, SystemTime},
};

use rustls::{
    AlertDescription, CertificateError, PeerIncompatible, PeerMisbehaved,
    pki_types::{ServerName, UnixTime},
};

/// The most names of a certificate that are told, and the most characters of each. They come from others.
const MAX_NAMES: usize = 5;
const MAX_NAME: usize = 80;

/// Why a handshake failed. Nothing of what was to be sent on the connection was sent, unless it is a
/// [`ClientCertificate`](Self::ClientCertificate) that is refused over TLS 1.3: that is told with delay.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The host's certificate is over.
    #[error("the host's certificate expired{}", at(.0))]
    Expired(Option<UnixTime>),
    /// The host's certificate, or a clock, is ahead of time.
    #[error("the host's certificate is not valid yet{}: is this machine's clock right?", since(.0))]
    NotYetValid(Option<UnixTime>),
    /// The host's certificate is that of another.
    #[error("the host's certificate is not for {}", .0)]
    OtherName(Names),
    /// Nobody that is believed has signed the host's certificate.
    #[error("the host's certificate is self-signed, or signed by an authority that is not believed")]
    UnknownIssuer,
    /// The host's certificate names a believed authority, and has another signature.
    #[error("the host's certificate is not signed by the key of the authority that it names, as that is known here")]
    BadSignature,
    /// The host shows an authority's own certificate, which is not to be shown by a server.
    #[error("the host shows a self-signed certificate that is an authority's, not a server's")]
    AuthorityAsServer,
    /// The host's certificate is of no use for another reason.
    #[error("the host's certificate cannot be accepted")]
    Certificate(#[source] rustls::Error),
    /// The host speaks older versions only.
    #[error("the host speaks no TLS version that is new enough")]
    OldVersion,
    /// Somebody on the way had both sides speak an older version.
    #[error("the host's answer was changed on its way, to downgrade TLS")]
    Downgrade,
    /// Versions agree, and nothing else does.
    #[error("the host shares no cipher suite or key exchange")]
    NothingShared,
    /// The host says no, and not why. Over TLS 1.2 many servers say so for want of a client certificate.
    #[error("the host rejects the handshake: it shares no cipher suite, or demands a client certificate")]
    Rejected,
    /// The host speaks none of the protocols that were offered (RFC 7301 section 3.2).
    #[error("the host speaks no HTTP version that was offered")]
    NoSharedProtocol,
    /// The host does not know its own name (RFC 6066 section 3).
    #[error("the host does not serve the name that it is called by")]
    UnknownName,
    /// The host does not take the client's certificate, or wants one.
    #[error("the host {}", complaint(*.0))]
    ClientCertificate(AlertDescription),
    /// What answers does not speak TLS.
    #[error("what the host says is not TLS")]
    NotTls,
    /// The connection ended.
    #[error("the host broke the handshake off")]
    Broken(#[source] io::Error),
    /// Anything else.
    #[error("TLS cannot be spoken with the host")]
    Other(#[source] rustls::Error),
}

/// The part of the configuration that a failed handshake calls into question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspect {
    /// The name, the port or the scheme in `url`.
    Url,
    /// `ca_file`.
    Authorities,
    /// `tls_min`.
    Version,
    /// `client_cert_file`.
    ClientCertificate,
}

impl HandshakeError {
    /// What an operator should look at here; none if it is for the host to act.
    #[must_use]
    pub fn suspect(&self) -> Option<Suspect> {
        match self {
            Self::OtherName(_) | Self::UnknownName | Self::NotTls => Some(Suspect::Url),
            Self::UnknownIssuer | Self::BadSignature | Self::AuthorityAsServer => Some(Suspect::Authorities),
            Self::OldVersion => Some(Suspect::Version),
            Self::ClientCertificate(_) | Self::Rejected => Some(Suspect::ClientCertificate),
            Self::Expired(_)
            | Self::NotYetValid(_)
            | Self::Certificate(_)
            | Self::Downgrade
            | Self::NothingShared
            | Self::NoSharedProtocol
            | Self::Broken(_)
            | Self::Other(_) => None,
        }
    }

    /// The host's word, on a connection that seemed to be made, that it does not take the client's
    /// certificate: over TLS 1.3 it comes after the client's last word (RFC 8446 section 4.4.2.4).
    #[must_use]
    pub fn late_refusal(error: &(dyn Error + 'static)) -> Option<AlertDescription> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>()
                && let Some(rustls::Error::AlertReceived(alert)) = tls_error(error)
            {
                return Some(*alert).filter(|alert| is_about_client_certificate(*alert));
            }
            cause = error.source();
        }
        None
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        match tls_error(&error) {
            Some(error) => error.clone().into(),
            None => Self::Broken(error),
        }
    }
}

impl From<rustls::Error> for HandshakeError {
    fn from(error: rustls::Error) -> Self {
        use rustls::Error as E;
        match error {
            E::InvalidCertificate(error) => error.into(),
            E::AlertReceived(AlertDescription::ProtocolVersion)
            | E::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            ) => Self::OldVersion,
            E::PeerMisbehaved(PeerMisbehaved::AttemptedDowngradeToTls12WhenTls13IsSupported) => Self::Downgrade,
            E::AlertReceived(AlertDescription::NoApplicationProtocol) | E::NoApplicationProtocol => {
                Self::NoSharedProtocol
            }
            E::AlertReceived(AlertDescription::UnrecognisedName) => Self::UnknownName,
            E::AlertReceived(AlertDescription::HandshakeFailure) => Self::Rejected,
            E::AlertReceived(AlertDescription::InsufficientSecurity) | E::PeerIncompatible(_) => Self::NothingShared,
            E::AlertReceived(alert) if is_about_client_certificate(alert) => Self::ClientCertificate(alert),
            E::InvalidMessage(_) => Self::NotTls,
            other => Self::Other(other),
        }
    }
}

impl From<CertificateError> for HandshakeError {
    fn from(error: CertificateError) -> Self {
        use CertificateError as E;
        match error {
            E::Expired => Self::Expired(None),
            E::ExpiredContext { not_after, .. } => Self::Expired(Some(not_after)),
            E::NotValidYet => Self::NotYetValid(None),
            E::NotValidYetContext { not_before, .. } => Self::NotYetValid(Some(not_before)),
            E::NotValidForName => Self::OtherName(Names { expected: None, presented: Vec::new() }),
            E::NotValidForNameContext { expected, presented } => {
                Self::OtherName(Names { expected: Some(expected), presented })
            }
            E::UnknownIssuer => Self::UnknownIssuer,
            E::BadSignature => Self::BadSignature,
            E::Other(other) if other.0.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity) => {
                Self::AuthorityAsServer
            }
            other => Self::Certificate(rustls::Error::InvalidCertificate(other)),
        }
    }
}

/// Whom a certificate should be for, and whom it is for.
#[derive(Debug)]
pub struct Names {
    expected: Option<ServerName<'static>>,
    presented: Vec<String>,
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.expected {
            Some(name) => write!(f, "`{}`", name.to_str())?,
            None => f.write_str("the host's name")?,
        }
        for (number, name) in self.presented.iter().take(MAX_NAMES).enumerate() {
            // The library's notation for the usual kind of name says no more than the name itself.
            let name = name.strip_prefix("DnsName(\"").and_then(|name| name.strip_suffix("\")")).unwrap_or(name);
            let name: String = name.chars().filter(char::is_ascii_graphic).take(MAX_NAME).collect();
            write!(f, "{}`{name}`", if number == 0 { ", but for " } else { ", " })?;
        }
        match self.presented.len().checked_sub(MAX_NAMES) {
            _ if self.presented.is_empty() => f.write_str(", nor for any other name"),
            Some(more @ 1..) => write!(f, " and {more} more"),
            Some(0) | None => Ok(()),
        }
    }
}

fn is_about_client_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            // The certificate's signature, or that of the handshake by its key.
            | AlertDescription::DecryptError
    )
}

fn complaint(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => "demands a client certificate",
        AlertDescription::CertificateExpired => "finds the client certificate expired",
        AlertDescription::CertificateRevoked => "finds the client certificate revoked",
        AlertDescription::UnknownCA => "does not know the authority of the client certificate",
        AlertDescription::AccessDenied => "denies the client certificate access",
        _ => "does not accept the client certificate",
    }
}

fn at(moment: &Option<UnixTime>) -> String {
    moment.map(|moment| format!(" at {}", date(moment))).unwrap_or_default()
}

fn since(moment: &Option<UnixTime>) -> String {
    moment.map(|moment| format!(", but from {}", date(moment))).unwrap_or_default()
}

/// At most the last second of the year 9999, the end of what X.509 and RFC 3339 can write.
fn date(moment: UnixTime) -> String {
    let seconds = moment.as_secs().min(253_402_300_799);
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use rustls::{AlertDescription, CertificateError, OtherError, pki_types::ServerName};

    use super::{HandshakeError, Suspect};

    #[test]
    fn a_certificate_for_others_tells_a_few_of_their_names() {
        let told = |names: &[&str]| {
            let expected = ServerName::try_from("api.example").expect("a name");
            let presented = names.iter().map(|&name| name.to_owned()).collect();
            HandshakeError::from(CertificateError::NotValidForNameContext { expected, presented }).to_string()
        };
        let head = "the host's certificate is not for `api.example`";
        assert_eq!(told(&[]), format!("{head}, nor for any other name"));
        assert_eq!(told(&["DnsName(\"a.example\")"]), format!("{head}, but for `a.example`"));
        assert_eq!(told(&["a", "b\n\u{1b}`"]), format!("{head}, but for `a`, `b``"));
        assert_eq!(told(&["a"; 7]), format!("{head}, but for `a`, `a`, `a`, `a`, `a` and 2 more"));
    }

    #[test]
    fn a_server_that_shows_an_authority_s_certificate_is_told_apart() {
        let error = CertificateError::Other(OtherError(Arc::new(webpki::Error::CaUsedAsEndEntity)));
        let error = HandshakeError::from(error);
        assert!(matches!(error, HandshakeError::AuthorityAsServer), "{error:?}");
        assert_eq!(error.suspect(), Some(Suspect::Authorities));
    }

    #[test]
    fn only_an_alert_about_the_certificate_is_a_late_refusal() {
        let alert = |alert| io::Error::other(rustls::Error::AlertReceived(alert));
        let refusal = HandshakeError::late_refusal(&alert(AlertDescription::CertificateRequired));
        assert_eq!(refusal, Some(AlertDescription::CertificateRequired));
        assert_eq!(HandshakeError::late_refusal(&alert(AlertDescription::InternalError)), None);
        assert_eq!(HandshakeError::late_refusal(&io::Error::other("x")), None);
    }
}

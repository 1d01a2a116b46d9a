//! What a certificate says of itself (RFC 5280 section 4.1).

use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_parser::parse_x509_certificate;

/// When it is no longer valid; none if it is no certificate.
#[must_use]
pub fn end(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, certificate) = parse_x509_certificate(certificate).ok()?;
    // What ended before 1970 ended then, for all that matters here.
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// When the first of them is no longer valid; none without any.
#[must_use]
pub fn earliest_end(certificates: &[CertificateDer<'_>]) -> Option<SystemTime> {
    certificates.iter().filter_map(end).min()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use rustls::pki_types::CertificateDer;

    use super::{earliest_end, end};

    fn ending(year: i32) -> CertificateDer<'static> {
        let mut leaf = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        leaf.not_before = date_time_ymd(1960, 1, 1);
        leaf.not_after = date_time_ymd(year, 1, 1);
        leaf.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").der().clone()
    }

    #[test]
    fn the_end_of_a_certificate_is_read_and_the_first_of_many_counts() {
        let in_2001 = SystemTime::UNIX_EPOCH + Duration::from_secs(978_307_200);
        assert_eq!(end(&ending(2001)), Some(in_2001));
        assert_eq!(end(&ending(1965)), Some(SystemTime::UNIX_EPOCH));
        assert_eq!(earliest_end(&[ending(2060), ending(2001), ending(2030)]), Some(in_2001));
        assert_eq!(earliest_end(&[]), None);
        assert_eq!(end(&CertificateDer::from(vec![0x30, 0x03, 1, 2])), None);
    }
}

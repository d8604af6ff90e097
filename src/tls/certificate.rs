//! Owns: what a certificate states: its subject, its names and its validity.
//! Invariant: the current time is an argument.
//! Must not know: files, or who trusts the certificate.

use std::time::Duration;

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::subject;

/// A certificate that expires in fewer days than this gets a warning, if that is no more than a fifth of its lifetime:
/// one of a week is renewed when two days are left, and needs no warning before.
const SOON_DAYS: i64 = 30;

/// The part of its lifetime at whose end a certificate expires soon: one in so many.
const SOON_PART: i64 = 5;

const DAY: i64 = 24 * 60 * 60;

/// What a certificate states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The subject, in the notation of RFC 4514.
    pub subject: String,
    /// The host names and IP addresses of the subject alternative name, in lower case.
    pub names: Vec<String>,
    /// The start of its validity, in seconds since 1970.
    pub not_before: i64,
    /// The end of its validity, in seconds since 1970.
    pub not_after: i64,
}

/// The validity of a certificate at a given time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// It becomes valid in this many days, rounded up.
    NotYet(i64),
    /// It is valid for 30 days, or for a fifth of its lifetime, or longer.
    Good,
    /// It expires in this many whole days, before that.
    Soon(i64),
    /// It expired this many whole days ago.
    Expired(i64),
}

impl Certificate {
    /// Parses a certificate; `None` if the DER is invalid.
    pub fn read(der: &CertificateDer<'_>) -> Option<Certificate> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.iter().flat_map(|names| &names.value.general_names);
        Some(Certificate {
            subject: subject::rfc4514(certificate.subject()),
            names: names.filter_map(name).collect(),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
        })
    }

    /// Returns the first of its names, or else its subject: what messages and metrics call it.
    pub fn name(&self) -> &str {
        self.names.first().unwrap_or(&self.subject)
    }

    /// Returns the whole days from `now`, since 1970, until it expires; negative once it has.
    pub fn days_left(&self, now: Duration) -> i64 {
        (self.not_after - seconds(now)).div_euclid(DAY)
    }

    /// Judges the validity at the time `now`, since 1970.
    pub fn validity(&self, now: Duration) -> Validity {
        let now_seconds = seconds(now);
        if self.not_after < now_seconds {
            Validity::Expired((now_seconds - self.not_after) / DAY)
        } else if self.not_before > now_seconds {
            Validity::NotYet((self.not_before - now_seconds).div_euclid(DAY) + 1)
        } else {
            let soon = (SOON_DAYS * DAY).min((self.not_after - self.not_before) / SOON_PART);
            if self.not_after - now_seconds < soon { Validity::Soon(self.days_left(now)) } else { Validity::Good }
        }
    }
}

/// Checks that each certificate of a chain names the next one as its issuer.
pub fn is_in_order(chain: &[CertificateDer<'_>]) -> bool {
    chain.windows(2).all(|two| {
        let [one, next] = two else { return true };
        match (X509Certificate::from_der(one), X509Certificate::from_der(next)) {
            (Ok((_, one)), Ok((_, next))) => one.issuer().as_raw() == next.subject().as_raw(),
            _ => false,
        }
    })
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        // Host names are ASCII: no client can ask for any other.
        GeneralName::DNSName(name) if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Some(name.to_ascii_lowercase())
        }
        GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
            (Ok(four), _) => Some(std::net::Ipv4Addr::from(four).to_string()),
            (_, Ok(sixteen)) => Some(std::net::Ipv6Addr::from(sixteen).to_string()),
            _ => None,
        },
        _ => None,
    }
}

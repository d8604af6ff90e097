//! Owns: what a certificate says of itself: for whom it is, and from when to when.
//! Invariant: a date is judged at the time that is passed in.
//! Must not know: files, and who believes it.

use std::time::Duration;

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::subject;

/// A certificate that ends sooner than this is worth a word.
pub const SOON_DAYS: i64 = 30;

const DAY: i64 = 24 * 60 * 60;

/// What a certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Its holder, as RFC 4514 writes it.
    pub subject: String,
    /// The host names and IP addresses that it is for, in lower case.
    pub names: Vec<String>,
    /// When it begins, in seconds since 1970.
    pub not_before: i64,
    /// When it ends.
    pub not_after: i64,
}

/// How a certificate stands at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// It begins in so many days, rounded up.
    NotYet(i64),
    /// For a while yet.
    Good,
    /// It ends in so many whole days.
    Soon(i64),
    /// It has ended so many whole days ago.
    Expired(i64),
}

impl Certificate {
    /// Reads what a certificate says; `None` if it is none.
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

    /// What to call it: the first of its names, or its holder.
    pub fn name(&self) -> &str {
        self.names.first().unwrap_or(&self.subject)
    }

    /// Whole days until it ends, at the time `now` since 1970; negative once it has.
    pub fn days_left(&self, now: Duration) -> i64 {
        (self.not_after - seconds(now)).div_euclid(DAY)
    }

    /// How it stands at the time `now` since 1970.
    pub fn validity(&self, now: Duration) -> Validity {
        let now_seconds = seconds(now);
        if self.not_after < now_seconds {
            Validity::Expired((now_seconds - self.not_after) / DAY)
        } else if self.not_before > now_seconds {
            Validity::NotYet((self.not_before - now_seconds).div_euclid(DAY) + 1)
        } else {
            match self.days_left(now) {
                days if days < SOON_DAYS => Validity::Soon(days),
                _ => Validity::Good,
            }
        }
    }
}

/// Whether each certificate of a chain is signed in the name of the next.
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
        // Names are ASCII; what is not can't be asked for.
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

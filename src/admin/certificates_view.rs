//! Owns: what the admin API and the metrics show of certificates.
//! Invariant: both show each certificate in use once.
//! Must not know: keys.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use serde::Serialize;

use crate::clock;
use crate::tls::reload::{CertificateExpiry, WatchedCertificates};

/// A certificate, in `GET /api/v1/certificates`.
#[derive(Debug, Serialize)]
pub(super) struct CertificateView {
    /// Whose it is: `listener` or `pool`.
    kind: &'static str,
    /// The name of that listener or pool.
    of: String,
    /// The names that it is for.
    certificate: String,
    /// When it expires, in seconds since the Unix epoch.
    not_after: i64,
    /// Whole days until then; negative after that.
    days: i64,
}

/// Lists all certificates in use.
pub(super) fn list(certificates: &WatchedCertificates) -> Vec<CertificateView> {
    let all = certificates.expiries(clock::unix()).into_iter();
    all.map(|one| CertificateView {
        kind: one.kind,
        of: one.of,
        certificate: one.certificate,
        not_after: one.not_after,
        days: one.days,
    })
    .collect()
}

/// Encodes when each of them becomes valid and expires: how much of its lifetime is left says more than how many days.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, certificates: &WatchedCertificates) -> fmt::Result {
    type Time = fn(&CertificateExpiry) -> i64;
    let families: [(&str, &str, Time); 2] = [
        (
            "linchpin_certificate_not_before_timestamp",
            "When the certificate becomes valid, since the Unix epoch",
            |one| one.not_before,
        ),
        ("linchpin_certificate_not_after_timestamp", "When the certificate expires, since the Unix epoch", |one| {
            one.not_after
        }),
    ];
    let all = certificates.expiries(clock::unix());
    for (name, help, time) in families {
        let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for one in &all {
            let labels = [(one.kind, &*one.of), ("certificate", &*one.certificate)];
            family.encode_family(&labels)?.encode_gauge(&time(one))?;
        }
    }
    Ok(())
}

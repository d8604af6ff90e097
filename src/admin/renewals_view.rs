//! Owns: what the admin API and the metrics show of certificates from ACME servers.
//! Invariant: each name shows what the storage holds, whichever Linchpin obtained the certificate.
//! Must not know: keys; how certificates are obtained.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use serde::Serialize;

use crate::acme::{CertificateStatus, Statuses};

/// The certificate for one name, in `GET /api/v1/renewals`.
#[derive(Debug, Serialize)]
pub(super) struct RenewalView {
    /// The listener.
    listener: String,
    /// The host name.
    name: String,
    /// The directory URL of the ACME server.
    directory: String,
    /// When the certificate expires, in seconds since the Unix epoch; `null` if there is none yet.
    not_after: Option<u64>,
    /// When the next order is due, in seconds since the Unix epoch.
    next_order: u64,
    /// The orders that have failed since the last success.
    failures: u32,
    /// Why the last one failed.
    error: Option<String>,
}

/// Lists the certificates from ACME servers.
pub(super) fn list(statuses: &Statuses) -> Vec<RenewalView> {
    let view = |status: CertificateStatus| {
        let CertificateStatus { listener, name, directory, not_after, next_order, failures, error } = status;
        RenewalView { listener, name, directory, not_after, next_order, failures, error }
    };
    statuses.certificates().into_iter().map(view).collect()
}

/// Encodes the state of each name, and the orders of each listener.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, statuses: &Statuses) -> fmt::Result {
    let certificates = statuses.certificates();
    let help = "Orders of a certificate that have failed since the last success";
    let mut family = encoder.encode_descriptor("linchpin_acme_failures", help, None, MetricType::Gauge)?;
    for status in &certificates {
        let labels = [("listener", &*status.listener), ("certificate", &*status.name)];
        family.encode_family(&labels)?.encode_gauge(&u64::from(status.failures))?;
    }
    let help = "When the next order is due, since the Unix epoch";
    let (name, unit) = ("linchpin_acme_next_order_timestamp", Some(&Unit::Seconds));
    let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    for status in &certificates {
        let labels = [("listener", &*status.listener), ("certificate", &*status.name)];
        family.encode_family(&labels)?.encode_gauge(&status.next_order)?;
    }
    let help = "Orders of certificates by this process, by result";
    let mut family = encoder.encode_descriptor("linchpin_acme_orders", help, None, MetricType::Counter)?;
    for (listener, attempts) in statuses.attempts() {
        for (result, count) in [("succeeded", attempts.succeeded), ("failed", attempts.failed)] {
            let labels = [("listener", &*listener), ("result", result)];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
    }
    Ok(())
}

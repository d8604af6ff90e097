//! Owns: what the admin plane shows of certificates from ACME servers: each one's state, and the attempts so far.
//! Invariant: a listener shows what its storage holds, whichever Linchpin obtained it.
//! Must not know: how it is shown.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The state of the certificate for one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateStatus {
    /// The listener.
    pub listener: String,
    /// The host name.
    pub name: String,
    /// The directory URL of the ACME server.
    pub directory: String,
    /// When the stored certificate expires, in seconds since 1970; `None` if there is none.
    pub not_after: Option<u64>,
    /// When the next order is due, in seconds since 1970.
    pub next_order: u64,
    /// The orders that have failed since the last success.
    pub failures: u32,
    /// Why the last one failed.
    pub error: Option<String>,
}

/// The orders of a listener that this process has made since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attempts {
    /// Those that obtained a certificate.
    pub succeeded: u64,
    /// The others.
    pub failed: u64,
}

/// The state of all certificates from ACME servers. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Statuses(Arc<Mutex<BTreeMap<String, ListenerStatus>>>);

#[derive(Debug, Default)]
struct ListenerStatus {
    certificates: Vec<CertificateStatus>,
    attempts: Attempts,
}

impl Statuses {
    /// Returns the state of each certificate.
    pub fn certificates(&self) -> Vec<CertificateStatus> {
        self.lock().values().flat_map(|status| status.certificates.clone()).collect()
    }

    /// Returns the attempts of each listener.
    pub fn attempts(&self) -> Vec<(String, Attempts)> {
        self.lock().iter().map(|(listener, status)| (listener.clone(), status.attempts)).collect()
    }

    pub(super) fn set(&self, listener: &str, certificates: Vec<CertificateStatus>) {
        self.lock().entry(listener.into()).or_default().certificates = certificates;
    }

    pub(super) fn attempted(&self, listener: &str, is_success: bool) {
        let mut all = self.lock();
        let attempts = &mut all.entry(listener.into()).or_default().attempts;
        *if is_success { &mut attempts.succeeded } else { &mut attempts.failed } += 1;
    }

    pub(super) fn remove(&self, listener: &str) {
        self.lock().remove(listener);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, ListenerStatus>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

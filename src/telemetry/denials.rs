//! Owns: the counters of requests that the access rules of a route refused.
//! Invariant: each refused request counts once, for the first rule that refused it.
//! Must not know: the rules.

use prometheus_client::encoding::DescriptorEncoder;

use super::event_counters::{EventCounters, Family};

/// Why a route's access rules refuse a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// The client's address is in `deny`, or not in `allow`.
    Address,
    /// Another route, with other rules, is for the path as servers may read it.
    AmbiguousPath,
    /// The request has no credentials for basic authentication.
    NoCredentials,
    /// The request's credentials are wrong.
    WrongCredentials,
    /// More passwords wait to be verified than may.
    PasswordsBusy,
}

impl Denial {
    /// The names in metrics and in the access log, in the order of the variants.
    pub const NAMES: [&'static str; 5] =
        ["address_denied", "ambiguous_path", "no_credentials", "wrong_credentials", "passwords_busy"];

    /// The name in metrics and in the access log.
    pub fn as_str(self) -> &'static str {
        Denial::NAMES.get(self as usize).copied().unwrap_or("denied")
    }
}

/// The counters of refused requests.
#[derive(Debug)]
pub struct DenialCounters(EventCounters<{ Denial::NAMES.len() }>);

const FAMILY: Family<{ Denial::NAMES.len() }> = Family {
    name: "linchpin_access_denied",
    help: "Requests that the access rules of a route refused, by reason",
    label: "reason",
    values: Denial::NAMES,
};

impl DenialCounters {
    /// Makes counters for `threads` threads.
    pub fn new(threads: usize) -> DenialCounters {
        DenialCounters(EventCounters::new(threads))
    }

    /// Counts one request on `thread`. Only that thread may call this.
    pub fn count(&self, thread: usize, denial: Denial) {
        self.0.count(thread, denial as usize);
    }

    /// Returns the count for one reason over all threads.
    pub fn total(&self, denial: Denial) -> u64 {
        self.0.total(denial as usize)
    }

    /// Writes the metric `linchpin_access_denied`.
    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.encode(&FAMILY, encoder)
    }
}

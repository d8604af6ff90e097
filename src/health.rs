//! Owns: health checks of backends: by probes (active) and by the outcome of requests (passive).
//! Invariant: it only observes; the pool's state machine decides.
//! Must not know: pins, balancing, or which request goes to which backend.

pub mod active;
mod announce;
pub mod passive;

use std::ops::RangeInclusive;
use std::time::Duration;

/// `[pools.health]`, without rise and fall (see [`crate::pool::health_state::Settings`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How a backend is asked.
    pub probe: Probe,
    /// From the start of one probe to the start of the next, up to a tenth more or less, so that
    /// probes of many proxies don't come all at once.
    pub interval: Duration,
    /// How long a probe may take; a later answer is a failure.
    pub timeout: Duration,
}

/// The key `type` of `[pools.health]`, and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// Not at all: every backend is believed, and only failed requests tell.
    None,
    /// Does it accept a connection?
    Tcp,
    /// Does it answer a GET as expected?
    Http {
        /// Path and query of the request.
        path: String,
        /// The Host field; the backend's address if not set.
        host: Option<String>,
        /// Status codes that pass.
        expect: Vec<RangeInclusive<u16>>,
    },
}

impl Default for Settings {
    fn default() -> Self {
        Settings { probe: Probe::None, interval: Duration::from_secs(2), timeout: Duration::from_secs(2) }
    }
}

impl Probe {
    /// An HTTP probe that says no more than `type = "http"`.
    pub fn http() -> Probe {
        Probe::Http { path: "/".into(), host: None, expect: vec![200..=399] }
    }
}

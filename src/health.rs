//! Owns: health checks of backends: by probes (active) and by the outcome of requests (passive).
//! Invariant: this module only observes; the pool's state machine decides.
//! Must not know: pins, balancing, or which request goes to which backend.

pub mod active;
mod announce;
mod drain_request;
pub mod passive;

pub use announce::announce;

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::upstream;

/// `[pools.health]`, without rise and fall (see [`crate::pool::health_state::Settings`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What a probe sends, and what it expects.
    pub probe: Probe,
    /// The port that is probed, if not the backend's own.
    pub port: Option<u16>,
    /// How probes connect, if not as requests do.
    pub upstream: Option<upstream::Settings>,
    /// The time from the start of one probe to the start of the next. It varies by up to a tenth, so that the probes of
    /// many proxies don't reach a backend all at once.
    pub interval: Duration,
    /// How long a probe may take; a later response is a failure.
    pub timeout: Duration,
}

/// The key `type` of `[pools.health]`, and the keys that depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// No probes: a backend counts as up until requests on it fail.
    None,
    /// Passes if the backend accepts a connection.
    Tcp,
    /// Passes if the backend responds to a GET with an expected status.
    Http {
        /// Path and query of the request.
        path: String,
        /// The Host field of the request; the backend's address if not set.
        host: Option<String>,
        /// Status codes that pass.
        expect: Vec<RangeInclusive<u16>>,
    },
}

impl Default for Settings {
    fn default() -> Self {
        let (interval, timeout) = (Duration::from_secs(2), Duration::from_secs(2));
        Settings { probe: Probe::None, port: None, upstream: None, interval, timeout }
    }
}

impl Probe {
    /// Returns the HTTP probe of a configuration that has `type = "http"` and no further key.
    pub fn http() -> Probe {
        Probe::Http { path: "/".into(), host: None, expect: vec![200..=399] }
    }
}

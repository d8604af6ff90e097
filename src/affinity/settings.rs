//! Owns: what `[pools.persistence]` configures.
//! Invariant: what is here was checked when the configuration was read.
//! Must not know: requests, or how a pin is read.

use std::time::Duration;

use http::header::HeaderName;

use super::policy::Policies;
use super::rules::Rule;
use super::{cookie, header, learned, route};

/// `[pools.persistence]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the pin travels: the key `type`.
    pub carrier: Carrier,
    /// A session that was silent for this long is over.
    pub idle_timeout: Option<Duration>,
    /// A session that was begun this long ago is over.
    pub absolute_timeout: Option<Duration>,
    /// How far ahead of this clock a sealed pin may be dated, from 0 to ten years. One that is dated
    /// later is unreadable: no clock of a Linchpin that shares the keys is meant to be so far off.
    pub max_clock_skew: Duration,
    /// First requests of one client that come within this time go to one backend.
    pub converge: Option<Duration>,
    /// What is done when a pin does not hold.
    pub on: Policies,
    /// Requests that are exempt or forced; the first rule that matches counts.
    pub rules: Vec<Rule>,
    /// The field of responses that says verdict and cause, if one is to.
    pub verdict_header: Option<HeaderName>,
}

impl Settings {
    /// What holds for the pool named `pool` if nothing is configured.
    pub fn for_pool(pool: &str) -> Settings {
        Settings { carrier: Carrier::Cookie(cookie::Settings::for_pool(pool)), ..Settings::none() }
    }

    /// For a pool whose clients are not pinned.
    pub fn none() -> Settings {
        Settings {
            carrier: Carrier::None,
            idle_timeout: None,
            absolute_timeout: None,
            max_clock_skew: MAX_CLOCK_SKEW,
            converge: None,
            on: Policies::default(),
            rules: Vec::new(),
            verdict_header: None,
        }
    }
}

/// Where a pin travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carrier {
    /// Nowhere: clients are not pinned.
    None,
    /// In a sealed routing cookie.
    Cookie(cookie::Settings),
    /// Sealed in a field of requests and responses.
    Header(header::Settings),
    /// Nowhere: the application's session id names its server.
    Route(route::Settings),
    /// Nowhere: the application's session id is remembered.
    Learned(learned::Settings),
}

/// Clocks that are kept by NTP are closer together than this, and so are most that are not.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(60);

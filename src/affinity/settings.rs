//! Owns: the settings of `[pools.persistence]`.
//! Invariant: `config` has checked every value before it gets here.
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
    /// A session ends after this long without a request.
    pub idle_timeout: Option<Duration>,
    /// A session ends this long after its start.
    pub absolute_timeout: Option<Duration>,
    /// How far ahead of this clock a sealed pin may be dated, from 0 to ten years. A pin that is dated later is
    /// unreadable: no Linchpin that shares the keys should have a clock so far off.
    pub max_clock_skew: Duration,
    /// First requests of one client that arrive within this time go to one backend.
    pub converge: Option<Duration>,
    /// What to do when a pin does not hold.
    pub on: Policies,
    /// Which requests are exempt or forced; the first rule that matches counts.
    pub rules: Vec<Rule>,
    /// The response field that carries verdict and cause, if there is one.
    pub verdict_header: Option<HeaderName>,
}

impl Settings {
    /// The address of the store through which several Linchpins share learned sessions, if there is one.
    pub fn store(&self) -> Option<&str> {
        match &self.carrier {
            Carrier::Learned(learned) => learned.store.as_deref(),
            _ => None,
        }
    }

    /// The default settings of the pool named `pool`.
    pub fn for_pool(pool: &str) -> Settings {
        Settings { carrier: Carrier::Cookie(cookie::Settings::for_pool(pool)), ..Settings::none() }
    }

    /// The settings of a pool that does not pin its clients.
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
    /// Sealed, in a field of requests and responses.
    Header(header::Settings),
    /// Nowhere: the application's session id names its backend.
    Route(route::Settings),
    /// Nowhere: a table maps the application's session id to its backend.
    Learned(learned::Settings),
}

/// The default of `max_clock_skew`. Clocks that NTP keeps are closer together than this, and so are most others.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(60);

//! Owns: what ties a client to a backend: reading a pin, judging it, and the pin that follows.
//! Invariant: the verdict is a pure function of pin, pool and time; nothing here waits or fails a request.
//! Must not know: sockets, the retry budget, balancers' insides.

pub mod cookie;
pub mod decide;
pub mod failover;
pub mod lost;
pub mod seal;

use std::sync::Arc;
use std::time::Duration;

pub use decide::{Cause, Decision, Lifetimes, Verdict};
use http::HeaderMap;
pub use seal::{KeyRing, Pin, Sealer};

/// `[pools.persistence]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the pin travels: the key `type`.
    pub carrier: Carrier,
    /// A session that was silent for this long is over.
    pub idle_timeout: Option<Duration>,
    /// A session that was begun this long ago is over.
    pub absolute_timeout: Option<Duration>,
}

impl Settings {
    /// What holds for the pool named `pool` if nothing is configured.
    pub fn for_pool(pool: &str) -> Settings {
        Settings {
            carrier: Carrier::Cookie(cookie::Settings::for_pool(pool)),
            idle_timeout: None,
            absolute_timeout: None,
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
}

/// How long a session that does not say otherwise counts as present, in seconds (the number of
/// sessions a backend has; nothing ends by it).
const PRESENCE: u64 = 1800;

/// A pool's persistence, made ready for its requests.
#[derive(Debug)]
pub struct Affinity {
    cookie: Option<cookie::Cookie>,
    lifetimes: Lifetimes,
}

/// What a request said of its pin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// Nothing.
    Absent,
    /// Something that no key of the ring opens, or that is not for this pool.
    Unreadable,
    /// A pin.
    Sealed(Arc<Pin>),
}

/// The last pin that a client connection presented. Clients send the same token with each
/// request: as long as they do, it is opened once and not once a request.
#[derive(Debug, Default)]
pub struct Memory {
    token: Vec<u8>,
    pool: Option<Arc<str>>,
    pin: Option<Arc<Pin>>,
}

impl Affinity {
    /// For the pool named `pool`.
    pub fn new(pool: &str, settings: &Settings, ring: &Arc<KeyRing>) -> Affinity {
        let cookie = match &settings.carrier {
            Carrier::None => None,
            Carrier::Cookie(settings) => Some(cookie::Cookie::new(pool, settings, ring)),
        };
        let seconds = |duration: Duration| duration.as_secs().max(1);
        let lifetimes =
            Lifetimes { idle: settings.idle_timeout.map(seconds), absolute: settings.absolute_timeout.map(seconds) };
        Affinity { cookie, lifetimes }
    }

    /// Whether clients are pinned at all.
    pub fn is_on(&self) -> bool {
        self.cookie.is_some()
    }

    /// The `type` of the configuration.
    pub fn kind(&self) -> &'static str {
        if self.is_on() { "cookie" } else { "none" }
    }

    /// The limits of a session's life.
    pub fn lifetimes(&self) -> &Lifetimes {
        &self.lifetimes
    }

    /// The time in seconds within which a session counts as one that a backend has.
    pub fn presence(&self) -> u64 {
        self.lifetimes.idle.or(self.lifetimes.absolute).unwrap_or(PRESENCE)
    }

    /// Takes the pin out of a request's fields, so that no backend sees it, and reads it.
    pub fn take(&self, headers: &mut HeaderMap, memory: &mut Memory) -> Reading {
        match &self.cookie {
            Some(cookie) => cookie.take(headers, memory),
            None => Reading::Absent,
        }
    }

    /// Puts a pin into a response's fields, and keeps shared caches from storing it.
    pub fn put(&self, headers: &mut HeaderMap, pin: &Pin, now: u64) {
        if let Some(cookie) = &self.cookie {
            cookie.put(headers, pin, &self.lifetimes, now);
        }
    }

    /// The id of the key that a token names, whether or not it opens.
    pub fn key_of(&self, token: &[u8]) -> Option<&str> {
        self.cookie.as_ref()?.key_of(token)
    }

    /// Opens a token as a request's would be.
    pub fn open(&self, token: &[u8]) -> Reading {
        match &self.cookie {
            Some(cookie) => cookie.open(token),
            None => Reading::Absent,
        }
    }
}

impl Memory {
    /// The pin of `token`, if it was the last one opened, in the same pool.
    fn recall(&self, pool: &Arc<str>, token: &[u8]) -> Option<&Arc<Pin>> {
        let same_pool = self.pool.as_ref().is_some_and(|last| Arc::ptr_eq(last, pool));
        self.pin.as_ref().filter(|_| same_pool && self.token == token)
    }

    fn remember(&mut self, pool: &Arc<str>, token: &[u8], pin: &Arc<Pin>) {
        self.token.clear();
        self.token.extend_from_slice(token);
        self.pool = Some(Arc::clone(pool));
        self.pin = Some(Arc::clone(pin));
    }
}

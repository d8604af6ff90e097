//! Owns: the codec of one pool's tokens, and the cache of the last pin that a client connection presented.
//! Invariant: a token is opened only once while the same connection sends the same token.
//! Must not know: cookies, fields, or whether a pin holds.

use std::sync::Arc;
use std::time::Duration;

use super::learned::record::SessionKey;
use super::learned::table::RawEntry;
use super::lookup::{ExtractedPin, PinLookup};
use super::seal::{KeyRing, Pin, Sealer, looks_sealed};
use crate::clock::{self, LogLimiter};

/// How many tokens of one request are opened. A browser sends several if one was set for another path or domain; more
/// are an attempt to cause work.
const MAX_TOKENS: usize = 4;
/// The shortest time between two warnings about pins of unknown keys: any client can cause one.
const WARN_INTERVAL: Duration = Duration::from_secs(600);

/// Opens and seals the tokens of one pool.
#[derive(Debug)]
pub(super) struct PinCodec {
    pool: Arc<str>,
    sealer: Sealer,
    /// Limits the warnings about pins of unknown keys.
    unknown_key_warnings: LogLimiter,
}

/// The last pin that a client connection presented. A client sends the same token with each request, so that the token
/// is opened once a connection instead of once a request.
///
/// Boxed, since most connections are idle, and then have none.
#[derive(Debug, Default)]
pub struct PinCache(Option<Box<CachedPin>>);

#[derive(Debug)]
struct CachedPin {
    token: Vec<u8>,
    pool: Arc<str>,
    pin: Arc<Pin>,
    /// The token was sealed with another key than the first of the ring.
    is_of_former_key: bool,
    learned: Option<(SessionKey, RawEntry)>,
}

impl PinCodec {
    /// Creates the codec for the pool named `pool` and the cookie or field named `carrier`.
    pub(super) fn new(pool: &str, carrier: &str, ring: &Arc<KeyRing>) -> PinCodec {
        let sealer = Sealer::new(ring, pool, carrier);
        PinCodec { pool: pool.into(), sealer, unknown_key_warnings: LogLimiter::default() }
    }

    /// Returns the pin of the first of `tokens` that opens, and the number of tokens.
    pub(super) fn first<'t>(&self, tokens: impl Iterator<Item = &'t [u8]>, cache: &mut PinCache) -> (PinLookup, usize) {
        let (mut lookup, mut count) = (PinLookup::Absent, 0);
        for token in tokens {
            count += 1;
            if count <= MAX_TOKENS && !matches!(lookup, PinLookup::Pinned(_)) {
                lookup = self.recall(token, cache);
            }
        }
        (lookup, count)
    }

    /// Opens a token.
    pub(super) fn open(&self, token: &[u8]) -> PinLookup {
        match self.sealer.open(token) {
            Some(pin) => PinLookup::Pinned(Arc::new(pin)),
            None if looks_sealed(token) && self.key_of(token).is_none() => PinLookup::UnknownKey,
            None => PinLookup::Unreadable,
        }
    }

    /// Appends the token for `pin` to `out`. Returns `None` and appends nothing if sealing fails.
    pub(super) fn seal(&self, pin: &Pin, out: &mut String) -> Option<()> {
        self.sealer.seal(pin, out)
    }

    /// The id of the key that a token names.
    pub(super) fn key_of(&self, token: &[u8]) -> Option<&str> {
        self.sealer.key_of(token)
    }

    fn recall(&self, token: &[u8], cache: &mut PinCache) -> PinLookup {
        if let Some(pin) = cache.recall(&self.pool, token) {
            return PinLookup::Pinned(Arc::clone(pin));
        }
        let lookup = self.open(token);
        match &lookup {
            PinLookup::Pinned(pin) => {
                cache.remember(&self.pool, token, pin).is_of_former_key = !self.sealer.is_of_first_key(token);
            }
            PinLookup::UnknownKey => self.warn_of_unknown_key(),
            _ => {}
        }
        lookup
    }

    /// Warns, at most once an interval, of pins that were sealed with a key that is not configured here.
    fn warn_of_unknown_key(&self) {
        if let Some(unsaid) = self.unknown_key_warnings.take(clock::unix(), WARN_INTERVAL, 1) {
            tracing::warn!(
                pool = &*self.pool,
                unsaid,
                "clients send pins of a key that is not among [[keys]], so they get new sessions: give every Linchpin of \
                 these clients the same [[keys]], and keep a former key after the first one until its pins have expired"
            );
        }
    }
}

impl PinCache {
    /// The pin of `token`, if this was the last token, in the same pool.
    fn recall(&self, pool: &Arc<str>, token: &[u8]) -> Option<&Arc<Pin>> {
        Some(&self.cached(pool, token)?.pin)
    }

    fn cached(&self, pool: &Arc<str>, token: &[u8]) -> Option<&CachedPin> {
        self.0.as_deref().filter(|cached| Arc::ptr_eq(&cached.pool, pool) && cached.token == token)
    }

    /// Adds to the last lookup whether its pin is to be sealed anew: the key that sealed it will be removed some day.
    pub(super) fn extracted(&self, lookup: PinLookup) -> ExtractedPin {
        let is_of_former_key =
            matches!(lookup, PinLookup::Pinned(_)) && self.0.as_ref().is_some_and(|c| c.is_of_former_key);
        ExtractedPin { is_of_former_key, ..ExtractedPin::from(lookup) }
    }

    /// The key of a session id of the application, if this was the last id, in the same pool.
    pub(super) fn key(&self, pool: &Arc<str>, id: &[u8]) -> Option<SessionKey> {
        self.cached(pool, id)?.learned.map(|(key, _)| key)
    }

    /// The pin that was built from a table entry, if the entry has not changed.
    pub(super) fn learned(&self, key: SessionKey, raw: RawEntry) -> Option<&Arc<Pin>> {
        self.0.as_deref().filter(|cached| cached.learned == Some((key, raw))).map(|cached| &cached.pin)
    }

    /// Stores the pin that was built from the table entry of an id.
    pub(super) fn learn(&mut self, pool: &Arc<str>, id: &[u8], key: SessionKey, raw: RawEntry, pin: &Arc<Pin>) {
        self.remember(pool, id, pin).learned = Some((key, raw));
    }

    fn remember(&mut self, pool: &Arc<str>, token: &[u8], pin: &Arc<Pin>) -> &mut CachedPin {
        let (pool, pin) = (Arc::clone(pool), Arc::clone(pin));
        let cached = CachedPin { token: token.to_vec(), pool, pin, is_of_former_key: false, learned: None };
        self.0.insert(Box::new(cached))
    }
}

#[cfg(test)]
mod tests {
    use super::super::seal::SealingKey;
    use super::*;

    fn pin() -> Pin {
        let replica = Some("b".into());
        Pin { session: 1, backend: "a".into(), incarnation: 2, issued: 100, last_seen: 100, term: 3, replica }
    }

    #[test]
    fn the_first_token_that_opens_counts_and_is_cached() {
        let ring = Arc::new(KeyRing::new(SealingKey::new("k", &[1; 32]).unwrap(), Vec::new()));
        let codec = PinCodec::new("app", "lp", &ring);
        let mut token = String::new();
        codec.seal(&pin(), &mut token).unwrap();
        let mut cache = PinCache::default();
        for _ in 0..2 {
            let tokens: [&[u8]; 3] = [b"old", token.as_bytes(), b"x"];
            assert_eq!(codec.first(tokens.into_iter(), &mut cache), (PinLookup::Pinned(Arc::new(pin())), 3));
        }
        assert!(cache.recall(&codec.pool, token.as_bytes()).is_some());
        let other = PinCodec::new("other", "lp", &ring);
        assert_eq!(other.recall(token.as_bytes(), &mut cache), PinLookup::Unreadable, "it is of another pool");
        let many = std::iter::repeat_n(&b"x"[..], MAX_TOKENS).chain([token.as_bytes()]);
        assert_eq!(codec.first(many, &mut cache), (PinLookup::Unreadable, MAX_TOKENS + 1));
    }
}

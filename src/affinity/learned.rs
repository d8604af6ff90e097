//! Owns: sessions of the application's own id, in a cookie or field of its responses: learned, followed, removed.
//! Invariant: ids are kept hashed, and learned from responses alone: no request can fill the table.
//! Must not know: how a table is shared; sockets.

mod entries;
pub(super) mod record;
mod store;
pub(super) mod table;

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};
use tokio::sync::oneshot;

use super::cookie;
use super::lookup::{ExtractedPin, PinLookup};
use super::pin_cache::PinCache;
use super::policy::Lifetimes;
use super::seal::Pin;
use crate::pool::Pool;
pub use record::{BackendRef, SessionKey, SessionRecord};
pub use store::{SessionTables, StoreCommand, StoreLink, StoreState, StoreSync};
use table::RawEntry;
pub use table::SessionTable;

/// `learned = { … }` of `[pools.persistence]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the application's session id is.
    pub source: SessionIdSource,
    /// Sessions that are remembered at most.
    pub capacity: usize,
    /// Where several Linchpins share what they learned, a `redis://` address; nowhere if not said.
    pub store: Option<String>,
}

/// The address of a store may hold its password, and is never shown.
impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Settings");
        shown.field("source", &self.source).field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

/// Where an application's session id is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionIdSource {
    /// In a cookie of this name.
    Cookie(String),
    /// In a field of this name, of responses and requests.
    Header(HeaderName),
}

/// How many ids of one message are looked at.
const MAX_IDS: usize = 4;
/// The longest id that a connection remembers.
const MAX_REMEMBERED: usize = 256;
/// How long a store keeps a session whose pool has no timeouts, in seconds since it was seen last.
const DEFAULT_RETENTION: u64 = 24 * 3600;

/// The session that a request came with.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RequestSession {
    /// Its key, if there is one.
    pub(super) key: Option<SessionKey>,
    /// The request asked for its end, and got it.
    pub(super) ends: bool,
    /// It is held where it was, whoever has served it this time.
    pub(super) stays: bool,
}

/// A pool's learned sessions.
#[derive(Debug)]
pub(super) struct LearnedCarrier {
    pool: Arc<str>,
    source: SessionIdSource,
    table: Arc<SessionTable>,
    link: Option<StoreLink>,
    /// Seconds after which a store is told that a session was seen again.
    touch_interval: u64,
}

impl LearnedCarrier {
    pub(super) fn new(
        pool: &str,
        settings: &Settings,
        lifetimes: &Lifetimes,
        tables: &mut SessionTables,
    ) -> LearnedCarrier {
        let retention = retention(lifetimes);
        let (table, link) = tables.open(pool, settings.capacity, settings.store.as_deref(), retention);
        LearnedCarrier {
            pool: pool.into(),
            source: settings.source.clone(),
            table,
            link,
            touch_interval: retention.div_ceil(4),
        }
    }

    /// Reads the ids of a request; the first that is known counts.
    pub(super) fn read(&self, headers: &HeaderMap, cache: &mut PinCache) -> ExtractedPin {
        let mut extracted = ExtractedPin::from(PinLookup::Absent);
        let mut look = |id: &[u8]| {
            if id.is_empty() || matches!(extracted.lookup, PinLookup::Pinned(_)) {
                return;
            }
            let key = cache.key(&self.pool, id).unwrap_or_else(|| self.key(id));
            match self.table.get_raw(key).and_then(|raw| self.pin(id, key, raw, cache)) {
                Some(pin) => extracted = ExtractedPin { lookup: PinLookup::Pinned(pin), key: Some(key), removals: 0 },
                None if extracted.key.is_none() => {
                    extracted = ExtractedPin { lookup: PinLookup::Unlearned(key), key: Some(key), removals: 0 };
                }
                None => {}
            }
        };
        match &self.source {
            SessionIdSource::Cookie(name) => {
                let fields = headers.get_all(COOKIE).iter();
                let ids = fields.flat_map(|field| cookie::values(field.as_bytes(), name.as_bytes()));
                ids.take(MAX_IDS).for_each(&mut look);
            }
            SessionIdSource::Header(name) => {
                headers.get_all(name).iter().take(MAX_IDS).for_each(|id| look(id.as_bytes().trim_ascii()));
            }
        }
        extracted
    }

    /// The pin that stands for what the table says; the one that did so last time, if that is the same.
    fn pin(&self, id: &[u8], key: SessionKey, raw: RawEntry, cache: &mut PinCache) -> Option<Arc<Pin>> {
        if let Some(pin) = cache.learned(key, raw) {
            return Some(Arc::clone(pin));
        }
        let pin = Arc::new(pin_of(key, &self.table.resolve(&raw)?));
        if id.len() <= MAX_REMEMBERED {
            cache.learn(&self.pool, id, key, raw, &pin);
        }
        Some(pin)
    }

    /// What is known of an id, as `explain` is given it.
    pub(super) fn read_id(&self, id: &[u8]) -> PinLookup {
        let key = self.key(id);
        self.table.get(key).map_or(PinLookup::Absent, |found| pinned(key, &found))
    }

    /// The store's answer to a session that the table doesn't have, or has not seen for too long:
    /// another Linchpin may have. `None` where there is no store that could answer.
    pub(super) fn query(&self, key: SessionKey) -> Option<oneshot::Receiver<Option<SessionRecord>>> {
        self.link.as_ref()?.query(key)
    }

    /// Takes a store's answer over. `removals` is what the table said of that when it was asked: if a
    /// session was removed since, the answer is good for this request alone.
    pub(super) fn adopt(&self, key: SessionKey, found: &SessionRecord, removals: u64) -> PinLookup {
        self.table.adopt_unless_removed(key, found, removals);
        pinned(key, self.table.get(key).as_ref().unwrap_or(found))
    }

    /// Notes that the session of a request was served where it is held.
    pub(super) fn record_seen(&self, key: SessionKey, now: u64) {
        if self.table.touch(key, now, self.touch_interval) {
            self.send(StoreCommand::Touch(key));
        }
    }

    /// Notes that the session of a request is held by another server from now on, or was begun anew.
    pub(super) fn record_backend(&self, key: SessionKey, pool: &Pool, served: usize, issued: Option<u64>, now: u64) {
        let backend = pool.backend(served);
        let backend = BackendRef { name: Arc::clone(backend.name()), incarnation: backend.incarnation() };
        if let Some(found) = self.table.set(key, &backend, issued, now) {
            self.send(StoreCommand::Write(key, found));
        }
    }

    /// Learns the ids that a response gives out, and forgets the request's session if it ends it.
    pub(super) fn learn_from_response(
        &self,
        headers: &HeaderMap,
        session: RequestSession,
        pool: &Pool,
        served: usize,
        now: u64,
    ) {
        let mut ends = session.ends && matches!(self.source, SessionIdSource::Header(_));
        let mut goes_on = false;
        let mut starts = |id: &[u8]| {
            let key = self.key(id);
            goes_on |= session.key == Some(key);
            // Many applications give an id out again with each answer: that alone moves nothing.
            if !(session.stays && session.key == Some(key)) {
                self.record_backend(key, pool, served, None, now);
            }
        };
        match &self.source {
            SessionIdSource::Cookie(name) => {
                for field in headers.get_all(SET_COOKIE) {
                    match set_cookie_effect(field, name, now) {
                        Some(SetCookieEffect::Starts(id)) => starts(id),
                        Some(SetCookieEffect::Ends) => ends = true,
                        None => {}
                    }
                }
            }
            SessionIdSource::Header(name) => {
                let ids = headers.get_all(name).iter().take(MAX_IDS).filter(|id| !id.is_empty());
                ids.for_each(|id| starts(id.as_bytes().trim_ascii()));
            }
        }
        // One that is removed under one path and given out under another goes on.
        if let (true, false, Some(key)) = (ends, goes_on, session.key)
            && self.table.remove(key)
        {
            self.send(StoreCommand::Remove(key));
        }
    }

    /// The table.
    pub(super) fn table(&self) -> &Arc<SessionTable> {
        &self.table
    }

    fn send(&self, command: StoreCommand) {
        if let Some(link) = &self.link {
            link.send(command);
        }
    }

    fn key(&self, id: &[u8]) -> SessionKey {
        let mut context = Vec::with_capacity(self.pool.len() + 1 + id.len());
        context.extend_from_slice(self.pool.as_bytes());
        context.push(0);
        context.extend_from_slice(id);
        let hash = digest(&SHA256, &context);
        let word = |at: usize| hash.as_ref().iter().skip(at).take(8).fold(0, |word, byte| word << 8 | u64::from(*byte));
        SessionKey([word(0), word(8)])
    }
}

fn pinned(key: SessionKey, found: &SessionRecord) -> PinLookup {
    PinLookup::Pinned(Arc::new(pin_of(key, found)))
}

fn pin_of(key: SessionKey, found: &SessionRecord) -> Pin {
    Pin {
        session: key.session(),
        backend: (&*found.backend.name).into(),
        incarnation: found.backend.incarnation,
        issued: found.issued,
        last_seen: found.last_seen,
    }
}

/// What a Set-Cookie field says of a session.
#[derive(Debug, PartialEq, Eq)]
enum SetCookieEffect<'a> {
    Starts(&'a [u8]),
    Ends,
}

/// A cookie that is empty, or over at `now`, ends a session (RFC 6265 §3.1: that is how a cookie
/// is removed).
fn set_cookie_effect<'a>(field: &'a HeaderValue, name: &str, now: u64) -> Option<SetCookieEffect<'a>> {
    let bytes = field.as_bytes();
    let pair = bytes.split(|byte| *byte == b';').next()?;
    let id = cookie::values(pair, name.as_bytes()).next()?;
    if id.is_empty() {
        return Some(SetCookieEffect::Ends);
    }
    let is_over =
        std::str::from_utf8(bytes).ok().and_then(|text| ::cookie::Cookie::parse(text).ok()).is_some_and(|cookie| {
            let expires = cookie.expires_datetime().map(|at| at.unix_timestamp() <= now.cast_signed());
            // Max-Age has precedence over Expires (RFC 6265 §5.3).
            cookie.max_age().map(|age| !age.is_positive()).or(expires).unwrap_or(false)
        });
    Some(if is_over { SetCookieEffect::Ends } else { SetCookieEffect::Starts(id) })
}

/// Seconds that a store keeps a session that is not seen.
fn retention(lifetimes: &Lifetimes) -> u64 {
    lifetimes.idle.or(lifetimes.absolute).unwrap_or(DEFAULT_RETENTION)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{backend, reconcile::Reconciler, vitals};

    const NOW: u64 = 1_700_000_000;

    fn pool() -> Arc<Pool> {
        let backends = ["a", "b"].map(|name| backend::Settings::new(name, "127.0.0.1:1".parse().unwrap()));
        let vitals = vitals::Settings::default();
        let settings = crate::pool::Settings { name: "app".into(), backends: backends.into(), vitals };
        Reconciler::new(1).pools(&[settings]).remove(0)
    }

    fn learned(source: SessionIdSource) -> LearnedCarrier {
        let settings = Settings { source, capacity: 10, store: None };
        LearnedCarrier::new("app", &settings, &Lifetimes::default(), &mut SessionTables::default())
    }

    fn fields(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(field).collect()
    }

    fn backend_of(learned: &LearnedCarrier, request: &[(&'static str, &str)]) -> Option<String> {
        match learned.read(&fields(request), &mut PinCache::default()).lookup {
            PinLookup::Pinned(pin) => Some(pin.backend.to_string()),
            _ => None,
        }
    }

    #[test]
    fn an_id_is_learned_from_the_response_and_followed_in_requests() {
        let learned = learned(SessionIdSource::Cookie("PHPSESSID".into()));
        let request = [("cookie", "x=1; PHPSESSID=abc")];
        assert_eq!(backend_of(&learned, &request), None);
        let response = fields(&[("set-cookie", "y=1"), ("set-cookie", "PHPSESSID=abc; Path=/; HttpOnly")]);
        learned.learn_from_response(&response, RequestSession::default(), &pool(), 1, NOW);
        assert_eq!(backend_of(&learned, &request).as_deref(), Some("b"));
        assert_eq!(
            backend_of(&learned, &[("cookie", "PHPSESSID=old"), ("cookie", "PHPSESSID=\"abc\"")]).as_deref(),
            Some("b")
        );
        let ExtractedPin { lookup, key, .. } =
            learned.read(&fields(&[("cookie", "PHPSESSID=other")]), &mut PinCache::default());
        assert_eq!(lookup, PinLookup::Unlearned(key.unwrap()));
        assert_eq!(learned.read(&fields(&[("cookie", "PHPSESSID=")]), &mut PinCache::default()).key, None);
    }

    #[test]
    fn a_cookie_that_is_removed_ends_its_session() {
        for (field, ends) in [
            ("PHPSESSID=deleted; expires=Thu, 01-Jan-1970 00:00:01 GMT; Max-Age=0; path=/", true),
            ("PHPSESSID=x; Expires=Thu, 01 Jan 1970 00:00:00 GMT", true),
            ("PHPSESSID=; Path=/", true),
            ("PHPSESSID=x; Max-Age=-1", true),
            ("PHPSESSID=abc; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT", false),
            ("OTHER=; Max-Age=0", false),
        ] {
            let learned = learned(SessionIdSource::Cookie("PHPSESSID".into()));
            let request = [("cookie", "PHPSESSID=abc")];
            learned.learn_from_response(
                &fields(&[("set-cookie", "PHPSESSID=abc")]),
                RequestSession::default(),
                &pool(),
                0,
                NOW,
            );
            let key = learned.read(&fields(&request), &mut PinCache::default()).key;
            learned.learn_from_response(
                &fields(&[("set-cookie", field)]),
                RequestSession { key, ..RequestSession::default() },
                &pool(),
                0,
                NOW,
            );
            assert_eq!(backend_of(&learned, &request).is_none(), ends, "{field}");
        }
    }

    #[test]
    fn a_cookie_removed_under_one_path_and_given_out_under_another_keeps_its_session() {
        let learned = learned(SessionIdSource::Cookie("PHPSESSID".into()));
        let request = [("cookie", "PHPSESSID=abc")];
        learned.learn_from_response(
            &fields(&[("set-cookie", "PHPSESSID=abc")]),
            RequestSession::default(),
            &pool(),
            0,
            NOW,
        );
        let key = learned.read(&fields(&request), &mut PinCache::default()).key;
        let both = [("set-cookie", "PHPSESSID=; Max-Age=0; Path=/old"), ("set-cookie", "PHPSESSID=abc; Path=/")];
        learned.learn_from_response(
            &fields(&both),
            RequestSession { key, ..RequestSession::default() },
            &pool(),
            0,
            NOW,
        );
        assert_eq!(backend_of(&learned, &request).as_deref(), Some("a"));
    }

    #[test]
    fn an_id_in_a_field_is_learned_followed_and_ended_by_its_deletion() {
        let learned = learned(SessionIdSource::Header(HeaderName::from_static("mcp-session-id")));
        let request = [("mcp-session-id", "s1")];
        learned.learn_from_response(&fields(&request), RequestSession::default(), &pool(), 0, NOW);
        assert_eq!(backend_of(&learned, &request).as_deref(), Some("a"));
        let key = learned.read(&fields(&request), &mut PinCache::default()).key;
        learned.learn_from_response(
            &HeaderMap::new(),
            RequestSession { key, ends: true, ..RequestSession::default() },
            &pool(),
            0,
            NOW,
        );
        assert_eq!(backend_of(&learned, &request), None);
    }

    #[test]
    fn keys_are_the_same_everywhere_and_differ_by_pool() {
        let of = |pool: &str| {
            let settings = Settings { source: SessionIdSource::Cookie("s".into()), capacity: 1, store: None };
            LearnedCarrier::new(pool, &settings, &Lifetimes::default(), &mut SessionTables::default())
                .key(b"abc")
                .to_string()
        };
        // printf 'app\0abc' | sha256sum
        assert_eq!(of("app"), of("app"));
        assert_ne!(of("app"), of("ap"));
    }

    #[test]
    fn a_connection_that_remembers_its_id_notices_a_move_and_a_logout() {
        let learned = learned(SessionIdSource::Cookie("PHPSESSID".into()));
        let (pool, mut cache) = (pool(), PinCache::default());
        let mut read = || learned.read(&fields(&[("cookie", "PHPSESSID=abc")]), &mut cache);
        learned.learn_from_response(
            &fields(&[("set-cookie", "PHPSESSID=abc")]),
            RequestSession::default(),
            &pool,
            0,
            NOW,
        );
        let (first, again) = (read(), read());
        let (PinLookup::Pinned(first), PinLookup::Pinned(again)) = (&first.lookup, &again.lookup) else { panic!() };
        assert!(Arc::ptr_eq(first, again));
        let key = read().key;
        learned.record_backend(key.unwrap(), &pool, 1, Some(NOW), NOW);
        let PinLookup::Pinned(moved) = read().lookup else { panic!() };
        assert_eq!(&*moved.backend, "b");
        learned.learn_from_response(
            &fields(&[("set-cookie", "PHPSESSID=; Max-Age=0")]),
            RequestSession { key, ..RequestSession::default() },
            &pool,
            1,
            NOW,
        );
        assert_eq!(read().lookup, PinLookup::Unlearned(key.unwrap()));
    }

    #[test]
    fn a_stores_address_is_not_shown() {
        let store = Some("redis://:secret@127.0.0.1".into());
        let settings = Settings { source: SessionIdSource::Cookie("s".into()), capacity: 1, store };
        assert!(!format!("{settings:?}").contains("secret"));
    }

    proptest::proptest! {
        #[test]
        fn no_field_panics(field: Vec<u8>, name in "[a-z]{1,3}") {
            if let Ok(value) = HeaderValue::from_bytes(&field) {
                set_cookie_effect(&value, &name, NOW);
                let learned = learned(SessionIdSource::Cookie(name));
                learned.read(&HeaderMap::from_iter([(COOKIE, value)]), &mut PinCache::default());
            }
        }
    }
}

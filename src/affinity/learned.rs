//! Owns: the carrier of applications' own session ids: learns them from responses, follows them, removes ended ones.
//! Invariant: the table holds hashed ids, and only ids from responses: no request can fill it.
//! Must not know: how a store is reached, sockets.

mod entries;
mod interned;
pub(super) mod record;
mod store;
pub(super) mod table;

use std::sync::Arc;

use http::header::{COOKIE, HeaderMap, HeaderName, SET_COOKIE};
use tokio::sync::oneshot;

use super::cookie;
use super::issued::{IssuedId, SetCookieEffect, set_cookie_effect};
use super::lookup::{ExtractedPin, PinLookup};
use super::pin_cache::PinCache;
use super::policy::Lifetimes;
use super::seal::Pin;
use crate::pool::Backend;
pub use record::{BackendRef, Placement, SessionKey, SessionRecord};
pub use store::{SessionTables, StoreCommand, StoreLink, StoreState, StoreSync};
use table::RawEntry;
pub use table::SessionTable;

/// `learned = { … }` of `[pools.persistence]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the application's session id is.
    pub source: SessionIdSource,
    /// The most sessions in the table.
    pub capacity: usize,
    /// The `redis://` address of the store through which several Linchpins share their sessions, if there is one.
    pub store: Option<String>,
}

/// Leaves out the address of the store, which may contain a password.
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

/// How many ids of one message are read.
const MAX_IDS: usize = 4;
/// The longest id that a [`PinCache`] stores, in bytes.
const MAX_REMEMBERED: usize = 256;
/// How long a store keeps a session whose pool has no timeouts, in seconds since its last request.
const DEFAULT_RETENTION: u64 = 24 * 3600;

/// The session that a request presented.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RequestSession {
    /// The session's key, if the request has a session id.
    pub(super) key: Option<SessionKey>,
    /// The request ended the session: a DELETE that succeeded.
    pub(super) ends: bool,
    /// The session stays on its backend although another one may have served this request.
    pub(super) stays: bool,
}

/// The backend that has served a request, and what its session's pin says of copies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holder<'a> {
    pub(super) backend: &'a Backend,
    pub(super) term: u32,
    pub(super) replica: Option<&'a str>,
}

/// The learned sessions of one pool.
#[derive(Debug)]
pub(super) struct LearnedCarrier {
    pool: Arc<str>,
    source: SessionIdSource,
    table: Arc<SessionTable>,
    link: Option<StoreLink>,
    /// The seconds between two touches of one session in the store.
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

    /// Reads the ids of a request. The first id that the table has counts.
    pub(super) fn read(&self, headers: &HeaderMap, cache: &mut PinCache) -> ExtractedPin {
        let mut extracted = ExtractedPin::from(PinLookup::Absent);
        let mut look = |id: &[u8]| {
            if id.is_empty() || matches!(extracted.lookup, PinLookup::Pinned(_)) {
                return;
            }
            let key = cache.key(&self.pool, id).unwrap_or_else(|| self.key(id));
            match self.table.get_raw(key).and_then(|raw| self.pin(id, key, raw, cache)) {
                Some(pin) => extracted = ExtractedPin { key: Some(key), ..PinLookup::Pinned(pin).into() },
                None if extracted.key.is_none() => {
                    extracted = ExtractedPin { key: Some(key), ..PinLookup::Unlearned(key).into() };
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

    /// Returns the pin for a table entry: the cached one if the entry has not changed.
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

    /// Looks one id up, for `explain`.
    pub(super) fn read_id(&self, id: &[u8]) -> PinLookup {
        let key = self.key(id);
        self.table.get(key).map_or(PinLookup::Absent, |record| pinned(key, &record))
    }

    /// Asks the store for a session that the table does not have, or has not seen for too long: another Linchpin may
    /// have seen it. Returns `None` if no store is configured, or the store is not responsive.
    pub(super) fn query(&self, key: SessionKey) -> Option<oneshot::Receiver<Option<SessionRecord>>> {
        self.link.as_ref()?.query(key)
    }

    /// Adopts a record of the store. `removals` is the table's count from before the query: if a session was removed
    /// since, the record only serves this request and does not enter the table.
    pub(super) fn adopt(&self, key: SessionKey, record: &SessionRecord, removals: u64) -> PinLookup {
        self.table.adopt_unless_removed(key, record, removals);
        pinned(key, self.table.get(key).as_ref().unwrap_or(record))
    }

    /// Records that the session's own backend served a request, or that the session was borrowed.
    pub(super) fn record_seen(&self, key: SessionKey, now: u64) {
        if self.table.touch(key, now, self.touch_interval) {
            self.send(StoreCommand::Touch(key));
        }
    }

    /// Records the backend that holds a session from now on, and when the session began, if that changes.
    pub(super) fn record_holder(&self, key: SessionKey, holder: Holder<'_>, issued: Option<u64>, now: u64) {
        let Holder { backend, term, replica } = holder;
        let backend = BackendRef { name: Arc::clone(backend.name()), incarnation: backend.incarnation() };
        self.record_placement(key, Placement { backend: &backend, term, replica }, issued, now);
    }

    /// Records the term and the replica of a session that stays where `pin` says.
    pub(super) fn record_pin(&self, key: SessionKey, pin: &Pin, now: u64) {
        let backend = BackendRef { name: (&*pin.backend).into(), incarnation: pin.incarnation };
        let placement = Placement { backend: &backend, term: pin.term, replica: pin.replica.as_deref() };
        self.record_placement(key, placement, None, now);
    }

    fn record_placement(&self, key: SessionKey, placement: Placement<'_>, issued: Option<u64>, now: u64) {
        if let Some(record) = self.table.set(key, placement, issued, now) {
            self.table.changes().announce(key);
            self.send(StoreCommand::Write(key, record));
        }
    }

    /// Learns the ids that a response issues, and removes the request's session if the response ends it.
    pub(super) fn learn_from_response(
        &self,
        headers: &HeaderMap,
        session: RequestSession,
        holder: Holder<'_>,
        now: u64,
    ) {
        let mut ends = session.ends && matches!(self.source, SessionIdSource::Header(_));
        let mut goes_on = false;
        let mut starts = |id: &[u8]| {
            let key = self.key(id);
            goes_on |= session.key == Some(key);
            // Many applications issue the same id again with each response: that alone moves no session.
            if !(session.stays && session.key == Some(key)) {
                self.record_holder(key, holder, None, now);
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
        // A cookie that is removed under one path and set under another continues its session.
        if let (true, false, Some(key)) = (ends, goes_on, session.key)
            && self.table.remove(key)
        {
            self.table.changes().announce(key);
            self.send(StoreCommand::Remove(key));
        }
    }

    /// Returns the key of the id that a response issues; of the last one, if it issues several.
    pub(super) fn issued_key(&self, headers: &HeaderMap, now: u64) -> Option<SessionKey> {
        Some(self.key(self.issued(headers, now).id?))
    }

    /// Returns the ids that a response issues or removes.
    pub(super) fn issued<'h>(&self, headers: &'h HeaderMap, now: u64) -> IssuedId<'h> {
        match &self.source {
            SessionIdSource::Cookie(name) => IssuedId::in_cookie(headers, name, now),
            SessionIdSource::Header(name) => {
                let ids = headers.get_all(name).iter().take(MAX_IDS).map(|id| id.as_bytes().trim_ascii());
                IssuedId { id: ids.filter(|id| !id.is_empty()).last(), removes: false }
            }
        }
    }

    /// Whether a store has the sessions as well.
    pub(super) fn has_store(&self) -> bool {
        self.link.is_some()
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

    pub(super) fn key(&self, id: &[u8]) -> SessionKey {
        SessionKey::of(&self.pool, id)
    }
}

fn pinned(key: SessionKey, record: &SessionRecord) -> PinLookup {
    PinLookup::Pinned(Arc::new(pin_of(key, record)))
}

fn pin_of(key: SessionKey, record: &SessionRecord) -> Pin {
    Pin {
        session: key.session(),
        backend: (&*record.backend.name).into(),
        incarnation: record.backend.incarnation,
        issued: record.issued,
        last_seen: record.last_seen,
        term: record.term,
        replica: record.replica.as_deref().map(Box::from),
    }
}

/// How long a store keeps a session after its last request, in seconds.
fn retention(lifetimes: &Lifetimes) -> u64 {
    lifetimes.idle.or(lifetimes.absolute).unwrap_or(DEFAULT_RETENTION)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{Pool, backend, reconcile};
    use http::HeaderValue;

    const NOW: u64 = 1_700_000_000;

    fn pool() -> Arc<Pool> {
        let backends = ["a", "b"].map(|name| backend::Settings::new(name, "127.0.0.1:1".parse().unwrap()));
        reconcile::pool_of("app", backends)
    }

    fn holder(pool: &Pool, index: usize) -> Holder<'_> {
        Holder { backend: pool.backend(index), term: 0, replica: None }
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
        learned.learn_from_response(&response, RequestSession::default(), holder(&pool(), 1), NOW);
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
                holder(&pool(), 0),
                NOW,
            );
            let key = learned.read(&fields(&request), &mut PinCache::default()).key;
            learned.learn_from_response(
                &fields(&[("set-cookie", field)]),
                RequestSession { key, ..RequestSession::default() },
                holder(&pool(), 0),
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
            holder(&pool(), 0),
            NOW,
        );
        let key = learned.read(&fields(&request), &mut PinCache::default()).key;
        let both = [("set-cookie", "PHPSESSID=; Max-Age=0; Path=/old"), ("set-cookie", "PHPSESSID=abc; Path=/")];
        learned.learn_from_response(
            &fields(&both),
            RequestSession { key, ..RequestSession::default() },
            holder(&pool(), 0),
            NOW,
        );
        assert_eq!(backend_of(&learned, &request).as_deref(), Some("a"));
    }

    #[test]
    fn an_id_in_a_field_is_learned_followed_and_ended_by_its_deletion() {
        let learned = learned(SessionIdSource::Header(HeaderName::from_static("mcp-session-id")));
        let request = [("mcp-session-id", "s1")];
        learned.learn_from_response(&fields(&request), RequestSession::default(), holder(&pool(), 0), NOW);
        assert_eq!(backend_of(&learned, &request).as_deref(), Some("a"));
        let key = learned.read(&fields(&request), &mut PinCache::default()).key;
        learned.learn_from_response(
            &HeaderMap::new(),
            RequestSession { key, ends: true, ..RequestSession::default() },
            holder(&pool(), 0),
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
    fn a_connection_that_caches_its_id_notices_a_move_and_a_logout() {
        let learned = learned(SessionIdSource::Cookie("PHPSESSID".into()));
        let (pool, mut cache) = (pool(), PinCache::default());
        let mut read = || learned.read(&fields(&[("cookie", "PHPSESSID=abc")]), &mut cache);
        learned.learn_from_response(
            &fields(&[("set-cookie", "PHPSESSID=abc")]),
            RequestSession::default(),
            holder(&pool, 0),
            NOW,
        );
        let (first, again) = (read(), read());
        let (PinLookup::Pinned(first), PinLookup::Pinned(again)) = (&first.lookup, &again.lookup) else { panic!() };
        assert!(Arc::ptr_eq(first, again));
        let key = read().key;
        learned.record_holder(key.unwrap(), holder(&pool, 1), Some(NOW), NOW);
        let PinLookup::Pinned(moved) = read().lookup else { panic!() };
        assert_eq!(&*moved.backend, "b");
        learned.learn_from_response(
            &fields(&[("set-cookie", "PHPSESSID=; Max-Age=0")]),
            RequestSession { key, ..RequestSession::default() },
            holder(&pool, 1),
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

//! Owns: sessions of the application's own id, in a cookie or field of its responses: learned, followed, forgotten.
//! Invariant: ids are kept hashed, and learned from responses alone: no request can fill the table.
//! Must not know: how a table is shared; sockets.

mod entries;
pub mod table;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::digest::{SHA256, digest};
use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};
use tokio::sync::{mpsc, oneshot};

use super::{Lifetimes, Memory, Pin, Reading, Taken, cookie};
use crate::pool::Pool;
use table::Glance;
pub use table::{Found, Home, Key, Table};

/// `learned = { … }` of `[pools.persistence]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the application's session id is.
    pub source: Source,
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
pub enum Source {
    /// In a cookie of this name.
    Cookie(String),
    /// In a field of this name, of responses and requests.
    Header(HeaderName),
}

/// How many ids of one message are looked at.
const MAX_IDS: usize = 4;
/// The longest id that a connection remembers.
const MAX_REMEMBERED: usize = 256;
/// How much may be waiting to be told to a store.
const QUEUE: usize = 16_384;
/// How long a store keeps a session whose pool has no timeouts, in seconds since it was seen last.
const KEPT: u64 = 24 * 3600;

/// The session that a request came with.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Came {
    /// Its key, if there is one.
    pub(super) key: Option<Key>,
    /// The request asked for its end, and got it.
    pub(super) ends: bool,
    /// It is held where it was, whoever has served it this time.
    pub(super) stays: bool,
}

/// A pool's learned sessions.
#[derive(Debug)]
pub(super) struct Learned {
    pool: Arc<str>,
    source: Source,
    table: Arc<Table>,
    remote: Option<Remote>,
    /// Seconds after which a store is told that a session was seen again.
    quarter: u64,
}

impl Learned {
    pub(super) fn new(pool: &str, settings: &Settings, lifetimes: &Lifetimes, tables: &mut Tables) -> Learned {
        let (table, remote) = tables.of(pool, settings, lifetimes);
        Learned {
            pool: pool.into(),
            source: settings.source.clone(),
            table,
            remote,
            quarter: kept(lifetimes).div_ceil(4),
        }
    }

    /// Reads the ids of a request; the first that is known counts.
    pub(super) fn read(&self, headers: &HeaderMap, memory: &mut Memory) -> Taken {
        let mut taken = Taken::from(Reading::Absent);
        let mut look = |id: &[u8]| {
            if id.is_empty() || matches!(taken.reading, Reading::Pinned(_)) {
                return;
            }
            let key = memory.key(&self.pool, id).unwrap_or_else(|| self.key(id));
            match self.table.look(key).and_then(|glance| self.pin(id, key, glance, memory)) {
                Some(pin) => taken = Taken { reading: Reading::Pinned(pin), key: Some(key), forgotten: 0 },
                None if taken.key.is_none() => {
                    taken = Taken { reading: Reading::Unlearned(key), key: Some(key), forgotten: 0 };
                }
                None => {}
            }
        };
        match &self.source {
            Source::Cookie(name) => {
                let fields = headers.get_all(COOKIE).iter();
                let ids = fields.flat_map(|field| cookie::values(field.as_bytes(), name.as_bytes()));
                ids.take(MAX_IDS).for_each(&mut look);
            }
            Source::Header(name) => {
                headers.get_all(name).iter().take(MAX_IDS).for_each(|id| look(id.as_bytes().trim_ascii()));
            }
        }
        taken
    }

    /// The pin that stands for what the table says; the one that did so last time, if that is the same.
    fn pin(&self, id: &[u8], key: Key, glance: Glance, memory: &mut Memory) -> Option<Arc<Pin>> {
        if let Some(pin) = memory.learned(key, glance) {
            return Some(Arc::clone(pin));
        }
        let pin = Arc::new(pin_of(key, &self.table.unfold(&glance)?));
        if id.len() <= MAX_REMEMBERED {
            memory.learn(&self.pool, id, key, glance, &pin);
        }
        Some(pin)
    }

    /// What is known of an id, as `explain` is given it.
    pub(super) fn read_id(&self, id: &[u8]) -> Reading {
        let key = self.key(id);
        self.table.get(key).map_or(Reading::Absent, |found| pinned(key, &found))
    }

    /// The store's answer to a session that the table doesn't have, or has not seen for too long:
    /// another Linchpin may have. `None` where there is no store that could answer.
    pub(super) fn ask(&self, key: Key) -> Option<oneshot::Receiver<Option<Found>>> {
        self.remote.as_ref()?.ask(key)
    }

    /// Takes a store's answer over. `forgotten` is what the table said of that when it was asked: if a
    /// session was forgotten since, the answer is good for this request alone.
    pub(super) fn answered(&self, key: Key, found: &Found, forgotten: u64) -> Reading {
        self.table.adopt_as_of(key, found, forgotten);
        pinned(key, self.table.get(key).as_ref().unwrap_or(found))
    }

    /// Notes that the session of a request was served where it is held.
    pub(super) fn saw(&self, key: Key, now: u64) {
        if self.table.touch(key, now, self.quarter) {
            self.tell(Job::Touch(key));
        }
    }

    /// Notes that the session of a request is held by another server from now on, or was begun anew.
    pub(super) fn moved(&self, key: Key, pool: &Pool, served: usize, issued: Option<u64>, now: u64) {
        let backend = pool.backend(served);
        let home = Home { backend: Arc::clone(backend.name()), incarnation: backend.incarnation() };
        if let Some(found) = self.table.set(key, &home, issued, now) {
            self.tell(Job::Tell(key, found));
        }
    }

    /// Learns the ids that a response gives out, and forgets the request's session if it ends it.
    pub(super) fn learn(&self, headers: &HeaderMap, came: Came, pool: &Pool, served: usize, now: u64) {
        let mut ends = came.ends && matches!(self.source, Source::Header(_));
        let mut goes_on = false;
        let mut begins = |id: &[u8]| {
            let key = self.key(id);
            goes_on |= came.key == Some(key);
            // Many applications give an id out again with each answer: that alone moves nothing.
            if !(came.stays && came.key == Some(key)) {
                self.moved(key, pool, served, None, now);
            }
        };
        match &self.source {
            Source::Cookie(name) => {
                for field in headers.get_all(SET_COOKIE) {
                    match announced(field, name, now) {
                        Some(Announced::Begins(id)) => begins(id),
                        Some(Announced::Ends) => ends = true,
                        None => {}
                    }
                }
            }
            Source::Header(name) => {
                let ids = headers.get_all(name).iter().take(MAX_IDS).filter(|id| !id.is_empty());
                ids.for_each(|id| begins(id.as_bytes().trim_ascii()));
            }
        }
        // One that is removed under one path and given out under another goes on.
        if let (true, false, Some(key)) = (ends, goes_on, came.key)
            && self.table.forget(key)
        {
            self.tell(Job::Forget(key));
        }
    }

    /// The table.
    pub(super) fn table(&self) -> &Arc<Table> {
        &self.table
    }

    fn tell(&self, job: Job) {
        if let Some(remote) = &self.remote {
            remote.tell(job);
        }
    }

    fn key(&self, id: &[u8]) -> Key {
        let mut context = Vec::with_capacity(self.pool.len() + 1 + id.len());
        context.extend_from_slice(self.pool.as_bytes());
        context.push(0);
        context.extend_from_slice(id);
        let hash = digest(&SHA256, &context);
        let word = |at: usize| hash.as_ref().iter().skip(at).take(8).fold(0, |word, byte| word << 8 | u64::from(*byte));
        Key([word(0), word(8)])
    }
}

fn pinned(key: Key, found: &Found) -> Reading {
    Reading::Pinned(Arc::new(pin_of(key, found)))
}

fn pin_of(key: Key, found: &Found) -> Pin {
    Pin {
        session: key.session(),
        backend: (&*found.home.backend).into(),
        incarnation: found.home.incarnation,
        issued: found.issued,
        last_seen: found.last_seen,
    }
}

/// What a Set-Cookie field says of a session.
#[derive(Debug, PartialEq, Eq)]
enum Announced<'a> {
    Begins(&'a [u8]),
    Ends,
}

/// A cookie that is empty, or over at `now`, ends a session (RFC 6265 §3.1: that is how a cookie
/// is removed).
fn announced<'a>(field: &'a HeaderValue, name: &str, now: u64) -> Option<Announced<'a>> {
    let bytes = field.as_bytes();
    let pair = bytes.split(|byte| *byte == b';').next()?;
    let id = cookie::values(pair, name.as_bytes()).next()?;
    if id.is_empty() {
        return Some(Announced::Ends);
    }
    let is_over =
        std::str::from_utf8(bytes).ok().and_then(|text| ::cookie::Cookie::parse(text).ok()).is_some_and(|cookie| {
            let expires = cookie.expires_datetime().map(|at| at.unix_timestamp() <= now.cast_signed());
            // Max-Age has precedence over Expires (RFC 6265 §5.3).
            cookie.max_age().map(|age| !age.is_positive()).or(expires).unwrap_or(false)
        });
    Some(if is_over { Announced::Ends } else { Announced::Begins(id) })
}

/// Seconds that a store keeps a session that is not seen.
fn kept(lifetimes: &Lifetimes) -> u64 {
    lifetimes.idle.or(lifetimes.absolute).unwrap_or(KEPT)
}

/// What is asked of a store, or told to it.
#[derive(Debug)]
pub enum Job {
    /// What does it know of this session?
    Ask(Key, oneshot::Sender<Option<Found>>),
    /// A session was learned or has moved.
    Tell(Key, Found),
    /// A session was seen.
    Touch(Key),
    /// A session has ended.
    Forget(Key),
}

/// The way to whoever keeps a store in touch.
#[derive(Debug, Clone)]
pub struct Remote {
    jobs: mpsc::Sender<Job>,
    state: Arc<State>,
}

/// What both sides of the way know.
#[derive(Debug, Default)]
pub struct State {
    /// The store answers, and in time: it is worth asking.
    pub answers: AtomicBool,
    /// Something could not be told: table and store have to be compared.
    pub missed: AtomicBool,
}

impl Remote {
    fn ask(&self, key: Key) -> Option<oneshot::Receiver<Option<Found>>> {
        if !self.state.answers.load(Ordering::Relaxed) {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        self.jobs.try_send(Job::Ask(key, sender)).ok().map(|()| receiver)
    }

    fn tell(&self, job: Job) {
        if self.jobs.try_send(job).is_err() {
            self.state.missed.store(true, Ordering::Relaxed);
        }
    }
}

/// One pool's table and the store it is to be kept in touch with.
#[derive(Debug)]
pub struct Store {
    /// The pool's name.
    pub pool: Arc<str>,
    /// The address of the store; may hold a password.
    pub address: String,
    /// The table.
    pub table: Arc<Table>,
    /// Seconds that the store keeps a session that is not seen.
    pub kept: u64,
    /// What to ask and tell.
    pub jobs: mpsc::Receiver<Job>,
    /// What is known of the store.
    pub state: Arc<State>,
}

/// The tables of a process, by pool: what was learned outlives a reload.
#[derive(Debug, Default)]
pub struct Tables {
    by_pool: HashMap<String, (Arc<Table>, Option<Remote>)>,
    stores: Vec<Store>,
}

impl Tables {
    fn of(&mut self, pool: &str, settings: &Settings, lifetimes: &Lifetimes) -> (Arc<Table>, Option<Remote>) {
        if let Some((table, remote)) = self.by_pool.get(pool) {
            table.set_capacity(settings.capacity);
            return (Arc::clone(table), remote.clone());
        }
        let table = Arc::new(Table::new(settings.capacity));
        let remote = settings.store.as_ref().map(|address| {
            let ((jobs, receiver), state) = (mpsc::channel(QUEUE), Arc::<State>::default());
            self.stores.push(Store {
                pool: pool.into(),
                address: address.clone(),
                table: Arc::clone(&table),
                kept: kept(lifetimes),
                jobs: receiver,
                state: Arc::clone(&state),
            });
            Remote { jobs, state }
        });
        self.by_pool.insert(pool.into(), (Arc::clone(&table), remote.clone()));
        (table, remote)
    }

    /// The stores that nobody keeps in touch yet.
    pub fn take_stores(&mut self) -> Vec<Store> {
        std::mem::take(&mut self.stores)
    }
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

    fn learned(source: Source) -> Learned {
        let settings = Settings { source, capacity: 10, store: None };
        Learned::new("app", &settings, &Lifetimes::default(), &mut Tables::default())
    }

    fn fields(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(field).collect()
    }

    fn home(learned: &Learned, request: &[(&'static str, &str)]) -> Option<String> {
        match learned.read(&fields(request), &mut Memory::default()).reading {
            Reading::Pinned(pin) => Some(pin.backend.to_string()),
            _ => None,
        }
    }

    #[test]
    fn an_id_is_learned_from_the_response_and_followed_in_requests() {
        let learned = learned(Source::Cookie("PHPSESSID".into()));
        let request = [("cookie", "x=1; PHPSESSID=abc")];
        assert_eq!(home(&learned, &request), None);
        let response = fields(&[("set-cookie", "y=1"), ("set-cookie", "PHPSESSID=abc; Path=/; HttpOnly")]);
        learned.learn(&response, Came::default(), &pool(), 1, NOW);
        assert_eq!(home(&learned, &request).as_deref(), Some("b"));
        assert_eq!(
            home(&learned, &[("cookie", "PHPSESSID=old"), ("cookie", "PHPSESSID=\"abc\"")]).as_deref(),
            Some("b")
        );
        let Taken { reading, key, .. } =
            learned.read(&fields(&[("cookie", "PHPSESSID=other")]), &mut Memory::default());
        assert_eq!(reading, Reading::Unlearned(key.unwrap()));
        assert_eq!(learned.read(&fields(&[("cookie", "PHPSESSID=")]), &mut Memory::default()).key, None);
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
            let learned = learned(Source::Cookie("PHPSESSID".into()));
            let request = [("cookie", "PHPSESSID=abc")];
            learned.learn(&fields(&[("set-cookie", "PHPSESSID=abc")]), Came::default(), &pool(), 0, NOW);
            let key = learned.read(&fields(&request), &mut Memory::default()).key;
            learned.learn(&fields(&[("set-cookie", field)]), Came { key, ..Came::default() }, &pool(), 0, NOW);
            assert_eq!(home(&learned, &request).is_none(), ends, "{field}");
        }
    }

    #[test]
    fn a_cookie_removed_under_one_path_and_given_out_under_another_keeps_its_session() {
        let learned = learned(Source::Cookie("PHPSESSID".into()));
        let request = [("cookie", "PHPSESSID=abc")];
        learned.learn(&fields(&[("set-cookie", "PHPSESSID=abc")]), Came::default(), &pool(), 0, NOW);
        let key = learned.read(&fields(&request), &mut Memory::default()).key;
        let both = [("set-cookie", "PHPSESSID=; Max-Age=0; Path=/old"), ("set-cookie", "PHPSESSID=abc; Path=/")];
        learned.learn(&fields(&both), Came { key, ..Came::default() }, &pool(), 0, NOW);
        assert_eq!(home(&learned, &request).as_deref(), Some("a"));
    }

    #[test]
    fn an_id_in_a_field_is_learned_followed_and_ended_by_its_deletion() {
        let learned = learned(Source::Header(HeaderName::from_static("mcp-session-id")));
        let request = [("mcp-session-id", "s1")];
        learned.learn(&fields(&request), Came::default(), &pool(), 0, NOW);
        assert_eq!(home(&learned, &request).as_deref(), Some("a"));
        let key = learned.read(&fields(&request), &mut Memory::default()).key;
        learned.learn(&HeaderMap::new(), Came { key, ends: true, ..Came::default() }, &pool(), 0, NOW);
        assert_eq!(home(&learned, &request), None);
    }

    #[test]
    fn keys_are_the_same_everywhere_and_differ_by_pool() {
        let of = |pool: &str| {
            let settings = Settings { source: Source::Cookie("s".into()), capacity: 1, store: None };
            Learned::new(pool, &settings, &Lifetimes::default(), &mut Tables::default()).key(b"abc").to_string()
        };
        // printf 'app\0abc' | sha256sum
        assert_eq!(of("app"), of("app"));
        assert_ne!(of("app"), of("ap"));
    }

    #[test]
    fn a_connection_that_remembers_its_id_notices_a_move_and_a_logout() {
        let learned = learned(Source::Cookie("PHPSESSID".into()));
        let (pool, mut memory) = (pool(), Memory::default());
        let mut read = || learned.read(&fields(&[("cookie", "PHPSESSID=abc")]), &mut memory);
        learned.learn(&fields(&[("set-cookie", "PHPSESSID=abc")]), Came::default(), &pool, 0, NOW);
        let (first, again) = (read(), read());
        let (Reading::Pinned(first), Reading::Pinned(again)) = (&first.reading, &again.reading) else { panic!() };
        assert!(Arc::ptr_eq(first, again));
        let key = read().key;
        learned.moved(key.unwrap(), &pool, 1, Some(NOW), NOW);
        let Reading::Pinned(moved) = read().reading else { panic!() };
        assert_eq!(&*moved.backend, "b");
        learned.learn(
            &fields(&[("set-cookie", "PHPSESSID=; Max-Age=0")]),
            Came { key, ..Came::default() },
            &pool,
            1,
            NOW,
        );
        assert_eq!(read().reading, Reading::Unlearned(key.unwrap()));
    }

    #[test]
    fn a_stores_address_is_not_shown() {
        let store = Some("redis://:secret@127.0.0.1".into());
        let settings = Settings { source: Source::Cookie("s".into()), capacity: 1, store };
        assert!(!format!("{settings:?}").contains("secret"));
    }

    proptest::proptest! {
        #[test]
        fn no_field_panics(field: Vec<u8>, name in "[a-z]{1,3}") {
            if let Ok(value) = HeaderValue::from_bytes(&field) {
                announced(&value, &name, NOW);
                let learned = learned(Source::Cookie(name));
                learned.read(&HeaderMap::from_iter([(COOKIE, value)]), &mut Memory::default());
            }
        }
    }
}

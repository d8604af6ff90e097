//! Owns: the session copies of one pool: settings, store, counters, and log lines at a bounded rate.
//! Invariant: what is refused is counted, and logged with its reason at most once in a while.
//! Must not know: requests, connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::entry::Entry;
use super::refusal::Refusal;
use super::session_ref::SessionRef;
use super::settings::Settings;
use super::shared::SharedLink;
use super::store::CopyStore;
use crate::clock::{self, LogLimiter};
use crate::per_thread::{Counter, PerThread};

/// The shortest time between two lines for the same reason.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The session copies of one pool.
#[derive(Debug)]
pub struct PoolCopies {
    pool: Arc<str>,
    settings: Settings,
    store: Arc<CopyStore>,
    counters: Arc<CopyCounters>,
    shared: Option<SharedLink>,
}

/// What is counted of a pool's session copies. Outlives a reload.
#[derive(Debug)]
pub struct CopyCounters {
    threads: PerThread<Counters>,
    log: [LogLimiter; Refusal::NAMES.len()],
    has_warned_of_middleware: AtomicBool,
}

#[derive(Debug, Default)]
struct Counters {
    events: [Counter; CopyEvent::NAMES.len()],
    refusals: [Counter; Refusal::NAMES.len()],
    /// Hand-overs by duration, see [`BUCKETS`].
    hand_overs: [Counter; BUCKETS.len() + 1],
    hand_over_micros: Counter,
}

/// The upper bounds of the buckets of hand-over times, in microseconds; one more bucket has no upper bound.
pub const BUCKETS: [u64; 9] = [500, 1_000, 2_500, 5_000, 10_000, 50_000, 250_000, 1_000_000, 5_000_000];

/// What happens to copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyEvent {
    /// A state was stored.
    Save,
    /// A session has ended.
    Drop,
    /// A server has taken a copy, and the session's requests go there next.
    Give,
    /// A server keeps a copy of a session of another one.
    Place,
    /// A server lacked a state.
    Want,
}

impl CopyEvent {
    /// The words for metrics, in the order of the variants.
    pub const NAMES: [&'static str; 5] = ["saves", "drops", "gives", "places", "wants"];
}

impl CopyCounters {
    /// Makes the counters of one pool in a process with this many data-path threads.
    pub fn new(threads: usize) -> CopyCounters {
        let log = std::array::from_fn(|_| LogLimiter::default());
        CopyCounters { threads: PerThread::new(threads), log, has_warned_of_middleware: AtomicBool::new(false) }
    }

    fn sum(&self, counter: impl Fn(&Counters) -> &Counter) -> u64 {
        self.threads.iter().map(|counters| counter(counters).get()).sum()
    }

    /// Returns how often this has happened.
    pub fn events(&self, event: CopyEvent) -> u64 {
        self.sum(|counters| &counters.events[event as usize])
    }

    /// Returns how often something was refused, by reason.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Refusal::NAMES.iter().enumerate().map(|(at, name)| (*name, self.sum(|counters| &counters.refusals[at])))
    }

    /// Returns how many hand-overs took up to each of these seconds and longer than the one before, and the sum of all
    /// in seconds.
    pub fn hand_over_times(&self) -> (Vec<(f64, u64)>, f64) {
        let uppers = BUCKETS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
        let buckets = uppers.enumerate().map(|(at, upper)| (upper, self.sum(|counters| &counters.hand_overs[at])));
        (buckets.collect(), self.sum(|counters| &counters.hand_over_micros) as f64 / 1e6)
    }
}

impl PoolCopies {
    /// Puts the parts together.
    pub fn new(
        pool: &Arc<str>,
        settings: Settings,
        store: Arc<CopyStore>,
        counters: Arc<CopyCounters>,
        shared: Option<SharedLink>,
    ) -> PoolCopies {
        PoolCopies { pool: Arc::clone(pool), settings, store, counters, shared }
    }

    /// Extends the life of a session in the shared store, once in a quarter of it.
    pub fn touch_shared(&self, session: SessionRef, entry: &Entry, now: u64) {
        if let Some(shared) = &self.shared
            && entry.is_touch_due(now, self.store.lifetime() / 4)
        {
            shared.touch(session);
        }
    }

    /// Returns the store that several Linchpins share, if there is one.
    pub fn shared(&self) -> Option<&SharedLink> {
        self.shared.as_ref()
    }

    /// Returns the pool's name.
    pub fn pool(&self) -> &Arc<str> {
        &self.pool
    }

    /// Returns the settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns the embedded store.
    pub fn store(&self) -> &CopyStore {
        &self.store
    }

    /// Returns the counters.
    pub fn counters(&self) -> &CopyCounters {
        &self.counters
    }

    /// Counts an event on `thread`.
    pub fn count(&self, thread: usize, event: CopyEvent) {
        if let Some(counters) = self.counters.threads.get(thread) {
            counters.events[event as usize].add(1);
        }
    }

    /// Counts a hand-over that took this long.
    pub fn handed_over(&self, thread: usize, took: Duration) {
        let Some(counters) = self.counters.threads.get(thread) else { return };
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.iter().position(|upper| micros <= *upper).unwrap_or(BUCKETS.len());
        counters.hand_overs[bucket].add(1);
        counters.hand_over_micros.add(micros);
    }

    /// Counts a refusal, and logs it unless the same reason was logged a moment ago. `status` is the status of the
    /// server's response, if that was the reason.
    pub fn refused(&self, thread: usize, why: Refusal, session: SessionRef, backend: &str, status: Option<u16>) {
        if let Some(counters) = self.counters.threads.get(thread) {
            counters.refusals[why as usize].add(1);
        }
        let pool = &*self.pool;
        match why {
            // Said once: it stays so until somebody installs the middleware.
            Refusal::NoMiddleware => {
                if !self.counters.has_warned_of_middleware.swap(true, Ordering::Relaxed) {
                    tracing::warn!(pool, backend, reason = why.as_str(), status, "{}", why.explanation());
                }
            }
            // A busy session does this all the time: responses overtake each other.
            Refusal::StaleSeq => tracing::debug!(pool, backend, %session, "{}", why.explanation()),
            _ => {
                let unsaid = self.counters.log[why as usize].take(clock::unix(), LOG_INTERVAL, 1);
                if let Some(unsaid) = unsaid {
                    let reason = why.as_str();
                    tracing::warn!(pool, backend, %session, reason, status, unsaid, "{}", why.explanation());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CopyStores, Session, SharedCommand, StoreAddress};
    use super::*;

    /// Every reason, in the order of the names.
    const REFUSALS: [Refusal; Refusal::NAMES.len()] = [
        Refusal::StaleTerm,
        Refusal::StaleSeq,
        Refusal::TooLong,
        Refusal::Malformed,
        Refusal::NotAuthentic,
        Refusal::Newer,
        Refusal::NoMiddleware,
        Refusal::Status,
        Refusal::Late,
        Refusal::Broken,
        Refusal::NotPlaced,
        Refusal::HandOver,
        Refusal::WantedTwice,
        Refusal::BodyNotKept,
        Refusal::SharedStore,
    ];

    #[derive(Clone, Default)]
    struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn each_refusal_is_counted_by_its_own_name_and_logged_once_with_what_to_do() {
        let copies = CopyStores::default().open(&"app".into(), &Settings::default(), 400, 1);
        let session = SessionRef::new("app", b"1");
        for (at, why) in REFUSALS.into_iter().enumerate() {
            let log = Log::default();
            let writer = log.clone();
            let subscriber = tracing_subscriber::fmt()
                .with_max_level(tracing::Level::DEBUG)
                .with_writer(move || writer.clone())
                .with_ansi(false)
                .finish();
            tracing::subscriber::with_default(subscriber, || {
                (0..3).for_each(|_| copies.refused(0, why, session, "a", Some(500)));
            });
            let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
            let is_for_debugging = why == Refusal::StaleSeq;
            assert_eq!(text.lines().count(), if is_for_debugging { 3 } else { 1 }, "{text}");
            let is_named = text.contains(&format!("reason=\"{}\"", why.as_str()));
            assert!(text.contains(why.explanation()) && (is_named || is_for_debugging), "{text}");
            let counted: Vec<_> = copies.counters().refusals().filter(|(_, times)| *times > 0).collect();
            assert_eq!((counted.len(), counted[at]), (at + 1, (why.as_str(), 3)), "{why:?}");
        }
    }

    #[test]
    fn a_session_in_use_is_touched_in_the_shared_store_once_in_a_quarter_of_its_life() {
        let mut stores = CopyStores::default();
        let settings = Settings { store: Some(StoreAddress("redis://127.0.0.1".into())), ..Settings::default() };
        let copies = stores.open(&"app".into(), &settings, 400, 1);
        let mut sync = stores.take_shared().remove(0);
        sync.is_responsive.store(true, Ordering::Relaxed);
        let session = SessionRef::new("app", b"1");
        let entry = copies.store().find_or_insert(session, 1000, || Session::new(1, None));
        let mut touched_at = Vec::new();
        for now in 1000..1400 {
            copies.touch_shared(session, &entry, now);
            while let Ok(command) = sync.commands.try_recv() {
                assert!(matches!(command, SharedCommand::Touch(of) if of == session));
                touched_at.push(now);
            }
        }
        assert_eq!(touched_at, [1101, 1202, 1303]);
    }
}

//! Owns: one demo server's settings and memory: its sessions, its request count and its incarnation.
//! Invariant: all of it ends with the process.
//! Must not know: requests, cookies or pages.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::header::HeaderValue;

use super::copies::ref_table::{RefTable, Ticket};
use super::copies::seal::CopySettings;
use super::session::{SessionLimits, SessionStore};

/// How long a session lives without a request, by default.
pub const DEFAULT_SESSION_TIMEOUT: Duration = Duration::from_mins(20);

/// The settings of a demo backend.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The server's name, which every response carries.
    pub name: String,
    /// How long a session lives without a request.
    pub session_timeout: Duration,
    /// How many sessions are kept. At this limit a new session replaces the one that was idle longest.
    pub max_sessions: usize,
    /// Whether `POST /kill` kills this process. Off by default, for a router that runs inside another program.
    pub allow_kill: bool,
    /// How copies of sessions are sealed. `None`: this server speaks with no Linchpin about copies.
    pub copies: Option<CopySettings>,
}

impl Settings {
    /// Returns the defaults for a server of that name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            session_timeout: DEFAULT_SESSION_TIMEOUT,
            max_sessions: 10_000,
            allow_kill: false,
            copies: None,
        }
    }
}

/// One server's identity and memory.
pub(super) struct Server {
    pub(super) settings: Settings,
    /// The name as a header value, made once.
    pub(super) served_by: HeaderValue,
    pub(super) incarnation: Incarnation,
    pub(super) started: Instant,
    served: AtomicU64,
    memory: Mutex<Memory>,
}

/// What a server remembers of its clients.
pub(super) struct Memory {
    pub(super) sessions: SessionStore,
    pub(super) refs: RefTable,
}

impl Server {
    pub(super) fn new(settings: Settings) -> Self {
        let limits = SessionLimits { idle: settings.session_timeout, capacity: settings.max_sessions };
        // With a clock before 1970 all incarnations look like one: the page then mentions no restart.
        let started_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let started_ms = u64::try_from(started_ms.as_millis()).unwrap_or(u64::MAX);
        Self {
            incarnation: Incarnation { name: settings.name.clone(), started_ms },
            served_by: HeaderValue::from_str(&settings.name).unwrap_or(HeaderValue::from_static("unnamed")),
            started: Instant::now(),
            served: AtomicU64::new(0),
            memory: Mutex::new(Memory {
                sessions: SessionStore::new(limits),
                // A session may have had several names, when its client lost its routing cookie.
                refs: RefTable::new(limits.capacity.saturating_mul(2)),
            }),
            settings,
        }
    }

    /// Locks the memory. A panic elsewhere leaves it usable: no change to it is ever half done.
    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the memory for a change of the client's session. `None` if the session was handed over to another server
    /// since the request began: that server went on from the state that this request knows.
    pub(super) fn memory_to_change(&self, ticket: Option<&Ticket>) -> Option<MutexGuard<'_, Memory>> {
        let memory = self.memory();
        let is_overtaken = ticket.is_some_and(|ticket| memory.refs.is_overtaken(ticket));
        (!is_overtaken).then_some(memory)
    }

    /// Counts one request.
    pub(super) fn count_request(&self) {
        self.served.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

/// One run of a server's process. Its memory ends with it; the next incarnation begins with an empty one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Incarnation {
    pub(super) name: String,
    /// Start time, in milliseconds of Unix time.
    pub(super) started_ms: u64,
}

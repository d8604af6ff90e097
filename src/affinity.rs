//! Owns: what ties a client to a backend: reading a pin, judging it, and the pin that follows.
//! Invariant: the verdict is a pure function of pin, pool and time; nothing here waits or fails a request.
//! Must not know: sockets, the retry budget, balancers' insides.

mod caching;
pub mod converge;
pub mod cookie;
pub mod decide;
pub mod explain;
pub mod failover;
pub mod header;
pub mod learned;
pub mod lost;
mod nonce;
pub mod pins;
pub mod policy;
pub mod route;
pub mod rules;
pub mod seal;
mod sealed;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::{HeaderMap, HeaderName};
use http::request;
use tokio::sync::oneshot;

use crate::pool::Pool;
use converge::Converge;
pub use decide::{Cause, Decision, Lifetimes, Next, Terms, Verdict};
pub use learned::{Found, Key, Tables};
use pins::Clash;
pub use policy::{Policies, Policy};
pub use route::Routed;
use rules::{Choice, Rule};
pub use seal::{KeyRing, Pin, Sealer};
pub use sealed::Memory;

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

/// How long a session that does not say otherwise counts as present, in seconds (the number of
/// sessions a backend has; nothing ends by it).
const PRESENCE: u64 = 1800;

/// A pool's persistence, made ready for its requests.
#[derive(Debug)]
pub struct Affinity {
    carrier: Ready,
    terms: Terms,
    converge: Option<Converge>,
    rules: Vec<Rule>,
    verdict_header: Option<HeaderName>,
    /// It was told that a backend pins clients under the same name.
    told_of_clash: AtomicBool,
}

#[derive(Debug)]
enum Ready {
    None,
    Cookie(cookie::Cookie),
    Header(header::Header),
    Route(route::Route),
    Learned(learned::Learned),
}

/// What a request said of its pin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// Nothing.
    Absent,
    /// Something that no key of the ring opens, or that is not for this pool.
    Unreadable,
    /// A pin.
    Pinned(Arc<Pin>),
    /// An id of the application's that names its server.
    Routed(Routed),
    /// An id of the application's that nobody has learned.
    Unlearned(Key),
}

/// What was read of a request, and the session of the application's that it is about, if it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// What the request said.
    pub reading: Reading,
    key: Option<Key>,
    /// What the table had forgotten when a store was asked.
    forgotten: u64,
}

impl From<Reading> for Taken {
    fn from(reading: Reading) -> Taken {
        Taken { reading, key: None, forgotten: 0 }
    }
}

/// What of a response decides which pin goes out with it.
#[derive(Debug, Clone, Copy)]
pub struct Served<'a> {
    /// The verdict.
    pub decision: &'a Decision,
    /// The pool.
    pub pool: &'a Pool,
    /// The position of the backend that answered.
    pub by: usize,
    /// Whether it answered as one that works: neither a 502, nor a 503, nor a 504.
    pub well: bool,
    /// Whether the request says nothing of its client's session: a preflight, a prefetch.
    pub aside: bool,
    /// Whether the request asked for the end of its session, and got it (a DELETE, as MCP has it).
    pub ended: bool,
    /// Whether the client speaks TLS.
    pub tls: bool,
    /// Seconds since the Unix epoch.
    pub now: u64,
}

impl Affinity {
    /// For the pool named `pool`; what it learns is kept in `tables`.
    pub fn new(pool: &str, settings: &Settings, ring: &Arc<KeyRing>, tables: &mut Tables) -> Affinity {
        let seconds = |duration: Duration| duration.as_secs().max(1);
        let lifetimes =
            Lifetimes { idle: settings.idle_timeout.map(seconds), absolute: settings.absolute_timeout.map(seconds) };
        let carrier = match &settings.carrier {
            Carrier::None => Ready::None,
            Carrier::Cookie(settings) => Ready::Cookie(cookie::Cookie::new(pool, settings, ring)),
            Carrier::Header(settings) => Ready::Header(header::Header::new(pool, settings, ring)),
            Carrier::Route(settings) => Ready::Route(route::Route::new(settings)),
            Carrier::Learned(settings) => Ready::Learned(learned::Learned::new(pool, settings, &lifetimes, tables)),
        };
        // What is learned is dated by this process's own clock, also where it came from another's.
        let max_clock_skew = (!matches!(carrier, Ready::Learned(_))).then_some(settings.max_clock_skew.as_secs());
        Affinity {
            carrier,
            terms: Terms { lifetimes, policies: settings.on.clone(), max_clock_skew },
            converge: settings.converge.map(Converge::new),
            rules: settings.rules.clone(),
            verdict_header: settings.verdict_header.clone(),
            told_of_clash: AtomicBool::new(false),
        }
    }

    /// Says once that the backend at a position pins clients under a name of ours.
    pub fn tell(&self, clash: Clash, pool: &Pool, by: usize) {
        if !self.told_of_clash.load(Ordering::Relaxed) && !self.told_of_clash.swap(true, Ordering::Relaxed) {
            clash.tell(pool.name(), pool.backend(by).name());
        }
    }

    /// Whether clients are pinned at all.
    pub fn is_on(&self) -> bool {
        !matches!(self.carrier, Ready::None)
    }

    /// The `type` of the configuration.
    pub fn kind(&self) -> &'static str {
        match &self.carrier {
            Ready::None => "none",
            Ready::Cookie(_) => "cookie",
            Ready::Header(_) => "header",
            Ready::Route(_) => "route",
            Ready::Learned(_) => "learned",
        }
    }

    /// What its pins are held to.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Where first requests of one client come together, if they do.
    pub fn converge(&self) -> Option<&Converge> {
        self.converge.as_ref()
    }

    /// The field of responses that says verdict and cause.
    pub fn verdict_header(&self) -> Option<&HeaderName> {
        self.verdict_header.as_ref()
    }

    /// The table of learned sessions, if there is one.
    pub fn table(&self) -> Option<&Arc<learned::Table>> {
        match &self.carrier {
            Ready::Learned(learned) => Some(learned.table()),
            _ => None,
        }
    }

    /// The time in seconds within which a session counts as one that a backend has.
    pub fn presence(&self) -> u64 {
        self.terms.lifetimes.idle.or(self.terms.lifetimes.absolute).unwrap_or(PRESENCE)
    }

    /// What the first rule that matches says of a request from `address`, which is `None` where nobody knows
    /// it. Fields in which testers name their server go, whoever sent them.
    pub fn rule(&self, head: &mut request::Parts, address: Option<IpAddr>, pool: &Pool) -> Option<rules::Effect> {
        if self.rules.is_empty() {
            return None;
        }
        let effect = rules::judge(&self.rules, head, address, pool);
        for rule in &self.rules {
            if let Rule::Force(force) = rule
                && let Choice::Header(name) = &force.by
            {
                head.headers.remove(name);
            }
        }
        effect
    }

    /// Reads the pin of a request. A token of ours is taken out of its fields, so that no backend
    /// sees it; an id of the application's stays.
    pub fn take(&self, headers: &mut HeaderMap, path: &str, pool: &Pool, memory: &mut Memory) -> Taken {
        match &self.carrier {
            Ready::None => Reading::Absent.into(),
            Ready::Cookie(cookie) => cookie.take(headers, memory).into(),
            Ready::Header(header) => header.take(headers, memory).into(),
            Ready::Route(route) => route.read(headers, path, pool).into(),
            Ready::Learned(learned) => learned.read(headers, memory),
        }
    }

    /// Where to wait for what other Linchpins know of a session that this one doesn't know, or has
    /// not seen for too long at `now`. `None` where there is nobody to ask.
    pub fn ask(&self, taken: &mut Taken, now: u64) -> Option<oneshot::Receiver<Option<Found>>> {
        let (Ready::Learned(learned), Some(key)) = (&self.carrier, taken.key) else { return None };
        let idle = self.terms.lifetimes.idle;
        let is_known = match &taken.reading {
            Reading::Pinned(pin) => idle.is_none_or(|idle| now.saturating_sub(pin.last_seen) < idle),
            _ => false,
        };
        if is_known {
            return None;
        }
        taken.forgotten = learned.table().forgotten(key);
        learned.ask(key)
    }

    /// Takes over what others know.
    pub fn answered(&self, taken: &mut Taken, found: &Found) {
        if let (Ready::Learned(learned), Some(key)) = (&self.carrier, taken.key) {
            taken.reading = learned.answered(key, found, taken.forgotten);
        }
    }

    /// Does to a response, and remembers, what follows from it for the client's pin.
    pub fn bind(&self, headers: &mut HeaderMap, key: Option<Key>, served: Served<'_>) {
        let Served { decision, pool, by, now, .. } = served;
        // Never with an answer that says that a server does not work, nor with one to a request
        // that was sent without its client's pin.
        let pin = || decision.pin(pool, by, now).filter(|_| served.well && !served.aside);
        match &self.carrier {
            Ready::None | Ready::Route(_) => {}
            Ready::Cookie(cookie) => {
                if let Some(pin) = pin() {
                    cookie.put(headers, &pin, &self.terms.lifetimes, served.tls, now);
                }
            }
            Ready::Header(header) => header.put(headers, pin().as_ref()),
            // What a rule has left alone teaches nothing: its server was chosen without its session.
            Ready::Learned(learned) if served.well && decision.verdict != Verdict::None => {
                // Known, and not just somebody's idea of an id.
                if let (Some(key), true, false) = (key, decision.has_pin(), served.aside) {
                    match decision.verdict {
                        Verdict::Hit | Verdict::Borrowed => learned.saw(key, now),
                        Verdict::New | Verdict::Moved => learned.moved(key, pool, by, Some(decision.issued), now),
                        Verdict::Refused | Verdict::None => {}
                    }
                }
                let stays = decision.has_pin() && (served.aside || decision.verdict == Verdict::Borrowed);
                learned.learn(headers, learned::Came { key, ends: served.ended, stays }, pool, by, now);
            }
            Ready::Learned(_) => {}
        }
    }

    /// Forgets what is over at `now` (since the Unix epoch). Call it now and then.
    pub fn sweep(&self, now: Duration) {
        if let Some(converge) = &self.converge {
            converge.sweep(now);
        }
        if let (Some(table), Some(idle)) = (self.table(), self.terms.lifetimes.idle) {
            table.sweep(now.as_secs().saturating_sub(idle));
        }
    }

    /// The id of the key that a token names, whether or not it opens.
    pub fn key_of(&self, token: &[u8]) -> Option<&str> {
        match &self.carrier {
            Ready::Cookie(cookie) => cookie.sealed().key_of(token),
            Ready::Header(header) => header.sealed().key_of(token),
            Ready::None | Ready::Route(_) | Ready::Learned(_) => None,
        }
    }

    /// Reads a token, or an id of the application's, as a request's would be.
    pub fn open(&self, token: &[u8], pool: &Pool) -> Reading {
        match &self.carrier {
            Ready::None => Reading::Absent,
            Ready::Cookie(cookie) => cookie.sealed().open(token),
            Ready::Header(header) => header.sealed().open(token),
            Ready::Route(route) => route.read_id(token, pool),
            Ready::Learned(learned) => learned.read_id(token),
        }
    }
}

impl Taken {
    /// The session of the application's that the request is about.
    pub fn key(&self) -> Option<Key> {
        self.key
    }
}

//! Owns: session persistence of one pool: reading a request's pin, judging it, and issuing the pin that follows.
//! Invariant: the verdict is a pure function of pin, pool and time; nothing here waits, and no request fails here.
//! Must not know: sockets, the retry budget, how a balancer chooses.

pub mod avoid_list;
mod caching;
pub mod converge;
pub mod cookie;
pub mod decide;
mod effect;
pub mod explain;
pub mod failover;
pub mod header;
mod issued;
pub mod learned;
mod lookup;
mod nonce;
mod pin_cache;
pub mod pin_names;
pub mod policy;
mod rejected_pin;
mod replica;
pub mod route;
pub mod rules;
pub mod seal;
mod settings;
mod verdict;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::{HeaderMap, HeaderName};
use http::request;
use tokio::sync::oneshot;

use crate::pool::Pool;
use crate::pool::sessions::SessionLifetime;
use converge::Converge;
pub use decide::{Decision, NextStep};
pub use effect::SessionEffect;
pub use learned::{SessionKey, SessionRecord, SessionTables};
pub use lookup::{ExtractedPin, PinLookup, RoutedId};
pub use pin_cache::PinCache;
use pin_names::PinNameConflict;
pub use policy::{Lifetimes, Policies, Policy, SessionPolicy};
pub use rejected_pin::{ReadPin, RejectedPin};
use rules::{BackendNameIn, Rule};
pub use seal::{KeyRing, Pin, Sealer};
pub use settings::{Carrier, MAX_CLOCK_SKEW, Settings};
pub use verdict::{Cause, Verdict};

/// How long a session counts as one of its backend where the pool has no timeouts, in seconds. It only affects how
/// many sessions a backend is shown to have; no session ends by it.
const DEFAULT_PRESENCE: u64 = 1800;

/// How long a session whose pool has no timeouts is remembered after its last request, in seconds.
const DEFAULT_RETENTION: u64 = 24 * 3600;

/// The persistence of one pool, built from its settings.
#[derive(Debug)]
pub struct Affinity {
    carrier: ActiveCarrier,
    session_policy: SessionPolicy,
    converge: Option<Converge>,
    rules: Vec<Rule>,
    verdict_header: Option<HeaderName>,
    replica_field: replica::ReplicaField,
    /// Set once the log has warned that a backend issues pins under the same name.
    warned_of_conflict: AtomicBool,
}

#[derive(Debug)]
enum ActiveCarrier {
    None,
    Cookie(cookie::CookieCarrier),
    Header(header::HeaderCarrier),
    Route(route::RouteCarrier),
    Learned(learned::LearnedCarrier),
}

/// The facts that decide which pin a response issues.
#[derive(Debug, Clone, Copy)]
pub struct BindContext<'a> {
    /// The verdict.
    pub decision: &'a Decision,
    /// The pool.
    pub pool: &'a Pool,
    /// The position of the backend that sent the response.
    pub served_by: usize,
    /// Whether the status shows a working backend: none of 502, 503 and 504.
    pub is_working: bool,
    /// Whether the request says nothing about its client's session: a preflight or a prefetch.
    pub is_sessionless: bool,
    /// Whether the request ended its session: a DELETE that succeeded, as in MCP.
    pub ended: bool,
    /// Whether the client speaks TLS.
    pub tls: bool,
    /// Seconds since the Unix epoch.
    pub now: u64,
}

impl Affinity {
    /// Builds the persistence of the pool named `pool`. Learned sessions are kept in `tables`.
    pub fn new(pool: &str, settings: &Settings, ring: &Arc<KeyRing>, tables: &mut SessionTables) -> Affinity {
        let seconds = |duration: Duration| duration.as_secs().max(1);
        let lifetimes =
            Lifetimes { idle: settings.idle_timeout.map(seconds), absolute: settings.absolute_timeout.map(seconds) };
        let carrier = match &settings.carrier {
            Carrier::None => ActiveCarrier::None,
            Carrier::Cookie(settings) => ActiveCarrier::Cookie(cookie::CookieCarrier::new(pool, settings, ring)),
            Carrier::Header(settings) => ActiveCarrier::Header(header::HeaderCarrier::new(pool, settings, ring)),
            Carrier::Route(settings) => ActiveCarrier::Route(route::RouteCarrier::new(settings)),
            Carrier::Learned(settings) => {
                ActiveCarrier::Learned(learned::LearnedCarrier::new(pool, settings, &lifetimes, tables))
            }
        };
        // Learned sessions carry the time of this process's own clock, even if another Linchpin learned them.
        let max_clock_skew =
            (!matches!(carrier, ActiveCarrier::Learned(_))).then_some(settings.max_clock_skew.as_secs());
        Affinity {
            carrier,
            session_policy: SessionPolicy { lifetimes, policies: settings.on.clone(), max_clock_skew },
            converge: settings.converge.map(Converge::new),
            rules: settings.rules.clone(),
            verdict_header: settings.verdict_header.clone(),
            replica_field: replica::ReplicaField::default(),
            warned_of_conflict: AtomicBool::new(false),
        }
    }

    /// Warns, once per pool, that the backend at position `served_by` issues pins under a name of this Linchpin's pins.
    pub fn warn_of_conflict(&self, conflict: PinNameConflict, pool: &Pool, served_by: usize) {
        if !self.warned_of_conflict.load(Ordering::Relaxed) && !self.warned_of_conflict.swap(true, Ordering::Relaxed) {
            conflict.warn(pool.name(), pool.backend(served_by).name());
        }
    }

    /// Whether the pool pins its clients.
    pub fn is_on(&self) -> bool {
        !matches!(self.carrier, ActiveCarrier::None)
    }

    /// The configuration's word for the `type`.
    pub fn kind(&self) -> &'static str {
        match &self.carrier {
            ActiveCarrier::None => "none",
            ActiveCarrier::Cookie(_) => "cookie",
            ActiveCarrier::Header(_) => "header",
            ActiveCarrier::Route(_) => "route",
            ActiveCarrier::Learned(_) => "learned",
        }
    }

    /// How long sessions live, and what is done when a pin does not hold.
    pub fn session_policy(&self) -> &SessionPolicy {
        &self.session_policy
    }

    /// The groups of first requests, if `converge` is configured.
    pub fn converge(&self) -> Option<&Converge> {
        self.converge.as_ref()
    }

    /// The response field that carries verdict and cause.
    pub fn verdict_header(&self) -> Option<&HeaderName> {
        self.verdict_header.as_ref()
    }

    /// The table of learned sessions, for the type `learned`.
    pub fn table(&self) -> Option<&Arc<learned::SessionTable>> {
        match &self.carrier {
            ActiveCarrier::Learned(learned) => Some(learned.table()),
            _ => None,
        }
    }

    /// Whether a store outside of the process has the learned sessions as well.
    pub fn has_store(&self) -> bool {
        matches!(&self.carrier, ActiveCarrier::Learned(learned) if learned.has_store())
    }

    /// How long a session counts as one of its backend.
    pub fn session_lifetime(&self) -> SessionLifetime {
        let Lifetimes { idle, absolute } = self.session_policy.lifetimes;
        SessionLifetime { idle: idle.or(absolute).unwrap_or(DEFAULT_PRESENCE), absolute }
    }

    /// How long after its last request a session is remembered, in seconds.
    pub fn retention_seconds(&self) -> u64 {
        self.session_policy.lifetimes.idle.or(self.session_policy.lifetimes.absolute).unwrap_or(DEFAULT_RETENTION)
    }

    /// Returns the effect of the first rule that matches a request from `address`, which is `None` where the client's
    /// address is unknown. Removes the fields in which testers name a backend, no matter who sent them.
    pub fn apply_rules(
        &self,
        head: &mut request::Parts,
        address: Option<IpAddr>,
        pool: &Pool,
    ) -> Option<rules::RuleEffect> {
        if self.rules.is_empty() {
            return None;
        }
        let effect = rules::first_effect(&self.rules, head, address, pool);
        for rule in &self.rules {
            if let Rule::Force(force) = rule
                && let BackendNameIn::Header(name) = &force.by
            {
                head.headers.remove(name);
            }
        }
        effect
    }

    /// Reads the pin of a request. Removes our own token from the fields, so that no backend sees it; leaves the
    /// application's session id in place.
    pub fn extract(&self, headers: &mut HeaderMap, path: &str, pool: &Pool, cache: &mut PinCache) -> ExtractedPin {
        match &self.carrier {
            ActiveCarrier::None => PinLookup::Absent.into(),
            ActiveCarrier::Cookie(cookie) => {
                let lookup = cookie.extract(headers, cache);
                cache.extracted(lookup)
            }
            ActiveCarrier::Header(header) => {
                let lookup = header.extract(headers, cache);
                cache.extracted(lookup)
            }
            ActiveCarrier::Route(route) => route.read(headers, path, pool).into(),
            ActiveCarrier::Learned(learned) => learned.read(headers, cache),
        }
    }

    /// Asks the shared store for a session that this Linchpin does not know, or has not seen for longer than the idle
    /// timeout at `now`. Returns `None` where no store is configured or the store is not responsive.
    pub fn query_store(
        &self,
        extracted: &mut ExtractedPin,
        now: u64,
    ) -> Option<oneshot::Receiver<Option<SessionRecord>>> {
        let (ActiveCarrier::Learned(learned), Some(key)) = (&self.carrier, extracted.key) else { return None };
        let idle = self.session_policy.lifetimes.idle;
        let is_known = match &extracted.lookup {
            PinLookup::Pinned(pin) => idle.is_none_or(|idle| now.saturating_sub(pin.last_seen) < idle),
            _ => false,
        };
        if is_known {
            return None;
        }
        extracted.removals = learned.table().removals(key);
        learned.query(key)
    }

    /// Replaces the lookup by what the store knows of the session.
    pub fn adopt(&self, extracted: &mut ExtractedPin, found: &SessionRecord) {
        if let (ActiveCarrier::Learned(learned), Some(key)) = (&self.carrier, extracted.key) {
            extracted.lookup = learned.adopt(key, found, extracted.removals);
        }
    }

    /// Reads which other backend holds the session's state, if the response of the backend at position `served_by` names
    /// one and the pool's pins remember it.
    pub fn read_replica(&self, headers: &HeaderMap, decision: &mut Decision, pool: &Pool, served_by: usize) {
        match self.carrier {
            ActiveCarrier::None | ActiveCarrier::Route(_) => {}
            ActiveCarrier::Cookie(_) | ActiveCarrier::Header(_) | ActiveCarrier::Learned(_) => {
                self.replica_field.read(headers, decision, pool, served_by);
            }
        }
    }

    /// Issues or renews the client's pin in the response's fields, or learns the session id that the response carries.
    pub fn bind(&self, headers: &mut HeaderMap, key: Option<SessionKey>, context: BindContext<'_>) {
        let BindContext { decision, pool, served_by, now, .. } = context;
        // Never with a response that shows a failing backend, nor with one to a request that clients send without
        // their pin.
        let pin = || decision.pin(pool, served_by, now).filter(|_| context.is_working && !context.is_sessionless);
        match &self.carrier {
            ActiveCarrier::None | ActiveCarrier::Route(_) => {}
            ActiveCarrier::Cookie(cookie) => {
                if let Some(pin) = pin() {
                    cookie.issue(headers, &pin, &self.session_policy.lifetimes, context.tls, now);
                }
            }
            ActiveCarrier::Header(header) => header.set(headers, pin().as_ref()),
            // A request that a rule exempts teaches nothing: its backend was chosen without its session.
            ActiveCarrier::Learned(learned) if context.is_working && decision.verdict != Verdict::None => {
                let (backend, term) = (pool.backend(served_by), decision.term());
                let holder = learned::Holder { backend, term, replica: decision.replica(pool, served_by) };
                // Only for a session that the table knows: clients can make up ids.
                if let (Some(key), true, false) = (key, decision.has_presented_pin(), context.is_sessionless) {
                    match decision.verdict {
                        Verdict::Hit | Verdict::Borrowed => match decision.changed_pin(pool, served_by, now) {
                            Some(pin) => learned.record_pin(key, &pin, now),
                            None => learned.record_seen(key, now),
                        },
                        Verdict::New | Verdict::Moved => learned.record_holder(key, holder, Some(decision.issued), now),
                        Verdict::Refused | Verdict::None => {}
                    }
                }
                let stays =
                    decision.has_presented_pin() && (context.is_sessionless || decision.verdict == Verdict::Borrowed);
                learned.learn_from_response(
                    headers,
                    learned::RequestSession { key, ends: context.ended, stays },
                    holder,
                    now,
                );
            }
            ActiveCarrier::Learned(_) => {}
        }
    }

    /// Returns what a response means for the session of its request. `headers` are the response's, before
    /// [`Affinity::bind`] has changed them.
    pub fn session_effect(&self, headers: &HeaderMap, context: BindContext<'_>) -> SessionEffect {
        let BindContext { decision, now, .. } = context;
        let verdict = decision.verdict;
        match &self.carrier {
            _ if !context.is_working || context.is_sessionless => SessionEffect::default(),
            ActiveCarrier::None => SessionEffect::default(),
            ActiveCarrier::Cookie(_) | ActiveCarrier::Header(_) => SessionEffect::of_own_pin(decision),
            ActiveCarrier::Route(route) => {
                let (known, issued) = (verdict != Verdict::New, route.issued(headers, now));
                let session = issued.id.map(|id| route.session_of_id(id));
                SessionEffect::of_application(verdict, known.then_some(decision.session), session, issued.removes)
            }
            ActiveCarrier::Learned(learned) => {
                // Not of an id that a client has made up.
                let known = decision.issued_session().filter(|_| verdict != Verdict::New);
                let issued = learned.issued(headers, now);
                let session = issued.id.map(|id| learned.key(id).session());
                SessionEffect::of_application(verdict, known, session, issued.removes || context.ended)
            }
        }
    }

    /// Whether sessions are known by an id that the application issues.
    pub fn uses_ids_of_the_application(&self) -> bool {
        matches!(self.carrier, ActiveCarrier::Route(_) | ActiveCarrier::Learned(_))
    }

    /// Returns the key of the session id that a request carries, for a type whose [`ExtractedPin`] has none: `route`.
    pub fn routed_key(&self, headers: &HeaderMap, path: &str, pool: &Pool) -> Option<SessionKey> {
        match &self.carrier {
            ActiveCarrier::Route(route) => route.key(headers, path, pool),
            _ => None,
        }
    }

    /// Returns the key of the session id that a response issues, if the application issues the ids. `now` is in seconds
    /// since the Unix epoch.
    pub fn issued_key(&self, headers: &HeaderMap, pool: &Pool, now: u64) -> Option<SessionKey> {
        match &self.carrier {
            ActiveCarrier::Route(route) => route.issued_key(headers, pool, now),
            ActiveCarrier::Learned(learned) => learned.issued_key(headers, now),
            ActiveCarrier::None | ActiveCarrier::Cookie(_) | ActiveCarrier::Header(_) => None,
        }
    }

    /// Returns the key of a session id of the application, if the pool's clients are pinned by such ids.
    pub fn key_of_id(&self, id: &[u8], pool: &Pool) -> Option<SessionKey> {
        match &self.carrier {
            ActiveCarrier::Route(route) => Some(route.key_of_id(id, pool)),
            ActiveCarrier::Learned(learned) => Some(learned.key(id)),
            ActiveCarrier::None | ActiveCarrier::Cookie(_) | ActiveCarrier::Header(_) => None,
        }
    }

    /// Removes what has expired at `now` (since the Unix epoch). Call it periodically.
    pub fn sweep(&self, now: Duration) {
        if let Some(converge) = &self.converge {
            converge.sweep(now);
        }
        if let (Some(table), Some(idle)) = (self.table(), self.session_policy.lifetimes.idle) {
            table.sweep(now.as_secs().saturating_sub(idle));
        }
    }

    /// The id of the key that a token names, even if the token does not open.
    pub fn key_of(&self, token: &[u8]) -> Option<&str> {
        match &self.carrier {
            ActiveCarrier::Cookie(cookie) => cookie.codec().key_of(token),
            ActiveCarrier::Header(header) => header.codec().key_of(token),
            ActiveCarrier::None | ActiveCarrier::Route(_) | ActiveCarrier::Learned(_) => None,
        }
    }

    /// Reads a token, or a session id of the application, as if a request had carried it.
    pub fn open_token(&self, token: &[u8], pool: &Pool) -> PinLookup {
        match &self.carrier {
            ActiveCarrier::None => PinLookup::Absent,
            ActiveCarrier::Cookie(cookie) => cookie.codec().open(token),
            ActiveCarrier::Header(header) => header.codec().open(token),
            ActiveCarrier::Route(route) => route.read_id(token, pool),
            ActiveCarrier::Learned(learned) => learned.read_id(token),
        }
    }
}

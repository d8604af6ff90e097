//! Owns: what a token or session id holds, and what would become of a request that brought it now.
//! Invariant: judged by the very function that judges requests; no key, and nothing of what opens a token, is told.
//! Must not know: who asks, and in which form it is told.

use super::{Affinity, Cause, Decision, Next, Reading, Verdict, decide, failover};
use crate::balance::Tried;
use crate::pool::Pool;

/// What is told of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The pool that can read it.
    pub pool: String,
    /// How that pool pins: `cookie`, `header`, `route`, `learned`.
    pub persistence: &'static str,
    /// The id of the key that sealed it, if it is sealed.
    pub key: Option<String>,
    /// The session's id.
    pub session: u64,
    /// When the session began and was last seen, in seconds since the Unix epoch, if that is known.
    pub seen: Option<Seen>,
    /// The backend that it names, and what is to be said of it.
    pub backend: Option<Named>,
    /// What would be decided.
    pub verdict: Verdict,
    /// Why it would not hold.
    pub cause: Option<Cause>,
    /// The backend that would serve it, unless that is for the balancer to say, or none would.
    pub goes_to: Option<String>,
    /// The same in a sentence.
    pub why: String,
}

/// The times of a session, and what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// When it began.
    pub issued: u64,
    /// When it was last seen.
    pub last: u64,
    /// Silence that ends it.
    pub idle_timeout: Option<u64>,
    /// Age that ends it.
    pub absolute_timeout: Option<u64>,
}

/// The backend that a pin names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Where it is now, if the pool has it.
    pub address: Option<String>,
    /// Whether the pin is for another life of it.
    pub replaced: bool,
}

/// Explains a token, or an id of the application's, at `now` (seconds since the Unix epoch); `None`
/// if this pool can't read it.
pub fn explain(pool: &Pool, affinity: &Affinity, token: &[u8], now: u64) -> Option<Explanation> {
    let reading = affinity.open(token, pool);
    let (seen, backend) = match &reading {
        Reading::Absent | Reading::Unreadable | Reading::Unlearned(_) => return None,
        Reading::Pinned(pin) => {
            let lifetimes = affinity.terms().lifetimes;
            let (idle_timeout, absolute_timeout) = (lifetimes.idle, lifetimes.absolute);
            let seen = Seen { issued: pin.issued, last: pin.last_seen, idle_timeout, absolute_timeout };
            let found = pool.position(&pin.backend).map(|index| pool.backend(index));
            let named = Named {
                name: pin.backend.to_string(),
                address: found.map(|backend| backend.address().to_string()),
                replaced: found.is_some_and(|backend| backend.incarnation() != pin.incarnation),
            };
            (Some(seen), Some(named))
        }
        Reading::Routed(routed) => {
            let backend = routed.nodes[0].map(|index| pool.backend(index));
            let named = backend.map(|backend| Named {
                name: backend.name().to_string(),
                address: Some(backend.address().to_string()),
                replaced: false,
            });
            (None, named)
        }
    };
    let decision = decide::decide(reading, pool, affinity.terms(), now, 0);
    let goes_to = goes_to(pool, &decision);
    Some(Explanation {
        pool: pool.name().to_string(),
        persistence: affinity.kind(),
        key: affinity.key_of(token).map(str::to_owned),
        session: decision.session,
        seen,
        backend,
        verdict: decision.verdict,
        cause: decision.cause,
        why: why(&decision, goes_to.as_deref()),
        goes_to,
    })
}

fn goes_to(pool: &Pool, decision: &Decision) -> Option<String> {
    let next = || {
        let mut tried = Tried::new();
        decision.pinned.iter().for_each(|pinned| tried.insert(*pinned));
        failover::next(pool, decision.session, decision.pinned, &tried)
    };
    let index = match (decision.verdict, decision.next) {
        (_, Next::Refuse(_)) | (Verdict::New | Verdict::Refused | Verdict::None, _) => None,
        (Verdict::Hit | Verdict::Moved | Verdict::Borrowed, _) => decision.target().or_else(next),
    };
    index.map(|index| pool.backend(index).name().to_string())
}

fn why(decision: &Decision, goes_to: Option<&str>) -> String {
    let cause = match decision.cause {
        None => "the pin holds",
        Some(Cause::Down) => "its backend is down",
        Some(Cause::Draining) => "its backend drains, and `on.draining` has its sessions leave",
        Some(Cause::Maintenance) => "its backend is in maintenance",
        Some(Cause::Full) => "its backend has as many requests as `max_requests` allows",
        Some(Cause::Failed) => "its backend failed it",
        Some(Cause::Unknown) => "the pool has no backend of that name",
        Some(Cause::Replaced) => "the name of its backend stands for another address now",
        Some(Cause::IdleExpired) => "it was silent for longer than `idle_timeout`",
        Some(Cause::AbsoluteExpired) => "it is older than `absolute_timeout`",
        Some(Cause::Unreadable) => "it cannot be read",
    };
    let then = match (decision.verdict, decision.next, goes_to) {
        (_, Next::Refuse(refusal), _) => format!("it is refused with {}", refusal.status),
        (_, Next::Wait(wait), Some(to)) => {
            format!("it waits up to {} for it, then moves to {to}", humantime::format_duration(wait.time))
        }
        (Verdict::New, _, _) => "a new session begins, on the backend whose turn it is".into(),
        (Verdict::Hit, _, Some(to)) => format!("{to} serves it"),
        (Verdict::Borrowed, _, Some(to)) => format!("{to} serves it, and the pin stays"),
        (_, _, Some(to)) => format!("it moves to {to}"),
        (_, _, None) => "no backend can take it".into(),
    };
    format!("{cause}: {then}")
}

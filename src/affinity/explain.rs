//! Owns: the explanation of a token or session id: what it contains, and where a request with it would go now.
//! Invariant: the function that judges requests judges it; no explanation contains a secret.
//! Must not know: who asks, or how the explanation is shown.

use super::{Affinity, Cause, Decision, NextStep, PinLookup, SessionKey, Verdict, decide, failover};
use crate::balance::TriedBackends;
use crate::pool::Pool;

/// The explanation of a token or session id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The pool that can read it.
    pub pool: String,
    /// The pool's persistence type: `cookie`, `header`, `route`, `learned`.
    pub persistence: &'static str,
    /// The id of the key that sealed the token, if it is sealed.
    pub key: Option<String>,
    /// The session's id.
    pub session: u64,
    /// The key of the application's session id, if the pool's clients are pinned by such ids.
    pub session_key: Option<SessionKey>,
    /// The session's times, if they are known.
    pub seen: Option<SessionTimes>,
    /// The backend that the pin names.
    pub backend: Option<NamedBackend>,
    /// How often the session was handed over together with its copy; 0 without session copies.
    pub term: u32,
    /// The name of a second backend that holds the session's state: where the session goes first if it must move.
    pub replica: Option<String>,
    /// The verdict on a request with this pin.
    pub verdict: Verdict,
    /// Why the pin would not hold.
    pub cause: Option<Cause>,
    /// The backend that would serve the request; `None` if the balancer would choose, or if no backend would serve.
    pub goes_to: Option<String>,
    /// Verdict, cause and backend in a sentence.
    pub why: String,
}

/// The times of a session, and its limits, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionTimes {
    /// When the session began, since the Unix epoch.
    pub issued: u64,
    /// When it was last seen, since the Unix epoch.
    pub last: u64,
    /// The session ends after this long without a request.
    pub idle_timeout: Option<u64>,
    /// The session ends this long after its start.
    pub absolute_timeout: Option<u64>,
}

/// The backend that a pin names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedBackend {
    /// Its name.
    pub name: String,
    /// Its current address, if the pool has it.
    pub address: Option<String>,
    /// Whether the pin is for an earlier incarnation.
    pub replaced: bool,
}

/// Explains a token, or a session id of the application, at `now` (seconds since the Unix epoch). Returns `None` if
/// this pool can't read it.
pub fn explain(pool: &Pool, affinity: &Affinity, token: &[u8], now: u64) -> Option<Explanation> {
    let lookup = affinity.open_token(token, pool);
    let (seen, backend, term, replica) = match &lookup {
        PinLookup::Absent | PinLookup::Unreadable | PinLookup::UnknownKey | PinLookup::Unlearned(_) => return None,
        PinLookup::Pinned(pin) => {
            let lifetimes = affinity.session_policy().lifetimes;
            let (idle_timeout, absolute_timeout) = (lifetimes.idle, lifetimes.absolute);
            let seen = SessionTimes { issued: pin.issued, last: pin.last_seen, idle_timeout, absolute_timeout };
            let found = pool.position(&pin.backend).map(|index| pool.backend(index));
            let named = NamedBackend {
                name: pin.backend.to_string(),
                address: found.map(|backend| backend.address().to_string()),
                replaced: found.is_some_and(|backend| !backend.is_of(pin.incarnation, pin.last_seen)),
            };
            (Some(seen), Some(named), pin.term, pin.replica.as_deref().map(str::to_owned))
        }
        PinLookup::Routed(routed) => {
            let backend = routed.backends[0].map(|index| pool.backend(index));
            let named = backend.map(|backend| NamedBackend {
                name: backend.name().to_string(),
                address: Some(backend.address().to_string()),
                replaced: false,
            });
            let replica = routed.backends.iter().skip(1).flatten().next();
            (None, named, 0, replica.map(|index| pool.backend(*index).name().to_string()))
        }
    };
    let decision = decide::decide(lookup, pool, affinity.session_policy(), now, 0);
    let goes_to = goes_to(pool, &decision);
    Some(Explanation {
        pool: pool.name().to_string(),
        persistence: affinity.kind(),
        key: affinity.key_of(token).map(str::to_owned),
        session: decision.session,
        session_key: affinity.key_of_id(token, pool),
        seen,
        backend,
        term,
        replica,
        verdict: decision.verdict,
        cause: decision.cause,
        why: why(&decision, goes_to.as_deref()),
        goes_to,
    })
}

/// Explains text as a person copies it: a token, an id, or `name=value`, with or without quotes. Tries every pool: a
/// pool that has the named backend comes before one that merely can read the text as an id.
pub fn explain_as_sent<'p>(
    pools: impl Iterator<Item = (&'p Pool, &'p Affinity)> + Clone,
    text: &str,
    now: u64,
) -> Option<Explanation> {
    let whole = text.trim();
    // The text after the first `=`, unless it is only the padding of a Base64 value.
    let value = whole.split_once('=').map(|(_, value)| value).filter(|value| !value.trim_matches('=').is_empty());
    let forms = value.into_iter().chain([whole]).map(|form| form.trim_matches('"').as_bytes());
    let mut explained =
        forms.flat_map(|form| pools.clone().filter_map(move |(pool, affinity)| explain(pool, affinity, form, now)));
    let first = explained.next()?;
    if first.backend.is_some() {
        return Some(first);
    }
    Some(explained.find(|explanation| explanation.backend.is_some()).unwrap_or(first))
}

fn goes_to(pool: &Pool, decision: &Decision) -> Option<String> {
    let next = || {
        let mut tried = TriedBackends::new();
        decision.pinned.iter().for_each(|pinned| tried.insert(*pinned));
        failover::next(pool, decision.session, decision.pinned, &tried)
    };
    let index = match (decision.verdict, decision.next) {
        (_, NextStep::Refuse(_)) | (Verdict::New | Verdict::Refused | Verdict::None, _) => None,
        (Verdict::Hit | Verdict::Moved | Verdict::Borrowed, _) => decision.target().or_else(next),
    };
    index.map(|index| pool.backend(index).name().to_string())
}

fn why(decision: &Decision, goes_to: Option<&str>) -> String {
    let cause = match decision.cause {
        None => "the pin holds",
        Some(Cause::Down) => "its backend is down",
        Some(Cause::Draining) => "its backend drains, and the pool has a policy `on.draining`",
        Some(Cause::Maintenance) => "its backend is in maintenance",
        Some(Cause::Full) => "its backend has reached `max_requests`",
        // No explanation moves a session.
        Some(Cause::Rebalanced) => "the pool evens out its load",
        Some(Cause::Failed) => "its backend failed the last request of the session",
        Some(Cause::Unknown) => "the pool has no backend of that name",
        Some(Cause::Replaced) => "the backend of that name has another address now",
        Some(Cause::IdleExpired) => "the session had no request for longer than `idle_timeout`",
        Some(Cause::AbsoluteExpired) => "the session is older than `absolute_timeout`",
        Some(Cause::Unreadable) => "the pin is dated further ahead of this clock than `max_clock_skew` allows",
    };
    let then = match (decision.verdict, decision.next, goes_to) {
        (_, NextStep::Refuse(refusal), _) => format!("a request is refused with {}", refusal.status),
        (_, NextStep::Wait(wait), Some(to)) => {
            let time = humantime::format_duration(wait.max_time);
            format!("a request waits up to {time} for that backend, then moves to {to}")
        }
        (Verdict::New, _, _) => "a new session begins, on the backend that the balancer chooses".into(),
        (Verdict::Hit, _, Some(to)) => format!("{to} serves the session"),
        (Verdict::Borrowed, _, Some(to)) => format!("{to} serves the session, and the pin stays"),
        (_, _, Some(to)) => format!("the session moves to {to}"),
        (_, _, None) => "no backend can serve the session".into(),
    };
    format!("{cause}: {then}")
}

#[cfg(test)]
mod tests {
    use super::super::{BindContext, Carrier, SessionTables, Settings, learned, route};
    use super::super::{KeyRing, seal::SealingKey};
    use super::*;
    use crate::pool::{backend, health_state, reconcile::Reconciler};
    use http::{HeaderMap, HeaderValue, header::SET_COOKIE};
    use std::sync::Arc;

    const NOW: u64 = 1_700_000_000;

    #[test]
    fn a_copied_text_is_explained_by_the_pool_whose_backend_it_names_whatever_its_ending() {
        let pool = |name: &str| crate::pool::Settings {
            name: name.into(),
            backends: vec![backend::Settings::new("a", "127.0.0.1:1".parse().unwrap())],
            health_state: health_state::Settings::default(),
            ..crate::pool::Settings::default()
        };
        let pools = Reconciler::new(1).pools(&[pool("tomcat"), pool("express")]);
        let carriers = [
            Carrier::Route(route::Settings::for_cookie("JSESSIONID")),
            Carrier::Learned(learned::Settings {
                source: learned::SessionIdSource::Cookie("sid".into()),
                capacity: 10,
                store: None,
            }),
        ];
        let (ring, mut tables) =
            (Arc::new(KeyRing::new(SealingKey::new("k", &[1; 32]).unwrap(), Vec::new())), SessionTables::default());
        let of = |(pool, carrier): (&Arc<Pool>, Carrier)| {
            Affinity::new(pool.name(), &Settings { carrier, ..Settings::none() }, &ring, &mut tables)
        };
        let affinities: Vec<_> = pools.iter().zip(carriers).map(of).collect();
        for id in ["c2Vzc2lvbg==", "user=7", "s.signed", "plain"] {
            let set = HeaderValue::try_from(format!("sid={id}")).unwrap();
            let decision = &decide::decide(PinLookup::Absent, &pools[1], affinities[1].session_policy(), NOW, 1);
            let context = BindContext {
                decision,
                pool: &pools[1],
                served_by: 0,
                is_working: true,
                is_sessionless: false,
                ended: false,
                tls: false,
                now: NOW,
            };
            affinities[1].bind(&mut HeaderMap::from_iter([(SET_COOKIE, set)]), None, context);
        }
        let explained = |text: &str| {
            let explanation = explain_as_sent(pools.iter().map(|pool| &**pool).zip(&affinities), text, NOW)?;
            Some(format!("{} {}", explanation.pool, explanation.verdict.as_str()))
        };
        for text in
            ["c2Vzc2lvbg==", "sid=c2Vzc2lvbg==", "user=7", "sid=user=7", "s.signed", " sid=\"s.signed\" ", "plain"]
        {
            assert_eq!(explained(text).as_deref(), Some("express hit"), "{text}");
        }
        assert_eq!(explained("JSESSIONID=0A.a").as_deref(), Some("tomcat hit"));
        assert_eq!(explained(";jsessionid=0A.gone").as_deref(), Some("tomcat moved"));
        for text in ["", "=", "==", "sid=", "unheard-of"] {
            assert_eq!(explained(text), None, "{text}");
        }
    }
}

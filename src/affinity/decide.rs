//! Owns: the verdict on a request: does its pin hold, and if not, why, and what pin follows.
//! Invariant: pure: pin, pool, time and a random number in; the same everywhere for the same arguments.
//! Must not know: where the pin travels, or how a server is chosen.

use super::Reading;
use super::seal::Pin;
use crate::pool::{Closed, Pool};

/// What persistence decided for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// A new session.
    New,
    /// Served by the backend it is pinned to.
    Hit,
    /// Its backend can't serve it: served by another, and pinned there.
    Moved,
    /// No backend could serve it.
    Refused,
    /// The pool doesn't pin.
    None,
}

impl Verdict {
    /// The words of the design, as they stand in logs and metrics, in the order of the variants.
    pub const NAMES: [&'static str; 5] = ["new", "hit", "moved", "refused", "none"];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// Why a pin did not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The backend is down or ejected.
    Down,
    /// The operator took the backend out.
    Maintenance,
    /// The backend failed this very request.
    Failed,
    /// The configuration has no backend of that name.
    Unknown,
    /// The name stands for another server now.
    Replaced,
    /// The session was silent for too long.
    IdleExpired,
    /// The session is too old.
    AbsoluteExpired,
    /// Forged, damaged, foreign, or sealed with a key that is no longer known.
    Unreadable,
}

impl Cause {
    /// The words of the design, as they stand in logs and metrics, in the order of the variants.
    pub const NAMES: [&'static str; 8] =
        ["down", "maintenance", "failed", "unknown", "replaced", "idle_expired", "absolute_expired", "unreadable"];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// The limits of a session's life, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lifetimes {
    /// Silence that ends it.
    pub idle: Option<u64>,
    /// Age that ends it.
    pub absolute: Option<u64>,
}

/// The verdict on one request, before a backend was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What was decided.
    pub verdict: Verdict,
    /// Why the pin that came did not hold, if one came and did not.
    pub cause: Option<Cause>,
    /// The session's id: the pin's, or a new one.
    pub session: u64,
    /// When the session began, in seconds since the Unix epoch.
    pub issued: u64,
    /// The backend that the pin names, if the pool has it: where a hit goes, and what a moved
    /// session moves away from.
    pub pinned: Option<usize>,
    renew: bool,
}

/// Judges a request's pin at `now`, in seconds since the Unix epoch. `fresh` is a random number,
/// the id of the session if this is a new one. A clock that runs behind the one that sealed the
/// pin makes a session younger, never older: replicas a minute apart do no harm.
pub fn decide(reading: &Reading, pool: &Pool, lifetimes: &Lifetimes, now: u64, fresh: u64) -> Decision {
    let new = |cause| Decision { verdict: Verdict::New, cause, session: fresh, issued: now, pinned: None, renew: true };
    let pin = match reading {
        Reading::Absent => return new(None),
        Reading::Unreadable => return new(Some(Cause::Unreadable)),
        Reading::Sealed(pin) => pin,
    };
    let is_over = |limit: Option<u64>, since: u64| limit.is_some_and(|limit| now.saturating_sub(since) >= limit);
    if is_over(lifetimes.absolute, pin.issued) {
        return new(Some(Cause::AbsoluteExpired));
    }
    if is_over(lifetimes.idle, pin.last_seen) {
        return new(Some(Cause::IdleExpired));
    }

    let pinned = pool.position(&pin.backend);
    let cause = match pinned.map(|index| pool.backend(index)) {
        None => Some(Cause::Unknown),
        Some(backend) if backend.incarnation() != pin.incarnation => Some(Cause::Replaced),
        Some(backend) => match backend.live().accepts_existing() {
            Ok(()) => None,
            Err(Closed::Maintenance) => Some(Cause::Maintenance),
            // Draining and weight 0 keep the sessions they have: for those, existing is accepted.
            Err(Closed::Down | Closed::Draining | Closed::NoWeight) => Some(Cause::Down),
        },
    };
    Decision {
        verdict: if cause.is_none() { Verdict::Hit } else { Verdict::Moved },
        cause,
        session: pin.session,
        issued: pin.issued,
        pinned,
        renew: is_over(lifetimes.idle.map(|idle| idle.div_ceil(4)), pin.last_seen),
    }
}

impl Decision {
    /// For a pool that does not pin. `fresh` only spreads its failover.
    pub fn unpinned(fresh: u64) -> Decision {
        Decision { verdict: Verdict::None, cause: None, session: fresh, issued: 0, pinned: None, renew: false }
    }

    /// The backend that the pin ties this request to, where it may go.
    pub fn target(&self) -> Option<usize> {
        self.pinned.filter(|_| self.verdict == Verdict::Hit)
    }

    /// The backend failed this request: the pin is lost, for this request and, once another has
    /// answered, for good.
    pub fn lose(&mut self, failed: usize, cause: Cause) {
        if self.target() == Some(failed) {
            self.verdict = Verdict::Moved;
            self.cause = Some(cause);
        }
    }

    /// No backend is left for this request.
    pub fn refuse(&mut self) {
        self.verdict = Verdict::Refused;
    }

    /// The pin to send with the answer of the backend at `served`, if the client hasn't one that
    /// says so already.
    pub fn pin(&self, pool: &Pool, served: usize, now: u64) -> Option<Pin> {
        let due = match self.verdict {
            Verdict::New | Verdict::Moved => true,
            Verdict::Hit => self.renew,
            Verdict::Refused | Verdict::None => false,
        };
        let backend = pool.backend(served);
        due.then(|| Pin {
            session: self.session,
            backend: (&**backend.name()).into(),
            incarnation: backend.incarnation(),
            issued: self.issued,
            last_seen: now,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{AdminState, backend, reconcile::Reconciler, roster::Observation, vitals};
    use std::sync::Arc;

    const NOW: u64 = 1_000_000;
    const LIFETIMES: Lifetimes = Lifetimes { idle: Some(400), absolute: Some(10_000) };

    fn pool() -> Arc<Pool> {
        let backends = ["a", "b", "c"].into_iter().enumerate().map(|(index, name)| backend::Settings {
            name: name.into(),
            address: ([127, 0, 0, 1], 9000 + index as u16).into(),
            weight: 1,
            state: AdminState::Ready,
            backup: false,
            failover: Vec::new(),
        });
        let settings = crate::pool::Settings {
            name: "app".into(),
            backends: backends.collect(),
            vitals: vitals::Settings::default(),
        };
        Reconciler::new(1).pools(&[settings]).remove(0)
    }

    fn pin(pool: &Pool, backend: &str) -> Pin {
        let incarnation = pool.position(backend).map_or(0, |index| pool.backend(index).incarnation());
        Pin { session: 5, backend: backend.into(), incarnation, issued: NOW - 1000, last_seen: NOW - 10 }
    }

    fn judge(pool: &Pool, pin: Pin) -> Decision {
        decide(&Reading::Sealed(Arc::new(pin)), pool, &LIFETIMES, NOW, 99)
    }

    #[test]
    fn every_cause_has_its_verdict_and_its_pin() {
        let pool = pool();
        let base = || pin(&pool, "a");
        let live = pool.backend(0).live();
        type Row<'a> = (&'a str, &'a dyn Fn() -> Decision, Verdict, Option<Cause>, u64, Option<usize>, bool);
        let rows: [Row<'_>; 9] = [
            ("holds", &|| judge(&pool, base()), Verdict::Hit, None, 5, Some(0), false),
            (
                "holds and is due",
                &|| judge(&pool, Pin { last_seen: NOW - 100, ..base() }),
                Verdict::Hit,
                None,
                5,
                Some(0),
                true,
            ),
            ("none came", &|| decide(&Reading::Absent, &pool, &LIFETIMES, NOW, 99), Verdict::New, None, 99, None, true),
            (
                "garbage",
                &|| decide(&Reading::Unreadable, &pool, &LIFETIMES, NOW, 99),
                Verdict::New,
                Some(Cause::Unreadable),
                99,
                None,
                true,
            ),
            (
                "silent",
                &|| judge(&pool, Pin { last_seen: NOW - 400, ..base() }),
                Verdict::New,
                Some(Cause::IdleExpired),
                99,
                None,
                true,
            ),
            (
                "old",
                &|| judge(&pool, Pin { issued: NOW - 10_000, ..base() }),
                Verdict::New,
                Some(Cause::AbsoluteExpired),
                99,
                None,
                true,
            ),
            ("gone", &|| judge(&pool, pin(&pool, "z")), Verdict::Moved, Some(Cause::Unknown), 5, None, true),
            (
                "replaced",
                &|| judge(&pool, Pin { incarnation: 1, ..base() }),
                Verdict::Moved,
                Some(Cause::Replaced),
                5,
                None,
                true,
            ),
            (
                "from the future",
                &|| judge(&pool, Pin { issued: NOW + 60, last_seen: NOW + 60, ..base() }),
                Verdict::Hit,
                None,
                5,
                Some(0),
                false,
            ),
        ];
        for (name, decision, verdict, cause, session, target, issues) in rows {
            let decision = decision();
            assert_eq!((decision.verdict, decision.cause), (verdict, cause), "{name}");
            assert_eq!((decision.session, decision.target()), (session, target), "{name}");
            assert_eq!(decision.pin(&pool, 1, NOW).is_some(), issues, "{name}");
        }
        for (state, verdict, cause) in [
            (AdminState::Drain, Verdict::Hit, None),
            (AdminState::Maintenance, Verdict::Moved, Some(Cause::Maintenance)),
        ] {
            live.set_state(state);
            let decision = judge(&pool, base());
            assert_eq!((decision.verdict, decision.cause), (verdict, cause));
        }
        live.set_state(AdminState::Ready);
        live.set_weight(0);
        assert_eq!(judge(&pool, base()).verdict, Verdict::Hit, "weight 0 keeps its sessions");
        pool.observe(0, Observation::Probe(false), std::time::Instant::now());
        assert_eq!(judge(&pool, base()).cause, Some(Cause::Down));
    }

    #[test]
    fn a_moved_session_keeps_its_id_and_age_and_names_its_new_server() {
        let pool = pool();
        let mut decision = judge(&pool, pin(&pool, "a"));
        decision.lose(1, Cause::Failed);
        assert_eq!(decision.verdict, Verdict::Hit, "another backend's failure changes nothing");
        decision.lose(0, Cause::Failed);
        assert_eq!((decision.verdict, decision.cause, decision.target()), (Verdict::Moved, Some(Cause::Failed), None));
        let moved = decision.pin(&pool, 2, NOW).unwrap();
        assert_eq!((moved.session, moved.issued, &*moved.backend), (5, NOW - 1000, "c"));
        assert_eq!(moved.last_seen, NOW);
    }

    #[test]
    fn without_limits_a_pin_is_never_over_and_never_renewed() {
        let pool = pool();
        let pin = Pin { issued: 0, last_seen: 0, ..pin(&pool, "a") };
        let decision = decide(&Reading::Sealed(Arc::new(pin)), &pool, &Lifetimes::default(), NOW, 1);
        assert_eq!(decision.verdict, Verdict::Hit);
        assert_eq!(decision.pin(&pool, 0, NOW), None);
    }
}

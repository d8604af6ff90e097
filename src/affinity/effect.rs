//! Owns: what a response means for its request's session: which one its backend holds from now on, and which ended.
//! Invariant: pure; a response that belongs to no session changes none.
//! Must not know: how sessions are counted, or where a pin travels.

use super::decide::Decision;
use super::verdict::Verdict;

/// What a response means for sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SessionEffect {
    /// The session that the backend of the response holds.
    pub held: Option<u64>,
    /// The session that has ended: its client logged out, or goes on under another id.
    pub ended: Option<u64>,
}

impl SessionEffect {
    /// Returns the effect where Linchpin issues the pins: a session lives until it expires.
    pub(super) fn of_own_pin(decision: &Decision) -> SessionEffect {
        SessionEffect { held: decision.counts_as_session().then_some(decision.session), ended: None }
    }

    /// Returns the effect where the application issues the ids. `known` is the session of the request's id, if the
    /// request has one that is known here; `issued` is that of the response's id; `removes` says that the response, or
    /// the request, removes an id.
    pub(super) fn of_application(
        verdict: Verdict,
        known: Option<u64>,
        issued: Option<u64>,
        removes: bool,
    ) -> SessionEffect {
        let held = match verdict {
            Verdict::None | Verdict::Refused => return SessionEffect::default(),
            // Its own backend holds the session of a request that another one has served.
            Verdict::Borrowed => issued.filter(|issued| known != Some(*issued)),
            Verdict::New | Verdict::Hit | Verdict::Moved => issued.or(known.filter(|_| !removes)),
        };
        let ended = known.filter(|known| held != Some(*known) && (held.is_some() || removes));
        SessionEffect { held, ended }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_of_the_application_is_held_under_its_last_id_and_ends_by_a_logout_or_a_new_one() {
        use Verdict::{Borrowed, Hit, Moved, New, None as Exempt};
        for (verdict, known, issued, removes, held, ended) in [
            (New, None, None, false, None, None),
            (New, None, Some(2), false, Some(2), None),
            (Hit, Some(1), None, false, Some(1), None),
            (Hit, Some(1), Some(1), false, Some(1), None),
            (Hit, Some(1), Some(2), false, Some(2), Some(1)),
            (Hit, Some(1), None, true, None, Some(1)),
            (Hit, Some(1), Some(1), true, Some(1), None),
            (Moved, Some(1), Some(2), false, Some(2), Some(1)),
            (Borrowed, Some(1), None, false, None, None),
            (Borrowed, Some(1), Some(1), false, None, None),
            (Borrowed, Some(1), Some(2), false, Some(2), Some(1)),
            (Exempt, None, Some(2), false, None, None),
        ] {
            let effect = SessionEffect::of_application(verdict, known, issued, removes);
            assert_eq!(effect, SessionEffect { held, ended }, "{verdict:?} {known:?} {issued:?} {removes}");
        }
    }
}

//! Owns: what a client connection remembers of its last session: the ref, and the field that tells a server of it.
//! Invariant: it says what would be computed anew, and takes memory only where a pool keeps copies.
//! Must not know: how many connections there are, or who reads the field.

use std::sync::Arc;

use http::header::HeaderValue;

use super::fields;
use super::rules::Claim;
use super::session_ref::SessionRef;
use super::version::Version;

/// Remembers the last session of a client connection. A hash and a field are then computed once a connection, and not
/// with each request.
#[derive(Debug, Default)]
pub struct SessionCache(Option<Box<Cached>>);

#[derive(Debug, Default)]
struct Cached {
    /// The ref of the session with this id in this pool.
    session: Option<(Arc<str>, u64, SessionRef)>,
    /// What a request says of the session's state, and how.
    field: Option<(SessionRef, State, HeaderValue)>,
}

/// The term, the seq, and whether the session has ended.
type State = (u32, Option<u64>, bool);

impl SessionCache {
    /// Returns the ref of the session with this id of Linchpin's own in the pool.
    pub fn session(&mut self, pool: &Arc<str>, id: u64) -> SessionRef {
        let cached = self.0.get_or_insert_default();
        match &cached.session {
            Some((known, known_id, session)) if *known_id == id && Arc::ptr_eq(known, pool) => *session,
            _ => {
                let session = SessionRef::new(pool, &id.to_be_bytes());
                cached.session = Some((Arc::clone(pool), id, session));
                session
            }
        }
    }

    /// Returns the `Linchpin-Session` of a request that claims this.
    pub fn field(&mut self, session: SessionRef, claim: &Claim) -> Option<HeaderValue> {
        self.remember(session, (claim.term, claim.seq, claim.dropped), || fields::session(session, claim))
    }

    /// Returns the `Linchpin-Session` of a request that gives or drops a copy. The session's next request claims the same.
    pub fn field_of_copy(&mut self, session: SessionRef, version: Version) -> Option<HeaderValue> {
        let state = (version.term, Some(version.seq), false);
        self.remember(session, state, || fields::session_of_copy(session, version))
    }

    fn remember(
        &mut self,
        session: SessionRef,
        state: State,
        write: impl FnOnce() -> Option<HeaderValue>,
    ) -> Option<HeaderValue> {
        let cached = self.0.get_or_insert_default();
        match &cached.field {
            Some((known, known_state, field)) if *known == session && *known_state == state => Some(field.clone()),
            _ => {
                let field = write()?;
                cached.field = Some((session, state, field.clone()));
                Some(field)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::holder::Holder;
    use super::*;

    #[test]
    fn what_it_remembers_is_what_would_be_computed_anew() {
        let (one, other): (Arc<str>, Arc<str>) = ("app".into(), "app2".into());
        let mut cache = SessionCache::default();
        for (pool, id) in [(&one, 7), (&one, 7), (&one, 8), (&other, 8), (&one, 7)] {
            assert_eq!(cache.session(pool, id), SessionRef::new(pool, &u64::to_be_bytes(id)));
        }
        let to = Holder { backend: 0, incarnation: 1, losses: 0 };
        let (session, another) = (SessionRef::new("app", b"1"), SessionRef::new("app", b"2"));
        let claims = [(1, None, false), (1, Some(3), false), (1, Some(3), true), (2, Some(3), true), (2, None, false)];
        let claims = claims.map(|(term, seq, dropped)| {
            let mut claim = Claim::nothing(term, to);
            (claim.seq, claim.dropped) = (seq, dropped);
            claim
        });
        for claim in claims.iter().flat_map(|claim| [claim, claim]) {
            for of in [session, another, session] {
                assert_eq!(cache.field(of, claim), fields::session(of, claim), "{claim:?}");
                let version = Version { term: claim.term, seq: claim.seq.unwrap_or(1) };
                assert_eq!(cache.field_of_copy(of, version), fields::session_of_copy(of, version), "{version:?}");
                assert_eq!(cache.field(of, claim), fields::session(of, claim), "{claim:?}");
            }
        }
    }
}

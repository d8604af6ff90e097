//! Owns: the response field in which a backend names another backend that holds the session's state as well.
//! Invariant: only the name of another backend of the pool counts; what is ignored is logged at a bounded rate.
//! Must not know: where the pin travels, or when a session moves.

use std::time::Duration;

use http::header::{HeaderMap, HeaderName};

use super::decide::Decision;
use super::seal::is_valid_name;
use super::verdict::Verdict;
use crate::clock::{self, LogLimiter};
use crate::pool::Pool;

/// `Linchpin-Replica: NAME`.
const REPLICA: HeaderName = HeaderName::from_static("linchpin-replica");

/// The shortest time between two warnings of one pool: a cluster with a wrong name sends it with every response.
const WARN_INTERVAL: Duration = Duration::from_secs(600);

/// What one pool reads of the field.
#[derive(Debug, Default)]
pub(super) struct ReplicaField {
    warnings: LogLimiter,
}

impl ReplicaField {
    /// Sets the replica of the session to the backend that the response of the backend at position `served` names.
    pub(super) fn read(&self, headers: &HeaderMap, decision: &mut Decision, pool: &Pool, served: usize) {
        let mut values = headers.get_all(REPLICA).iter();
        let Some(value) = values.next() else { return };
        // Only the backend that holds the session from now on can know where its replica is.
        if !matches!(decision.verdict, Verdict::New | Verdict::Hit | Verdict::Moved) {
            return;
        }
        let name = value.to_str().map(str::trim).ok().filter(|name| is_valid_name(name) && values.next().is_none());
        match name.and_then(|name| pool.position(name)).filter(|index| *index != served) {
            Some(index) => decision.set_replica(Some(index)),
            None => self.warn(name, pool, served),
        }
    }

    fn warn(&self, name: Option<&str>, pool: &Pool, served: usize) {
        let Some(unsaid) = self.warnings.take(clock::unix(), WARN_INTERVAL, 1) else { return };
        tracing::warn!(
            pool = &**pool.name(),
            backend = &**pool.backend(served).name(),
            replica = name.unwrap_or("not a name"),
            unsaid,
            "a response has a Linchpin-Replica that is not the name of one other backend of the pool, so it is ignored: \
             send the backend's `name` of [[pools.backends]], in one field"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::decide::decide;
    use super::super::policy::SessionPolicy;
    use super::super::{Pin, PinLookup};
    use super::*;
    use crate::pool::{backend, reconcile};
    use http::HeaderValue;
    use std::sync::Arc;

    #[test]
    fn the_name_of_one_other_backend_counts_and_nothing_else() {
        let backends = ["a", "b", "c"].map(|name| backend::Settings::new(name, "127.0.0.1:1".parse().unwrap()));
        let pool = reconcile::pool_of("app", backends);
        let long = "n".repeat(65);
        for (values, expected) in [
            (&[][..], "c"),
            (&["b"], "b"),
            (&[" b "], "b"),
            (&["a"], "c"),
            (&["gone"], "c"),
            (&["B"], "c"),
            (&["b", "b"], "c"),
            (&["b, c"], "c"),
            (&[""], "c"),
            (&["\u{e4}"], "c"),
            (&[&long], "c"),
        ] {
            let incarnation = pool.backend(0).incarnation();
            let (backend, replica) = ("a".into(), Some("c".into()));
            let pin = Pin { session: 1, backend, incarnation, issued: 5, last_seen: 5, term: 0, replica };
            let mut decision = decide(PinLookup::Pinned(Arc::new(pin)), &pool, &SessionPolicy::default(), 10, 1);
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(REPLICA, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            ReplicaField::default().read(&headers, &mut decision, &pool, 0);
            assert_eq!(decision.replica(&pool, 0), Some(expected), "{values:?}");
        }
    }
}

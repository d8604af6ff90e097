//! Owns: placing a session's new state on other backends, which ones, and in which order.
//! Invariant: the backend that sent the state is none of them; each is tried once.
//! Must not know: the rules of versions, what follows if no backend takes the state.

use bytes::Bytes;
use futures_util::StreamExt;
use http::StatusCode;
use http::header::HeaderValue;

use super::copy_request::{CopyRequest, Role};
use super::exchange::Exchange;
use super::give::{self, GiveEnd, GiveRules};
use super::snapshot::Service;
use super::thread::ThreadState;
use crate::affinity::failover;
use crate::balance::TriedBackends;
use crate::clock::{self, Deadline};
use crate::copies::{CopyEvent, Hold, Holder, NewState, PoolCopies, SessionRef, Version};
use crate::pool::{Health, Pool};

/// How many backends are tried as the secondary of a session, one after the other.
const MAX_ATTEMPTS: usize = 2;
/// To how many backends a state is sent at once, where all keep it.
const MAX_AT_ONCE: usize = 8;

/// A new state to place on other backends.
pub(super) struct NewCopy {
    pub(super) version: Version,
    /// `None` if the session has ended.
    pub(super) bytes: Option<Bytes>,
    /// The backends that had the state before.
    pub(super) known: Vec<Holder>,
}

impl NewCopy {
    /// Returns the state to place, if a response brings one.
    pub(super) fn of(new: &NewState) -> Option<NewCopy> {
        let (version, bytes) = match new {
            NewState::Save { version, bytes, .. } => (*version, Some(bytes.clone())),
            NewState::Drop(version) => (*version, None),
            NewState::Unchanged | NewState::Unusable(..) => return None,
        };
        Some(NewCopy { version, bytes, known: Vec::new() })
    }
}

/// A new state, and where it comes from.
pub(super) struct Placement<'a> {
    pub(super) copies: &'a PoolCopies,
    pub(super) session: SessionRef,
    /// The session's number in the failover order.
    pub(super) number: u64,
    /// The position of the backend that sent the state.
    pub(super) holder: usize,
    /// The session and the version, as a `Linchpin-Session`.
    pub(super) field: Option<&'a HeaderValue>,
    /// `None` if the session has ended.
    pub(super) bytes: Option<&'a Bytes>,
    /// The backends that had the state before.
    pub(super) known: &'a [Holder],
    pub(super) host: Option<&'a HeaderValue>,
}

/// Where a state was placed.
pub(super) struct Placed {
    /// The position of the session's next backend.
    pub(super) first: Option<usize>,
    /// All of them.
    pub(super) replicas: Vec<Holder>,
}

/// Places a state on as many other backends as the pool wants, for as long as a hand-over may take in all.
pub(super) async fn place(
    thread: &ThreadState,
    exchange: &Exchange,
    service: &Service,
    placement: &Placement<'_>,
) -> Placed {
    let handover = placement.copies.settings().handover;
    let rules = GiveRules::of(exchange, service, handover, clock::now() + handover);
    let mut tried = TriedBackends::new();
    tried.insert(placement.holder);
    let order = std::iter::from_fn(|| {
        let index = next(&service.pool, placement, &tried)?;
        tried.insert(index);
        Some(index)
    });
    match placement.copies.settings().hold {
        Hold::All => {
            let order: Vec<_> = order.collect();
            let places = order.into_iter().map(|index| async move {
                // The exchange's own deadline is for one thing at a time.
                let deadline = thread.deadlines.deadline();
                (index, place_on(thread, service, index, placement, rules, &deadline).await)
            });
            let placed = futures_util::stream::iter(places).buffered(MAX_AT_ONCE);
            let taken = placed.filter_map(|(index, is_taken)| std::future::ready(is_taken.then_some(index)));
            let taken: Vec<_> = taken.collect().await;
            let replicas = taken.iter().map(|index| Holder::of(service.pool.backend(*index))).collect();
            Placed { first: taken.first().copied(), replicas }
        }
        Hold::Balancer | Hold::Secondary => {
            for index in order.take(MAX_ATTEMPTS) {
                if place_on(thread, service, index, placement, rules, exchange.wait_deadline()).await {
                    return Placed { first: Some(index), replicas: vec![Holder::of(service.pool.backend(index))] };
                }
            }
            Placed { first: None, replicas: Vec::new() }
        }
    }
}

/// Places a state on the backend at `index`. Returns whether that has it.
async fn place_on(
    thread: &ThreadState,
    service: &Service,
    index: usize,
    placement: &Placement<'_>,
    rules: GiveRules,
    deadline: &Deadline,
) -> bool {
    let Placement { field, bytes, host, .. } = *placement;
    let copy = CopyRequest { field, role: Role::Secondary, bytes, host };
    let end = give::give(thread, service, index, &copy, rules, deadline).await;
    // A newer state is as good: it holds whatever this one says.
    let is_taken = matches!(end, GiveEnd::Response(StatusCode::NO_CONTENT | StatusCode::CONFLICT, _));
    if is_taken {
        placement.copies.count(thread.index, CopyEvent::Place);
    } else if let Some((why, status)) = give::judge(end).1 {
        let backend = service.pool.backend(index).name();
        let status = status.map(|status| status.as_u16());
        placement.copies.refused(thread.index, why, placement.session, backend, status);
    }
    is_taken
}

/// Returns the next backend to ask: one that had the state before, then the next of the session's failover order.
fn next(pool: &Pool, placement: &Placement<'_>, tried: &TriedBackends) -> Option<usize> {
    let is_known = |index: &usize| {
        let backend = pool.backend(*index);
        backend.live().is_serving() && placement.known.contains(&Holder::of(backend))
    };
    let known = (0..pool.backends().len()).filter(|index| !tried.contains(*index)).find(is_known);
    // A session that has ended is forgotten where it was.
    if placement.bytes.is_none() {
        return known;
    }
    known.or_else(|| failover::next(pool, placement.number, Some(placement.holder), tried))
}

/// Returns whether a server is the one that it was, and works.
pub(super) fn is_alive(pool: &Pool, holder: Holder) -> bool {
    // A backend that has left the pool was not seen to die.
    let backend = pool.backends().iter().find(|backend| backend.live().id() == holder.backend);
    backend.is_none_or(|backend| Holder::of(backend) == holder && backend.live().health() == Health::Up)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copies::{CopyStores, Settings};
    use crate::pool::hash::mix;
    use crate::pool::{AdminState, backend, reconcile};

    #[test]
    fn a_state_goes_to_who_had_it_and_then_in_the_order_of_failover_and_an_end_only_to_who_had_it() {
        let backends = ["a", "b", "c", "d"].map(|name| backend::Settings::new(name, "127.0.0.1:1".parse().unwrap()));
        let pool = reconcile::pool_of("app", backends);
        let copies = CopyStores::default().open(&"app".into(), &Settings::default(), 1000, 1);
        let bytes = Bytes::from_static(b"sealed");
        let known = [Holder::of(pool.backend(3))];
        let order_of = |number: u64, known: &[Holder], bytes: Option<&Bytes>| {
            let session = SessionRef::new("app", b"1");
            let placement =
                Placement { copies: &copies, session, number, holder: 0, field: None, bytes, known, host: None };
            let (mut tried, mut all) = (TriedBackends::new(), Vec::new());
            tried.insert(placement.holder);
            while let Some(index) = next(&pool, &placement, &tried) {
                tried.insert(index);
                all.push(index);
            }
            all
        };
        let mut firsts = std::collections::HashSet::new();
        for number in (0..50).map(mix) {
            let mut tried = TriedBackends::new();
            tried.insert(0);
            let next = failover::next(&pool, number, Some(0), &tried).unwrap();
            let all = order_of(number, &[], Some(&bytes));
            assert_eq!((all.len(), all[0]), (3, next), "where the session would go is its secondary");
            firsts.insert(next);
            let again = order_of(number, &known, Some(&bytes));
            assert_eq!((again.len(), again[0]), (3, 3), "who has the state before it gets the next one");
            assert_eq!(order_of(number, &known, None), [3], "nobody else has anything to forget");
            assert!(order_of(number, &[], None).is_empty());
        }
        assert_eq!(firsts.len(), 3);
        pool.backend(3).live().set_state(AdminState::Maintenance);
        assert!(!order_of(1, &known, Some(&bytes)).contains(&3));
        pool.backend(3).live().set_state(AdminState::Ready);
        let replaced = [Holder { losses: 1, ..known[0] }];
        assert!(order_of(1, &replaced, None).is_empty(), "it was down meanwhile");
    }
}

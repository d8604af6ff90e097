//! Owns: which clients received a run of failed responses, and whether a pool has more than one client.
//! Invariant: one client never suffices as evidence while the pool has others, nor does one page; memory is bounded.
//! Must not know: what failed, or what follows from it.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use super::hash::mix;
use crate::per_thread::LazyPerThread;

/// Clients that must have received failed responses in a run; paths, where the pool has only one client.
pub const REQUIRED: usize = 3;

/// How long a client counts as present after its last request, in seconds.
const RECENT: u64 = 60;

/// Identifies a client: by its session if its request had a pin that was issued here, else by its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientKey {
    address: u64,
    session: Option<u64>,
}

impl ClientKey {
    /// Identifies the client at `address` (for IPv6, its /64 network) with the session of its pin. Pass no session that
    /// this request begins, and no id that a client can invent: one client could have any number of those.
    pub fn new(address: IpAddr, session: Option<u64>) -> ClientKey {
        let address = match crate::net::client_network(address) {
            IpAddr::V4(address) => u64::from(address.to_bits()),
            IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
        };
        // 0 means no client in `RecentClients`.
        ClientKey { address: mix(address.wrapping_add(1)).max(1), session }
    }

    /// Returns whether both can be the same client: a client may send its pin with some of its requests only.
    fn may_be(self, other: ClientKey) -> bool {
        match (self.session, other.session) {
            (Some(one), Some(another)) => one == another,
            _ => self.address == other.address,
        }
    }
}

/// A response that failed, as evidence against its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailureEvidence {
    /// The client that received it.
    pub client: ClientKey,
    /// A hash of the request's path.
    pub path: u64,
    /// Whether the pool had no other client recently (see [`RecentClients::has_one_client`]).
    pub only_client: bool,
}

/// The evidence of a run of failures: its clients and paths.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunEvidence {
    clients: [Option<ClientKey>; REQUIRED],
    paths: [Option<u64>; REQUIRED],
}

impl RunEvidence {
    /// Adds the evidence of one response.
    pub fn add(&mut self, evidence: FailureEvidence) {
        let known = self.clients.iter_mut().flatten().find(|client| client.may_be(evidence.client));
        match known {
            // Now its session is known.
            Some(client) if client.session.is_none() => *client = evidence.client,
            Some(_) => {}
            None => {
                if let Some(free) = self.clients.iter_mut().find(|client| client.is_none()) {
                    *free = Some(evidence.client);
                }
            }
        }
        if !self.paths.contains(&Some(evidence.path))
            && let Some(free) = self.paths.iter_mut().find(|path| path.is_none())
        {
            *free = Some(evidence.path);
        }
    }

    /// Counts the clients, up to [`REQUIRED`].
    pub fn clients(&self) -> usize {
        self.clients.iter().flatten().count()
    }

    /// Returns whether the evidence suffices: [`REQUIRED`] clients, or [`REQUIRED`] paths of the pool's `only_client`.
    pub fn suffice(&self, only_client: bool) -> bool {
        self.clients.iter().all(Option::is_some) || (only_client && self.paths.iter().all(Option::is_some))
    }
}

/// Records whether a pool has one client or more. Each data-path thread records the clients of its requests in a shard
/// of its own, and writes it at most once a second while there are several. The shards are read only when a response
/// fails.
#[derive(Debug)]
pub struct RecentClients {
    shards: LazyPerThread<Shard>,
}

/// One thread's part.
#[derive(Debug, Default)]
struct Shard {
    /// The client of the last recorded request: its address, or 0 before the first request, and its session, or 0 if
    /// unknown.
    address: AtomicU64,
    session: AtomicU64,
    /// When that was, in seconds.
    seen: AtomicU64,
    /// When two consecutive requests last had different clients.
    several: AtomicU64,
}

impl RecentClients {
    /// Makes a record for `threads` data-path threads.
    pub fn new(threads: usize) -> RecentClients {
        RecentClients { shards: LazyPerThread::new(threads.max(1)) }
    }

    /// Records a request of `client` on `thread` at `now`, in seconds. Only that thread may call this.
    pub fn note(&self, thread: usize, client: ClientKey, now: u64) {
        let Some(shard) = self.shards.get(thread) else { return };
        if shard.several.load(Ordering::Relaxed) == now {
            return;
        }
        let last = shard.last();
        let is_recent = now.saturating_sub(shard.seen.load(Ordering::Relaxed)) < RECENT;
        if let Some(last) = last
            && is_recent
            && !last.may_be(client)
        {
            shard.several.store(now, Ordering::Relaxed);
        }
        let session =
            client.session.or(last.filter(|last| is_recent && last.may_be(client)).and_then(|last| last.session));
        let next = ClientKey { session, ..client };
        if last != Some(next) {
            shard.address.store(next.address, Ordering::Relaxed);
            shard.session.store(next.session.unwrap_or(0), Ordering::Relaxed);
        }
        if shard.seen.load(Ordering::Relaxed) != now {
            shard.seen.store(now, Ordering::Relaxed);
        }
    }

    /// Returns whether at most one client sent requests within the last minute.
    pub fn has_one_client(&self, now: u64) -> bool {
        let is_recent = |at: &AtomicU64| {
            let at = at.load(Ordering::Relaxed);
            at > 0 && now.saturating_sub(at) < RECENT
        };
        if self.shards.iter().any(|shard| is_recent(&shard.several)) {
            return false;
        }
        let mut seen = self.shards.iter().filter(|shard| is_recent(&shard.seen)).filter_map(Shard::last);
        let Some(first) = seen.next() else { return true };
        // Two shards are compared by their sessions, and by their addresses where a session is unknown.
        seen.all(|other| other.may_be(first))
    }
}

impl Shard {
    fn last(&self) -> Option<ClientKey> {
        let address = self.address.load(Ordering::Relaxed);
        let session = Some(self.session.load(Ordering::Relaxed)).filter(|session| *session != 0);
        (address != 0).then_some(ClientKey { address, session })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(host: u8, session: Option<u64>) -> ClientKey {
        ClientKey::new([10, 0, 0, host].into(), session)
    }

    fn suffice(all: &[(ClientKey, u64)], only_client: bool) -> bool {
        let mut evidence = RunEvidence::default();
        all.iter()
            .for_each(|(client, path)| evidence.add(FailureEvidence { client: *client, path: *path, only_client }));
        evidence.suffice(only_client)
    }

    #[test]
    fn three_clients_are_enough_and_one_is_not_however_often_it_comes() {
        let one = client(1, Some(7));
        assert!(!suffice(&[(one, 1), (one, 2), (one, 3), (one, 4)], false));
        assert!(!suffice(&[(one, 1), (client(2, Some(8)), 1)], false));
        assert!(suffice(&[(one, 1), (client(1, Some(8)), 1), (client(1, Some(9)), 1)], false), "three sessions");
        assert!(suffice(&[(client(1, None), 1), (client(2, None), 1), (client(3, None), 1)], false), "three addresses");
        let with_and_without = [(client(1, None), 1), (one, 1), (client(1, None), 1), (client(2, None), 1)];
        assert!(!suffice(&with_and_without, false), "it does not send its pin with everything");
    }

    #[test]
    fn one_client_that_is_alone_needs_three_paths() {
        let one = client(1, Some(7));
        assert!(!suffice(&[(one, 1), (one, 1), (one, 1), (one, 2)], true));
        assert!(suffice(&[(one, 1), (one, 2), (one, 3)], true));
        assert!(!suffice(&[(one, 1), (one, 2), (one, 3)], false), "others see what it sees, or do not");
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let of = |text: &str| ClientKey::new(text.parse().unwrap(), None);
        assert_eq!(of("2001:db8::1"), of("2001:db8::2:3"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), client(1, None));
    }

    #[test]
    fn a_pool_has_one_client_until_another_comes_and_again_a_minute_after() {
        let clients = RecentClients::new(2);
        assert!(clients.has_one_client(100));
        clients.note(0, client(1, None), 100);
        clients.note(0, client(1, Some(7)), 101);
        clients.note(1, client(1, Some(7)), 102);
        clients.note(1, client(1, None), 103);
        assert!(clients.has_one_client(103), "a request without its pin is no other client");
        clients.note(1, client(1, Some(8)), 104);
        assert!(!clients.has_one_client(104));
        assert!(!clients.has_one_client(163));
        clients.note(1, client(1, Some(8)), 164);
        assert!(clients.has_one_client(164), "the other one was seen a minute ago");
        clients.note(0, client(2, None), 165);
        assert!(!clients.has_one_client(165), "on another thread");
    }
}

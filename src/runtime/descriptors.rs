//! Owns: how many file descriptors this process may open, and how clients and everything else share them.
//! Invariant: clients never use the descriptors that probes, the admin listener and backend connections need.
//! Must not know: who opens a descriptor.

use std::io;

use rustix::process::{Resource, getrlimit, setrlimit};

/// What a process needs descriptors for, besides its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Threads of the data path.
    pub threads: usize,
    /// Listeners that clients connect to.
    pub listeners: usize,
    /// Backends that health checks may probe at the same time.
    pub backends: usize,
    /// Whether there is an admin listener.
    pub has_admin: bool,
}

/// How many descriptors each use may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Client connections at once, at least 1.
    pub clients: usize,
    /// Connections to the admin listener at once.
    pub admin: usize,
    /// Descriptors from this number on are for the admin listener, probes and reloaded files; no request may use
    /// them.
    pub ceiling: usize,
}

/// Standard streams, logs, DNS, the session store.
const BASE: usize = 16;
/// Files that are reloaded, and others that are open for a moment.
const SPARE: usize = 8;
/// An event loop: its epoll, its waker, and its pipe for signals.
const EVENT_LOOP: usize = 6;
/// The most connections to the admin listener.
const MAX_ADMIN: usize = 96;
/// The most probes at once with a reserved descriptor; more of them share those that clients leave.
const MAX_PROBES: usize = 256;

/// Divides `limit` descriptors. A client counts two, as in HAProxy: its own and that of a backend connection.
pub fn budget(limit: usize, needs: Needs) -> Budget {
    let Needs { threads, listeners, backends, has_admin } = needs;
    let threads = threads.max(1);
    // Each socket has a second descriptor, for a successor.
    let fixed = BASE + SPARE + EVENT_LOOP * (threads + 1) + 2 * listeners * threads;
    // If there are few descriptors, neither of these may take most of them.
    let admin = if has_admin { MAX_ADMIN.min(limit / 8).max(2) } else { 0 };
    let probes = backends.min(MAX_PROBES).min(limit / 8);
    let clients = limit.saturating_sub(fixed + admin + probes) / 2;
    let ceiling = limit.saturating_sub(SPARE + admin + probes).max(limit / 2);
    Budget { clients: clients.max(1), admin, ceiling }
}

/// Returns the current limit of open descriptors (`RLIMIT_NOFILE`, soft).
pub fn soft_limit() -> usize {
    bounded(getrlimit(Resource::Nofile).current)
}

/// Returns the limit to which this process may raise its own (`RLIMIT_NOFILE`, hard).
pub fn hard_limit() -> usize {
    bounded(getrlimit(Resource::Nofile).maximum)
}

/// Raises the soft limit to the hard limit: the usual soft limit of 1024 is for programs that use `select`.
///
/// # Errors
/// The error of `setrlimit`.
pub fn raise_limit() -> io::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}

fn bounded(limit: Option<u64>) -> usize {
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const USUAL: Needs = Needs { threads: 2, listeners: 1, backends: 3, has_admin: true };

    #[test]
    fn clients_get_half_of_the_remaining_descriptors_and_at_least_one() {
        let plenty = Budget { clients: (20_000 - 24 - 18 - 4 - 96 - 3) / 2, admin: 96, ceiling: 20_000 - 107 };
        assert_eq!(budget(20_000, USUAL), plenty);
        assert_eq!(budget(80, USUAL), Budget { clients: 10, admin: 10, ceiling: 59 });
        assert_eq!(budget(8, USUAL), Budget { clients: 1, admin: 2, ceiling: 4 });
        assert_eq!(budget(80, Needs { has_admin: false, backends: 0, ..USUAL }).clients, 17);
    }

    proptest! {
        #[test]
        fn no_limit_is_exceeded(
            limit in 0usize..200_000,
            threads in 0usize..65,
            listeners in 0usize..20,
            backends in 0usize..60_000,
            has_admin: bool,
        ) {
            let needs = Needs { threads, listeners, backends, has_admin };
            let Budget { clients, admin, ceiling } = budget(limit, needs);
            prop_assert!(clients >= 1 && ceiling <= limit);
            prop_assert!(clients == 1 || 2 * clients + admin <= limit);
        }
    }
}

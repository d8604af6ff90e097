//! Owns: how many descriptors this process may have, and how they are shared between clients and everything else.
//! Invariant: clients never take what probes, the admin listener and connections to backends need.
//! Must not know: who has one.

use std::io;

use rustix::process::{Resource, getrlimit, setrlimit};

/// What a process needs descriptors for, beside its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Threads of the data path.
    pub threads: usize,
    /// Listeners that clients connect to.
    pub listeners: usize,
    /// Backends that may be probed at the same time.
    pub backends: usize,
    /// Whether there is an admin listener.
    pub has_admin: bool,
}

/// What everybody may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Client connections at once; at least one.
    pub clients: usize,
    /// Connections to the admin listener at once.
    pub admin: usize,
    /// From this number on, a descriptor is for the admin listener, for probes, and for files that are read anew,
    /// and for no request.
    pub ceiling: usize,
}

/// Standard streams, logs, DNS, the store of sessions.
const BASE: usize = 16;
/// Files that are read anew, and what else is open for a moment.
const SPARE: usize = 8;
/// An event loop: its poll, its wake-up, and what it hears of signals.
const EVENT_LOOP: usize = 6;
/// Most connections to the admin listener.
const MAX_ADMIN: usize = 96;
/// Most probes at once that have a descriptor of their own; more share what clients have left.
const MAX_PROBES: usize = 256;

/// Shares out `limit` descriptors. A client may need a second one, for the backend that works for it, as
/// HAProxy counts them, too.
pub fn budget(limit: usize, needs: Needs) -> Budget {
    let Needs { threads, listeners, backends, has_admin } = needs;
    let threads = threads.max(1);
    let fixed = BASE + SPARE + EVENT_LOOP * (threads + 1) + listeners * threads;
    // Of few descriptors neither may take most.
    let admin = if has_admin { MAX_ADMIN.min(limit / 8).max(2) } else { 0 };
    let probes = backends.min(MAX_PROBES).min(limit / 8);
    let clients = limit.saturating_sub(fixed + admin + probes) / 2;
    let ceiling = limit.saturating_sub(SPARE + admin + probes).max(limit / 2);
    Budget { clients: clients.max(1), admin, ceiling }
}

/// The limit of open descriptors that this process has now.
pub fn soft_limit() -> usize {
    bounded(getrlimit(Resource::Nofile).current)
}

/// The limit that this process can raise its own to: the operator's word.
pub fn hard_limit() -> usize {
    bounded(getrlimit(Resource::Nofile).maximum)
}

/// Raises the limit to the most there may be: the usual one of 1024 is for programs that use `select`.
///
/// # Errors
/// What the system says.
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
    fn clients_get_half_of_what_is_left_and_never_nothing() {
        let plenty = Budget { clients: (20_000 - 24 - 18 - 2 - 96 - 3) / 2, admin: 96, ceiling: 20_000 - 107 };
        assert_eq!(budget(20_000, USUAL), plenty);
        assert_eq!(budget(80, USUAL), Budget { clients: 11, admin: 10, ceiling: 59 });
        assert_eq!(budget(8, USUAL), Budget { clients: 1, admin: 2, ceiling: 4 });
        assert_eq!(budget(80, Needs { has_admin: false, backends: 0, ..USUAL }).clients, 18);
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

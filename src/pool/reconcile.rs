//! Owns: how a configuration becomes pools, and how the next one takes over what lives.
//! Invariant: a backend keeps its health, counts and connections across reloads as long as its name stays.
//! Must not know: files; who publishes the pools.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::backend::{self, Backend, stable_hash};
use super::live::{Changes, Live};
use super::roster::Roster;
use super::{Pool, Settings};

/// Makes pools out of settings, for as long as the process lives.
#[derive(Debug)]
pub struct Reconciler {
    threads: usize,
    next_id: usize,
    losses: Arc<watch::Sender<u64>>,
    changes: Changes,
    pools: HashMap<String, Arc<Pool>>,
}

impl Reconciler {
    /// For a process whose data path has `threads` threads.
    pub fn new(threads: usize) -> Reconciler {
        let losses = Arc::new(watch::Sender::new(0));
        Reconciler { threads, next_id: 0, losses, changes: Changes::default(), pools: HashMap::new() }
    }

    /// Changes whenever a backend is lost, so that requests that wait on one can be taken back.
    pub fn losses(&self) -> watch::Receiver<u64> {
        self.losses.subscribe()
    }

    /// Where it is told that a backend is back, or has room again.
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// The pools of the next configuration. A pool or backend whose name was there before keeps
    /// what is known of it, and what the operator has set since.
    pub fn pools(&mut self, settings: &[Settings]) -> Vec<Arc<Pool>> {
        let pools: Vec<_> = settings.iter().map(|settings| Arc::new(self.pool(settings))).collect();
        self.pools = pools.iter().map(|pool| (pool.name().to_string(), Arc::clone(pool))).collect();
        pools
    }

    fn pool(&mut self, settings: &Settings) -> Pool {
        let old = self.pools.get(&settings.name).cloned();
        let roster = match &old {
            Some(old) => old.roster().with_settings(settings.vitals.clone()),
            None => Roster::new(settings.vitals.clone(), Arc::clone(&self.losses)),
        };
        let position = |name: &String| settings.backends.iter().position(|other| other.name == *name);
        let backends: Vec<_> = settings
            .backends
            .iter()
            .map(|backend| {
                let failover = backend.failover.iter().filter_map(position).collect();
                self.backend(backend, failover, old.as_deref())
            })
            .collect();
        let by_name = backends.iter().enumerate().map(|(index, backend)| (Arc::clone(backend.name()), index)).collect();
        let by_route = backends.iter().enumerate().map(|(index, backend)| (backend.route.clone(), index)).collect();
        Pool { name: settings.name.as_str().into(), backends, by_name, by_route, roster: Arc::new(roster) }
    }

    fn backend(&mut self, settings: &backend::Settings, failover: Vec<usize>, old: Option<&Pool>) -> Backend {
        let old = old.and_then(|old| Some(old.backend(old.position(&settings.name)?)));
        let live = match old {
            Some(old) => Arc::clone(old.live()),
            None => {
                self.next_id += 1;
                let changes = self.changes.clone();
                Arc::new(Live::new(self.next_id - 1, self.threads, settings.state, settings.weight, changes))
            }
        };
        live.set_limits(settings.max_requests, settings.max_sessions);
        Backend {
            name: settings.name.as_str().into(),
            address: settings.address.clone(),
            incarnation: stable_hash(settings.address.to_string().as_bytes()),
            name_hash: stable_hash(settings.name.as_bytes()),
            backup: settings.backup,
            failover,
            route: settings.route.as_deref().unwrap_or(&settings.name).into(),
            live,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::roster::Observation;
    use crate::pool::vitals::{self, Health};
    use crate::pool::{AdminState, Closed};
    use std::time::{Duration, Instant};

    fn backend(name: &str, address: &str) -> backend::Settings {
        backend::Settings::new(name, address.parse().unwrap())
    }

    fn settings(backends: Vec<backend::Settings>) -> Settings {
        let vitals = vitals::Settings { consecutive_failures: 1, ..vitals::Settings::default() };
        Settings { name: "app".into(), backends, vitals }
    }

    #[test]
    fn a_backend_keeps_its_life_by_name_and_changes_incarnation_with_its_address() {
        let mut reconciler = Reconciler::new(1);
        let old = reconciler.pools(&[settings(vec![backend("a", "127.0.0.1:1"), backend("b", "127.0.0.1:2")])]);
        old[0].backend(0).live().set_state(AdminState::Drain);
        let new = reconciler.pools(&[settings(vec![backend("b", "127.0.0.1:3"), backend("a", "127.0.0.1:1")])]);
        assert_eq!(new[0].backend(1).live().accepts_new(), Err(Closed::Draining));
        assert_eq!(new[0].backend(1).incarnation(), old[0].backend(0).incarnation());
        assert_ne!(new[0].backend(0).incarnation(), old[0].backend(1).incarnation());
        assert!(Arc::ptr_eq(new[0].backend(0).live(), old[0].backend(1).live()));
    }

    #[test]
    fn a_loss_is_told_and_an_ejection_ends_by_time() {
        let mut reconciler = Reconciler::new(1);
        let mut losses = reconciler.losses();
        let pool = reconciler.pools(&[settings(vec![backend("a", "127.0.0.1:1"), backend("b", "127.0.0.1:2")])]);
        let now = Instant::now();
        assert!(!losses.has_changed().unwrap());
        assert!(pool[0].observe(0, Observation::Failure, now).is_some());
        assert!(losses.has_changed().unwrap());
        losses.mark_unchanged();
        assert!(pool[0].observe(1, Observation::Failure, now).is_none(), "the last one stays");
        assert_eq!(pool[0].backend(1).live().health(), Health::Up);
        assert!(pool[0].backend(0).live().is_marked());
        let end = pool[0].roster().changes_at("a", now).unwrap();
        pool[0].observe(0, Observation::Time, end + Duration::from_millis(1));
        assert_eq!(pool[0].backend(0).live().health(), Health::Up);
        assert!(!losses.has_changed().unwrap());
    }
}

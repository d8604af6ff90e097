//! Owns: the sources of backends of all pools, and the members of each pool.
//! Invariant: a source that a reload keeps goes on as if nothing had happened; one that it removes ends.
//! Must not know: how backends are found, or which of them are members of a pool; what is published.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::clock;
use crate::config::PoolPlan;
use crate::discover::source_watcher::{self, SourceId, SourceUpdate};
use crate::discover::{self, Members, Now, OwnAddresses, SourceStatus};
use crate::events::{Event, Events};
use crate::net::{Address, local_addresses};
use crate::pool::backend;

/// The number of updates of all sources that wait for their owner.
const QUEUE: usize = 64;
/// The number of names in one log line.
const MAX_LISTED: usize = 10;
/// The number of logged conflicts to remember.
const MAX_CONFLICTS: usize = 10_000;

/// The sources and members of all pools.
pub(super) struct Sources {
    /// By position in the plan.
    pools: Vec<PoolSources>,
    /// The addresses of all listeners, including the admin listener.
    listening: Vec<Address>,
    events: Events,
    updates: mpsc::Sender<SourceUpdate>,
    received: mpsc::Receiver<SourceUpdate>,
    next_id: u64,
    /// The sources that have not answered since the start of the process.
    silent: HashSet<SourceId>,
    /// The pool and name of ignored backends that were logged.
    conflicts: HashSet<(String, String)>,
}

struct PoolSources {
    name: String,
    members: Members,
    sources: Vec<RunningSource>,
}

/// A source and its task, which ends when this is dropped.
struct RunningSource {
    settings: discover::Settings,
    status: Arc<SourceStatus>,
    id: SourceId,
    task: Option<AbortHandle>,
}

impl Drop for RunningSource {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Sources {
    /// Makes the sources of these pools. None is looked at yet.
    pub(super) fn new(pools: &[PoolPlan], events: Events) -> Sources {
        let (updates, received) = mpsc::channel(QUEUE);
        let mut all = Sources {
            pools: Vec::new(),
            listening: Vec::new(),
            events,
            updates,
            received,
            next_id: 0,
            silent: HashSet::new(),
            conflicts: HashSet::new(),
        };
        all.reconfigure(pools);
        all
    }

    /// Sets the addresses at which no backend is believed to be: those of this process.
    pub(super) fn set_listening(&mut self, listening: Vec<Address>) {
        self.listening = listening;
    }

    /// Takes over the pools of another configuration. What an unchanged source has found stays.
    pub(super) fn reconfigure(&mut self, pools: &[PoolPlan]) {
        let mut known = std::mem::take(&mut self.pools);
        for plan in pools {
            let same = known.iter().position(|known| known.name == plan.pool.name);
            let (members, mut running) = match same.map(|at| known.swap_remove(at)) {
                Some(PoolSources { mut members, sources, .. }) => {
                    members.reconfigure(plan.pool.backends.clone(), &plan.discover, now());
                    (members, sources)
                }
                None => (Members::new(plan.pool.backends.clone(), &plan.discover), Vec::new()),
            };
            let sources = plan.discover.iter().map(|settings| {
                let same = running.iter().position(|known| known.settings == *settings);
                let same = same.or_else(|| running.iter().position(|known| known.settings.source == settings.source));
                let known = same.map(|at| running.swap_remove(at));
                match known {
                    Some(known) if known.settings == *settings => known,
                    known => {
                        self.next_id += 1;
                        let fresh = || Arc::new(SourceStatus::new(&settings.source));
                        let status = known.map_or_else(fresh, |known| Arc::clone(&known.status));
                        RunningSource { settings: settings.clone(), status, id: SourceId(self.next_id), task: None }
                    }
                }
            });
            let sources = sources.collect();
            self.pools.push(PoolSources { name: plan.pool.name.clone(), members, sources });
        }
        // A pool that is gone takes its conflicts along.
        let names: HashSet<&str> = self.pools.iter().map(|pool| pool.name.as_str()).collect();
        self.conflicts.retain(|(pool, _)| names.contains(pool.as_str()));
    }

    /// Begins to look at the sources that are not looked at yet. Call it on the thread that is to do so.
    pub(super) fn begin(&mut self) {
        for pool in &mut self.pools {
            for source in pool.sources.iter_mut().filter(|source| source.task.is_none()) {
                let (settings, status) = (source.settings.clone(), Arc::clone(&source.status));
                let name = pool.name.as_str().into();
                let (updates, events) = (self.updates.clone(), self.events.clone());
                let task = source_watcher::watch(name, settings, status, source.id, updates, events);
                source.task = Some(tokio::spawn(task).abort_handle());
            }
        }
    }

    /// Counts all sources as silent until they answer.
    pub(super) fn await_all(&mut self) {
        self.silent = self.pools.iter().flat_map(|pool| &pool.sources).map(|source| source.id).collect();
    }

    /// The number of sources that have not answered since the start of the process.
    pub(super) fn silent(&self) -> usize {
        let all = self.pools.iter().flat_map(|pool| &pool.sources);
        all.filter(|source| self.silent.contains(&source.id)).count()
    }

    /// Waits for none of them any longer.
    pub(super) fn stop_waiting(&mut self) {
        self.silent.clear();
    }

    /// Returns the status of the sources of each pool.
    pub(super) fn statuses(&self) -> Vec<Vec<Arc<SourceStatus>>> {
        let of_pool = |pool: &PoolSources| pool.sources.iter().map(|source| Arc::clone(&source.status)).collect();
        self.pools.iter().map(of_pool).collect()
    }

    /// Returns when the next drain of a backend that is no longer found ends.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.pools.iter().filter_map(|pool| pool.members.next_end()).min()
    }

    /// Waits for updates, and takes in all that have arrived.
    pub(super) async fn update(&mut self) {
        let Some(first) = self.received.recv().await else { return std::future::pending().await };
        // Read each time: interfaces get and lose addresses, such as floating ones.
        let interfaces = local_addresses::interfaces();
        let own_addresses = Arc::new(OwnAddresses { listening: self.listening.clone(), interfaces });
        let mut next = Some(first);
        while let Some(update) = next {
            self.take(update, &own_addresses);
            next = self.received.try_recv().ok();
        }
    }

    fn take(&mut self, update: SourceUpdate, own_addresses: &Arc<OwnAddresses>) {
        self.silent.remove(&update.id);
        // A source that a reload has removed may have sent an update before.
        let found = self.pools.iter_mut().find_map(|pool| {
            let source = pool.sources.iter().position(|source| source.id == update.id)?;
            Some((pool, source))
        });
        let Some((pool, source)) = found else { return };
        for backend in pool.members.update(source, update.found, own_addresses, now()) {
            if self.conflicts.len() < MAX_CONFLICTS && self.conflicts.insert((pool.name.clone(), backend.clone())) {
                tracing::warn!(
                    pool = pool.name,
                    backend,
                    "ignoring a discovered backend: another backend has its name or address, or it is the address of a listener of this process"
                );
            }
        }
    }

    /// Returns the members of each pool now, by position in the plan.
    pub(super) fn members(&mut self) -> Vec<Vec<backend::Settings>> {
        let members = |pool: &mut PoolSources| {
            pool.members.end_drains(now());
            pool.members.settings()
        };
        self.pools.iter_mut().map(members).collect()
    }
}

fn now() -> Now {
    Now { at: clock::now(), unix: clock::unix().as_secs() }
}

/// Logs and publishes the backends that were added, that drain, and that were removed.
pub(super) fn announce(pool: &str, before: &[backend::Settings], after: &[backend::Settings], events: &Events) {
    fn identity(one: &backend::Settings) -> (&str, &Address, Option<&str>) {
        (&one.name, &one.address, one.identity.as_deref())
    }
    let here_before: HashSet<_> = before.iter().filter(|one| !one.leaving).map(identity).collect();
    let there_after: HashSet<_> = after.iter().map(identity).collect();
    let added: Vec<_> = after.iter().filter(|one| !one.leaving && !here_before.contains(&identity(one))).collect();
    let draining: Vec<_> = after.iter().filter(|one| one.leaving && here_before.contains(&identity(one))).collect();
    let removed: Vec<_> = before.iter().filter(|one| !there_after.contains(&identity(one))).collect();
    for (all, what, message) in [
        (added, "added", "discovered backends added"),
        (draining, "leaving", "discovered backends are leaving: they drain, and are removed when their drain ends"),
        (removed, "removed", "discovered backends removed"),
    ] {
        if !all.is_empty() {
            let count = all.len();
            let backends: Vec<_> = all.iter().take(MAX_LISTED).map(|settings| settings.name.clone()).collect();
            let more = if count > MAX_LISTED { format!(" and {} more", count - MAX_LISTED) } else { String::new() };
            tracing::info!(pool, count, backends = format!("{}{more}", backends.join(" ")), "{message}");
            events.publish(Event::Members { pool: pool.into(), what, count, backends });
        }
    }
}

//! Owns: the task that takes the backends that sources find into the pools.
//! Invariant: the control thread makes one change after another, and publishes updates that arrive together at once.
//! Must not know: how backends are found, or which of them are members of a pool.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, sleep_until};

use super::compose::Composer;
use super::publish::Published;
use crate::admin::Phase;
use crate::clock;
use crate::config::PoolPlan;
use crate::discover::source_watcher::{self, SourceId, SourceUpdate};
use crate::discover::{Members, Now, OwnAddresses};
use crate::net::{Address, local_addresses};
use crate::pool::backend;

/// How long the process stays not ready, at most, while sources have not answered yet.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// The number of updates of all sources that wait for this task.
const QUEUE: usize = 64;
/// The number of names in one log line.
const MAX_LISTED: usize = 10;
/// The number of logged conflicts to remember.
const MAX_CONFLICTS: usize = 10_000;

/// Takes in what sources find, for as long as the process runs. `listening` are the addresses of all listeners,
/// including the admin listener.
pub(super) async fn run(
    composer: Composer,
    published: Published,
    listening: Vec<Address>,
    phase: Arc<watch::Sender<Phase>>,
) {
    let plan = composer.plan();
    let members = |pool: &PoolPlan| Members::new(pool.pool.backends.clone(), &pool.discover);
    let members = plan.pools.iter().map(members).collect();
    let (updates, mut received) = mpsc::channel(QUEUE);
    let mut silent = HashSet::new();
    for (pool, plan) in plan.pools.iter().enumerate() {
        for (source, (settings, status)) in plan.discover.iter().zip(published.statuses(pool)).enumerate() {
            let (id, name) = (SourceId { pool, source }, plan.pool.name.as_str().into());
            silent.insert(id);
            tokio::spawn(source_watcher::watch(name, settings.clone(), Arc::clone(status), id, updates.clone()));
        }
    }
    // Without this sender, the channel closes when the last source ends.
    drop(updates);
    let mut task = DiscoveryTask { composer, published, listening, members, conflicts: HashSet::new() };
    let mut patience = std::pin::pin!(sleep(READY_TIMEOUT));
    loop {
        if silent.is_empty() {
            phase.send_if_modified(|phase| phase.mark_ready());
        }
        let next_end = task.next_end();
        let end = async {
            match next_end {
                Some(end) => sleep_until(end.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = end => {}
            () = &mut patience, if !silent.is_empty() => {
                tracing::warn!(
                    sources = silent.len(),
                    "some discovery sources have not answered yet; serving without their backends; check the sources"
                );
                silent.clear();
            }
            first = received.recv() => {
                let Some(first) = first else { return };
                let mut next = Some(first);
                // Read each time: interfaces get and lose addresses, such as floating ones.
                let own_addresses = Arc::new(OwnAddresses { listening: task.listening.clone(), interfaces: local_addresses::interfaces() });
                while let Some(update) = next {
                    silent.remove(&update.id);
                    task.take(update, &own_addresses);
                    next = received.try_recv().ok();
                }
            }
        }
        task.publish();
    }
}

struct DiscoveryTask {
    composer: Composer,
    published: Published,
    listening: Vec<Address>,
    /// By position in the plan.
    members: Vec<Members>,
    /// The pool and name of ignored backends that were logged.
    conflicts: HashSet<(usize, String)>,
}

impl DiscoveryTask {
    fn next_end(&self) -> Option<Instant> {
        self.members.iter().filter_map(Members::next_end).min()
    }

    fn take(&mut self, update: SourceUpdate, own_addresses: &Arc<OwnAddresses>) {
        let SourceId { pool, source } = update.id;
        let Some(members) = self.members.get_mut(pool) else { return };
        let name = self.composer.plan().pools.get(pool).map_or("", |plan| &plan.pool.name);
        for backend in members.update(source, update.found, own_addresses, now()) {
            if self.conflicts.len() < MAX_CONFLICTS && self.conflicts.insert((pool, backend.clone())) {
                tracing::warn!(
                    pool = name,
                    backend,
                    "ignoring a discovered backend: another backend has its name or address, or it is the address of a listener of this process"
                );
            }
        }
    }

    /// Publishes the members of all pools, if any have changed.
    fn publish(&mut self) {
        let mut is_new = false;
        for (index, members) in self.members.iter_mut().enumerate() {
            members.end_drains(now());
            let plan = self.composer.plan().pools.get(index).map(|plan| &plan.pool);
            let before = plan.map(|pool| (pool.name.clone(), pool.backends.clone()));
            let after = members.settings();
            if self.composer.set_backends(index, after.clone()) {
                is_new = true;
                if let Some((pool, before)) = before {
                    announce(&pool, &before, &after);
                }
            }
        }
        if is_new {
            let snapshot = self.composer.compose();
            self.published.publish(snapshot);
        }
    }
}

fn now() -> Now {
    Now { at: clock::now(), unix: clock::unix().as_secs() }
}

/// Logs the backends that were added, that drain, and that were removed.
fn announce(pool: &str, before: &[backend::Settings], after: &[backend::Settings]) {
    fn identity(one: &backend::Settings) -> (&str, &Address) {
        (&one.name, &one.address)
    }
    let here_before: HashSet<_> = before.iter().filter(|one| !one.leaving).map(identity).collect();
    let there_after: HashSet<_> = after.iter().map(identity).collect();
    let list = |all: Vec<&backend::Settings>| {
        let named: Vec<_> = all.iter().take(MAX_LISTED).map(|settings| settings.name.as_str()).collect();
        let more = if all.len() > MAX_LISTED { format!(" and {} more", all.len() - MAX_LISTED) } else { String::new() };
        format!("{}{more}", named.join(" "))
    };
    let added: Vec<_> = after.iter().filter(|one| !one.leaving && !here_before.contains(&identity(one))).collect();
    let draining: Vec<_> = after.iter().filter(|one| one.leaving && here_before.contains(&identity(one))).collect();
    let removed: Vec<_> = before.iter().filter(|one| !there_after.contains(&identity(one))).collect();
    for (all, what) in [
        (added, "discovered backends added"),
        (draining, "discovered backends no longer found: they drain and keep their sessions until the drain ends"),
        (removed, "discovered backends removed"),
    ] {
        if !all.is_empty() {
            tracing::info!(pool, count = all.len(), backends = list(all), "{what}");
        }
    }
}

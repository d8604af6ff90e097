//! Owns: taking what sources have found into the pools.
//! Invariant: one change after the other, on the control thread; what comes together is published together.
//! Must not know: how backends are found, or who belongs to a pool.

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
use crate::net::{Address, own};
use crate::pool::backend;

/// How long the process is not ready, at the most, since sources have not answered yet.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// Answers that wait to be taken in, of all sources.
const QUEUE: usize = 64;
/// Names in one line of the log.
const MAX_LISTED: usize = 10;
/// Clashes that are remembered as told.
const MAX_CONFLICTS: usize = 10_000;

/// Takes in what is found, for as long as the process lives. `listening` is where we are ourselves, the admin
/// listener with the others.
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
    // So that the end of all who seek is the end of this.
    drop(updates);
    let mut task = DiscoveryTask { composer, published, listening, members, conflicts: HashSet::new() };
    let mut patience = std::pin::pin!(sleep(READY_TIMEOUT));
    loop {
        if silent.is_empty() {
            phase.send_if_modified(|phase| phase.begins());
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
                tracing::warn!(sources = silent.len(), "sources of backends have not answered yet; serving without them");
                silent.clear();
            }
            first = received.recv() => {
                let Some(first) = first else { return };
                let mut next = Some(first);
                // Anew each time: addresses come and go, as those that move between machines do.
                let ours = Arc::new(OwnAddresses { listening: task.listening.clone(), interfaces: own::interfaces() });
                while let Some(update) = next {
                    silent.remove(&update.id);
                    task.take(update, &ours);
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
    /// Pool and name of backends that can't be had, which was said.
    conflicts: HashSet<(usize, String)>,
}

impl DiscoveryTask {
    fn next_end(&self) -> Option<Instant> {
        self.members.iter().filter_map(Members::next_end).min()
    }

    fn take(&mut self, update: SourceUpdate, ours: &Arc<OwnAddresses>) {
        let SourceId { pool, source } = update.id;
        let Some(members) = self.members.get_mut(pool) else { return };
        let name = self.composer.plan().pools.get(pool).map_or("", |plan| &plan.pool.name);
        for backend in members.take(source, update.found, ours, now()) {
            if self.conflicts.len() < MAX_CONFLICTS && self.conflicts.insert((pool, backend.clone())) {
                tracing::warn!(
                    pool = name,
                    backend,
                    "found and left out: its name or address is that of another backend, or leads to a listener of ours"
                );
            }
        }
    }

    /// Publishes the members as they are now, if they are others than before.
    fn publish(&mut self) {
        let mut is_new = false;
        for (index, members) in self.members.iter_mut().enumerate() {
            members.settle(now());
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

/// Tells the operator who has come and who goes.
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
    let come: Vec<_> = after.iter().filter(|one| !one.leaving && !here_before.contains(&identity(one))).collect();
    let drain: Vec<_> = after.iter().filter(|one| one.leaving && here_before.contains(&identity(one))).collect();
    let gone: Vec<_> = before.iter().filter(|one| !there_after.contains(&identity(one))).collect();
    for (all, what) in [
        (come, "backends are found"),
        (drain, "backends are gone: they keep the sessions they have for a while"),
        (gone, "backends have left"),
    ] {
        if !all.is_empty() {
            tracing::info!(pool, count = all.len(), backends = list(all), "{what}");
        }
    }
}

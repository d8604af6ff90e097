//! Owns: everything that runs of the current configuration and that the control thread may exchange.
//! Invariant: what other threads are told of the configuration is always one whole generation.
//! Must not know: what has changed, or who requests it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::task::AbortHandle;

use super::acme::Certificates;
use super::admin_server::AdminServer;
use super::compose::Composer;
use super::discovery::{Sources, announce};
use super::exporters::Exporters;
use super::publish::Published;
use super::reload_changes::Commit;
use super::reload_reports::ReloadReports;
use super::takeover_parts::{Life, Paused, Pending, Waiting};
use super::tls_setup::TlsSetup;
use super::{drains, follow};
use crate::admin::StatusSources;
use crate::config::PoolPlan;
use crate::net::Address;
use crate::proxy::client::ListenerInfo;
use crate::runtime::Listeners;
use crate::telemetry::AccessLog;
use crate::{health, session_sync};

/// What the application shows of the current configuration.
#[derive(Debug)]
pub(super) struct Overview {
    /// The addresses of the listeners, in the order of the configuration.
    pub(super) listeners: Vec<Address>,
    /// The address of the admin listener, if it is on TCP.
    pub(super) admin: Option<SocketAddr>,
    pub(super) shutdown_delay: Duration,
    pub(super) shutdown_grace: Duration,
}

/// What runs of the current configuration.
pub(super) struct Running {
    /// 1 at start, one more with each reload that is applied.
    pub(super) generation: u64,
    pub(super) composer: Composer,
    pub(super) published: Published,
    pub(super) sources: Sources,
    pub(super) listeners: Listeners<ListenerInfo>,
    pub(super) tls: TlsSetup,
    pub(super) certificates: Certificates,
    pub(super) log: AccessLog,
    pub(super) admin: Option<AdminServer>,
    /// Where it waits for its successor.
    pub(super) waiting: Option<Waiting>,
    /// What it uses once its predecessor allows it.
    pub(super) pending: Option<Pending>,
    /// What it keeps while its successor has not proven itself.
    pub(super) paused: Option<Paused>,
    pub(super) life: Life,
    pub(super) commit: Commit,
    pub(super) facts: StatusSources,
    pub(super) reload_reports: ReloadReports,
    pub(super) overview: Arc<ArcSwap<Overview>>,
    pub(super) background: BackgroundTasks,
    /// The task that follows the configuration file, with `watch = true`.
    pub(super) following: Option<AbortHandle>,
}

/// What takes data out of the process, or brings it in, beside requests.
#[derive(Debug, Default)]
pub(super) struct BackgroundTasks {
    /// The tasks that sync learned sessions with a store.
    session_stores: StoreTasks,
    /// The tasks that keep session copies in a store.
    copy_stores: StoreTasks,
    /// The tasks that export spans.
    pub(super) exporters: Exporters,
}

/// The tasks of stores, by pool.
#[derive(Debug, Default)]
struct StoreTasks(HashMap<Arc<str>, AbortHandle>);

impl StoreTasks {
    /// Starts the task of a pool, in the place of a former one.
    fn start(&mut self, pool: Arc<str>, task: impl Future<Output = ()> + Send + 'static) {
        let task = tokio::spawn(task).abort_handle();
        if let Some(before) = self.0.insert(pool, task) {
            before.abort();
        }
    }

    /// Ends the tasks of all pools that have no store any more.
    fn retain(&mut self, has_store: impl Fn(&str) -> bool) {
        self.0.retain(|pool, task| {
            let is_needed = has_store(pool);
            if !is_needed {
                task.abort();
            }
            is_needed
        });
    }
}

impl Running {
    /// Begins what runs on the control thread.
    pub(super) fn begin(&mut self) {
        self.published.begin_probes(self.composer.plan());
        self.sources.await_all();
        self.sources.begin();
        self.update_stores();
        self.update_following();
        self.update_addresses();
        self.certificates.begin(&self.composer.plan().acme, &self.facts.events);
    }

    /// Begins to carry out drains. A process that takes over has not counted the sessions of its backends before it
    /// accepts connections, and would take a drain for done.
    pub(super) fn begin_drains(&self) {
        tokio::spawn(drains::run(Arc::clone(&self.facts.pools)));
    }

    /// Publishes the members of all pools, if any have changed.
    pub(super) fn publish_members(&mut self) {
        let mut is_new = false;
        for (index, after) in self.sources.members().into_iter().enumerate() {
            let plan = self.composer.plan().pools.get(index).map(|plan| &plan.pool);
            let before = plan.map(|pool| (pool.name.clone(), pool.backends.clone()));
            if self.composer.set_backends(index, after.clone()) {
                is_new = true;
                if let Some((pool, before)) = before {
                    announce(&pool, &before, &after, &self.facts.events);
                }
            }
        }
        if is_new {
            let snapshot = self.composer.compose();
            self.published.publish(snapshot, self.composer.plan(), &self.sources.statuses());
            for (pool, index, change) in self.composer.take_reported() {
                health::announce(&pool, index, change, "discovery");
            }
        }
    }

    /// Starts the tasks of stores that have none, and ends those of pools that no longer have one.
    pub(super) fn update_stores(&mut self) {
        for store in self.composer.take_stores() {
            self.background
                .session_stores
                .start(Arc::clone(&store.pool), session_sync::run(store, self.facts.events.clone()));
        }
        for store in self.composer.take_shared_copies() {
            self.background
                .copy_stores
                .start(Arc::clone(&store.pool), session_sync::run_copies(store, self.facts.events.clone()));
        }
        if let Some((settings, spans)) = self.composer.take_unexported() {
            self.background.exporters.start(settings, spans, Arc::clone(self.facts.metrics.spans()));
        }
        let pools = &self.composer.plan().pools;
        let plan = |name: &str| pools.iter().find(|plan| plan.pool.name == name);
        self.background.session_stores.retain(|name| plan(name).is_some_and(|plan| plan.persistence.store().is_some()));
        let has_copy_store = |plan: &PoolPlan| plan.copies.as_ref().is_some_and(|copies| copies.store.is_some());
        self.background.copy_stores.retain(|name| plan(name).is_some_and(has_copy_store));
    }

    /// Begins or ends to follow the configuration file.
    pub(super) fn update_following(&mut self) {
        match (self.composer.plan().watch, &self.following) {
            (true, None) => {
                let (origin, reloader) = (Arc::clone(&self.composer.plan().origin), self.facts.reloader.clone());
                let task = tokio::spawn(async move { follow::follow(&origin, reloader).await });
                self.following = Some(task.abort_handle());
            }
            (false, Some(task)) => {
                task.abort();
                self.following = None;
            }
            _ => {}
        }
    }

    /// Tells the application and the sources which addresses this process listens on.
    pub(super) fn update_addresses(&mut self) {
        let listeners = self.listeners.addresses();
        let admin = self
            .admin
            .as_ref()
            .map(|admin| admin.address().map_or_else(|| admin.settings().address.clone(), Address::Tcp));
        self.sources.set_listening(listeners.iter().cloned().chain(admin).collect());
        self.overview.store(Arc::new(Overview {
            listeners,
            admin: self.admin.as_ref().and_then(AdminServer::address),
            shutdown_delay: self.composer.plan().server.shutdown_delay,
            shutdown_grace: self.composer.plan().server.shutdown_grace,
        }));
    }
}

//! Owns: the control thread, which runs what serves no request: probes, discovery, reloads, housekeeping, the admin plane.
//! Invariant: it ends within about a second after it is asked to, even if a file system hangs.
//! Must not know: requests, or how its parts work.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;

use super::admin_server::BoundAdmin;
use super::configuration;
use super::demands::Demand;
use super::moves::MoveCounts;
use super::rebalances::RebalanceCounts;
use super::reload_changes::Commit;
use super::running::Running;
use super::take_over::TakeOver;
use super::takeover_parts::BoundWaiting;
use super::thread_failures::ThreadFailures;
use crate::admin::{Phase, ReloadRequest, StatusSources, TREND_INTERVAL};
use crate::affinity::avoid_list::AvoidList;
use crate::balance::BalancerKind;
use crate::pool::Backend;
use crate::telemetry::{AccessLog, LossReporter};
use crate::{clock, tls};

/// The control thread.
pub(super) struct Control {
    thread: std::thread::JoinHandle<Option<AccessLog>>,
    end: oneshot::Sender<()>,
}

pub(super) struct ControlParts {
    pub(super) running: Running,
    pub(super) requests: mpsc::Receiver<ReloadRequest>,
    pub(super) phase: Arc<watch::Sender<Phase>>,
    pub(super) commit: Commit,
    pub(super) avoid_list: Arc<AvoidList>,
    /// The bound admin listener, and how many connections it may have.
    pub(super) admin: Option<(BoundAdmin, usize)>,
    pub(super) demands: mpsc::Receiver<Demand>,
    /// The socket at which it waits for its successor.
    pub(super) waiting: Option<BoundWaiting>,
    /// The process that hands over.
    pub(super) take_over: Option<TakeOver>,
}

impl Control {
    pub(super) fn start(parts: ControlParts) -> std::io::Result<Control> {
        let (end, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = move || {
            let log = LocalSet::new().block_on(&runtime, control(parts, ended));
            // A blocking task on a file system that does not respond must not delay the end.
            runtime.shutdown_background();
            Some(log)
        };
        let thread = std::thread::Builder::new().name("control".into()).spawn(work)?;
        Ok(Control { thread, end })
    }

    /// Ends the thread, and closes the access log once its last lines are written. Blocks.
    pub(super) fn join(self) {
        // An error means that the thread has ended already.
        let _ = self.end.send(());
        if let Ok(Some(log)) = self.thread.join() {
            log.close();
        }
    }
}

/// Runs everything until `ended`; returns the access log.
async fn control(parts: ControlParts, ended: oneshot::Receiver<()>) -> AccessLog {
    let ControlParts { mut running, requests, phase, commit, avoid_list, admin, demands, waiting, take_over } = parts;
    tokio::spawn(process_housekeeping(avoid_list, running.facts.clone(), running.log.loss_reporter()));
    tokio::spawn(ThreadFailures::new(&running.published.heartbeats(), &phase, &running.facts.events).watch());
    tokio::spawn(tls::reload::watch(running.facts.certificates.clone(), running.facts.events.clone()));
    running.admin = admin.map(|(bound, connections)| bound.serve(&running.facts, connections));
    running.begin();
    if let Some(bound) = waiting {
        running.wait_for_successor(bound);
    }
    match take_over {
        Some(take_over) => drop(tokio::task::spawn_local(take_over.run())),
        None => running.begin_drains(),
    }
    let Running { admin, log, background, .. } =
        configuration::run(running, requests, phase, commit, demands, ended).await;
    if let Some(admin) = admin {
        admin.end().await;
    }
    background.exporters.end().await;
    log
}

/// The housekeeping of the process: counts sessions, removes expired state, samples trends, publishes moves of sessions,
/// and reports lost log lines.
async fn process_housekeeping(avoid_list: Arc<AvoidList>, facts: StatusSources, mut log: LossReporter) {
    let (mut moves, mut rebalanced) = (MoveCounts::default(), RebalanceCounts::default());
    let mut interval = tokio::time::interval(Duration::from_secs(1));
    for second in 0_u64.. {
        interval.tick().await;
        log.check();
        let now = clock::unix();
        for entry in facts.pools.load().iter() {
            // The count is cached by its cost.
            let balances_sessions = entry.balance == BalancerKind::LeastSessions.as_str();
            let counts_all = balances_sessions || entry.pool.rebalance_settings().is_some();
            let needs_count = |backend: &&Backend| counts_all || backend.live().has_session_limit();
            for backend in entry.pool.backends().iter().filter(needs_count) {
                backend.live().sessions().count(clock::unix_millis(), entry.affinity.session_lifetime());
                backend.live().recounted_sessions();
            }
            for moved in entry.pool.rebalance(clock::now()) {
                let name = |index| entry.pool.backend(index).name();
                rebalanced.add(second, entry.pool.name(), name(moved.from), name(moved.to), moved.sessions);
            }
            if second.is_multiple_of(10) {
                entry.affinity.sweep(now);
                entry.copies.iter().for_each(|copies| copies.store().sweep(now.as_secs()));
            }
        }
        if second.is_multiple_of(10) {
            avoid_list.sweep(now.as_secs());
            facts.metrics.merge_removed();
        }
        if second.is_multiple_of(TREND_INTERVAL.as_secs()) {
            facts.trends.sample(&facts.pools.load());
        }
        rebalanced.due(second).into_iter().for_each(|event| facts.events.publish(event));
        moves.since_last(&facts.metrics.moves()).into_iter().for_each(|event| facts.events.publish(event));
    }
}

//! Owns: a reload: reading the file again, and changing everything that runs to what it says.
//! Invariant: it applies the whole file or nothing of it; it answers once every thread uses the new configuration.
//! Must not know: what asked for it; how a part takes over its settings.

use std::sync::Arc;
use std::time::Duration;

use super::acquire::{Acquired, acquire};
use super::descriptor_limit::fit_to_descriptor_limit;
use super::listeners::listener_info;
use super::reload_changes::{self, Commit, MAX_LISTED, MAX_LOGGED};
use super::running::Running;
use crate::admin::{Actor, ReloadChange, ReloadError, ReloadReport, ReloadRequest, ReloadResult};
use crate::clock;
use crate::config::{self, Plan, Report, key_path};
use crate::events::Event;
use crate::runtime::ListenerTransport;
use crate::telemetry;
use crate::tls::reload::Reload;

/// How long a reload waits for the data-path threads. Each needs one iteration of its event loop.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(5);

/// The most keys of a reload that have an audit line each: the queue of messages has a thousand places.
const MAX_AUDITED: usize = 200;

/// Carries out a request, and answers it.
pub(super) async fn answer(running: &mut Running, request: ReloadRequest, commit: &Commit) {
    let ReloadRequest { actor, is_dry_run, reply } = request;
    let before = running.generation;
    let mut report = reload(running, is_dry_run, commit).await;
    if !is_dry_run {
        running.facts.reloads.count(report.result, clock::unix());
        if let Some(suppressed) = running.reload_reports.take(&report, &actor, clock::unix()) {
            log(&report, &actor, suppressed);
            running.facts.events.publish(event(&report, &actor));
        }
        if report.result == ReloadResult::Applied {
            audit(&report, before, &actor);
        }
    }
    report.left_out = report.changes.len().saturating_sub(MAX_LISTED);
    report.changes.truncate(MAX_LISTED);
    if !is_dry_run {
        running.facts.reloads.keep(&report, &actor, clock::unix());
    }
    // The client that asked may have left.
    let _ = reply.send(report);
}

/// Writes the audit lines of a reload: one for the configuration as a whole, and one for each key up to a number.
fn audit(report: &ReloadReport, before: u64, actor: &Actor) {
    actor.audit(
        "configuration",
        &format_args!("generation {before}"),
        &format_args!("generation {}", report.generation),
    );
    for change in report.changes.iter().take(MAX_AUDITED) {
        // A secret, or the content of a file.
        match change.runtime.is_null() && change.now.is_null() {
            true => actor.audit(&change.path, &"not shown", &change.because),
            false => actor.audit(&change.path, &change.runtime, &change.now),
        }
    }
    let more = report.changes.len().saturating_sub(MAX_AUDITED);
    if more > 0 {
        actor.audit(&format!("{more} more keys"), &"not listed", &"not listed");
    }
}

/// Makes the event of a reload.
fn event(report: &ReloadReport, actor: &Actor) -> Event {
    Event::Reload {
        result: report.result.as_str(),
        generation: report.generation,
        by: actor.by(),
        changes: report.changes.len(),
        keys: report.changes.iter().take(MAX_LOGGED).map(|change| change.path.clone()).collect(),
        reason: report.errors.first().and_then(|error| Event::reason(error)),
    }
}

/// Logs one line: what came of a reload, and what it has changed.
fn log(report: &ReloadReport, actor: &Actor, suppressed: u64) {
    if suppressed > 0 {
        tracing::warn!(
            reloads = suppressed,
            "more reloads without a change than are reported; if you don't ask for them, set token_file in [admin]"
        );
    }
    let (by, generation) = (actor.by(), report.generation);
    match report.result {
        ReloadResult::Applied => {
            let changes = reload_changes::paths(&report.changes);
            tracing::info!(by, generation, changes, "reloaded the configuration");
        }
        ReloadResult::Unchanged => tracing::info!(by, generation, "reloaded: the configuration is unchanged"),
        ReloadResult::Refused => {
            let errors = report.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            tracing::error!(by, generation, "reload refused, nothing has changed:\n{errors}");
        }
    }
}

async fn reload(running: &mut Running, is_dry_run: bool, commit: &Commit) -> ReloadReport {
    let refused = |running: &Running, errors| ReloadReport::refused(running.generation, errors);
    let next = match load(running).await {
        Ok(next) => next,
        Err(errors) => return refused(running, errors),
    };
    if let Some(error) = fixed(running.composer.plan(), &next) {
        return refused(running, vec![error]);
    }
    let changes = changes(running, &next);
    let acquired = match acquire(running, &next, is_dry_run).await {
        Ok(acquired) => acquired,
        Err(errors) => return refused(running, errors),
    };
    let answer = |running: &Running, changes: Vec<ReloadChange>| {
        let result = if changes.is_empty() { ReloadResult::Unchanged } else { ReloadResult::Applied };
        ReloadReport { result, generation: running.generation, changes, left_out: 0, errors: Vec::new() }
    };
    if is_dry_run {
        return answer(running, changes);
    }
    if running.pending.is_none() {
        // It may close sockets that the process before this one still has.
        running.life.settling.require().await;
    }
    let is_stopping = commit.lock().await;
    if *is_stopping {
        return refused(running, vec![ReloadError::stopping()]);
    }
    let mut changes = changes;
    changes.extend(reread_certificates(&acquired));
    if changes.is_empty() {
        return answer(running, changes);
    }
    apply(running, next, acquired).await;
    answer(running, changes)
}

/// Reads and checks the file.
async fn load(running: &Running) -> Result<Plan, Vec<ReloadError>> {
    let path = running.composer.plan().origin.path.clone();
    let loaded: Result<Result<(Plan, Report), Report>, _> =
        tokio::task::spawn_blocking(move || config::load(&path)).await;
    match loaded {
        Ok(Ok((plan, _))) => Ok(plan),
        Ok(Err(report)) => Err(reload_changes::errors(&report)),
        Err(error) => {
            let origin = &running.composer.plan().origin;
            Err(vec![reload_changes::error(origin, None, format!("cannot read the file: {error}"), "try again")])
        }
    }
}

/// Returns why `next` can't be applied by this process.
fn fixed(current: &Plan, next: &Plan) -> Option<ReloadError> {
    let (was, threads) = (current.server.threads(), next.server.threads());
    (was != threads).then(|| {
        let line = next.origin.line("server", None, "threads");
        let problem = format!(
            "`threads` can't change from {was} to {threads} while Linchpin runs: connections stay on their thread, and \
             the kernel divides new ones among the sockets of all threads"
        );
        reload_changes::error(&next.origin, line, problem, "start the new process with `linchpin run --upgrade`, which loses no connection, or write the former number")
    })
}

/// Lists what changes, but for certificates.
fn changes(running: &Running, next: &Plan) -> Vec<ReloadChange> {
    let current = running.composer.plan();
    let pools: Vec<_> = running.facts.pools.load().iter().map(|entry| Arc::clone(&entry.pool)).collect();
    let mut changes = reload_changes::changes(current.origin.changes(&next.origin), &pools, next);
    let tells = |section: &str| changes.iter().any(|change| change.path.split('.').next() == Some(section));
    let keys = running.composer.next_keys(next);
    let mut contents = Vec::new();
    if !tells("keys") && !Arc::ptr_eq(&keys, &current.keys) {
        contents.push(key_path(&["keys"]));
    }
    let admin = |plan: &Plan| plan.admin.as_ref().map(|admin| (admin.token.clone(), admin.read_token.clone()));
    if !tells("admin")
        && let (Some(current), Some(next)) = (admin(current), admin(next))
    {
        contents.extend((current.0 != next.0).then(|| key_path(&["admin", "token_file"])));
        contents.extend((current.1 != next.1).then(|| key_path(&["admin", "read_token_file"])));
    }
    contents.extend(
        new_contents(current, next).filter(|path| !changes.iter().any(|change| path.starts_with(&change.path))),
    );
    changes.extend(contents.into_iter().map(reload_changes::of_content));
    changes
}

/// Lists the keys of the files with other content: of users and of pages.
fn new_contents<'p>(current: &'p Plan, next: &'p Plan) -> impl Iterator<Item = String> + 'p {
    let pages = next.pools.iter().filter_map(|next| {
        let current = current.pools.iter().find(|current| current.pool.name == next.pool.name)?;
        (current.pages != next.pages).then(|| key_path(&["pools", &next.pool.name, "pages"]))
    });
    let users = next.routes.iter().filter_map(|route| {
        let auth = route.access.basic_auth.as_ref()?;
        let mut known = current.routes.iter().filter_map(|route| route.access.basic_auth.as_ref());
        let is_new = known.any(|known| known.file == auth.file && known.users != auth.users);
        let name = format!("{}{}", route.hosts.first().map_or("", String::as_str), route.path_prefix);
        is_new.then(|| key_path(&["routes", &name, "basic_auth", "file"]))
    });
    pages.chain(users)
}

/// Reads the certificates again that are in use already, and lists those that are new. Files that can't be used are an
/// error of the configuration, and were read a moment ago: if they changed since then, they are read again soon.
fn reread_certificates(acquired: &Acquired) -> Vec<ReloadChange> {
    let all = acquired.tls.watched();
    let is_new = |one: &&Arc<dyn Reload>| one.reload().unwrap_or(false);
    let path = |one: &Arc<dyn Reload>| match one.label() {
        ("listener", name) => key_path(&["listeners", name, "tls"]),
        (_, name) => key_path(&["pools", name, "upstream", "tls"]),
    };
    all.iter().filter(is_new).map(path).map(reload_changes::of_content).collect()
}

/// Changes everything to `next`. From here on, nothing can fail.
async fn apply(running: &mut Running, next: Plan, acquired: Acquired) {
    let Acquired { tls, listeners, admin, log, waiting } = acquired;
    running.generation += 1;
    let (server, admin_connections) = fit_to_descriptor_limit(&next);
    running.sources.reconfigure(&next.pools);
    let admin_settings = next.admin.clone();
    let is_other_log = running.composer.plan().log != next.log;
    running.composer.set_plan(next, tls.accesses.clone(), listeners.ids());
    for (index, members) in running.sources.members().into_iter().enumerate() {
        running.composer.set_backends(index, members);
    }
    let snapshot = running.composer.compose();
    let plan = running.composer.plan();
    let transports: Vec<_> = plan
        .listeners
        .iter()
        .zip(listeners.ids())
        .zip(&tls.acceptors)
        .map(|((settings, id), tls)| {
            let info = listener_info(id, settings);
            Arc::new(ListenerTransport::new(settings, tls.clone(), info, &running.facts.metrics))
        })
        .collect();

    if is_other_log {
        telemetry::retrace(&plan.log);
    }
    running.published.publish_with(snapshot, plan, &running.sources.statuses(), log.as_ref().map(|log| log.handle()));
    running.listeners.replace_transports(&listeners, &transports);
    let limited = running.listeners.set_limits(&server.limits, server.max_connections);
    let mut is_installed = running.published.installed(INSTALL_TIMEOUT).await;
    // Only now: a request at a new listener finds the routes that name it.
    let opened = running.listeners.install(listeners, transports, server.shutdown_grace);
    is_installed &= opened.within(INSTALL_TIMEOUT).await && limited.within(INSTALL_TIMEOUT).await;
    if !is_installed {
        tracing::warn!("a worker thread has not used the new configuration for 5 s; check /readyz and its CPU time");
    }

    running.facts.certificates.replace(tls.watched());
    running.tls = tls;
    if let Some(log) = log {
        log.take_over();
        // Its writer ends once it has written what the threads have left.
        running.log = log;
    }
    match (admin, admin_settings) {
        (Some(bound), _) => {
            let server = bound.serve(&running.facts, admin_connections);
            if let Some(before) = running.admin.replace(server) {
                before.replace();
            }
        }
        (None, None) => {
            if let Some(before) = running.admin.take() {
                before.replace();
            }
        }
        (None, Some(settings)) => {
            if let Some(admin) = &mut running.admin {
                admin.reconfigure(&settings);
            }
        }
    }
    running.replace_waiting(waiting);
    running.sources.begin();
    running.update_stores();
    running.update_following();
    running.update_addresses();
    running.certificates.update(&running.composer.plan().acme, &running.facts.events).await;
}

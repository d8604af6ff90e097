//! Owns: the resources that a reload needs: listening sockets, certificates, the admin listener, the access log.
//! Invariant: all are acquired, or all are released again; acquiring them changes nothing that runs.
//! Must not know: what is done with them.

use super::admin_server::BoundAdmin;
use super::reload_changes::error;
use super::running::Running;
use super::takeover_parts::BoundWaiting;
use super::tls_setup::TlsSetup;
use crate::admin::{self, ReloadError};
use crate::config::Plan;
use crate::net::{Address, local_addresses};
use crate::runtime::listeners::{AcquiredListeners, Acquisition};
use crate::telemetry::AccessLog;

/// What a reload needs. Dropping it releases everything.
pub(super) struct Acquired {
    pub(super) tls: TlsSetup,
    pub(super) listeners: AcquiredListeners,
    /// The admin listener, if it has another address than before.
    pub(super) admin: Option<BoundAdmin>,
    /// The access log, if it is another one.
    pub(super) log: Option<AccessLog>,
    /// The socket for a successor, if it has another path.
    pub(super) waiting: Option<BoundWaiting>,
}

/// Acquires what `next` needs and `running` does not have. A dry run creates nothing that others can see.
pub(super) async fn acquire(
    running: &mut Running,
    next: &Plan,
    is_dry_run: bool,
) -> Result<Acquired, Vec<ReloadError>> {
    let refused = |line, problem: String, remedy: &str| vec![error(&next.origin, line, problem, remedy)];
    let tls = open_tls(running, next).await.map_err(|(problem, remedy)| refused(None, problem, &remedy))?;

    let acquisition = if is_dry_run { Acquisition::DryRun } else { Acquisition::Reload };
    let listeners = running.listeners.acquire(&next.listeners, acquisition);
    let of_bind = |bind: crate::runtime::BindError| {
        let position = next.listeners.iter().position(|listener| listener.address == *bind.address());
        let line = next.origin.line("listeners", position.or(Some(0)), "address");
        refused(line, bind.to_string(), "nothing has changed")
    };
    let listeners = listeners.map_err(of_bind)?;

    let current = running.composer.plan();
    let admin = match &next.admin {
        Some(settings) if current.admin.as_ref().map(|admin| &admin.address) != Some(&settings.address) => {
            let line = next.origin.line("admin", None, "address");
            let failed = |problem: String| {
                let problem = format!("the admin listener cannot bind {}: {problem}", settings.address);
                refused(line, problem, "choose another [admin] address")
            };
            // It can take the place of a listener that this reload closes only once that has closed.
            let is_own = |own: &Address| local_addresses::overlap(own, &settings.address);
            if running.listeners.addresses().iter().any(is_own) {
                return Err(failed("a listener of this process still has that address".into()));
            }
            let bound = match is_dry_run {
                true => admin::check(settings).map(|()| None),
                false => BoundAdmin::bind(settings, false).map(Some),
            };
            bound.map_err(|error| failed(error.to_string()))?
        }
        _ => None,
    };

    let is_same_log = (&current.log.access, &current.log.layout) == (&next.log.access, &next.log.layout);
    let log = if is_same_log || is_dry_run {
        None
    } else {
        let opened = running.log.open_next(&next.log.access, &next.log.layout);
        let line = next.origin.line("log", None, "access");
        Some(opened.map_err(|error| refused(line, error.to_string(), "nothing has changed"))?)
    };
    let handover = &next.server.handover;
    let is_other = *handover != current.server.handover && !is_dry_run;
    let waiting = match handover.as_deref().filter(|_| is_other) {
        Some(path) => {
            let line = next.origin.line("server", None, "handover");
            let problem = |error| format!("cannot listen on {}: {error}", path.display());
            let bound = BoundWaiting::bind(path);
            Some(bound.map_err(|error| refused(line, problem(error), "choose another `handover` in [server]"))?)
        }
        None => None,
    };
    // Last, since clients can connect from here on.
    if !is_dry_run {
        listeners.listen().map_err(of_bind)?;
    }
    Ok(Acquired { tls, listeners, admin, log, waiting })
}

/// Reads the certificates on a thread of its own: a file system may hang.
async fn open_tls(running: &Running, next: &Plan) -> Result<TlsSetup, (String, String)> {
    let (tls, plan) = (running.tls.clone(), running.composer.plan());
    let (known_listeners, known_pools) = (plan.listeners.clone(), plan.pools.clone());
    let (listeners, pools) = (next.listeners.clone(), next.pools.clone());
    let challenges = running.certificates.challenges.tls().clone();
    let opening =
        tokio::task::spawn_blocking(move || tls.next(&known_listeners, &known_pools, &listeners, &pools, &challenges))
            .await;
    match opening {
        Ok(opened) => opened.map_err(|error| (error.to_string(), error.remedy().to_string())),
        Err(error) => Err((format!("cannot read the certificates: {error}"), "try again".into())),
    }
}

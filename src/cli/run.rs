//! Owns: `linchpin run`: from a configuration file to the exit code.
//! Invariant: one signal drains, a second one ends at once; no other signal ends anything.
//! Must not know: what the parts do.

use std::path::Path;
use std::process::ExitCode;

use super::check;
use super::config_file::find;
use super::output::{failure, print_error};
use crate::app::App;
use crate::config::Plan;
use crate::runtime::descriptors;
use crate::runtime::signal::{Event, Signals};
use crate::telemetry::{Reopen, panics};
use crate::{config, telemetry};

/// Runs the proxy until it is told to stop.
pub fn run(path: Option<&Path>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure(&format!("cannot start an event loop: {error}")),
    };
    let entered = runtime.enter();
    // First of all: a signal that comes while the configuration is read or the parts start ends nothing, and is
    // not lost.
    let signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return failure(&format!("cannot listen to signals: {error}")),
    };
    drop(entered);
    let path = match find(path) {
        Ok(path) => path,
        Err(error) => return failure(&error),
    };
    let (plan, report) = match config::load(&path) {
        Ok(loaded) => loaded,
        Err(report) => {
            print_error(&check::render_errors(&path, &report));
            return failure(&format!("{} has errors; nothing was started", path.display()));
        }
    };
    telemetry::trace(&plan.log);
    panics::report();
    // Warnings are shown as the check shows them, with the lines they are about.
    print_error(&report);
    if let Err(error) = descriptors::raise_limit() {
        tracing::warn!(%error, "cannot raise the limit of open descriptors");
    }
    let ended = runtime.block_on(serve(plan, signals));
    telemetry::flush();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(&error),
    }
}

/// Serves until it is told to stop, and whoever is served then is done.
async fn serve(plan: Plan, mut signals: Signals) -> Result<(), crate::app::StartError> {
    let grace = plan.server.shutdown_grace;
    let app = App::start(plan)?;
    for address in app.listeners() {
        tracing::info!(%address, "listening");
    }
    if let Some(address) = app.admin() {
        tracing::info!(%address, "admin");
    }
    let log = app.log();
    let signal = stop(&mut signals, &log).await;
    tracing::info!(signal, ?grace, "stopping: requests in flight may end; a second signal ends them");
    tokio::select! {
        () = app.stop() => tracing::info!("stopped"),
        signal = stop(&mut signals, &log) => tracing::warn!(signal, "stopped at once"),
    }
    Ok(())
}

/// Does what signals ask for, until one of them asks for the end: its name.
async fn stop(signals: &mut Signals, log: &Reopen) -> &'static str {
    loop {
        match signals.next().await {
            Event::Stop(signal) => return signal,
            Event::ReopenLogs if log.reopen() => tracing::info!("SIGUSR1: the access log is opened anew"),
            Event::ReopenLogs => tracing::info!("SIGUSR1: there is no file of an access log to be opened anew"),
            Event::Reload => tracing::warn!(
                "SIGHUP: the configuration can't be reloaded by this version, and stays as it is; check the new one \
                 with `linchpin check`, then restart. Files of certificates and of backends are reloaded by themselves"
            ),
            Event::Upgrade => tracing::warn!(
                "SIGUSR2: the binary can't be replaced while it runs, by this version; nothing has changed. \
                 Install the new one, then restart"
            ),
        }
    }
}

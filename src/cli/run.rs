//! Owns: `linchpin run`: from the configuration file to the exit code.
//! Invariant: the first SIGTERM or SIGINT drains, the second ends the process at once; no other signal ends it.
//! Must not know: what the parts do.

use std::path::Path;
use std::process::ExitCode;

use super::check;
use super::config_file::find;
use super::output::{failure, print_error};
use crate::admin::{Actor, Reloader};
use crate::app::App;
use crate::config::Plan;
use crate::runtime::descriptors;
use crate::runtime::signal::{Event, Signals};
use crate::telemetry::{Reopen, panics};
use crate::{config, telemetry};

/// Runs the proxy until SIGTERM or SIGINT.
pub fn run(path: Option<&Path>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure(&format!("cannot start an event loop: {error}")),
    };
    let entered = runtime.enter();
    // Before anything else: a signal during the start neither ends the process nor is lost.
    let signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return failure(&format!("cannot listen for signals: {error}")),
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
    // `check` prints the warnings in the same form, with their lines.
    print_error(&report);
    if let Err(error) = descriptors::raise_limit() {
        tracing::warn!(%error, "cannot raise the limit on open descriptors; keeping the current one; raise LimitNOFILE for more connections");
    }
    let ended = runtime.block_on(serve(plan, signals));
    telemetry::flush();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(&error),
    }
}

/// Serves until a signal to stop, then until the requests in flight have ended.
async fn serve(plan: Plan, mut signals: Signals) -> Result<(), crate::app::StartError> {
    let app = App::start(plan)?;
    for address in app.listeners() {
        tracing::info!(%address, "listening");
    }
    if let Some(address) = app.admin() {
        tracing::info!(%address, "admin");
    }
    let handles = SignalHandles { log: app.log(), reloader: app.reloader() };
    let signal = stop(&mut signals, &handles).await;
    let (delay, grace) = (app.shutdown_delay(), app.shutdown_grace());
    tracing::info!(signal, ?delay, ?grace, "stopping: waiting for requests in flight; a second signal stops at once");
    tokio::select! {
        () = app.stop() => tracing::info!("stopped"),
        signal = stop(&mut signals, &handles) => tracing::warn!(signal, "stopped at once"),
    }
    Ok(())
}

/// What signals act on.
struct SignalHandles {
    log: Reopen,
    reloader: Reloader,
}

/// Handles signals until one stops the process; returns its name.
async fn stop(signals: &mut Signals, handles: &SignalHandles) -> &'static str {
    loop {
        match signals.next().await {
            Event::Stop(signal) => return signal,
            Event::ReopenLogs if handles.log.reopen() => tracing::info!("SIGUSR1: reopened the access log"),
            Event::ReopenLogs => tracing::info!("SIGUSR1: no access log file to reopen"),
            // Its outcome is logged. Meanwhile other signals are handled.
            Event::Reload => {
                let reloader = handles.reloader.clone();
                tokio::spawn(async move { reloader.reload(Actor::Signal("SIGHUP"), false).await });
            }
            Event::Upgrade => tracing::warn!(
                "SIGUSR2: this version can't replace its binary while it runs; nothing has changed. Install the new \
                 one, then restart"
            ),
        }
    }
}

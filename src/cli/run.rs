//! Owns: `linchpin run`: from a configuration file to the exit code.
//! Invariant: one signal drains, a second one ends at once.
//! Must not know: what the parts do.

use std::path::Path;
use std::process::ExitCode;

use super::{check, fail, say};
use crate::app::App;
use crate::runtime::descriptors;
use crate::runtime::signal::Stop;
use crate::{config, telemetry};

/// Runs the proxy until it is told to stop.
pub fn run(path: Option<&Path>) -> ExitCode {
    let path = match check::find(path) {
        Ok(path) => path,
        Err(error) => return fail(&error),
    };
    let (plan, report) = match config::load(&path) {
        Ok(loaded) => loaded,
        Err(report) => {
            say(&report);
            return fail(&format!("{} has errors; nothing was started", path.display()));
        }
    };
    telemetry::trace(&plan.log);
    // Warnings are shown as the check shows them, with the lines they are about.
    say(&report);
    if let Err(error) = descriptors::raise_limit() {
        tracing::warn!(%error, "cannot raise the limit of open descriptors");
    }

    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start an event loop: {error}")),
    };
    runtime.block_on(async {
        // Listened to first: a signal that comes while the parts start is not lost.
        let mut signals = match Stop::listen() {
            Ok(signals) => signals,
            Err(error) => return fail(&format!("cannot listen to signals: {error}")),
        };
        let grace = plan.server.shutdown_grace;
        let app = match App::start(plan) {
            Ok(app) => app,
            Err(error) => return fail(&error),
        };
        for address in app.listeners() {
            tracing::info!(%address, "listening");
        }
        if let Some(address) = app.admin() {
            tracing::info!(%address, "admin");
        }
        let signal = signals.next().await;
        tracing::info!(signal, ?grace, "stopping: requests in flight may end; a second signal ends them");
        tokio::select! {
            () = app.stop() => tracing::info!("stopped"),
            signal = signals.next() => tracing::warn!(signal, "stopped at once"),
        }
        ExitCode::SUCCESS
    })
}

//! Owns: `linchpin run`: from the configuration file to the exit code.
//! Invariant: the first SIGTERM or SIGINT drains, the second ends the process at once; no other signal ends it.
//! Must not know: what the parts do.

use std::path::PathBuf;
use std::process::ExitCode;

use tokio::sync::watch;

use super::check;
use super::config_file::{FileArgs, find};
use super::output::{failure, print_error};
use super::service_manager::{self, Report};
use crate::admin::{Actor, Phase, Reloader};
use crate::app::{self, App, Inheritance, LifeEvent, TakeoverError};
use crate::config::Plan;
use crate::runtime::descriptors;
use crate::runtime::signal::{Event, Signals};
use crate::telemetry::{Reopen, panics};
use crate::{config, telemetry};

/// How long a process may take to go on after its successor has ended.
const RESUME_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// The arguments of `linchpin run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    file: FileArgs,
    /// Take over the sockets and sessions of the process that waits at the file's `[server] handover`, which then ends.
    #[arg(long)]
    upgrade: bool,
}

/// Runs the proxy until SIGTERM or SIGINT.
pub fn run(args: &Args) -> ExitCode {
    // Before any other thread runs, since it changes the environment.
    let sockets = service_manager::sockets();
    let program = program();
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
    let sockets = match sockets {
        Ok(sockets) => sockets,
        Err(error) => return failure(&error),
    };
    let path = match find(args.file.path()) {
        Ok(path) => path,
        Err(error) => return failure(&format_args!("{error}, or try: linchpin demo")),
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
    let successor = Successor { program, path: path.clone(), is_possible: plan.server.handover.is_some() };
    let ended = runtime.block_on(async {
        let inherited = Inheritance { sockets, ..Inheritance::default() };
        let inherited = if args.upgrade { take_over(&plan, inherited).await? } else { inherited };
        serve(plan, inherited, signals, successor).await
    });
    telemetry::flush();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(&error),
    }
}

/// Asks the process that waits at the file's `handover` to hand over. If nobody waits there, nothing is inherited.
async fn take_over(plan: &Plan, inherited: Inheritance) -> Result<Inheritance, String> {
    let Some(path) = &plan.server.handover else {
        let file = plan.origin.path.display();
        return Err(format!(
            "--upgrade needs a socket: write handover = \"/run/linchpin/handover.sock\" into [server] of {file}"
        ));
    };
    match app::ask(path).await {
        Ok(inherited) => Ok(inherited),
        Err(TakeoverError::Nobody) => {
            tracing::info!(path = %path.display(), "no process to take over from; starting afresh");
            Ok(inherited)
        }
        Err(error) => {
            Err(format!("cannot take over from the process at {}: {error}; it goes on as before", path.display()))
        }
    }
}

/// Serves until a signal to stop, then until the requests in flight have ended. If another process takes over, serves
/// until the last connection has ended.
async fn serve(plan: Plan, inherited: Inheritance, mut signals: Signals, successor: Successor) -> Result<(), String> {
    let is_taking_over = inherited.predecessor.is_some();
    let mut app = App::start_with(plan, inherited).map_err(|error| error.to_string())?;
    let handles = SignalHandles { log: app.log(), reloader: app.reloader(), successor, phase: app.phase() };
    if is_taking_over {
        tokio::select! {
            taken_over = app.taken_over() => taken_over.map_err(|why| format!("cannot take over: {why}; unless the other process stops, it goes on as before"))?,
            _ = stop(&mut signals, &handles) => return Err("stopped before it had taken over; the other process goes on if it still runs".into()),
        }
        tracing::info!("taken over from the process before this one");
    }
    for address in app.listeners() {
        tracing::info!(%address, "listening");
    }
    if let Some(address) = app.admin() {
        tracing::info!(%address, "admin");
    }
    let (mut phase, settling) = (app.phase(), app.settling());
    tokio::spawn(async move {
        if is_taking_over {
            settling.due().await;
        }
        if phase.wait_for(|phase| *phase == Phase::Ready).await.is_ok() {
            // The service manager has to know before the old process, its main process, ends.
            service_manager::report(if is_taking_over { Report::TakenOver } else { Report::Ready });
            settling.settle();
        }
    });
    tokio::spawn(service_manager::keep_watchdog_quiet(app.heartbeats()));
    let mut is_paused = false;
    let signal = loop {
        tokio::select! {
            signal = stop(&mut signals, &handles) => match is_paused {
                true => {
                    app.leave().await;
                    return leave(app, signals, &handles, Some(signal)).await;
                }
                false => break signal,
            },
            event = app.next_event() => match event {
                LifeEvent::TakenOver(pid) => {
                    is_paused = true;
                    tracing::info!(pid, "another process has taken over; this one ends with its last connection");
                }
                LifeEvent::Resumed => {
                    is_paused = false;
                    tracing::warn!("the process that had taken over has failed; this one accepts connections again");
                    service_manager::report(Report::Ready);
                }
                LifeEvent::Left => return leave(app, signals, &handles, None).await,
                LifeEvent::GivenBack => {
                    leave(app, signals, &handles, None).await?;
                    return Err("a worker thread has failed soon after the takeover; the process before this one goes on".into());
                }
                LifeEvent::AllFailed => {
                    app.left(std::future::pending()).await;
                    return Err("all worker threads have failed; start this process again".into());
                }
                LifeEvent::Stop if is_paused => break "the process that has taken over stops",
                LifeEvent::Stop | LifeEvent::TooMany => {}
            },
        }
    };
    service_manager::report(Report::Stopping);
    let delay = humantime::format_duration(app.shutdown_delay());
    let grace = humantime::format_duration(app.shutdown_grace());
    tracing::info!(signal, %delay, %grace, "stopping: waiting for requests in flight; a second signal stops at once");
    tokio::select! {
        () = app.stop() => tracing::info!("stopped"),
        signal = stop(&mut signals, &handles) => tracing::warn!(signal, "stopped at once"),
    }
    Ok(())
}

/// Waits for the last connection to end, after another process has taken over. A signal, or the stop of that process,
/// limits this to the grace period.
async fn leave(
    app: App,
    mut signals: Signals,
    handles: &SignalHandles,
    signal: Option<&'static str>,
) -> Result<(), String> {
    let (ask, requested) = tokio::sync::oneshot::channel::<()>();
    let mut left = std::pin::pin!(app.left(async { drop(requested.await) }));
    let signalled = async {
        match signal {
            Some(signal) => signal,
            None => stop(&mut signals, handles).await,
        }
    };
    let signal = tokio::select! {
        () = &mut left => {
            tracing::info!("stopped: the last connection has ended");
            return Ok(());
        }
        signal = signalled => signal,
    };
    tracing::info!(signal, "stopping: waiting for requests in flight; a second signal stops at once");
    drop(ask);
    tokio::select! {
        () = left => tracing::info!("stopped"),
        signal = stop(&mut signals, handles) => tracing::warn!(signal, "stopped at once"),
    }
    Ok(())
}

/// What signals act on.
struct SignalHandles {
    log: Reopen,
    reloader: Reloader,
    successor: Successor,
    phase: watch::Receiver<Phase>,
}

/// How to start the process that takes over at SIGUSR2.
struct Successor {
    /// The program as it was called: an upgrade replaces the file.
    program: PathBuf,
    /// The configuration file.
    path: PathBuf,
    /// `[server] handover` is set.
    is_possible: bool,
}

/// Returns the program that this process runs, as it was called: a path that leads to another version by now is followed.
fn program() -> PathBuf {
    let called = std::env::args_os().next().map(PathBuf::from).filter(|called| called.components().count() > 1);
    let called = called.and_then(|called| std::path::absolute(called).ok());
    called.or_else(|| std::env::current_exe().ok()).unwrap_or_else(|| "linchpin".into())
}

impl Successor {
    /// Starts the process that takes over. Its messages go where those of this one go.
    fn start(&self, phase: &watch::Receiver<Phase>) {
        if !self.is_possible {
            tracing::warn!(
                "SIGUSR2: nothing has changed. To replace the binary while it runs, write handover = \
                 \"/run/linchpin/handover.sock\" into [server], and restart Linchpin once"
            );
            return;
        }
        service_manager::report(Report::Reloading);
        let mut command = tokio::process::Command::new(&self.program);
        command.arg("run").arg("--upgrade").arg("-c").arg(&self.path).stdin(std::process::Stdio::null());
        for variable in service_manager::OF_ONE_PROCESS {
            command.env_remove(variable);
        }
        let program = self.program.display().to_string();
        match command.spawn() {
            Ok(mut child) => {
                tracing::info!(program, pid = child.id(), "SIGUSR2: started a process that takes over");
                let mut phase = phase.clone();
                tokio::spawn(async move {
                    let ended = child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
                    // If it had taken over, this one needs a moment to accept connections again.
                    let serves = |phase: &Phase| matches!(phase, Phase::Ready | Phase::Stalled | Phase::Broken);
                    let goes_on = tokio::time::timeout(RESUME_TIMEOUT, phase.wait_for(serves));
                    if matches!(goes_on.await, Ok(Ok(_))) {
                        tracing::error!(ended, "the process that was to take over has ended; this one goes on");
                        service_manager::report(Report::Ready);
                    }
                });
            }
            Err(error) => {
                tracing::error!(program, %error, "SIGUSR2: cannot start the process that takes over; nothing has changed");
                service_manager::report(Report::Ready);
            }
        }
    }
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
                tokio::spawn(async move {
                    service_manager::report(Report::Reloading);
                    reloader.reload(Actor::Signal("SIGHUP"), false).await;
                    service_manager::report(Report::Ready);
                });
            }
            Event::Upgrade => handles.successor.start(&handles.phase),
        }
    }
}

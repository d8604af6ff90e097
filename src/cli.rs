//! Owns: the command line. Exit codes: 0 success, 1 failure, 2 wrong usage; `drain --wait` has one more.
//! Invariant: every failure is one message on standard error that says what to do next.
//! Must not know: what a command does.

mod admin_client;
mod arguments;
mod backend_name;
pub mod check;
mod config_file;
pub mod demo;
pub mod demo_backend;
pub mod drain;
pub mod events;
pub mod explain;
pub mod generate;
pub mod healthcheck;
pub mod import;
pub mod keygen;
mod output;
pub mod reload;
pub mod run;
mod service_manager;
pub mod sessions;
pub mod set;
pub mod status;
mod terminal;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use self::config_file::FileArgs;
use self::output::exit_code;

/// A sticky-session load balancer: a pool of stateful servers that behaves like one server.
#[derive(Debug, Parser)]
#[command(name = "linchpin", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start three demo backends and the proxy in front of them; nothing to configure.
    Demo(demo::Args),
    /// Run the proxy.
    ///
    /// Signals: SIGTERM and SIGINT stop it, after the requests in flight; a second one at once. SIGHUP reloads the
    /// configuration, as `linchpin reload` does. SIGUSR1 reopens the access log; a log file that was moved is noticed in any
    /// case. SIGUSR2 starts the program again, which takes over all sockets and sessions; this needs `[server] handover`.
    Run(run::Args),
    /// Report every error in a configuration file. Changes, starts and binds nothing.
    Check(FileArgs),
    /// Make the running proxy read its configuration file again. No connection is lost.
    Reload(reload::Args),
    /// Let the sessions of a backend move to others, and give it no new ones.
    Drain(drain::Args),
    /// Show the live sessions of each backend, by their idle time.
    Sessions(sessions::Args),
    /// Show the pools and backends of the running proxy.
    Status(status::Args),
    /// Let a backend get new sessions: end its drain or maintenance.
    Ready(set::StateArgs),
    /// Put a backend into maintenance: it gets no requests and no probes.
    Maintenance(set::StateArgs),
    /// Set a backend's share of new sessions.
    Weight(set::WeightArgs),
    /// Print what happens in the running proxy: health, moves, drains, reloads.
    Events(events::Args),
    /// Ask whether the running proxy takes requests: for health checks of containers.
    Healthcheck(healthcheck::Args),
    /// Translate a configuration file of HAProxy, nginx or Traefik.
    Import(import::Args),
    /// Generate a key for `[[keys]]`, or a token for `[admin]`.
    Keygen(keygen::Args),
    /// Show what a pin or session id contains, and what Linchpin would do with it now.
    Explain(explain::Args),
    /// Print the completions of a shell.
    Completions(generate::CompletionsArgs),
    /// Print the manual page, or write those of all commands.
    Man(generate::ManArgs),
    /// Run one demo backend: a small shop that keeps its sessions in memory.
    DemoBackend(demo_backend::Args),
}

/// Returns the definition of the command line: every command with its options.
pub fn definition() -> clap::Command {
    Cli::command()
}

/// Runs the command that this process's arguments name.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Demo(args) => exit_code(demo::run(args)),
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::run(args.path()),
        Command::Reload(args) => reload::run(&args),
        Command::Drain(args) => drain::run(&args),
        Command::Sessions(args) => sessions::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Ready(args) => set::state(&args, "ready"),
        Command::Maintenance(args) => set::state(&args, "maintenance"),
        Command::Weight(args) => set::weight(&args),
        Command::Events(args) => events::run(&args),
        Command::Healthcheck(args) => healthcheck::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Keygen(args) => exit_code(keygen::run(&args)),
        Command::Explain(args) => explain::run(&args),
        Command::Completions(args) => generate::completions(&args, definition()),
        Command::Man(args) => generate::man(&args, definition()),
        Command::DemoBackend(args) => exit_code(demo_backend::run(args)),
    }
}

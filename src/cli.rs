//! Owns: the command line: what there is to say, and the exit codes 0 done, 1 refused or failed, 2 wrong usage.
//! Invariant: every failure is one message on standard error that says what to do next.
//! Must not know: how anything is done.

pub mod check;
pub mod demo;
pub mod demo_backend;
pub mod explain;
pub mod import;
pub mod keygen;
pub mod run;

use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A sticky-session load balancer: a pool of stateful servers that behaves like one server.
#[derive(Debug, Parser)]
#[command(name = "linchpin", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Try it: three demo backends and the proxy in front of them, nothing to configure.
    Demo(demo::Args),
    /// Run the proxy.
    Run(ConfigArgs),
    /// Say everything that is wrong with a configuration.
    Check(ConfigArgs),
    /// Make a configuration of one for HAProxy, nginx or Traefik.
    Import(import::Args),
    /// Make a key for `[[keys]]`.
    Keygen,
    /// Say what a routing cookie holds and what would happen to it now.
    Explain(explain::Args),
    /// Run one demo backend: a small shop that keeps its sessions in memory.
    DemoBackend(demo_backend::Args),
}

/// Where the configuration is.
#[derive(Debug, clap::Args)]
pub struct ConfigArgs {
    /// The configuration file [default: ./linchpin.toml, then /etc/linchpin/linchpin.toml]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Carries out the command line of this process.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Demo(args) => outcome(demo::run(args)),
        Command::Run(args) => run::run(args.config.as_deref()),
        Command::Check(args) => check::run(args.config.as_deref()),
        Command::Import(args) => import::run(&args),
        Command::Keygen => outcome(keygen::run()),
        Command::Explain(args) => explain::run(&args),
        Command::DemoBackend(args) => outcome(demo_backend::run(args)),
    }
}

fn outcome(result: Result<(), impl Display>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &dyn Display) -> ExitCode {
    say(&format_args!("linchpin: {error}\n"));
    ExitCode::FAILURE
}

/// Nobody may be reading: `eprint!` would panic then, and with it a proxy that only meant to warn.
fn say(text: &dyn Display) {
    let _ = write!(io::stderr(), "{text}");
}

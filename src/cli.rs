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
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

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
    Run(FileArgs),
    /// Say everything that is wrong with a configuration. Nothing is changed, started or bound.
    Check(FileArgs),
    /// Make a configuration of one for HAProxy, nginx or Traefik.
    Import(import::Args),
    /// Make a key for `[[keys]]`, or a token for `[admin]`.
    Keygen(keygen::Args),
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

/// Where the configuration is, for commands that are about nothing else.
#[derive(Debug, clap::Args)]
struct FileArgs {
    #[command(flatten)]
    named: ConfigArgs,
    /// The same as -c FILE.
    #[arg(value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
}

impl FileArgs {
    fn path(&self) -> Option<&Path> {
        self.file.as_deref().or(self.named.config.as_deref())
    }
}

/// The definition of the command line: every command there is, and its options.
pub fn definition() -> clap::Command {
    Cli::command()
}

/// Carries out the command line of this process.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Demo(args) => outcome(demo::run(args)),
        Command::Run(args) => run::run(args.path()),
        Command::Check(args) => check::run(args.path()),
        Command::Import(args) => import::run(&args),
        Command::Keygen(args) => outcome(keygen::run(&args)),
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

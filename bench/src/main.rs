//! The programs that `bench/run` puts around a proxy: the origins behind it, the clients in front of it, and a
//! raw TCP relay in its place. They cost as little as they can, so that what is measured is the proxy.
//! None of them knows which proxy it is talking to.

mod certificate;
mod load;
mod origin;
mod relay;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;

/// What this process is to be.
#[derive(Parser)]
#[command(name = "linchpin-bench", about)]
enum Command {
    /// Origins that answer `/66`, `/16k` and `/1m` with a body of that size, echo WebSocket messages, keep sessions and
    /// name themselves.
    Origin(origin::Args),
    /// Clients, each with its own routing cookie; prints one JSON report.
    Load(load::Args),
    /// A certificate that all proxies show, and its key, in one file.
    Certificate(certificate::Args),
    /// Copies bytes in both directions: the lowest possible cost of a proxy.
    Relay(relay::Args),
}

fn main() -> ExitCode {
    let result: Result<(), Box<dyn Error>> = match Command::parse() {
        Command::Origin(args) => origin::run(&args).map_err(Into::into),
        Command::Load(args) => load::run(&args),
        Command::Certificate(args) => certificate::run(&args),
        Command::Relay(args) => relay::run(&args).map_err(Into::into),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("linchpin-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

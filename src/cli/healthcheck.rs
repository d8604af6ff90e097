//! Owns: `linchpin healthcheck`: asking `/readyz` or `/livez`, for images that have no shell and no curl.
//! Invariant: the exit code is 0 exactly if the process says yes.
//! Must not know: what makes it ready or alive.

use std::process::ExitCode;
use std::time::Duration;

use http::{Method, StatusCode};

use super::admin_client::{AdminArgs, Error};
use super::arguments::whole_number;
use super::output::{failure, print};

/// The arguments of `linchpin healthcheck`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    admin: AdminArgs,
    /// Ask /livez instead: whether the process works. It fails only if a restart is what helps.
    #[arg(long)]
    live: bool,
    /// How many seconds the response may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = whole_number(1..=600))]
    timeout: u32,
}

/// Asks whether the running process takes requests, or is alive, and prints its response.
pub fn run(args: &Args) -> ExitCode {
    match ask(args) {
        Ok((StatusCode::OK, answer)) => {
            print(&format!("{answer}\n"));
            ExitCode::SUCCESS
        }
        Ok((_, answer)) => failure(&format_args!("not {}: {answer}", if args.live { "alive" } else { "ready" })),
        Err(error) => failure(&error),
    }
}

fn ask(args: &Args) -> Result<(StatusCode, String), Error> {
    let client = args.admin.client_without_token()?;
    let path = if args.live { "/livez" } else { "/readyz" };
    let (status, body) = client.send(&Method::GET, path, None, Duration::from_secs(args.timeout.into()))?;
    Ok((status, String::from_utf8_lossy(&body).trim().to_owned()))
}

//! Owns: `linchpin ready`, `linchpin maintenance` and `linchpin weight`: what an operator sets of one backend.
//! Invariant: the exit code is 0 exactly if the running process has what was asked for.
//! Must not know: how it takes effect.

use std::process::ExitCode;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::admin_client::{AdminArgs, Error};
use super::arguments::whole_number;
use super::backend_name::BackendName;
use super::output::{failure, print};

/// How long the response may take.
const LIMIT: Duration = Duration::from_secs(10);

/// The arguments of `linchpin ready` and `linchpin maintenance`.
#[derive(Debug, clap::Args)]
pub struct StateArgs {
    /// The backend.
    #[arg(value_name = "POOL/BACKEND")]
    backend: BackendName,
    #[command(flatten)]
    change: ChangeArgs,
}

/// The arguments of `linchpin weight`.
#[derive(Debug, clap::Args)]
pub struct WeightArgs {
    /// The backend.
    #[arg(value_name = "POOL/BACKEND")]
    backend: BackendName,
    /// Its share of new sessions, from 0 to 1000. With 0 it gets none, and keeps those that it has.
    #[arg(value_parser = whole_number(0..=1000), allow_negative_numbers = true)]
    weight: u32,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, clap::Args)]
struct ChangeArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Print the backend's status afterwards as JSON.
    #[arg(long)]
    json: bool,
}

/// Sets the state of a backend.
pub fn state(args: &StateArgs, state: &str) -> ExitCode {
    done(&args.change, &args.backend, "state", &json!({ "state": state }))
}

/// Sets the weight of a backend.
pub fn weight(args: &WeightArgs) -> ExitCode {
    done(&args.change, &args.backend, "weight", &json!({ "weight": args.weight }))
}

fn done(args: &ChangeArgs, backend: &BackendName, key: &str, body: &Value) -> ExitCode {
    match set(args, backend, key, body) {
        Ok(text) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(error) => failure(&error),
    }
}

fn set(args: &ChangeArgs, backend: &BackendName, key: &str, body: &Value) -> Result<String, Error> {
    let client = args.admin.client()?;
    let path = format!("{}/{key}", backend.path());
    let answer = client.expect(&Method::POST, &path, Some(body), LIMIT, StatusCode::OK)?;
    if args.json {
        return Ok(format!("{}\n", String::from_utf8_lossy(&answer)));
    }
    let status: Value = serde_json::from_slice(&answer).map_err(|error| client.unexpected(&error))?;
    Ok(text(backend, &status))
}

/// Says what a backend is from now on.
fn text(backend: &BackendName, status: &Value) -> String {
    let word = |key: &str| status.get(key).and_then(Value::as_str).unwrap_or("unknown").to_owned();
    let count = |key: &str| status.get(key).and_then(Value::as_u64).unwrap_or_default();
    format!(
        "{backend}: state {}, health {}, weight {}, sessions {}, active requests {}\n",
        word("state"),
        word("health"),
        count("weight"),
        count("sessions"),
        count("active_requests")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_one_line_with_what_holds_from_now_on() {
        let status =
            json!({ "state": "maintenance", "health": "unknown", "weight": 3, "sessions": 120, "active_requests": 2 });
        let line = text(&"app/a".parse().unwrap(), &status);
        assert_eq!(line, "app/a: state maintenance, health unknown, weight 3, sessions 120, active requests 2\n");
    }
}

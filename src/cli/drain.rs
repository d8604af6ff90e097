//! Owns: `linchpin drain`: draining a backend or a group of a running proxy, and waiting for it. Exit code 3: not in time.
//! Invariant: each request has a time limit; `--wait` ends when every drain has ended.
//! Must not know: how sessions leave.

use std::io::{IsTerminal, stdout};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::admin_client::{AdminArgs, AdminClient};
use super::arguments::duration;
use super::backend_name::BackendName;
use super::output::{failure, print, print_error, usage};

/// The longest time until the admin listener responds.
const LIMIT: Duration = Duration::from_secs(10);
/// The time between two looks of `--wait`.
const INTERVAL: Duration = Duration::from_millis(500);
/// The exit code if sessions are left at the deadline.
const NOT_DRAINED: u8 = 3;
/// The length of the bar.
const BAR: u64 = 24;

/// The arguments of `linchpin drain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The backend as POOL/BACKEND; with --group, the POOL.
    #[arg(value_name = "POOL/BACKEND")]
    target: String,
    /// All backends of the pool that have this group.
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// How long it may take, such as 10m. Without it, sessions stay until they end.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    deadline: Option<String>,
    /// The state afterwards; `nothing` leaves it in drain.
    #[arg(long, value_name = "STATE", value_parser = ["maintenance", "ready", "nothing"])]
    then: Option<String>,
    /// Sessions without a request for this long leave first [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    idle: Option<String>,
    /// Cancel the drain, or end the state `drain` that it has left or that was set by hand: the former state holds again.
    #[arg(long, conflicts_with_all = ["deadline", "then", "idle", "wait"])]
    cancel: bool,
    /// Wait until it has ended. The exit code is 0 if no session was left, and 3 otherwise.
    #[arg(long)]
    wait: bool,
    /// Print JSON: the status of each backend.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Drains, and perhaps waits.
pub fn run(args: &Args) -> ExitCode {
    let named = match (&args.group, args.target.parse::<BackendName>()) {
        (None, Ok(backend)) => Some(backend),
        (Some(_), Err(_)) => None,
        (None, Err(_)) => {
            return usage(&format_args!(
                "{:?} is no backend; write POOL/BACKEND, or POOL with --group NAME",
                args.target
            ));
        }
        (Some(_), Ok(_)) => {
            return usage(&format_args!("{:?} is one backend; with --group, write the POOL alone", args.target));
        }
    };
    match drain(args, named) {
        Ok(code) => code,
        Err(why) => failure(&why),
    }
}

/// Drains the named backend, or those of the group.
fn drain(args: &Args, named: Option<BackendName>) -> Result<ExitCode, String> {
    let admin = args.admin.client().map_err(|error| error.to_string())?;
    let targets = match (named, &args.group) {
        (None, Some(group)) => members(&args.target, group, &admin)?,
        (named, _) => named.into_iter().collect(),
    };
    if args.cancel {
        return cancel(targets, &admin, args);
    }
    let order = order(args);
    let responses = targets.iter().map(|target| ask(&admin, &Method::POST, &path(target), Some(&order)));
    let statuses = responses.collect::<Result<Vec<_>, _>>()?;
    if args.wait {
        return wait(&targets, &admin, args);
    }
    show(&targets, &statuses, args);
    Ok(ExitCode::SUCCESS)
}

/// Cancels the drains of these backends. Of a group, it suffices that one drains: those of others may have ended.
fn cancel(targets: Vec<BackendName>, admin: &AdminClient, args: &Args) -> Result<ExitCode, String> {
    let (mut cancelled, mut statuses, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for target in targets {
        match ask(admin, &Method::DELETE, &path(&target), None) {
            Ok(status) => {
                cancelled.push(target);
                statuses.push(status);
            }
            Err(why) => refused.push(why),
        }
    }
    let refused = refused.join("\nlinchpin: ");
    if cancelled.is_empty() {
        return Err(refused);
    }
    show(&cancelled, &statuses, args);
    if !refused.is_empty() {
        print_error(&format_args!("linchpin: {refused}\n"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the path of a backend's drain in the admin API.
fn path(backend: &BackendName) -> String {
    format!("{}/drain", backend.path())
}

/// Finds the backends of a group.
fn members(pool: &str, group: &str, admin: &AdminClient) -> Result<Vec<BackendName>, String> {
    let status = ask(admin, &Method::GET, "/api/v1/status", None)?;
    let pools = status["pools"].as_array().into_iter().flatten();
    let found = pools.clone().find(|found| found["name"] == *pool).ok_or_else(|| {
        let names: Vec<_> = pools.filter_map(|pool| pool["name"].as_str()).collect();
        format!("there is no pool {pool:?}; the pools are: {}", names.join(", "))
    })?;
    let backends = found["backends"].as_array().into_iter().flatten().filter(|backend| backend["group"] == *group);
    let member = |backend: &Value| Some(BackendName { pool: pool.into(), backend: backend["name"].as_str()?.into() });
    let members: Vec<_> = backends.filter_map(member).collect();
    if members.is_empty() {
        return Err(format!(
            "pool {pool:?} has no backend of the group {group:?}; look at `group` of its [[pools.backends]]"
        ));
    }
    Ok(members)
}

fn order(args: &Args) -> Value {
    let keys = [("deadline", &args.deadline), ("then", &args.then), ("idle", &args.idle)];
    let given = keys.into_iter().filter_map(|(key, value)| Some((key.to_owned(), json!(value.as_ref()?))));
    Value::Object(given.collect::<Map<_, _>>())
}

/// Waits until all drains have ended.
fn wait(targets: &[BackendName], admin: &AdminClient, args: &Args) -> Result<ExitCode, String> {
    let shows_bar = !args.json && stdout().is_terminal();
    let mut before = String::new();
    loop {
        let looks = targets.iter().map(|target| ask(admin, &Method::GET, &path(target), None));
        let drains = looks.collect::<Result<Vec<_>, String>>()?;
        let line = progress(&drains);
        if shows_bar {
            print(&format!("\r{line}\x1b[K"));
        } else if !args.json && line != before {
            print(&format!("{line}\n"));
        }
        before = line;
        if drains.iter().any(|drain| drain["phase"] == "draining") {
            sleep(INTERVAL);
            continue;
        }
        if shows_bar {
            print("\n");
        }
        return Ok(end(targets, &drains, args));
    }
}

/// Prints how the drains have ended.
fn end(targets: &[BackendName], drains: &[Value], args: &Args) -> ExitCode {
    if args.json {
        print(&format!("{}\n", Value::Array(drains.to_vec())));
    }
    let mut code = ExitCode::SUCCESS;
    for (name, drain) in targets.iter().zip(drains) {
        match (drain["phase"].as_str(), drain["sessions"].as_u64().unwrap_or_default()) {
            // At the deadline, streams and tunnels of no session end as well.
            (Some("drained"), _) | (Some("deadline"), 0) => {
                if !args.json {
                    print(&format!("{name} is drained: no session is left\n"));
                }
            }
            (Some("deadline"), left) => {
                let left = if left == 1 { "1 session was".into() } else { format!("{left} sessions were") };
                let next = match args.then.as_deref() {
                    Some("ready") => "What is left stays: the backend is ready again",
                    _ => {
                        "What is left moves when it returns; if the server stops now, what only the server knows of it is lost"
                    }
                };
                print_error(&format_args!(
                    "linchpin: {name} was not drained in time: {left} left at the deadline. {next}\n"
                ));
                code = ExitCode::from(NOT_DRAINED);
            }
            _ => {
                print_error(&format_args!("linchpin: the drain of {name} was cancelled: another state was set\n"));
                return ExitCode::FAILURE;
            }
        }
    }
    code
}

fn show(targets: &[BackendName], statuses: &[Value], args: &Args) {
    if args.json {
        print(&format!("{}\n", Value::Array(statuses.to_vec())));
        return;
    }
    for (target, status) in targets.iter().zip(statuses) {
        let (state, sessions) = (status["state"].as_str().unwrap_or("?"), &status["sessions"]);
        let unit = if sessions.as_u64() == Some(1) { "session" } else { "sessions" };
        print(&format!("{target}: {state}, {sessions} {unit}\n"));
    }
}

/// Formats how far drains are, in one line.
fn progress(drains: &[Value]) -> String {
    let sum = |key: &str| drains.iter().filter_map(|drain| drain[key].as_u64()).sum::<u64>();
    let (before, left) = (sum("sessions_before"), sum("sessions"));
    let gone = before.saturating_sub(left);
    let filled = (BAR * gone).checked_div(before).unwrap_or(BAR).min(BAR);
    let bar = "#".repeat(filled as usize) + &"-".repeat((BAR - filled) as usize);
    let end = drains.iter().filter_map(|drain| drain["deadline"].as_f64()).reduce(f64::max);
    let until = end.map(|end| {
        let now = crate::clock::unix().as_secs_f64();
        format!(", {} s to the deadline", (end - now).max(0.0).round())
    });
    let (requests, tunnels) = (sum("active_requests"), sum("tunnels"));
    let until = until.unwrap_or_default();
    format!("[{bar}] {left} of {before} sessions left, {requests} requests in flight ({tunnels} tunnels){until}")
}

/// Sends a request and returns the JSON of its response.
pub(super) fn ask(admin: &AdminClient, method: &Method, path: &str, body: Option<&Value>) -> Result<Value, String> {
    let bytes = admin.expect(method, path, body, LIMIT, StatusCode::OK).map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes).map_err(|error| admin.unexpected(&error).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_shows_the_share_that_has_left() {
        let drain =
            json!({ "sessions_before": 40, "sessions": 10, "active_requests": 3, "tunnels": 1, "deadline": null });
        let line = progress(&[drain]);
        assert_eq!(line, "[##################------] 10 of 40 sessions left, 3 requests in flight (1 tunnels)");
        assert!(
            progress(&[json!({ "sessions_before": 0, "sessions": 2 })])
                .starts_with("[########################] 2 of 0")
        );
    }
}

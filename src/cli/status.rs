//! Owns: `linchpin status`: the pools and backends of the running proxy, as a table.
//! Invariant: it shows what the admin API says, and computes nothing but times.
//! Must not know: how a backend comes to its state.

use std::process::ExitCode;
use std::time::Duration;

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use super::admin_client::{AdminArgs, AdminClient, Error};
use super::arguments::whole_number;
use super::output::{failure, print, print_error};
use super::terminal::{Colour, Column, Table, Terminal, duration, number};
use crate::clock;

/// How long the response may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Clears the terminal from its first line on.
const CLEAR: &str = "\x1b[H\x1b[J";

/// The arguments of `linchpin status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this pool.
    #[arg(value_name = "POOL")]
    pool: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
    /// Print the response of the admin API as JSON.
    #[arg(long)]
    json: bool,
    /// Print it again every so many seconds, 2 by default, until interrupted.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", require_equals = true,
          value_parser = whole_number(1..=3600))]
    watch: Option<u32>,
}

/// Prints the status of the running proxy, once or again and again.
pub fn run(args: &Args) -> ExitCode {
    let client = match args.admin.client() {
        Ok(client) => client,
        Err(error) => return failure(&error),
    };
    let terminal = Terminal::of_stdout();
    let Some(seconds) = args.watch else {
        return match shown(&client, args, terminal) {
            Ok(text) => {
                print(&text);
                ExitCode::SUCCESS
            }
            Err(error) => failure(&error),
        };
    };
    loop {
        let clear = if terminal.width.is_some() { CLEAR } else { "" };
        match shown(&client, args, terminal) {
            Ok(text) => print(&format!("{clear}{text}")),
            // It may be restarting.
            Err(error) => {
                print(clear);
                print_error(&format_args!("linchpin: {error}\n"));
            }
        }
        std::thread::sleep(Duration::from_secs(seconds.into()));
        if terminal.width.is_none() {
            print("\n");
        }
    }
}

fn shown(client: &AdminClient, args: &Args, terminal: Terminal) -> Result<String, Error> {
    let body = client.expect(&Method::GET, "/api/v1/status", None, LIMIT, StatusCode::OK)?;
    if args.json && args.pool.is_none() {
        return Ok(format!("{}\n", String::from_utf8_lossy(&body)));
    }
    let mut json: Value = serde_json::from_slice(&body).map_err(|error| client.unexpected(&error))?;
    if let (Some(pool), Some(pools)) = (&args.pool, json.get_mut("pools").and_then(Value::as_array_mut)) {
        pools.retain(|each| each.get("name").and_then(Value::as_str) == Some(pool));
        if pools.is_empty() {
            return Err(Error::Refused(format!("there is no pool {pool:?}; `linchpin status` lists all pools")));
        }
    }
    if args.json {
        return Ok(format!("{json}\n"));
    }
    let status: Status = serde_json::from_value(json).map_err(|error| client.unexpected(&error))?;
    Ok(text(&status, terminal, clock::unix().as_secs()))
}

/// What this command reads of `GET /api/v1/status`. A running process may be older or newer: it may say less or more.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    version: String,
    uptime_seconds: u64,
    ready: bool,
    pools: Vec<Pool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Pool {
    name: String,
    balance: String,
    persistence: String,
    available: usize,
    backends: Vec<Backend>,
    discover: Vec<Source>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Source {
    source: String,
    ok: bool,
    error: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Backend {
    name: String,
    address: String,
    state: String,
    health: String,
    weight: u32,
    sessions: u64,
    active_requests: u64,
    requests: u64,
    failures: u64,
    since: u64,
    reason: Option<String>,
    failing: bool,
    leaving: bool,
    drain: Option<Drain>,
    drift: Vec<Drift>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Drain {
    phase: String,
    sessions_before: u64,
    sessions: u64,
    deadline: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Drift {
    key: String,
    file: Value,
    runtime: Value,
}

/// Formats the status as of `now`, in seconds since the Unix epoch.
fn text(status: &Status, terminal: Terminal, now: u64) -> String {
    let ready = match status.ready {
        true => terminal.coloured(Colour::Good, "ready"),
        false => terminal.coloured(Colour::Bad, "not ready"),
    };
    let mut lines = vec![format!("linchpin {}  {ready}  up {}", status.version, duration(status.uptime_seconds))];
    for pool in &status.pools {
        lines.push(String::new());
        let of = pool.backends.len();
        let available = format!("{} of {of} available", pool.available);
        let colour = match pool.available {
            0 => Colour::Bad,
            available if available < of => Colour::Warning,
            _ => Colour::Good,
        };
        let (available, balance) = (terminal.coloured(colour, &available), &pool.balance);
        lines.push(format!("{}  {available}  balance {balance}  persistence {}", pool.name, pool.persistence));
        lines.extend(backends(pool).lines(terminal, 2));
        for backend in &pool.backends {
            lines.extend(remarks(backend, now).into_iter().map(|remark| format!("  {}: {remark}", backend.name)));
        }
        for source in pool.discover.iter().filter(|source| !source.ok) {
            let why = source.error.as_deref().unwrap_or("it has not answered yet");
            lines.push(format!("  discovery by {}: {why}", source.source));
        }
    }
    lines.join("\n") + "\n"
}

fn backends(pool: &Pool) -> Table {
    let text = |title, rank| Column { title, is_number: false, rank };
    let count = |title, rank| Column { title, is_number: true, rank };
    let plain = |text: String| (text, Colour::Plain);
    let columns = vec![
        text("BACKEND", 0),
        text("ADDRESS", 5),
        text("STATE", 0),
        text("HEALTH", 0),
        count("WEIGHT", 3),
        count("SESSIONS", 1),
        count("ACTIVE", 2),
        count("REQUESTS", 4),
        count("FAILED", 6),
    ];
    let row = |backend: &Backend| {
        let state = match backend.state.as_str() {
            "ready" => Colour::Plain,
            _ => Colour::Warning,
        };
        let health = match backend.health.as_str() {
            "up" if backend.failing => Colour::Warning,
            "up" => Colour::Good,
            "unknown" => Colour::Plain,
            _ => Colour::Bad,
        };
        vec![
            plain(backend.name.clone()),
            plain(backend.address.clone()),
            (backend.state.clone(), state),
            (backend.health.clone(), health),
            plain(backend.weight.to_string()),
            plain(number(backend.sessions)),
            plain(number(backend.active_requests)),
            plain(number(backend.requests)),
            plain(number(backend.failures)),
        ]
    };
    Table { columns, rows: pool.backends.iter().map(row).collect() }
}

/// Returns what there is to say of a backend besides its row.
fn remarks(backend: &Backend, now: u64) -> Vec<String> {
    let mut remarks = Vec::new();
    let since = duration(now.saturating_sub(backend.since));
    match (&backend.reason, backend.failing) {
        (Some(reason), false) => remarks.push(format!("{} for {since}: {reason}", backend.health)),
        (Some(reason), true) => remarks.push(format!("fails, and is kept, since the pool can't spare it: {reason}")),
        (None, _) => {}
    }
    if backend.leaving {
        remarks.push("no source lists it any more: it is removed when its drain ends".into());
    }
    if let Some(drain) = backend.drain.as_ref().filter(|drain| drain.phase == "draining") {
        let until = drain.deadline.map_or("no deadline".into(), |deadline| {
            format!("{} to the deadline", duration((deadline as u64).saturating_sub(now)))
        });
        let (left, before) = (number(drain.sessions), number(drain.sessions_before));
        remarks.push(format!("drains: {left} of {before} sessions left, {until}"));
    }
    for Drift { key, file, runtime } in &backend.drift {
        let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        remarks.push(format!("{key} is {} since it was set at runtime; the file says {}", plain(runtime), plain(file)));
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_status_is_a_table_with_a_remark_for_all_that_is_not_as_it_should_be() {
        let status = json!({
            "version": "1.2.3", "uptime_seconds": 273_600, "ready": true,
            "pools": [{
                "name": "app", "balance": "round_robin", "persistence": "cookie", "available": 1,
                "backends": [
                    { "name": "a", "address": "127.0.0.1:9001", "state": "ready", "health": "up", "weight": 1,
                      "sessions": 1234, "active_requests": 3, "requests": 1_234_567, "failures": 0, "since": 1 },
                    { "name": "b", "address": "127.0.0.1:9002", "state": "drain", "health": "down", "weight": 5,
                      "sessions": 0, "active_requests": 0, "requests": 12, "failures": 4, "since": 880,
                      "reason": "connection refused",
                      "drain": { "phase": "draining", "sessions_before": 1200, "sessions": 30, "deadline": 1061.5 },
                      "drift": [{ "key": "weight", "file": 1, "runtime": 5, "because": "…" }] },
                ],
                "discover": [{ "source": "dns a.example", "ok": false, "error": "no such name" }],
            }],
        });
        let status: Status = serde_json::from_value(status).unwrap();
        let expected = "\
linchpin 1.2.3  ready  up 3d 4h

app  1 of 2 available  balance round_robin  persistence cookie
  BACKEND  ADDRESS         STATE  HEALTH  WEIGHT  SESSIONS  ACTIVE   REQUESTS  FAILED
  a        127.0.0.1:9001  ready  up           1     1,234       3  1,234,567       0
  b        127.0.0.1:9002  drain  down         5         0       0         12       4
  b: down for 2m: connection refused
  b: drains: 30 of 1,200 sessions left, 1m 1s to the deadline
  b: weight is 5 since it was set at runtime; the file says 1
  discovery by dns a.example: no such name
";
        assert_eq!(text(&status, Terminal::NONE, 1000), expected);
    }

    #[test]
    fn a_process_that_says_less_or_more_is_shown_as_far_as_it_goes() {
        let status = json!({ "pools": [{ "name": "app", "news": 1, "backends": [{ "name": "a" }] }] });
        let text = text(&serde_json::from_value(status).unwrap(), Terminal::NONE, 0);
        assert!(text.contains("\napp  0 of 1 available"), "{text}");
    }
}

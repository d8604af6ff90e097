//! Owns: `linchpin sessions`: the live sessions of each backend of a running proxy.
//! Invariant: the numbers are those of the status.
//! Must not know: how sessions are counted.

use std::process::ExitCode;

use http::Method;
use serde_json::{Value, json};

use super::admin_client::AdminArgs;
use super::drain::ask;
use super::output::{failure, print};
use super::terminal::{Colour, Column, Table, Terminal, number};

/// The idle times, as the status names them, and the headings of their columns.
const IDLE: [(&str, &str); 5] = [("1m", "<=1m"), ("5m", "<=5m"), ("15m", "<=15m"), ("1h", "<=1h"), ("more", ">1h")];

/// The arguments of `linchpin sessions`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this pool or backend.
    #[arg(value_name = "POOL[/BACKEND]")]
    target: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Prints a table, or JSON.
pub fn run(args: &Args) -> ExitCode {
    match sessions(args) {
        Ok(text) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(why) => failure(&why),
    }
}

fn sessions(args: &Args) -> Result<String, String> {
    let admin = args.admin.client().map_err(|error| error.to_string())?;
    let status = ask(&admin, &Method::GET, "/api/v1/status", None)?;
    let rows = rows(&status, args.target.as_deref())?;
    Ok(if args.json { format!("{}\n", Value::Array(rows)) } else { table(&rows, Terminal::of_stdout()) })
}

/// Picks the backends that are meant, and of each what is about its sessions.
fn rows(status: &Value, target: Option<&str>) -> Result<Vec<Value>, String> {
    let mut rows = Vec::new();
    for pool in status["pools"].as_array().into_iter().flatten() {
        for backend in pool["backends"].as_array().into_iter().flatten() {
            let (Some(pool), Some(name)) = (pool["name"].as_str(), backend["name"].as_str()) else { continue };
            if target.is_some_and(|target| target != pool && target != format!("{pool}/{name}")) {
                continue;
            }
            let mut row = json!({ "pool": pool, "backend": name });
            for key in ["state", "sessions", "sessions_error", "idle_sessions", "active_requests", "tunnels"] {
                if !backend[key].is_null() {
                    row[key] = backend[key].clone();
                }
            }
            rows.push(row);
        }
    }
    match target {
        Some(target) if rows.is_empty() => {
            Err(format!("there is no pool or backend {target:?}; `linchpin sessions` without a name lists all"))
        }
        _ => Ok(rows),
    }
}

fn table(rows: &[Value], terminal: Terminal) -> String {
    let text = |title, rank| Column { title, is_number: false, rank };
    let count = |title, rank| Column { title, is_number: true, rank };
    let mut columns = vec![text("BACKEND", 0), text("STATE", 0), count("SESSIONS", 0)];
    columns.extend(IDLE.map(|(_, title)| count(title, 1)));
    columns.extend([count("REQUESTS", 2), count("TUNNELS", 3)]);
    let word = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    let counted = |value: &Value| number(value.as_u64().unwrap_or_default());
    let row = |row: &Value| {
        let about = if row["sessions_error"].is_null() { "" } else { "~" };
        let mut cells = vec![
            format!("{}/{}", word(&row["pool"]), word(&row["backend"])),
            word(&row["state"]),
            format!("{about}{}", counted(&row["sessions"])),
        ];
        cells.extend(IDLE.map(|(key, _)| counted(&row["idle_sessions"][key])));
        cells.extend([counted(&row["active_requests"]), counted(&row["tunnels"])]);
        cells.into_iter().map(|cell| (cell, Colour::Plain)).collect()
    };
    let table = Table { columns, rows: rows.iter().map(row).collect() };
    table.lines(terminal, 0).join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_for_each_backend_that_is_meant() {
        let backend = |name: &str, sessions: u64| {
            json!({
                "name": name, "state": "ready", "sessions": sessions, "active_requests": 2, "tunnels": 1,
                "idle_sessions": { "1m": sessions, "5m": 0, "15m": 0, "1h": 0, "more": 0 },
            })
        };
        let mut large = backend("b", 40_000);
        large["sessions_error"] = json!(0.01);
        let status = json!({ "pools": [{ "name": "app", "backends": [backend("a", 3), large] }] });
        let expected = "BACKEND  STATE  SESSIONS    <=1m  <=5m  <=15m  <=1h  >1h  REQUESTS  TUNNELS\n\
                        app/a    ready         3       3     0      0     0    0         2        1\n\
                        app/b    ready   ~40,000  40,000     0      0     0    0         2        1\n";
        assert_eq!(table(&rows(&status, None).unwrap(), Terminal::NONE), expected);
        assert_eq!(rows(&status, Some("app/b")).unwrap().len(), 1);
        assert_eq!(rows(&status, Some("app")).unwrap().len(), 2);
        assert!(rows(&status, Some("nothing")).is_err());
    }
}

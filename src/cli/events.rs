//! Owns: `linchpin events`: the events of the running proxy, one line each, as they happen.
//! Invariant: it goes on after the process was restarted, and says so if events may be lost.
//! Must not know: what an event follows from.

use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Map, Value};

use super::admin_client::{AdminArgs, Error};
use super::output::{failure, print, print_error};

/// The pause between two tries to reach the process again.
const PAUSE: Duration = Duration::from_secs(1);

/// The arguments of `linchpin events`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    admin: AdminArgs,
    /// Begin with the last so many events.
    #[arg(long, value_name = "N", default_value_t = 0)]
    last: usize,
    /// Print each event as a line of JSON.
    #[arg(long)]
    json: bool,
}

/// Prints events until interrupted.
pub fn run(args: &Args) -> ExitCode {
    let client = match args.admin.client() {
        Ok(client) => client,
        Err(error) => return failure(&error),
    };
    let (mut last_id, mut has_connected, mut is_reported) = (None::<String>, false, false);
    loop {
        // A process that was restarted since knows by the id of the last event that some may be lost.
        let path = format!("/api/v1/events?last={}", if has_connected { 0 } else { args.last });
        let ended = client.stream(&path, last_id.clone().as_deref(), &mut |line| {
            (has_connected, is_reported) = (true, false);
            if let Some(id) = line.strip_prefix("id: ") {
                last_id = Some(id.to_owned());
            }
            if let Some(data) = line.strip_prefix("data: ") {
                print(&if args.json { format!("{data}\n") } else { text(data) });
            }
        });
        match ended {
            Err(error) if !has_connected || matches!(error, Error::Refused(_)) => return failure(&error),
            Ok(()) | Err(_) if !is_reported => {
                print_error(&"linchpin: the stream has ended; connecting again until that succeeds\n");
                is_reported = true;
            }
            Ok(()) | Err(_) => {}
        }
        std::thread::sleep(PAUSE);
    }
}

/// Formats an event in one line. Keys that this version doesn't know are shown as they are.
fn text(data: &str) -> String {
    let Ok(Value::Object(mut event)) = serde_json::from_str::<Value>(data) else { return format!("{data}\n") };
    let time = event.remove("time").and_then(|time| time.as_f64()).map_or_else(String::new, date);
    if let Some(deadline) = event.get_mut("deadline")
        && let Some(seconds) = deadline.as_f64()
    {
        *deadline = Value::String(date(seconds));
    }
    // Of the kind `lost`.
    if let Some(lost) = event.get_mut("events").filter(|lost| lost.is_null()) {
        *lost = "unknown".into();
    }
    let mut take = |key: &str| event.remove(key).map(|value| plain(&value));
    let kind = take("kind").unwrap_or_default();
    let subject = match (take("pool"), take("backend")) {
        (Some(pool), Some(backend)) => format!(" {pool}/{backend}"),
        (Some(pool), None) => format!(" {pool}"),
        _ => String::new(),
    };
    let change = match (take("from"), take("to")) {
        (Some(from), Some(to)) => format!(" {from} -> {to}"),
        _ => String::new(),
    };
    let reason = take("reason").map_or(String::new(), |reason| format!(": {reason}"));
    format!("{time} {kind:<11}{subject}{change}{}{reason}\n", rest(&event))
}

/// Formats a time in seconds since the Unix epoch.
fn date(seconds: f64) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_secs_f64(seconds.clamp(0.0, 2e11))).unwrap_or(UNIX_EPOCH);
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Formats the keys that have a value.
fn rest(event: &Map<String, Value>) -> String {
    let is_empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    event.iter().filter(|(_, value)| !is_empty(value)).map(|(key, value)| format!(" {key}={}", plain(value))).collect()
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(all) => all.iter().map(plain).collect::<Vec<_>>().join(","),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line_that_begins_with_time_and_kind() {
        let health = r#"{"time":1764160931.204,"kind":"health","pool":"app","backend":"a","from":"up","to":"down","reason":"connection refused","by":"probes"}"#;
        assert_eq!(text(health), "2025-11-26T12:42:11Z health      app/a up -> down by=probes: connection refused\n");
        let reload = r#"{"time":1764160931.2,"kind":"reload","result":"applied","generation":2,"by":"api","changes":2,"keys":["a","b"]}"#;
        let expected = "2025-11-26T12:42:11Z reload      by=api changes=2 generation=2 keys=a,b result=applied\n";
        assert_eq!(text(reload), expected);
        let drain = r#"{"time":1764160931.2,"kind":"drain","pool":"app","backend":"a","phase":"begun","sessions":3,"deadline":1764161531,"keys":[]}"#;
        let expected = "2025-11-26T12:42:11Z drain       app/a deadline=2025-11-26T12:52:11Z phase=begun sessions=3\n";
        assert_eq!(text(drain), expected);
        let lost = r#"{"time":1764160931.2,"kind":"lost","events":null}"#;
        assert_eq!(text(lost), "2025-11-26T12:42:11Z lost        events=unknown\n");
        assert_eq!(text("news"), "news\n");
    }
}

//! Owns: `linchpin reload`.
//! Invariant: the exit code is 0 exactly if the file is in use now, or would be after a reload without `--dry-run`.
//! Must not know: how a reload works.

use std::process::ExitCode;
use std::time::Duration;

use http::Method;
use serde_json::Value;

use super::admin_client::AdminArgs;
use super::output::{failure, print, print_error};
use crate::admin::{ReloadReport, ReloadResult};

/// How long the response may take.
const LIMIT: Duration = Duration::from_secs(60);

/// The longest value in a line of the table, in characters.
const LONGEST: usize = 60;

/// The arguments of `linchpin reload`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    admin: AdminArgs,
    /// Only show what would change.
    #[arg(long)]
    dry_run: bool,
    /// Print the response of the admin API as JSON.
    #[arg(long)]
    json: bool,
}

/// Asks the running proxy to read its file again, and prints what has changed.
pub fn run(args: &Args) -> ExitCode {
    let path = if args.dry_run { "/api/v1/reload?dry_run=true" } else { "/api/v1/reload" };
    let admin = match args.admin.client() {
        Ok(admin) => admin,
        Err(error) => return failure(&error),
    };
    let (status, body) = match admin.send(&Method::POST, path, None, LIMIT) {
        Ok(response) => response,
        Err(error) => return failure(&error),
    };
    let Ok(report) = serde_json::from_slice::<ReloadReport>(&body) else {
        return failure(&admin.refusal(status, &body));
    };
    if args.json {
        print(&format!("{}\n", String::from_utf8_lossy(&body)));
    } else {
        print(&table(&report, args.dry_run));
    }
    if report.result == ReloadResult::Refused {
        if !args.json {
            report.errors.iter().for_each(|error| print_error(&format_args!("{error}\n")));
        }
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Formats the response: a line of summary, and one for each key.
fn table(report: &ReloadReport, is_dry_run: bool) -> String {
    let generation = report.generation;
    let all = report.changes.len() + report.left_out;
    let count = if all == 1 { "1 change".to_owned() } else { format!("{all} changes") };
    let mut lines = vec![match (report.result, is_dry_run) {
        (ReloadResult::Applied, false) => format!("applied as generation {generation}: {count}"),
        (ReloadResult::Applied, true) => format!("would be applied: {count}"),
        (ReloadResult::Unchanged, _) => format!("unchanged: the file says what is in use, generation {generation}"),
        (ReloadResult::Refused, _) => format!("refused, nothing has changed: generation {generation} stays in use"),
    }];
    let width = report.changes.iter().map(|change| change.path.chars().count()).max().unwrap_or_default().min(LONGEST);
    for change in &report.changes {
        let (path, runtime, now) = (&change.path, shown(&change.runtime), shown(&change.now));
        lines.push(format!("  {path:width$}  {runtime} -> {now}  {}", change.because));
    }
    if report.left_out > 0 {
        lines.push(format!("  and {} more", report.left_out));
    }
    lines.join("\n") + "\n"
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => return "-".into(),
        Value::Object(_) => return "{…}".into(),
        value => value.to_string(),
    };
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::ReloadChange;
    use serde_json::json;

    #[test]
    fn the_table_has_a_line_for_each_key_with_the_value_before_and_after() {
        let change = |path: &str, runtime, now, because: &str| ReloadChange {
            path: path.into(),
            was: Value::Null,
            file: Value::Null,
            runtime,
            now,
            because: because.into(),
        };
        let report = ReloadReport {
            result: ReloadResult::Applied,
            generation: 7,
            changes: vec![
                change("pools.app.backends.b.weight", json!(5), json!(3), "the file changed it"),
                change("pools.app.backends.c", Value::Null, json!({ "name": "c" }), "the file added it"),
            ],
            left_out: 0,
            errors: Vec::new(),
        };
        let expected = "applied as generation 7: 2 changes\n  \
                        pools.app.backends.b.weight  5 -> 3  the file changed it\n  \
                        pools.app.backends.c         - -> {…}  the file added it\n";
        assert_eq!(table(&report, false), expected);
        assert!(table(&report, true).starts_with("would be applied: 2 changes\n"));
        let long = shown(&json!("é".repeat(100)));
        assert!(long.ends_with('…') && long.chars().count() == LONGEST + 1, "{long}");
    }
}

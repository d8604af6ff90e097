//! Owns: `linchpin explain`: what a routing cookie or session id holds, and what Linchpin would do with it now.
//! Invariant: it shows no key and no byte of a copy, and decides with the function that decides for requests.
//! Must not know: how the running process, which alone has copies and learned sessions, keeps them.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use http::{Method, StatusCode};
use serde_json::json;

use super::admin_client::AdminArgs;
use super::output::{failure, print, print_error};
use crate::admin::{CopyReport, CopyState, ExplainReport};
use crate::affinity::explain::explain_as_sent;
use crate::affinity::{Affinity, Carrier, SessionTables};
use crate::clock;
use crate::config::{self, Plan, PoolPlan};
use crate::pool::Pool;
use crate::pool::reconcile::Reconciler;

/// How long the running process may take to respond.
const LIMIT: Duration = Duration::from_secs(10);
/// What follows if the running process can't read a token, as a sentence without its end.
const NOT_READ: &str = "the running process cannot read it, either: if this file has changed since that process read it, \
                        reload it with: linchpin reload";

/// The command line of `linchpin explain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    admin: AdminArgs,
    /// The value of the routing cookie, field or session cookie, or `name=value` as the browser shows it.
    #[arg(value_name = "TOKEN")]
    token: String,
    /// Explain the token as of this time, in seconds since 1970.
    #[arg(long, value_name = "SECONDS", hide = true)]
    at: Option<u64>,
}

/// Explains a token. Exit code 1 if no pool can open it.
pub fn run(args: &Args) -> ExitCode {
    let path = match args.admin.file() {
        Ok(path) => path,
        Err(error) => return failure(&error),
    };
    let (plan, _) = match config::load(&path) {
        Ok(loaded) => loaded,
        Err(report) => {
            print_error(&report);
            return failure(&format!("{} has errors", path.display()));
        }
    };
    let now = args.at.unwrap_or_else(|| clock::unix().as_secs());
    let own = explain(&plan, &args.token, now);
    let learns = plan.pools.iter().any(|pool| matches!(pool.persistence.carrier, Carrier::Learned(_)));
    // Only the running process knows a random key, learned sessions, and what copies there are.
    let may_be_known =
        (learns && own.as_ref().is_none_or(|own| own.backend.is_none())) || (plan.has_random_key && own.is_none());
    let asks = may_be_known || own.as_ref().is_some_and(|own| has_copies(&plan, own));
    let answer = asks.then(|| ask(&args.admin, &args.token));
    let text = match (own, answer) {
        (own, Some(Ok(Some(answer)))) if may_be_known && (own.is_none() || answer.backend.is_some()) => {
            let copy = has_copies(&plan, &answer).then(|| copy(answer.copy.as_ref(), now));
            text(&plan, &answer, copy, "", now)
        }
        (Some(own), answer) => {
            let copy = answer.filter(|_| has_copies(&plan, &own)).map(|answer| match answer {
                Ok(Some(answer)) => copy(answer.copy.as_ref(), now),
                Ok(None) => format!("unknown: {NOT_READ}"),
                Err(error) => format!("unknown: {error}"),
            });
            text(&plan, &own, copy, ", if all backends are up", now)
        }
        (None, answer) => return failure(&unreadable(plan.has_random_key, answer)),
    };
    print(&text);
    ExitCode::SUCCESS
}

/// Says why a token can't be explained, by what the running process said to it, if it was asked.
fn unreadable(has_random_key: bool, answer: Option<Result<Option<ExplainReport>, String>>) -> String {
    if has_random_key {
        return match answer {
            Some(Err(error)) => {
                format!("this file has no [[keys]], so only the running Linchpin can open its pins, and {error}")
            }
            _ => "the running Linchpin cannot open this token: a process that has ended sealed it (this file has no \
                  [[keys]], so each process makes a key of its own), it is for a pool, cookie or field of another name, \
                  or it is damaged. A client that sends it gets a new session."
                .into(),
        };
    }
    let learned = match answer {
        Some(Ok(_)) => format!("; only the running Linchpin knows learned sessions, and {NOT_READ}"),
        Some(Err(error)) => format!("; only the running Linchpin knows learned sessions, and {error}"),
        None => String::new(),
    };
    format!(
        "no pool of this configuration can open this token: it was sealed with a key that is not in [[keys]], for a \
         pool, cookie or field of another name, or it is damaged{learned}. A client that sends it gets a new session."
    )
}

/// Explains a token by the file alone: as if every backend were up and no session had been learned.
fn explain(plan: &Plan, token: &str, now: u64) -> Option<ExplainReport> {
    let settings: Vec<_> = plan.pools.iter().map(|pool| pool.pool.clone()).collect();
    let pools = Reconciler::new(1).pools(&settings);
    let mut tables = SessionTables::default();
    let of = |(pool, of): (&Arc<Pool>, &PoolPlan)| Affinity::new(pool.name(), &of.persistence, &plan.keys, &mut tables);
    let affinities: Vec<_> = pools.iter().zip(&plan.pools).map(of).collect();
    let candidates = pools.iter().map(|pool| &**pool).zip(&affinities);
    explain_as_sent(candidates, token, now).map(|explanation| ExplainReport::new(explanation, None))
}

/// Asks the running process to explain a token; `None` if it can't read it. The error is a sentence without its end.
fn ask(admin: &AdminArgs, token: &str) -> Result<Option<ExplainReport>, String> {
    let admin = admin.client().map_err(|error| error.to_string())?;
    let json = json!({ "token": token });
    let (status, body) =
        admin.send(&Method::POST, "/api/v1/explain", Some(&json), LIMIT).map_err(|error| error.to_string())?;
    match status {
        StatusCode::OK => serde_json::from_slice(&body).map(Some).map_err(|error| admin.unexpected(&error).to_string()),
        StatusCode::NOT_FOUND => Ok(None),
        _ => Err(admin.refusal(status, &body)),
    }
}

fn pool<'a>(plan: &'a Plan, report: &ExplainReport) -> Option<&'a PoolPlan> {
    plan.pools.iter().find(|pool| *pool.pool.name == *report.pool)
}

fn has_copies(plan: &Plan, report: &ExplainReport) -> bool {
    pool(plan, report).is_some_and(|pool| pool.copies.is_some())
}

fn text(plan: &Plan, report: &ExplainReport, copy: Option<String>, condition: &str, now: u64) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: &str| {
        // Writing to a String never fails.
        let _ = writeln!(text, "{name:<10} {value}");
    };
    let balance = pool(plan, report).map_or("", |pool| pool.balance.as_str());
    row("pool", &format!("{} (balance {balance}, persistence {})", report.pool, report.persistence));
    if let Some(key) = &report.key {
        row("key", key);
    }
    row("session", &report.session);
    for (name, at, limit) in
        [("begun", report.issued, report.absolute_timeout), ("last seen", report.last_seen, report.idle_timeout)]
    {
        if let Some(at) = at {
            row(name, &when(at, now, limit));
        }
    }
    if let Some(name) = &report.backend {
        row("backend", &backend(name, report.address.as_deref(), report.replaced));
    }
    if report.term > 0 {
        row("term", &format!("{} (how often it was handed over with its copy)", report.term));
    }
    if let Some(replica) = &report.replica {
        row("replica", &format!("{replica} holds the session's state, too"));
    }
    if let Some(copy) = copy {
        row("copy", &copy);
    }
    let cause = report.cause.as_ref().map_or(String::new(), |cause| format!(" ({cause})"));
    row("verdict", &format!("{}{cause}", report.verdict));
    row("why", &format!("{}{condition}", report.why));
    text
}

/// Says what the running process knows of a session's copy.
fn copy(report: Option<&CopyReport>, now: u64) -> String {
    let Some(CopyReport { state, term, seq, bytes, saved, holder, replicas }) = report else {
        return "none: the running process knows nothing of this session's state".into();
    };
    let holder =
        holder.as_ref().map_or("no server is known to have it".into(), |name| format!("{name} has the session"));
    let version = format!("term {term}, seq {seq}");
    match state {
        CopyState::Held => {
            let age = age(now, saved.unwrap_or(now));
            format!("{version}, {bytes} bytes, saved {age} ago; {holder}")
        }
        CopyState::Placed => format!("{version}, on {}; {holder}", replicas.join(", ")),
        CopyState::Lost => {
            format!("none is held, the last known state was {version}; the next response brings one; {holder}")
        }
        CopyState::Dropped => format!("none: the session has ended at {version}"),
    }
}

fn when(at: u64, now: u64, limit: Option<u64>) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(at)).map_or_else(
        || format!("{at}"),
        |time| {
            humantime::format_rfc3339_seconds(time.min(UNIX_EPOCH + Duration::from_secs(200_000_000_000))).to_string()
        },
    );
    let limit = limit
        .map_or("no limit".into(), |limit| format!("limit {}", humantime::format_duration(Duration::from_secs(limit))));
    format!("{time}, {} ago ({limit})", age(now, at))
}

fn age(now: u64, at: u64) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(now.saturating_sub(at)))
}

fn backend(name: &str, address: Option<&str>, replaced: bool) -> String {
    match (address, replaced) {
        (None, _) => format!("{name}, which this pool doesn't have"),
        (Some(address), true) => format!("{name}, at another address then; now at {address}"),
        (Some(address), false) => format!("{name} at {address}"),
    }
}

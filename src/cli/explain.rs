//! Owns: `linchpin explain`: what a routing cookie or session id holds, and what Linchpin would do with it now.
//! Invariant: it shows no key, and decides with the function that decides for requests.
//! Must not know: running state; it assumes that every backend is up and that no session has been learned.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use super::config_file::{ConfigArgs, find};
use super::output::{failure, print, print_error};
use crate::affinity::explain::{Explanation, NamedBackend, SessionTimes, explain_as_sent};
use crate::affinity::{Affinity, Carrier, SessionTables};
use crate::clock;
use crate::config::{self, PoolPlan};
use crate::pool::Pool;
use crate::pool::reconcile::Reconciler;

/// The command line of `linchpin explain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// The value of the routing cookie, field or session cookie, or `name=value` as the browser shows it.
    #[arg(value_name = "TOKEN")]
    token: String,
    /// Explain the token as of this time, in seconds since 1970.
    #[arg(long, value_name = "SECONDS", hide = true)]
    at: Option<u64>,
}

/// Explains a token. Exit code 1 if no pool can open it.
pub fn run(args: &Args) -> ExitCode {
    let path = match find(args.config.path()) {
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
    let settings: Vec<_> = plan.pools.iter().map(|pool| pool.pool.clone()).collect();
    let pools = Reconciler::new(1).pools(&settings);
    let mut tables = SessionTables::default();
    let of = |(pool, of): (&Arc<Pool>, &PoolPlan)| Affinity::new(pool.name(), &of.persistence, &plan.keys, &mut tables);
    let affinities: Vec<_> = pools.iter().zip(&plan.pools).map(of).collect();
    let candidates = pools.iter().map(|pool| &**pool).zip(&affinities);
    if let Some(explanation) = explain_as_sent(candidates, &args.token, now) {
        let of = plan.pools.iter().find(|of| of.pool.name == explanation.pool);
        let balance = of.map_or("", |of| of.balance.as_str());
        print(&text(&explanation, balance, now));
        return ExitCode::SUCCESS;
    }
    let learns = plan.pools.iter().any(|pool| matches!(pool.persistence.carrier, Carrier::Learned(_)));
    let learned = "; only the running Linchpin knows learned sessions: ask it with POST /api/v1/explain";
    failure(&format!(
        "no pool of this configuration can open this token: it was sealed with a key that is not in [[keys]], for a pool, \
         cookie or field of another name, or it is damaged{}. A client that sends it gets a new session.",
        if learns { learned } else { "" }
    ))
}

fn text(explanation: &Explanation, balance: &str, now: u64) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: &str| {
        // Writing to a String never fails.
        let _ = writeln!(text, "{name:<10} {value}");
    };
    row("pool", &format!("{} (balance {balance}, persistence {})", explanation.pool, explanation.persistence));
    if let Some(key) = &explanation.key {
        row("key", key);
    }
    row("session", &format!("{:016x}", explanation.session));
    if let Some(SessionTimes { issued, last, idle_timeout, absolute_timeout }) = explanation.seen {
        row("begun", &when(issued, now, absolute_timeout));
        row("last seen", &when(last, now, idle_timeout));
    }
    if let Some(named) = &explanation.backend {
        row("backend", &backend(named));
    }
    if explanation.term > 0 {
        row("term", &format!("{} (handed over so often together with its copy)", explanation.term));
    }
    if let Some(replica) = &explanation.replica {
        row("replica", &format!("{replica} holds the session's state, too"));
    }
    let cause = explanation.cause.map_or(String::new(), |cause| format!(" ({})", cause.as_str()));
    row("verdict", &format!("{}{cause}", explanation.verdict.as_str()));
    row("why", &format!("{}, if all backends are up", explanation.why));
    text
}

fn when(at: u64, now: u64, limit: Option<u64>) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(at)).map_or_else(
        || format!("{at}"),
        |time| {
            humantime::format_rfc3339_seconds(time.min(UNIX_EPOCH + Duration::from_secs(200_000_000_000))).to_string()
        },
    );
    let ago = humantime::format_duration(Duration::from_secs(now.saturating_sub(at)));
    let limit = limit
        .map_or("no limit".into(), |limit| format!("limit {}", humantime::format_duration(Duration::from_secs(limit))));
    format!("{time}, {ago} ago ({limit})")
}

fn backend(named: &NamedBackend) -> String {
    match (&named.address, named.replaced) {
        (None, _) => format!("{}, which this pool doesn't have", named.name),
        (Some(address), true) => format!("{}, at another address then; now at {address}", named.name),
        (Some(address), false) => format!("{} at {address}", named.name),
    }
}

//! Owns: `linchpin explain`: what a routing cookie holds, and what would happen to it now.
//! Invariant: shows no key; judges with the very function that judges requests.
//! Must not know: running state: every backend is taken to be up.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use super::{check, fail};
use crate::affinity::decide::{self, Decision};
use crate::affinity::{Affinity, Pin, Reading, Verdict, failover};
use crate::balance::Tried;
use crate::clock;
use crate::config::{self, PoolPlan};
use crate::pool::Pool;
use crate::pool::reconcile::Reconciler;

/// The command line of `linchpin explain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: super::ConfigArgs,
    /// The routing cookie's value, or `name=value` as the browser shows it.
    #[arg(value_name = "TOKEN")]
    token: String,
    /// Explain it as if it came at this time, in seconds since 1970.
    #[arg(long, value_name = "SECONDS", hide = true)]
    at: Option<u64>,
}

/// Explains a token; exit code 1 if no pool can open it.
pub fn run(args: &Args) -> ExitCode {
    let path = match check::find(args.config.config.as_deref()) {
        Ok(path) => path,
        Err(error) => return fail(&error),
    };
    let (plan, _) = match config::load(&path) {
        Ok(loaded) => loaded,
        Err(report) => {
            eprint!("{report}");
            return fail(&format!("{} has errors", path.display()));
        }
    };
    let token = args.token.trim();
    let token = token.rsplit_once('=').map_or(token, |(_, value)| value).trim_matches('"');
    let now = args.at.unwrap_or_else(|| clock::unix().as_secs());
    let settings: Vec<_> = plan.pools.iter().map(|pool| pool.pool.clone()).collect();
    let pools = Reconciler::new(1).pools(&settings);
    for (pool, of) in pools.iter().zip(&plan.pools) {
        let affinity = Affinity::new(pool.name(), &of.persistence, &plan.keys);
        if let Reading::Sealed(pin) = affinity.open(token.as_bytes()) {
            // Nobody may be reading; the token opens all the same.
            let _ = io::stdout().write_all(explain(pool, of, &affinity, &pin, token, now).as_bytes());
            return ExitCode::SUCCESS;
        }
    }
    fail(
        &"no pool of this configuration can open this token: it was sealed with a key that is not in [[keys]], \
           for a pool or cookie of another name, or it is damaged. A client that sends it gets a new session.",
    )
}

fn explain(pool: &Pool, of: &PoolPlan, affinity: &Affinity, pin: &Pin, token: &str, now: u64) -> String {
    let lifetimes = affinity.lifetimes();
    let decision = decide::decide(&Reading::Sealed(pin.clone().into()), pool, lifetimes, now, 0);
    let rows = [
        ("pool", format!("{} (balance {}, persistence {})", pool.name(), of.balance.as_str(), affinity.kind())),
        ("key", affinity.key_of(token.as_bytes()).unwrap_or("?").to_owned()),
        ("session", format!("{:016x}", pin.session)),
        ("begun", when(pin.issued, now, lifetimes.absolute)),
        ("last seen", when(pin.last_seen, now, lifetimes.idle)),
        ("backend", backend(pool, pin)),
        ("verdict", verdict(pool, &decision)),
    ];
    rows.into_iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect()
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

fn backend(pool: &Pool, pin: &Pin) -> String {
    match pool.position(&pin.backend).map(|index| pool.backend(index)) {
        None => format!("{}, which this pool doesn't have", pin.backend),
        Some(backend) if backend.incarnation() != pin.incarnation => {
            format!("{}, at another address then; now at {}", pin.backend, backend.address())
        }
        Some(backend) => format!("{} at {}", pin.backend, backend.address()),
    }
}

fn verdict(pool: &Pool, decision: &Decision) -> String {
    let cause = decision.cause.map_or(String::new(), |cause| format!(" ({})", cause.as_str()));
    let to = match decision.verdict {
        Verdict::Hit => decision.pinned,
        Verdict::Moved => failover::next(pool, decision.session, decision.pinned, &Tried::new()),
        Verdict::New | Verdict::Refused | Verdict::None => None,
    };
    let to = match (decision.verdict, to) {
        (_, Some(index)) => format!(": goes to {}", pool.backend(index).name()),
        (Verdict::New, None) => ": a new session, on the backend whose turn it is".into(),
        (_, None) => ": no backend can take it".into(),
    };
    format!("{}{cause}{to}, if all backends are up", decision.verdict.as_str())
}

//! Owns: `linchpin demo`: three demo backends as processes, and the proxy in front of them.
//! Invariant: no backend outlives the demo, however it ends; a backend that exits is restarted at the same address.
//! Must not know: how the proxy works; it writes a configuration, as a user would, and starts it.

mod addresses;
mod restart;
mod startup_message;
mod supervisor;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::runtime;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::addresses::AddressError;
use self::addresses::{is_loopback_only, reserve};
use self::startup_message::StartupMessage;
use self::supervisor::Supervisor;
use super::demo_backend::{socket_address, stop_signal};
use super::output::print;
use crate::admin;
use crate::affinity::seal::random_secret;
use crate::app::{App, StartError};
use crate::config::{self, Report};
use crate::net::{Address, local_addresses};

/// The backends, and the port that each one tries first.
const BACKENDS: [(&str, u16); 3] = [("a", 9001), ("b", 9002), ("c", 9003)];

/// Start three demo backends and the proxy in front of them; nothing to configure.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The address of the proxy; with port 0 the system picks a port.
    #[arg(long, value_name = "ADDR", value_parser = socket_address, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,

    /// The address of the dashboard, the metrics and the admin API; if other machines can reach it, they need the token
    /// that the demo prints.
    #[arg(long, value_name = "ADDR", value_parser = socket_address, default_value = "127.0.0.1:9090")]
    admin: SocketAddr,

    /// Whether Linchpin keeps copies of the sessions, so that they survive the death of their server.
    #[arg(long, value_name = "on|off", value_enum, hide_possible_values = true, default_value = "on")]
    copies: Switch,
}

/// The value of `--copies`.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Switch {
    On,
    Off,
}

/// Runs the demo until Ctrl-C or SIGTERM.
///
/// # Errors
///
/// If an address is taken or a part of the demo cannot start; the message says what to do.
pub fn run(args: Args) -> Result<(), DemoError> {
    // The kernel kills the backends when the thread that started them ends: this one, which lasts as long as the demo.
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(DemoError::Start)?;
    runtime.block_on(run_until_stopped(args))
}

async fn run_until_stopped(args: Args) -> Result<(), DemoError> {
    let stop = stop_signal().map_err(DemoError::Start)?;
    let reserved = reserve(args.listen, args.admin).map_err(DemoError::Address)?;
    let token = if is_loopback_only(args.admin) { None } else { Some(random_text()?) };
    let copies_secret = if args.copies == Switch::On { Some(Arc::from(random_text()?)) } else { None };

    let (sender, mut events) = mpsc::channel(16);
    let mut supervisors = Vec::new();
    for (name, port) in BACKENDS {
        let supervisor = Supervisor::start(name, port, copies_secret.clone()).await;
        supervisors.push(supervisor.map_err(|source| DemoError::Backend { name, source })?);
    }
    let servers: Vec<_> = supervisors.iter().map(|supervisor| (supervisor.name(), supervisor.address())).collect();
    drop(reserved);
    let app = start_proxy(&args, &servers, token.clone())?;
    let message = StartupMessage {
        shop: app.listeners().first().and_then(Address::tcp).unwrap_or(args.listen),
        dashboard: app.admin().unwrap_or(args.admin),
        token: token.as_deref(),
        servers: &servers,
        copies: copies_secret.is_some(),
        interfaces: &local_addresses::interfaces(),
    };
    print(&message.to_string());

    let ending = CancellationToken::new();
    let mut tasks = JoinSet::new();
    for supervisor in supervisors {
        tasks.spawn(supervisor.run(sender.clone(), ending.clone()));
    }
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(event) = events.recv() => print(&format!("{event}\n")),
        }
    }
    print("\nStopping: the demo ends when the requests in flight are done. Press Ctrl-C again to end it at once.\n");
    let again = stop_signal().map_err(DemoError::Start)?;
    // The backends stop last: requests in flight still need them.
    tokio::select! {
        () = app.stop() => (),
        () = again => (),
    }
    ending.cancel();
    while tasks.join_next().await.is_some() {}
    Ok(())
}

/// Starts the proxy: the only code of the demo that uses it.
fn start_proxy(args: &Args, backends: &[(&str, SocketAddr)], token: Option<String>) -> Result<App, DemoError> {
    // Warnings are for the author of a file, and this text has none.
    let text = configuration(args.listen, backends, args.copies);
    let (mut plan, _warnings) = config::parse(&text, Path::new("demo")).map_err(DemoError::Configuration)?;
    // Not in the text: there a token can only be read from a file, and this one must not be written to a disk.
    plan.admin = Some(admin::Settings::new(args.admin.into(), token));
    App::start(plan).map_err(DemoError::Proxy)
}

/// Returns 32 random bytes in base64.
fn random_text() -> Result<String, DemoError> {
    let secret =
        random_secret().ok_or_else(|| DemoError::Start(io::Error::other("the system returned no random bytes")))?;
    Ok(URL_SAFE_NO_PAD.encode(secret))
}

/// Returns the configuration that a user would write for these backends. Nothing needs quoting: names are constants,
/// and the rest are addresses.
fn configuration(listen: SocketAddr, backends: &[(&str, SocketAddr)], copies: Switch) -> String {
    let mut text = format!(
        r#"[log]
access = "off"

[[listeners]]
address = "{listen}"

[[routes]]
path_prefix = "/"
pool = "demo"

[[pools]]
name = "demo"

[pools.persistence]
type = "cookie"

[pools.health]
path = "/healthz"
interval = "1s"
fall = 2
rise = 2
"#
    );
    if copies == Switch::On {
        text.push_str("\n[pools.copies]\nhold = \"balancer\"\n");
    }
    for (name, address) in backends {
        text.push_str(&format!("\n[[pools.backends]]\nname = \"{name}\"\naddress = \"{address}\"\n"));
    }
    text
}

/// Why the demo ended with an error.
#[derive(Debug)]
pub enum DemoError {
    /// Setting up the process failed.
    Start(io::Error),
    /// One of the two addresses cannot be used.
    Address(AddressError),
    /// A demo backend did not start.
    Backend {
        /// Its name.
        name: &'static str,
        /// What happened.
        source: io::Error,
    },
    /// The demo's own configuration has errors, which is a bug in Linchpin.
    Configuration(Report),
    /// The proxy did not start.
    Proxy(StartError),
}

impl fmt::Display for DemoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(error) => write!(f, "the demo could not start: {error}"),
            Self::Address(refusal) => refusal.fmt(f),
            Self::Backend { name, source } => write!(f, "demo backend {name} did not start: {source}"),
            Self::Configuration(report) => {
                write!(f, "the demo's own configuration has errors. Please report this bug: {report}")
            }
            Self::Proxy(error) => write!(f, "the demo's proxy did not start: {error}"),
        }
    }
}

impl std::error::Error for DemoError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_every_backend() {
        let backends = [("a", SocketAddr::from(([127, 0, 0, 1], 1))), ("b", SocketAddr::from(([127, 0, 0, 1], 2)))];
        for (copies, expected) in [(Switch::On, true), (Switch::Off, false)] {
            let text = configuration(([127, 0, 0, 1], 8080).into(), &backends, copies);
            let table: toml::Table = text.parse().unwrap();
            let pool = &table["pools"][0];
            let named = pool["backends"].as_array().unwrap();
            let named: Vec<_> = named.iter().map(|backend| backend["name"].as_str().unwrap()).collect();
            assert_eq!(named, ["a", "b"]);
            assert_eq!(pool.get("copies").is_some(), expected, "{text}");
            assert!(config::parse(&text, Path::new("demo")).is_ok(), "{text}");
        }
    }
}

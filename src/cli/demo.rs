//! `linchpin demo`: three demo backends as real processes, the proxy in front of them, and a story to follow.
//! Whatever ends it, no backend is left behind; a backend that dies comes back at the same address.
//! It must not know how the proxy works: it writes a configuration, as a user would, and starts it.

mod keeper;
mod restart;

use std::fmt;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use tokio::runtime;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::keeper::Keeper;
use super::demo_backend::told_to_stop;
use crate::app::{App, StartError};
use crate::config::{self, Report};
use crate::demo::PASSWORD;
use crate::net::Address;

/// The backends, and the ports they have if nobody else does.
const BACKENDS: [(&str, u16); 3] = [("a", 9001), ("b", 9002), ("c", 9003)];

/// Try Linchpin: three demo backends and the proxy in front of them, nothing to configure.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The address of the proxy.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,

    /// The address of the dashboard, the metrics and the admin API.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9090")]
    admin: SocketAddr,
}

/// Runs the demo until Ctrl-C or SIGTERM.
///
/// # Errors
///
/// When an address is taken or something cannot be started; the message says what to do.
pub fn run(args: Args) -> Result<(), Failure> {
    // The backends are tied to the life of the thread that starts them: this one, which lasts as long as the demo.
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Start)?;
    runtime.block_on(play(args))
}

async fn play(args: Args) -> Result<(), Failure> {
    let stop = told_to_stop().map_err(Failure::Start)?;
    // Asked first, because the proxy shares its ports between threads, and so might share them with another Linchpin.
    refuse_taken(args.listen, "--listen")?;
    refuse_taken(args.admin, "--admin")?;

    let (news, mut heard) = mpsc::channel(16);
    let mut keepers = Vec::new();
    for (name, port) in BACKENDS {
        keepers.push(Keeper::start(name, port).await.map_err(|source| Failure::Backend { name, source })?);
    }
    let backends: Vec<_> = keepers.iter().map(|keeper| (keeper.name(), keeper.address())).collect();
    let app = start_proxy(&configuration(&args, &backends))?;
    say(&opening(&args, &app, &backends));

    let ending = CancellationToken::new();
    let mut keeping = JoinSet::new();
    for keeper in keepers {
        keeping.spawn(keeper.keep(news.clone(), ending.clone()));
    }
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(news) = heard.recv() => say(&format!("{news}\n")),
        }
    }
    say("\nThe demo ends: requests in flight may finish, then proxy and servers are gone.\n");
    // The backends go last: what is in flight still needs them.
    app.stop().await;
    ending.cancel();
    while keeping.join_next().await.is_some() {}
    Ok(())
}

/// The one place where the demo meets the proxy.
fn start_proxy(configuration: &str) -> Result<App, Failure> {
    // Its warnings are meant for those who wrote the file; nobody wrote this one.
    let (plan, _warnings) = config::parse(configuration, Path::new("demo")).map_err(Failure::Configuration)?;
    App::start(plan).map_err(Failure::Proxy)
}

/// What a user would write for these backends. Names are ours and addresses print themselves, so nothing needs quoting.
fn configuration(args: &Args, backends: &[(&str, SocketAddr)]) -> String {
    let mut text = format!(
        r#"[log]
access = "off"

[admin]
address = "{admin}"

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
"#,
        admin = args.admin,
        listen = args.listen,
    );
    for (name, address) in backends {
        text.push_str(&format!("\n[[pools.backends]]\nname = \"{name}\"\naddress = \"{address}\"\n"));
    }
    text
}

fn opening(args: &Args, app: &App, backends: &[(&str, SocketAddr)]) -> String {
    let proxy = app.listeners().first().and_then(Address::tcp).unwrap_or(args.listen);
    let admin = app.admin().unwrap_or(args.admin);
    let servers: Vec<_> = backends.iter().map(|(name, address)| format!("{name} http://{address}")).collect();
    format!(
        r#"Linchpin demo: three servers that keep logins and carts in their own memory, behind one address.

  open      http://{proxy}    any user, password {PASSWORD}
  admin     http://{admin}
  servers   {servers}

Try this:
  1. Log in, fill the cart, reload: it is always the same server, the one that knows you.
  2. Open a private window: another client, most likely another server.
  3. Press "Kill server" in one window. That client is moved once, without an error, and has to log in again,
     for its login died with the server. The other window notices nothing.
  4. Ten seconds later the server is back. Nobody is moved again.

Without a browser:
  curl -c jar -b jar -d user=ann -d password={PASSWORD} http://{proxy}/login
  curl -c jar -b jar http://{proxy}/whoami

Ctrl-C ends it all.

"#,
        servers = servers.join(", "),
    )
}

/// A port that somebody else listens on is found out before anything has been started.
fn refuse_taken(address: SocketAddr, option: &'static str) -> Result<(), Failure> {
    TcpListener::bind(address).map(drop).map_err(|source| Failure::Address { address, option, source })
}

/// Nobody may be reading; that is no reason to end the demo.
fn say(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
}

/// Why the demo could not run.
#[derive(Debug)]
pub enum Failure {
    /// The process could not be set up.
    Start(io::Error),
    /// An address of the proxy cannot be listened on.
    Address {
        /// The address.
        address: SocketAddr,
        /// The option that chooses another.
        option: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A demo backend did not come up.
    Backend {
        /// Its name.
        name: &'static str,
        /// What happened.
        source: io::Error,
    },
    /// The demo's own configuration was refused, which is a fault of Linchpin's.
    Configuration(Report),
    /// The proxy did not start.
    Proxy(StartError),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(error) => write!(f, "the demo could not start: {error}"),
            Self::Address { address, option, source } => {
                // Port 0 lets the system choose, so that this advice always works.
                write!(
                    f,
                    "the demo cannot listen on {address}: {source}; end what uses it, or choose another address, \
                     e.g. {option} 127.0.0.1:0"
                )
            }
            Self::Backend { name, source } => write!(f, "demo backend {name} did not start: {source}"),
            Self::Configuration(report) => {
                write!(f, "the demo's own configuration is wrong, please report it: {report}")
            }
            Self::Proxy(error) => write!(f, "the demo's proxy did not start: {error}"),
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_which_option_helps_when_an_address_is_taken() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = other.local_addr().unwrap();
        let failure = refuse_taken(taken, "--admin").unwrap_err().to_string();
        assert!(failure.contains("--admin") && failure.contains(&taken.to_string()), "{failure}");
        drop(other);
        assert!(refuse_taken(taken, "--admin").is_ok());
    }

    #[test]
    fn the_configuration_names_every_backend() {
        let args = Args { listen: ([127, 0, 0, 1], 8080).into(), admin: ([127, 0, 0, 1], 9090).into() };
        let backends = [("a", SocketAddr::from(([127, 0, 0, 1], 1))), ("b", SocketAddr::from(([127, 0, 0, 1], 2)))];
        let table: toml::Table = configuration(&args, &backends).parse().unwrap();
        let named = table["pools"][0]["backends"].as_array().unwrap();
        let named: Vec<_> = named.iter().map(|backend| backend["name"].as_str().unwrap()).collect();
        assert_eq!(named, ["a", "b"]);
    }
}

//! Owns: `linchpin demo-backend`: one demo backend in a process of its own.
//! Invariant: it prints one line, with its real address; with `--exit-with-parent` it never outlives its parent.
//! Must not know: the proxy in front of it, nor what restarts it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::output::print;
use crate::demo::{self, CopySettings, DEFAULT_SESSION_TIMEOUT, MIN_SECRET_BYTES, Settings};

/// The environment variable with the secret that seals copies of sessions. An option would show it to every user of the
/// machine.
pub(super) const COPIES_SECRET: &str = "LINCHPIN_DEMO_COPIES_SECRET";

/// Run one demo backend: a small shop that keeps logins and carts in its own memory.
///
/// With a secret of at least 32 bytes in LINCHPIN_DEMO_COPIES_SECRET it saves copies of its sessions in a Linchpin whose
/// pool has `[pools.copies]`, and takes over those of other servers with the same secret.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The server's name, which every response carries.
    #[arg(long, value_name = "NAME", value_parser = name)]
    name: String,

    /// The address to listen on; with port 0 the system picks a port, which the printed line shows.
    #[arg(long, value_name = "ADDR", value_parser = socket_address)]
    listen: SocketAddr,

    /// How long a session lives without a request, e.g. 90s or 20m.
    #[arg(long, value_name = "TIME", value_parser = session_timeout, default_value_t = DEFAULT_SESSION_TIMEOUT.into())]
    session_timeout: humantime::Duration,

    /// End with the parent process, as `kill -9` does. The process id detects a parent that has ended before.
    #[arg(long, value_name = "PID", hide = true)]
    exit_with_parent: Option<u32>,
}

/// Runs the backend until SIGTERM or SIGINT.
///
/// # Errors
///
/// If it cannot listen or serve; the message says what to do.
pub fn run(args: Args) -> Result<(), DemoBackendError> {
    if let Some(parent) = args.exit_with_parent {
        tie_to_parent(parent)?;
    }
    let secret = std::env::var_os(COPIES_SECRET);
    let copies = secret
        .map(|secret| CopySettings::new(secret.as_encoded_bytes()).ok_or(DemoBackendError::ShortSecret))
        .transpose()?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(DemoBackendError::Start)?;
    runtime.block_on(serve(args, copies))
}

/// Returns the start of the line that the backend prints once it listens; its address follows.
pub(super) fn ready_line_prefix(name: &str) -> String {
    format!("demo backend {name} listens on http://")
}

/// Resolves on SIGTERM or SIGINT.
pub(super) fn stop_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => (),
            _ = int.recv() => (),
        }
    })
}

/// Parses the value of `--listen` and `--admin`.
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "an address is an IP address and a port, e.g. 127.0.0.1:8080 or [::1]:8080")
}

async fn serve(args: Args, copies: Option<CopySettings>) -> Result<(), DemoBackendError> {
    // Before the line is printed: its reader may send a signal at once.
    let stop = stop_signal().map_err(DemoBackendError::Start)?;
    let refused = |source| DemoBackendError::Listen { address: args.listen, source };
    let listener = TcpListener::bind(args.listen).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    let line = format!("{}{address}\n", ready_line_prefix(&args.name));
    print(&line);

    let session_timeout = args.session_timeout.into();
    let settings = Settings { session_timeout, allow_kill: true, copies, ..Settings::new(args.name) };
    demo::run(listener, settings, stop).await.map_err(DemoBackendError::Serve)
}

/// Has the kernel kill this process when its parent ends.
fn tie_to_parent(parent: u32) -> Result<(), DemoBackendError> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| DemoBackendError::Start(error.into()))?;
    // The kernel sends no signal for a parent that ended before that call.
    let alive = getppid().is_some_and(|pid| u32::try_from(pid.as_raw_nonzero().get()) == Ok(parent));
    if alive { Ok(()) } else { Err(DemoBackendError::ParentExited) }
}

/// Parses a name. It becomes part of a response field, a configuration and a page: plain characters only.
fn name(text: &str) -> Result<String, &'static str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if (1..=64).contains(&text.len()) && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("a name is 1 to 64 letters, digits, '-', '_' or '.'")
    }
}

fn session_timeout(text: &str) -> Result<humantime::Duration, String> {
    let timeout: humantime::Duration = text.parse().map_err(|error: humantime::DurationError| error.to_string())?;
    if *timeout >= Duration::from_secs(1) { Ok(timeout) } else { Err("a session lives for at least 1s".to_owned()) }
}

/// Why a demo backend ended with an error.
#[derive(Debug)]
pub enum DemoBackendError {
    /// Setting up the process failed.
    Start(io::Error),
    /// Listening on the address failed.
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The listener failed.
    Serve(io::Error),
    /// The parent process had ended before.
    ParentExited,
    /// The secret for copies of sessions is too short.
    ShortSecret,
}

impl fmt::Display for DemoBackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(error) => write!(f, "the demo backend could not start: {error}"),
            Self::Listen { address, source } => write!(
                f,
                "the demo backend cannot listen on {address}: {source}; give --listen another address, or port 0"
            ),
            Self::Serve(error) => write!(f, "the demo backend stopped serving: {error}"),
            Self::ParentExited => f.write_str("the process that started this demo backend has ended"),
            Self::ShortSecret => write!(
                f,
                "the secret in {COPIES_SECRET} is too short: it needs at least {MIN_SECRET_BYTES} bytes, e.g. the output \
                 of `openssl rand -hex 32`; or unset it, and no copies are made"
            ),
        }
    }
}

impl std::error::Error for DemoBackendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Start(source) | Self::Listen { source, .. } | Self::Serve(source) => Some(source),
            Self::ParentExited | Self::ShortSecret => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for good in ["a", "node-1", "eu_2.b"] {
            assert_eq!(name(good).as_deref(), Ok(good));
        }
        for bad in ["", "a b", "a\r\nset-cookie:", "ä", &"x".repeat(65)] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_invalid_address_is_refused_with_an_example() {
        assert!(socket_address("127.0.0.1:0").is_ok() && socket_address("[::1]:80").is_ok());
        for text in ["localhost:8080", "8080", ":8080", "127.0.0.1", "::1:80x"] {
            assert!(socket_address(text).is_err_and(|why| why.contains("127.0.0.1:8080")), "{text}");
        }
    }

    #[test]
    fn a_session_timeout_is_at_least_a_second() {
        assert_eq!(*session_timeout("20m").unwrap(), DEFAULT_SESSION_TIMEOUT);
        assert!(session_timeout("0s").is_err());
        assert!(session_timeout("twenty").is_err());
    }
}

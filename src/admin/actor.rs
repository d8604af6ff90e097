//! Owns: who asks for a change and from where, and the audit line of each change.
//! Invariant: each change that takes effect has one line, with the values before and after; no line has a token.
//! Must not know: what a change does.

use std::fmt::Display;
use std::net::SocketAddr;

/// The longest value in an audit line, in characters.
const MAX_VALUE: usize = 200;

/// Who asks for a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// A client of the admin API.
    Client {
        /// What it has shown: `token`, or `anybody` where none is required.
        who: &'static str,
        /// Its address; on a Unix socket its user and process.
        from: String,
    },
    /// Someone who may send signals to this process.
    Signal(&'static str),
    /// A change of a file that is watched.
    Watch,
    /// A program of which this process is a part.
    Program,
}

/// The peer of a connection to the admin listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AdminPeer {
    /// Its address.
    Tcp(SocketAddr),
    /// Its user id and process id, as far as the kernel knows them.
    Unix(Option<(u32, Option<i32>)>),
}

impl Display for AdminPeer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AdminPeer::Tcp(address) => address.fmt(f),
            AdminPeer::Unix(None) => f.write_str("unix"),
            AdminPeer::Unix(Some((user, None))) => write!(f, "unix uid={user}"),
            AdminPeer::Unix(Some((user, Some(process)))) => write!(f, "unix uid={user} pid={process}"),
        }
    }
}

impl Actor {
    /// The word for the way by which it asks: `api`, `SIGHUP`, `watch`.
    pub fn by(&self) -> &'static str {
        match self {
            Actor::Client { .. } | Actor::Program => "api",
            Actor::Signal(signal) => signal,
            Actor::Watch => "watch",
        }
    }

    /// Writes the audit line of a change of `what`.
    pub fn audit(&self, what: &str, before: &dyn Display, after: &dyn Display) {
        let (who, from): (&str, &str) = match self {
            Actor::Client { who, from } => (who, from),
            Actor::Signal(_) => ("anybody", "a signal"),
            Actor::Watch => ("anybody", "a watched file"),
            Actor::Program => ("program", "this process"),
        };
        let (by, before, after) = (self.by(), clipped(before), clipped(after));
        tracing::info!(target: "linchpin::audit", by, who, from, what, before, after, "audit: changed");
    }
}

fn clipped(value: &dyn Display) -> String {
    let text = value.to_string();
    match text.char_indices().nth(MAX_VALUE) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text,
    }
}

//! Owns: what an event says, and its JSON.
//! Invariant: a published name never changes, and no text of an event is longer than a line of the log.
//! Must not know: when an event is published.

use serde::Serialize;

/// The longest text of an event, in bytes.
const MAX_TEXT: usize = 500;

/// What happened. Its JSON has `kind` with the name in lower case, and the fields beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// The health of a backend changed.
    Health {
        /// The pool.
        pool: String,
        /// The backend.
        backend: String,
        /// `up`, `down`, `ejected`, or `failing` for one whose requests fail, but which the pool can't spare.
        from: &'static str,
        /// The same, from now on.
        to: &'static str,
        /// Why it is not up.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// What observed it: `probes`, `requests`, or `time`, by which an ejection ends.
        by: &'static str,
    },
    /// The admin state of a backend was set.
    State {
        /// The pool.
        pool: String,
        /// The backend.
        backend: String,
        /// `ready`, `drain` or `maintenance`.
        from: &'static str,
        /// The same, from now on.
        to: &'static str,
        /// What set it: `api`, `reload`, `drain` for one that has ended, `health` for the backend itself.
        by: &'static str,
    },
    /// The weight of a backend was set.
    Weight {
        /// The pool.
        pool: String,
        /// The backend.
        backend: String,
        /// Its weight before.
        from: u32,
        /// Its weight from now on.
        to: u32,
        /// What set it: `api` or `reload`.
        by: &'static str,
    },
    /// Sessions of a pool were moved to another backend, within the last second.
    Moves {
        /// The pool.
        pool: String,
        /// Why they did not stay, as in `linchpin_moves_total`.
        cause: &'static str,
        /// How many.
        sessions: u64,
    },
    /// A drain began, ended, or was cancelled.
    Drain {
        /// The pool.
        pool: String,
        /// The backend.
        backend: String,
        /// What became of it.
        phase: DrainPhase,
        /// The sessions that the backend has left.
        sessions: u64,
        /// When it ends at the latest, in seconds since the Unix epoch.
        #[serde(skip_serializing_if = "Option::is_none")]
        deadline: Option<u64>,
    },
    /// Rebalancing moved sessions between two backends, within the last ten seconds.
    Rebalance {
        /// The pool.
        pool: String,
        /// The backend that had them.
        from: String,
        /// The backend that has them now.
        to: String,
        /// How many.
        sessions: u64,
    },
    /// The configuration file was read again.
    Reload {
        /// `applied`, `unchanged` or `refused`.
        result: &'static str,
        /// The number of the configuration in use.
        generation: u64,
        /// What asked for it: `api`, `SIGHUP` or `watch`.
        by: &'static str,
        /// The number of keys that changed.
        changes: usize,
        /// The first of these keys.
        keys: Vec<String>,
        /// Why the file is refused.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A store that several Linchpins share was lost, or is back.
    Store {
        /// The pool.
        pool: String,
        /// What it keeps: `copies` or `sessions`.
        of: &'static str,
        /// Whether it can be used.
        ok: bool,
        /// Why not.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The files of certificates changed.
    Certificate {
        /// Whose they are: `listener` or `pool`.
        of: &'static str,
        /// The name of that listener or pool.
        name: String,
        /// Whether they are in use; if not, the former ones stay in use.
        ok: bool,
        /// Why not.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A certificate was obtained from an ACME server, or could not be.
    Renewal {
        /// The listener.
        listener: String,
        /// The host name.
        name: String,
        /// Whether there is a new certificate; if not, the one in use stays.
        ok: bool,
        /// Why not.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// When it is tried again, in seconds since the Unix epoch.
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<u64>,
    },
    /// A source of backends failed, or works again.
    Discovery {
        /// The pool.
        pool: String,
        /// The source.
        source: String,
        /// Whether it works.
        ok: bool,
        /// Why not.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Discovered backends were added, are leaving, or were removed.
    Members {
        /// The pool.
        pool: String,
        /// `added`, `leaving` or `removed`.
        what: &'static str,
        /// How many.
        count: usize,
        /// The first of their names.
        backends: Vec<String>,
    },
    /// Whether the process takes requests changed.
    Process {
        /// The phase from now on.
        phase: ProcessPhase,
    },
    /// Another process takes over from this one, or this one has taken over.
    Upgrade {
        /// How far it is.
        phase: UpgradePhase,
        /// Why it failed.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
}

/// What became of a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainPhase {
    /// It has begun.
    Begun,
    /// No session is left.
    Drained,
    /// The deadline has come, and sessions were left.
    Deadline,
    /// It was cancelled.
    Cancelled,
}

/// The phase of the process, as in `/readyz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessPhase {
    /// It takes requests.
    Ready,
    /// It takes no more requests.
    Stopping,
    /// A data-path thread does not respond. Once it does, the process is ready again.
    Stalled,
    /// A data-path thread has ended.
    Broken,
}

/// How far an upgrade is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UpgradePhase {
    /// Another process has asked for the sockets.
    Begun,
    /// The other process has taken over.
    TakenOver,
    /// The other process has failed, and this one goes on.
    RolledBack,
}

impl Event {
    /// The value of `kind`.
    pub fn kind(&self) -> &'static str {
        match self {
            Event::Health { .. } => "health",
            Event::State { .. } => "state",
            Event::Weight { .. } => "weight",
            Event::Moves { .. } => "moves",
            Event::Drain { .. } => "drain",
            Event::Rebalance { .. } => "rebalance",
            Event::Reload { .. } => "reload",
            Event::Store { .. } => "store",
            Event::Certificate { .. } => "certificate",
            Event::Renewal { .. } => "renewal",
            Event::Discovery { .. } => "discovery",
            Event::Members { .. } => "members",
            Event::Process { .. } => "process",
            Event::Upgrade { .. } => "upgrade",
        }
    }

    /// Makes a reason, of bounded length.
    pub fn reason(text: &dyn std::fmt::Display) -> Option<String> {
        let mut text = text.to_string();
        if text.len() > MAX_TEXT {
            let end = (0..=MAX_TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
            text.truncate(end);
            text.push('…');
        }
        if text.is_empty() { None } else { Some(text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_json_of_an_event_begins_with_its_kind() {
        let event = Event::Health {
            pool: "app".into(),
            backend: "a".into(),
            from: "up",
            to: "down",
            reason: Event::reason(&"connection refused"),
            by: "probes",
        };
        let expected = json!({
            "kind": "health", "pool": "app", "backend": "a", "from": "up", "to": "down",
            "reason": "connection refused", "by": "probes",
        });
        assert_eq!(serde_json::to_value(&event).unwrap(), expected);
        assert_eq!(event.kind(), "health");
        let store = Event::Store { pool: "app".into(), of: "copies", ok: true, reason: Event::reason(&"") };
        assert_eq!(serde_json::to_string(&store).unwrap(), r#"{"kind":"store","pool":"app","of":"copies","ok":true}"#);
    }

    #[test]
    fn a_reason_has_a_bounded_length() {
        let long = Event::reason(&"é".repeat(1000)).unwrap();
        assert!(long.len() <= MAX_TEXT + 3 && long.ends_with('…'), "{}", long.len());
    }
}

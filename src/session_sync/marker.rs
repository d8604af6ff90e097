//! Owns: the markers in a store, by which Linchpin notices that the store, or a node of it, was flushed or replaced.
//! Invariant: each marker is read at each probe; one that could not be read counts as changed when it can be again.
//! Must not know: what else is in the store, what follows from a change.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;

use super::connection::{Connection, Error};
use super::script::StoreScript;
use crate::clock;

/// Returns a marker and the store's time. Creates the marker if there is none.
const PROBE_SCRIPT: &str = r"
local marker = redis.call('GET', KEYS[1])
if not marker then
  marker = ARGV[1]
  redis.call('SET', KEYS[1], marker, 'EX', ARGV[2])
end
local time = redis.call('TIME')
return {marker, time[1], time[2]}";

/// The suffix of a marker's key. Only the first Linchpin writes the marker, and a session costs no extra write.
const SUFFIX: &str = "store";
/// How long a marker stays, in seconds, so that it does not stay in the store for ever. When it expires, the store is
/// compared once without need.
const TTL: u64 = 30 * 24 * 3600;

/// Hash tags of which each belongs to another sixteenth of the slots of a cluster, at its beginning: a node that has so
/// many slots in a row has a marker. What a node with fewer slots loses is noticed session by session.
const CLUSTER_TAGS: [&str; 16] = [
    "3560", "22069", "48576", "11467", "4129", "130", "1296", "41342", "8209", "3706", "2821", "48710", "356", "45971",
    "16248", "4782",
];

/// The markers of a store.
pub(super) struct Markers {
    script: StoreScript,
    keys: Vec<String>,
    /// What was read last. `None` at first, so that a new connection always counts as a change.
    last: Mutex<Vec<Option<String>>>,
    /// A command has failed since all markers were read.
    has_failed: AtomicBool,
}

/// What a probe has found.
pub(super) struct Probe {
    /// A marker has changed: what was in the store may be gone.
    pub(super) has_changed: bool,
    /// When it was sent, what its clock said, and when it had replied, since the Unix epoch. `None` if the node
    /// whose clock counts did not reply.
    pub(super) clock: Option<(Duration, Duration, Duration)>,
}

impl Markers {
    /// Returns the markers of a store whose keys begin with `prefix`.
    pub(super) fn new(prefix: &str, is_cluster: bool) -> Markers {
        let keys: Vec<_> = match is_cluster {
            false => vec![format!("{prefix}:{SUFFIX}")],
            true => CLUSTER_TAGS.iter().map(|tag| format!("{prefix}:{{{tag}}}:{SUFFIX}")).collect(),
        };
        let last = Mutex::new(vec![None; keys.len()]);
        Markers { script: StoreScript::new(PROBE_SCRIPT), keys, last, has_failed: AtomicBool::new(false) }
    }

    /// Notes that a command has failed on one node: this counts as a change as soon as all nodes work.
    pub(super) fn note_failure(&self) {
        self.has_failed.store(true, Ordering::Relaxed);
    }

    /// Reads all markers. Calls `replied` with each reply.
    ///
    /// # Errors
    /// Returns an error if none could be read.
    pub(super) async fn probe(&self, connection: &Connection, replied: &(dyn Fn() + Sync)) -> Result<Probe, Error> {
        let reads = self.keys.iter().map(|key| async {
            let mut connection = connection.clone();
            let sent = clock::unix();
            let fresh = format!("{:016x}", rand::random::<u64>());
            let (marker, seconds, micros): (String, u64, u64) =
                self.script.run(&mut connection, key, (fresh, TTL)).await?;
            replied();
            let time = Duration::from_secs(seconds).saturating_add(Duration::from_micros(micros));
            Ok((marker, (sent, time, clock::unix())))
        });
        let read: Vec<Result<_, Error>> = join_all(reads).await;
        let clock = read.first().and_then(|first| first.as_ref().ok()).map(|(_, clock)| *clock);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut has_changed, mut has_read, mut failure) = (false, false, None);
        for (last, read) in last.iter_mut().zip(read) {
            match read {
                Ok((marker, _)) => {
                    has_read = true;
                    has_changed |= last.as_ref() != Some(&marker);
                    *last = Some(marker);
                }
                Err(error) => (*last, failure) = (None, Some(error)),
            }
        }
        match failure {
            Some(error) if !has_read => Err(error),
            Some(_) => Ok(Probe { has_changed, clock }),
            None => Ok(Probe { has_changed: has_changed | self.has_failed.swap(false, Ordering::Relaxed), clock }),
        }
    }
}

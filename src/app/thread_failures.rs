//! Owns: what the process says of worker threads that fail or do not run.
//! Invariant: each is reported once; a process that was stopped as a whole counts as one whose threads run.
//! Must not know: why a thread fails, or what becomes of its connections.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::publish::Heartbeats;
use crate::admin::Phase;
use crate::events::{Event, Events, ProcessPhase};

/// The time between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Who learns of failures.
#[derive(Clone)]
pub(super) struct ThreadFailures {
    heartbeats: Heartbeats,
    phase: Arc<watch::Sender<Phase>>,
    events: Events,
}

impl ThreadFailures {
    pub(super) fn new(heartbeats: &Heartbeats, phase: &Arc<watch::Sender<Phase>>, events: &Events) -> ThreadFailures {
        ThreadFailures { heartbeats: heartbeats.clone(), phase: Arc::clone(phase), events: events.clone() }
    }

    /// Records that the thread with this number has failed. Returns whether it was the last one.
    pub(super) fn record(&self, thread: usize) -> bool {
        let is_last = self.heartbeats.end(thread);
        if self.phase.send_if_modified(Phase::mark_broken) {
            self.events.publish(Event::Process { phase: ProcessPhase::Broken });
        }
        is_last
    }

    /// Says so when a thread does not run, and when all run again; forever.
    pub(super) async fn watch(self) {
        let mut interval = interval(INTERVAL);
        // After a pause of the whole process the other threads need a moment, too.
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ran = true;
        loop {
            interval.tick().await;
            let runs = self.heartbeats.are_recent(Duration::ZERO);
            let is_stalled = !runs && !std::mem::replace(&mut ran, runs);
            if !self.phase.send_if_modified(|phase| phase.mark_stalled(is_stalled)) {
                continue;
            }
            if is_stalled {
                tracing::error!(
                    "a worker thread does not respond, and its clients wait; if it lasts, restart this process, or have another one take over"
                );
                self.events.publish(Event::Process { phase: ProcessPhase::Stalled });
            } else {
                tracing::warn!("all worker threads respond again");
                self.events.publish(Event::Process { phase: ProcessPhase::Ready });
            }
        }
    }
}

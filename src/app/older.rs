//! Owns: the connections of the newest process with older ones: what they tell each other, and how many may live.
//! Invariant: each older process is connected with the newest one, whatever became of those between them.
//! Must not know: how a takeover goes; how a process ends.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::outgoing::{self, Outgoing, write};
use super::synced::{self, Entries, Followers};
use crate::admin::Phase;
use crate::events::Events;
use crate::takeover::{Channel, FrameReceiver, Generation, MAX_OLDER, Message, Older, Stop, Superseded, too_many};

/// How long a process may take to receive one message.
const TELL_TIMEOUT: Duration = Duration::from_secs(1);
const QUEUE: usize = 64;

/// The older processes that this one is connected with. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct OlderProcesses(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    all: Vec<OlderProcess>,
    /// Another process has the listeners: what those hear that connect all the same.
    superseded: Option<Superseded>,
}

/// One of them.
#[derive(Debug)]
struct OlderProcess {
    generation: Generation,
    /// What is sent to it.
    out: mpsc::Sender<Outgoing>,
}

/// A process of them, until it is dropped.
pub(super) struct Connected {
    all: OlderProcesses,
    generation: Generation,
}

impl OlderProcesses {
    /// Adds a process, which gets what is sent to `out`. If that makes too many, the oldest are told to stop. Call it
    /// within a local set.
    pub(super) fn add(&self, generation: Generation, out: &mpsc::Sender<Outgoing>) -> Connected {
        let mut known = self.lock();
        if let Some(message) = known.superseded.clone() {
            let out = out.clone();
            tokio::task::spawn_local(async move { outgoing::send(&out, &message).await });
        }
        let all = &mut known.all;
        all.push(OlderProcess { generation, out: out.clone() });
        let generations: Vec<_> = all.iter().map(|older| older.generation).collect();
        for ends in too_many(&generations, MAX_OLDER) {
            tracing::warn!(
                pid = ends.pid,
                most = MAX_OLDER,
                "too many processes from before upgrades still have connections: the oldest one stops within its shutdown_grace"
            );
            let out = all.iter().find(|older| older.generation == ends).map(|older| older.out.clone());
            tokio::task::spawn_local(async move {
                if let Some(out) = out {
                    outgoing::send(&out, &Stop { is_too_many: true }).await;
                }
            });
        }
        Connected { all: self.clone(), generation }
    }

    /// Tells all of them that another process has the listeners, and where it waits for them.
    pub(super) async fn supersede(&self, path: Option<String>) {
        let message = Superseded { path };
        let all: Vec<_> = {
            let mut known = self.lock();
            known.superseded = Some(message.clone());
            known.all.iter().map(|older| older.out.clone()).collect()
        };
        for out in all {
            // One that hangs keeps nobody waiting.
            let _ = timeout(TELL_TIMEOUT, outgoing::send(&out, &message)).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nothing under the lock can panic after a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.all.lock().all.retain(|older| older.generation != self.generation);
    }
}

/// What the newest process needs for its connection with an older one.
#[derive(Clone)]
pub(super) struct OlderLink {
    pub(super) entries: Entries,
    pub(super) events: Events,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) older: OlderProcesses,
}

impl OlderLink {
    /// Keeps the sessions of both processes the same, until the older one has ended. Call it within a local set.
    pub(super) async fn serve(self, channel: Channel, older: Older) {
        let (out, queue) = mpsc::channel(QUEUE);
        let Channel { receiver, sender } = channel;
        tracing::info!(pid = older.pid, "an older process that still has connections is connected with this one");
        tokio::select! {
            never = write(sender, queue) => match never {},
            () = self.follow(receiver, out, older) => {}
        }
    }

    async fn follow(mut self, mut receiver: FrameReceiver, out: mpsc::Sender<Outgoing>, older: Older) {
        let _connected = self.older.add(Generation { started: older.started, pid: older.pid }, &out);
        let _following = Followers::begin_with_older(&self.entries, &self.events, &out);
        let mut is_stop_sent = false;
        loop {
            tokio::select! {
                frame = receiver.next() => match frame {
                    Ok(Some(frame)) => match Message::of(&frame) {
                        Ok(message) => synced::take_in(&self.entries, message, frame.bytes),
                        Err(error) => tracing::warn!(kind = frame.kind, %error, "ignoring a message of an older process"),
                    },
                    Ok(None) | Err(_) => return,
                },
                _ = self.phase.wait_for(|phase| matches!(phase, Phase::Stopping | Phase::Closing)), if !is_stop_sent => {
                    is_stop_sent = true;
                    outgoing::send(&out, &Stop::default()).await;
                }
            }
        }
    }
}

//! Owns: the connection of a process that was superseded with the newest one, once that is not its own successor.
//! Invariant: what changes here reaches the newest process for as long as both live.
//! Must not know: how many others there are; what ends this process.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::demands::LifeEvent;
use super::outgoing::{self, Outgoing, write};
use super::synced::{self, Entries, Followers};
use crate::takeover::{Channel, FrameReceiver, Message, Older, VERSION, millis};

/// How often it tries to connect, with a pause after each.
const ATTEMPTS: usize = 50;
const PAUSE: Duration = Duration::from_millis(100);
const QUEUE: usize = 64;

/// A process that was superseded.
pub(super) struct SupersededProcess {
    pub(super) entries: Entries,
    pub(super) life: mpsc::UnboundedSender<LifeEvent>,
    /// When it started, since the Unix epoch.
    pub(super) started: Duration,
}

/// Why a connection has ended.
enum End {
    /// The newest process has gone.
    Gone,
    /// It has gone, or had never accepted the connection: it was superseded itself in that moment.
    Unheard,
    /// Another one has the listeners now, and waits at this path.
    Superseded(Option<String>),
}

impl SupersededProcess {
    /// Tells the newest process, which waits at `path`, what changes here, and takes in what changes there.
    pub(super) async fn follow(self, mut path: PathBuf) {
        let mut unheard = 0;
        while let Some(channel) = connect(&path).await {
            let (out, queue) = mpsc::channel(QUEUE);
            let Channel { receiver, sender } = channel;
            let end = tokio::select! {
                never = write(sender, queue) => match never {},
                end = self.exchange(receiver, out) => end,
            };
            match end {
                End::Gone => return,
                End::Unheard if unheard == ATTEMPTS => return,
                End::Unheard => {
                    unheard += 1;
                    sleep(PAUSE).await;
                }
                End::Superseded(next) => {
                    unheard = 0;
                    path = next.map_or(path, PathBuf::from);
                }
            }
        }
    }

    async fn exchange(&self, mut receiver: FrameReceiver, out: mpsc::Sender<Outgoing>) -> End {
        let older = Older { version: VERSION, pid: std::process::id(), started: millis(self.started) };
        outgoing::send(&out, &older).await;
        let _following = Followers::begin(&self.entries, &out);
        let mut has_heard = false;
        loop {
            let Ok(Some(frame)) = receiver.next().await else {
                return if has_heard { End::Gone } else { End::Unheard };
            };
            has_heard = true;
            match Message::of(&frame) {
                Ok(Message::Superseded(superseded)) => return End::Superseded(superseded.path),
                Ok(Message::Stop(stop)) => drop(self.life.send(LifeEvent::of(&stop))),
                Ok(message) => synced::take_in(&self.entries, message, frame.bytes),
                Err(error) => tracing::warn!(kind = frame.kind, %error, "ignoring a message of the newest process"),
            }
        }
    }
}

async fn connect(path: &std::path::Path) -> Option<Channel> {
    for _ in 0..ATTEMPTS {
        match Channel::connect(path).await {
            Ok(channel) => return Some(channel),
            Err(error) => tracing::debug!(%error, path = %path.display(), "cannot connect with the newest process yet"),
        }
        sleep(PAUSE).await;
    }
    tracing::warn!(
        path = %path.display(),
        "the newest process can't be reached: sessions that change on the connections of this one are not known there; \
         keep `handover` in [server] as it is"
    );
    None
}

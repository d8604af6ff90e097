//! Owns: the old process's side of a takeover: it waits for a successor, and hands over what it asks for.
//! Invariant: until the successor accepts connections, nothing of this process changes; one successor at a time is served.
//! Must not know: what the state means; how connections are accepted.

use std::convert::Infallible;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::demands::{Demand, LifeEvent};
use super::synced::{self, Entries, Followers, Outgoing};
use crate::admin::Phase;
use crate::takeover::{
    Channel, Commit, Frame, FrameReceiver, FrameSender, Message, OldAction, OldEvent, OldState, Prepared, Refused,
    StateEnd, VERSION, is_same_user,
};

/// How long a successor may take to say what it wants.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it may take from there until it accepts connections. It receives all sessions and looks up its backends.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(120);
/// The frames that wait to be sent.
const QUEUE: usize = 64;

/// What the task needs.
pub(super) struct HandOver {
    pub(super) demands: mpsc::Sender<Demand>,
    pub(super) entries: Entries,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) life: mpsc::UnboundedSender<LifeEvent>,
}

/// How the attempt of a successor has ended.
enum Outcome {
    /// It has taken over, and is gone by now.
    TakenOver,
    /// It has not: this process goes on.
    GoesOn(String),
}

impl HandOver {
    /// Waits for successors, until one has taken over and ended.
    pub(super) async fn wait(mut self, listener: UnixListener) {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a successor; trying again in 100 ms");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            match is_same_user(&stream) {
                Ok(true) => {}
                Ok(false) => {
                    tracing::warn!(
                        "refused to hand over to a process of another user; start it as this process's user"
                    );
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, "refused to hand over: the other process's user is unknown");
                    continue;
                }
            }
            match self.serve(Channel::new(stream)).await {
                Outcome::TakenOver => return,
                Outcome::GoesOn(why) => tracing::warn!(why, "the takeover has failed; this process goes on as before"),
            }
        }
    }

    async fn serve(&mut self, mut channel: Channel) -> Outcome {
        let hello = match timeout(HELLO_TIMEOUT, channel.receiver.next()).await {
            Ok(Ok(Some(frame))) => Message::of(&frame),
            _ => return Outcome::GoesOn("the other process did not say what it wants".into()),
        };
        let Ok(Message::Hello(hello)) = hello else {
            return Outcome::GoesOn("the other process does not speak the messages of a takeover".into());
        };
        tracing::info!(pid = hello.pid, "a new process takes over");
        let (out, queue) = mpsc::channel(QUEUE);
        let Channel { receiver, sender } = channel;
        tokio::select! {
            never = write(sender, queue) => match never {},
            outcome = self.lead(receiver, out, hello.pid) => outcome,
        }
    }

    /// Sends everything and follows the successor's progress.
    async fn lead(&mut self, mut receiver: FrameReceiver, out: mpsc::Sender<Outgoing>, pid: u32) -> Outcome {
        let frames = match self.ask(Demand::Offer).await {
            Some(Ok(frames)) => frames,
            Some(Err(error)) => return Outcome::GoesOn(format!("cannot share the sockets: {error}")),
            None => return Outcome::GoesOn("this process ends".into()),
        };
        for frame in frames {
            let _ = out.send(Outgoing::Frame(frame)).await;
        }
        let following = Followers::begin(&self.entries, &out);
        let _ = out.send(Outgoing::Followers(following.count())).await;
        let (mut state, mut prepared) = (OldState::Offering, Prepared::default());
        let mut phase = self.phase.clone();
        let mut patience = std::pin::pin!(tokio::time::sleep(TAKEOVER_TIMEOUT));
        let mut why = String::from("the new process has ended before it was ready");
        loop {
            let event = tokio::select! {
                frame = receiver.next() => match frame {
                    Ok(Some(frame)) => match self.take_in(frame) {
                        Received::Event(event) => event,
                        Received::Prepared(all) => {
                            prepared = all;
                            OldEvent::Prepared
                        }
                        Received::Refused(reason) => {
                            why = reason;
                            OldEvent::Lost
                        }
                        Received::Stop => {
                            let _ = self.life.send(LifeEvent::Stop);
                            continue;
                        }
                        Received::Nothing => continue,
                    },
                    Ok(None) | Err(_) if state == OldState::Leaving => return Outcome::TakenOver,
                    Ok(None) => OldEvent::Lost,
                    Err(error) => {
                        why = format!("the connection to the new process broke: {error}");
                        OldEvent::Lost
                    }
                },
                () = &mut patience, if state != OldState::Leaving => {
                    why = "the new process was not ready in time".into();
                    OldEvent::Lost
                }
                _ = phase.wait_for(|phase| matches!(phase, Phase::Stopping | Phase::Closing)), if state == OldState::Offering => {
                    why = "this process stops".into();
                    OldEvent::Stopping
                }
            };
            match state.next(event) {
                OldAction::Nothing => {}
                OldAction::Commit => {
                    synced::send(&out, &Commit {}).await;
                }
                OldAction::Leave => {
                    let prepared = std::mem::take(&mut prepared);
                    if self.ask(|reply| Demand::Leave(prepared, reply)).await.is_some() {
                        let _ = self.life.send(LifeEvent::TakenOver(pid));
                    }
                }
                OldAction::Refuse | OldAction::Forget => {
                    drop(following);
                    synced::send(&out, &Refused { why: why.clone() }).await;
                    // A process that hangs must not keep this one from serving others.
                    let _ = timeout(HELLO_TIMEOUT, async {
                        let _ = out.send(Outgoing::Last).await;
                        out.closed().await;
                    })
                    .await;
                    return Outcome::GoesOn(why);
                }
            }
        }
    }

    fn take_in(&self, frame: Frame) -> Received {
        match Message::of(&frame) {
            Ok(Message::Prepared(prepared)) => Received::Prepared(prepared),
            Ok(Message::Accepting(_)) => Received::Event(OldEvent::Accepting),
            Ok(Message::Refused(refused)) => Received::Refused(refused.why),
            Ok(Message::Stop(_)) => Received::Stop,
            Ok(message) => {
                synced::take_in(&self.entries, message, frame.bytes);
                Received::Nothing
            }
            Err(error) => {
                tracing::warn!(kind = frame.kind, %error, version = VERSION, "ignoring a message of a takeover");
                Received::Nothing
            }
        }
    }

    async fn ask<T>(&self, demand: impl FnOnce(oneshot::Sender<T>) -> Demand) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.demands.send(demand(reply)).await.ok()?;
        answer.await.ok()
    }
}

enum Received {
    Nothing,
    Event(OldEvent),
    Prepared(Prepared),
    Refused(String),
    Stop,
}

/// Sends what is queued. Once the connection breaks it sends no more: the receiving half finds the end, too.
pub(super) async fn write(mut sender: FrameSender, mut queue: mpsc::Receiver<Outgoing>) -> Infallible {
    let (mut expected, mut complete) = (None, 0);
    while let Some(next) = queue.recv().await {
        let mut frames = Vec::new();
        match next {
            Outgoing::Frame(frame) => frames.push(frame),
            Outgoing::Followers(count) => expected = Some(count),
            Outgoing::Complete => complete += 1,
            Outgoing::Last => break,
        }
        if expected.take_if(|expected| *expected == complete).is_some() {
            frames.extend(synced::frame(&StateEnd {}));
        }
        for frame in frames {
            if let Err(error) = sender.send(&frame).await {
                tracing::debug!(%error, "the connection to the other process broke");
                drop(queue);
                return std::future::pending().await;
            }
        }
    }
    drop(queue);
    std::future::pending().await
}

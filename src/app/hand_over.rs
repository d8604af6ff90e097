//! Owns: the old process's side of a takeover: it waits for a successor, and hands over what it asks for.
//! Invariant: until the successor has proven itself, this process can go on as before; one successor at a time is served.
//! Must not know: what the state means; how connections are accepted.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use super::demands::{Demand, LifeEvent};
use super::older::OlderLink;
use super::outgoing::{self, Outgoing, write};
use super::settling::TRUST;
use super::superseded::SupersededProcess;
use super::synced::{self, Followers};
use crate::admin::Phase;
use crate::events::{Event, UpgradePhase};
use crate::takeover::{
    Channel, Commit, Frame, FrameReceiver, Message, OldAction, OldEvent, OldState, Prepared, Refused, Stop, VERSION,
    is_same_user,
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
    pub(super) life: mpsc::UnboundedSender<LifeEvent>,
    /// Notified if this process shall leave the sockets to its successor, whether that has proven itself or not.
    pub(super) settle: Arc<Notify>,
    /// Where it waits.
    pub(super) path: PathBuf,
    /// When this process started, since the Unix epoch.
    pub(super) started: Duration,
    /// For processes that were superseded.
    pub(super) link: OlderLink,
}

/// How the attempt of a successor has ended.
enum Outcome {
    /// It has taken over, and is gone by now.
    TakenOver,
    /// It has taken over, and a third process from it, which waits at this path.
    Superseded(Option<String>),
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
            let mut channel = Channel::new(stream);
            let outcome = match timeout(HELLO_TIMEOUT, channel.receiver.next()).await {
                Ok(Ok(Some(frame))) => match Message::of(&frame) {
                    Ok(Message::Hello(hello)) => self.serve(channel, hello.pid).await,
                    Ok(Message::Older(older)) => {
                        tokio::task::spawn_local(self.link.clone().serve(channel, older));
                        continue;
                    }
                    _ => Outcome::GoesOn("the other process does not speak the messages of a takeover".into()),
                },
                _ => Outcome::GoesOn("the other process did not say what it wants".into()),
            };
            match outcome {
                Outcome::TakenOver => return,
                Outcome::Superseded(next) => {
                    drop(listener);
                    let path = next.map_or(self.path, PathBuf::from);
                    let (entries, life, started) = (self.link.entries, self.life, self.started);
                    return SupersededProcess { entries, life, started }.follow(path).await;
                }
                Outcome::GoesOn(_) if self.stops() => tracing::info!("refused to hand over: this process stops"),
                Outcome::GoesOn(why) => tracing::warn!(why, "the takeover has failed; this process goes on as before"),
            }
        }
    }

    async fn serve(&mut self, channel: Channel, pid: u32) -> Outcome {
        tracing::info!(pid, "a new process takes over");
        self.publish(UpgradePhase::Begun, None);
        let (out, queue) = mpsc::channel(QUEUE);
        let Channel { receiver, sender } = channel;
        let outcome = tokio::select! {
            never = write(sender, queue) => match never {},
            outcome = self.lead(receiver, out, pid) => outcome,
        };
        if let Outcome::GoesOn(why) = &outcome {
            self.publish(UpgradePhase::RolledBack, Event::reason(why));
        }
        outcome
    }

    fn stops(&self) -> bool {
        matches!(*self.link.phase.borrow(), Phase::Stopping | Phase::Closing)
    }

    fn publish(&self, phase: UpgradePhase, reason: Option<String>) {
        self.link.events.publish(Event::Upgrade { phase, reason });
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
        let following = Followers::begin(&self.link.entries, &out);
        let _ = out.send(Outgoing::Followers(following.count())).await;
        let (mut state, mut prepared) = (OldState::Offering, Prepared::default());
        let mut phase = self.link.phase.clone();
        let (mut stop, mut next, mut superseded) = (Stop::default(), None, None);
        let mut trust = std::pin::pin!(tokio::time::sleep(TRUST));
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
                        Received::Settled(path) => {
                            next = path;
                            OldEvent::Settled
                        }
                        Received::Stop(how) => {
                            stop = how;
                            OldEvent::Ending
                        }
                        Received::Superseded(path) if state == OldState::Leaving => return Outcome::Superseded(path),
                        // It has settled before it handed over in turn.
                        Received::Superseded(path) if state == OldState::Paused => {
                            superseded = Some(path);
                            OldEvent::Settled
                        }
                        Received::Superseded(_) | Received::Nothing => continue,
                    },
                    Ok(None) | Err(_) if matches!(state, OldState::Leaving | OldState::Alone) => return Outcome::TakenOver,
                    Ok(None) => OldEvent::Lost,
                    Err(error) => {
                        why = format!("the connection to the new process broke: {error}");
                        OldEvent::Lost
                    }
                },
                () = &mut trust, if state == OldState::Paused => OldEvent::Settled,
                () = self.settle.notified(), if state == OldState::Paused => OldEvent::Settled,
                () = &mut patience, if matches!(state, OldState::Offering | OldState::Committed) => {
                    why = "the new process was not ready in time".into();
                    OldEvent::Lost
                }
                _ = phase.wait_for(|phase| matches!(phase, Phase::Stopping | Phase::Closing)), if state == OldState::Offering => {
                    why = "the process that hands over was asked to stop".into();
                    OldEvent::Stopping
                }
            };
            match state.next(event) {
                OldAction::Nothing => {}
                OldAction::Commit => {
                    outgoing::send(&out, &Commit {}).await;
                }
                OldAction::Pause => {
                    let prepared = std::mem::take(&mut prepared);
                    if self.ask(|reply| Demand::Pause(prepared, reply)).await.is_some() {
                        let _ = self.life.send(LifeEvent::TakenOver(pid));
                        self.publish(UpgradePhase::TakenOver, None);
                    }
                    why = "the new process has ended soon after it had taken over".into();
                    trust.set(tokio::time::sleep(TRUST));
                }
                OldAction::Leave => {
                    let next = next.take();
                    if self.ask(|reply| Demand::Leave(next, reply)).await.is_some() {
                        let _ = self.life.send(LifeEvent::Left);
                    }
                    if let Some(path) = superseded.take() {
                        return Outcome::Superseded(path);
                    }
                }
                OldAction::Resume => {
                    if self.ask(Demand::Resume).await.is_some() {
                        let _ = self.life.send(LifeEvent::Resumed);
                    }
                    return Outcome::GoesOn(why);
                }
                OldAction::Stop => drop(self.life.send(LifeEvent::of(&stop))),
                OldAction::Refuse | OldAction::Forget => {
                    drop(following);
                    outgoing::send(&out, &Refused { why: why.clone() }).await;
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
            Ok(Message::Settled(settled)) => Received::Settled(settled.handover),
            Ok(Message::Superseded(superseded)) => Received::Superseded(superseded.path),
            Ok(Message::Stop(stop)) => Received::Stop(stop),
            Ok(message) => {
                synced::take_in(&self.link.entries, message, frame.bytes);
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
    Settled(Option<String>),
    Stop(Stop),
    Superseded(Option<String>),
}

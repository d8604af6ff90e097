//! Owns: the new process's side of a takeover: what it receives, and when it accepts connections.
//! Invariant: it accepts none before the old process allows it, or has ended.
//! Must not know: how the state was gathered; how connections are accepted.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::demands::{Demand, LifeEvent};
use super::older::OlderLink;
use super::outgoing::{self, Outgoing, write};
use super::settling::Settling;
use super::superseded::SupersededProcess;
use super::synced::{self, Followers};
use crate::admin::Phase;
use crate::affinity::seal::SealingKey;
use crate::events::{Event, UpgradePhase};
use crate::net::Address;
use crate::pool::inherited::PoolState;
use crate::runtime::inherited::InheritedSockets;
use crate::takeover::{
    Accepting, Channel, Frame, FrameReceiver, Generation, Hello, Message, NewAction, NewEvent, NewState, Part,
    Prepared, Refused, Settled, Stop, VERSION, from_hex,
};

/// How long the old process may take from one message to the next.
const OFFER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long this process may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(90);
/// How long the old process may take to hear that it shall go on.
const GIVE_BACK_TIMEOUT: Duration = Duration::from_secs(2);
const QUEUE: usize = 64;

/// What a process begins with that it has not opened or found itself.
#[derive(Debug, Default)]
pub struct Inheritance {
    /// Listening sockets.
    pub sockets: Vec<InheritedSockets>,
    /// The process that hands over.
    pub predecessor: Option<Predecessor>,
}

/// A process that hands over, and what it has said so far.
#[derive(Debug)]
pub struct Predecessor {
    pub(super) channel: Channel,
    /// The secret of the key that it made, since its file had none.
    pub(super) random_key: Option<String>,
    /// The socket of the admin listener, with its address.
    pub(super) admin: Option<(String, OwnedFd)>,
    /// The socket at which it waits for its successor, with its path.
    pub(super) waiting: Option<(String, OwnedFd)>,
    pub(super) pools: Vec<PoolState>,
    pub(super) generation: Generation,
}

impl Predecessor {
    /// Returns the key that it made, since its file had none.
    pub(super) fn random_key(&self) -> Option<Arc<SealingKey>> {
        let secret = from_hex(self.random_key.as_deref()?)?;
        SealingKey::new(crate::config::RANDOM_KEY, &secret).map(Arc::new)
    }
}

/// Why nothing is taken over.
#[derive(Debug)]
pub enum TakeoverError {
    /// No process waits there.
    Nobody,
    /// The process refuses, for this reason.
    Refused(String),
    /// The connection to it failed.
    Io(io::Error),
}

impl std::fmt::Display for TakeoverError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TakeoverError::Nobody => f.write_str("no process waits there"),
            TakeoverError::Refused(why) => f.write_str(why),
            TakeoverError::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for TakeoverError {}

/// Asks the process that waits at `path` to hand over, and receives its sockets and what is needed to begin. If it ends
/// meanwhile, asks the one that waits there then.
///
/// # Errors
/// Nobody waits there, the process refuses, or the connection to it fails.
pub async fn ask(path: &Path) -> Result<Inheritance, TakeoverError> {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    match ask_once(path).await {
        Err(TakeoverError::Io(error)) if matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof) => {
            ask_once(path).await
        }
        ended => ended,
    }
}

async fn ask_once(path: &Path) -> Result<Inheritance, TakeoverError> {
    use io::ErrorKind::{ConnectionRefused, NotFound, TimedOut, UnexpectedEof};
    let mut channel = Channel::connect(path).await.map_err(|error| match error.kind() {
        ConnectionRefused | NotFound => TakeoverError::Nobody,
        _ => TakeoverError::Io(error),
    })?;
    let hello = Hello { version: VERSION, pid: std::process::id() };
    channel.sender.send(&hello.frame().map_err(TakeoverError::Io)?).await.map_err(TakeoverError::Io)?;
    let (mut offer, mut sockets, mut admin, mut waiting, mut pools) = (None, Vec::new(), None, None, Vec::new());
    loop {
        let next = timeout(OFFER_TIMEOUT, channel.receiver.next()).await;
        let frame = next.map_err(|_| io::Error::from(TimedOut)).flatten().map_err(TakeoverError::Io)?;
        let Some(Frame { kind, document, bytes, descriptors }) = frame else {
            return Err(TakeoverError::Io(UnexpectedEof.into()));
        };
        let mut descriptors = descriptors.into_iter();
        match Message::of(&Frame::new(kind, document, bytes)).map_err(TakeoverError::Io)? {
            Message::Offer(message) => offer = Some(message),
            Message::ListenerSockets(message) => add(&mut sockets, &message.address, message.is_shared, descriptors),
            Message::AdminSocket(message) => admin = descriptors.next().map(|socket| (message.address, socket)),
            Message::WaitingSocket(message) => waiting = descriptors.next().map(|socket| (message.path, socket)),
            Message::RuntimeState(message) => pools = message.pools,
            Message::Refused(refused) => return Err(TakeoverError::Refused(refused.why)),
            Message::SnapshotEnd(_) => break,
            _ => {}
        }
    }
    let offer = offer.unwrap_or_default();
    tracing::info!(pid = offer.pid, "taking over");
    let (random_key, generation) = (offer.random_key, Generation { started: offer.started, pid: offer.pid });
    let predecessor = Some(Predecessor { channel, random_key, admin, waiting, pools, generation });
    Ok(Inheritance { sockets, predecessor })
}

/// Adds sockets of a listener. The frames of one listener follow each other, and have as many as fit into each.
fn add(
    all: &mut Vec<InheritedSockets>,
    address: &str,
    is_shared: bool,
    descriptors: impl ExactSizeIterator<Item = OwnedFd>,
) {
    let Ok(address) = address.parse::<Address>() else { return };
    let sockets: Vec<_> = descriptors.collect();
    match all
        .last_mut()
        .filter(|last| last.address == address && last.sockets.len() % crate::takeover::MAX_DESCRIPTORS == 0)
    {
        Some(last) => last.sockets.extend(sockets),
        None => all.push(InheritedSockets { address, name: None, sockets, is_shared }),
    }
}

/// What the task needs.
pub(super) struct TakeOver {
    pub(super) channel: Channel,
    /// The sockets that this process uses.
    pub(super) prepared: Prepared,
    pub(super) demands: mpsc::Sender<Demand>,
    pub(super) link: OlderLink,
    pub(super) life: mpsc::UnboundedSender<LifeEvent>,
    pub(super) settling: Settling,
    /// The old process.
    pub(super) generation: Generation,
    /// Where this process waits for its successor.
    pub(super) handover: Option<PathBuf>,
    /// When this process started, since the Unix epoch.
    pub(super) started: Duration,
    /// Notified once this process accepts connections, or why it can't.
    pub(super) done: oneshot::Sender<Result<(), String>>,
}

impl TakeOver {
    /// Takes over, and then keeps the sessions of both processes the same until the old one has ended.
    pub(super) async fn run(self) {
        let TakeOver { channel, prepared, demands, link, life, settling, generation, handover, started, done } = self;
        let Ok(Channel { receiver, sender }) = channel.moved() else {
            let _ = done.send(Err("the event loop can't use the connection to the old process".into()));
            return;
        };
        let (out, queue) = mpsc::channel(QUEUE);
        let (entries, path, events) = (Arc::clone(&link.entries), handover.clone(), life.clone());
        let follow = Follow { prepared, demands, link, life, settling, generation, handover, out };
        let end = tokio::select! {
            never = write(sender, queue) => match never {},
            end = follow.run(receiver, done) => end,
        };
        // What it still serves concerns the process that goes on.
        if let (End::GivenBack, Some(path)) = (end, path) {
            SupersededProcess { entries, life: events, started }.follow(path).await;
        }
    }
}

/// How the time with the old process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// One of the two has ended, or is about to.
    Over,
    /// The old process goes on with everything.
    GivenBack,
}

struct Follow {
    prepared: Prepared,
    demands: mpsc::Sender<Demand>,
    link: OlderLink,
    life: mpsc::UnboundedSender<LifeEvent>,
    settling: Settling,
    generation: Generation,
    handover: Option<PathBuf>,
    out: mpsc::Sender<Outgoing>,
}

impl Follow {
    async fn run(mut self, mut receiver: FrameReceiver, done: oneshot::Sender<Result<(), String>>) -> End {
        let (mut state, mut done, mut connected) = (NewState::Receiving, Some(done), None);
        let mut has_all = false;
        let mut is_stop_sent = false;
        let mut patience = std::pin::pin!(sleep(READY_TIMEOUT));
        let mut why = String::from("the old process sent a message that does not fit");
        let (mut phase, mut broken) = (self.link.phase.clone(), self.link.phase.clone());
        loop {
            let is_waiting = state == NewState::Orphaned || (has_all && state == NewState::Receiving);
            let event = tokio::select! {
                frame = receiver.next(), if state != NewState::Orphaned => match frame {
                    Ok(Some(frame)) => match Message::of(&frame) {
                        Ok(Message::StateEnd(_)) => {
                            has_all = true;
                            continue;
                        }
                        Ok(Message::Commit(_)) => NewEvent::Committed,
                        Ok(Message::Refused(refused)) => {
                            why = refused.why;
                            NewEvent::Refused
                        }
                        Ok(Message::Stop(stop)) => {
                            let _ = self.life.send(LifeEvent::of(&stop));
                            continue;
                        }
                        Ok(Message::SessionCounts(counts)) => {
                            if state == NewState::Receiving {
                                synced::take_in_count(&self.link.entries, &counts);
                            }
                            continue;
                        }
                        Ok(message) => {
                            synced::take_in(&self.link.entries, message, frame.bytes);
                            continue;
                        }
                        Err(error) => {
                            tracing::warn!(kind = frame.kind, %error, "ignoring a message of a takeover");
                            continue;
                        }
                    },
                    Ok(None) | Err(_) if state.accepts() => {
                        tracing::info!("the old process has ended");
                        return End::Over;
                    }
                    // It lives on.
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                        why = format!("the old process sent something that this version can't read: {error}");
                        NewEvent::Refused
                    }
                    Ok(None) | Err(_) => {
                        tracing::warn!("the old process has ended before it had handed over; going on without it");
                        NewEvent::Lost
                    }
                },
                _ = phase.wait_for(|phase| *phase == Phase::Ready), if is_waiting => NewEvent::Built,
                _ = self.link.phase.wait_for(|phase| matches!(phase, Phase::Stopping | Phase::Closing)), if state.accepts() && !is_stop_sent => {
                    is_stop_sent = true;
                    outgoing::send(&self.out, &Stop::default()).await;
                    continue;
                }
                _ = broken.wait_for(|phase| *phase == Phase::Broken), if matches!(state, NewState::Accepting | NewState::Orphaned) => {
                    why = "a worker thread of the new process has failed".into();
                    NewEvent::Failed
                }
                () = self.settling.settled(), if state == NewState::Accepting => NewEvent::Proven,
                () = &mut patience, if matches!(state, NewState::Receiving | NewState::Orphaned) => {
                    why = "this process was not ready in time".into();
                    outgoing::send(&self.out, &Refused { why: why.clone() }).await;
                    NewEvent::Refused
                }
            };
            match state.next(event) {
                NewAction::Nothing => {}
                NewAction::Prepare => {
                    outgoing::send(&self.out, &self.prepared).await;
                }
                action @ (NewAction::Accept | NewAction::AcceptAlone) => {
                    // Nothing that a client does from now on is missed.
                    let following = Followers::begin_with_older(&self.link.entries, &self.link.events, &self.out);
                    let accepted = self.accept().await;
                    if let Err(why) = &accepted {
                        outgoing::send(&self.out, &Refused { why: why.clone() }).await;
                    } else if action == NewAction::Accept {
                        outgoing::send(&self.out, &Accepting {}).await;
                        connected = Some((following, self.link.older.add(self.generation, &self.out)));
                    }
                    if accepted.is_ok() {
                        self.link.events.publish(Event::Upgrade { phase: UpgradePhase::TakenOver, reason: None });
                    }
                    let is_over = accepted.is_err() || action == NewAction::AcceptAlone;
                    done.take().map(|done| done.send(accepted));
                    if is_over {
                        return End::Over;
                    }
                }
                NewAction::Settle => {
                    let handover = self.handover.as_ref().map(|path| path.display().to_string());
                    outgoing::send(&self.out, &Settled { handover }).await;
                }
                NewAction::GiveBack => {
                    tracing::error!(why, "giving everything back to the process before this one");
                    self.link
                        .events
                        .publish(Event::Upgrade { phase: UpgradePhase::RolledBack, reason: Event::reason(&why) });
                    drop(connected);
                    outgoing::send(&self.out, &Refused { why }).await;
                    let _ = self.out.send(Outgoing::Last).await;
                    self.ask(Demand::GiveBack).await;
                    let _ = self.life.send(LifeEvent::GivenBack);
                    let _ = timeout(GIVE_BACK_TIMEOUT, self.out.closed()).await;
                    return End::GivenBack;
                }
                NewAction::GiveUp => {
                    done.take().map(|done| done.send(Err(why)));
                    return End::Over;
                }
            }
            let _ = &connected;
        }
    }

    async fn accept(&self) -> Result<(), String> {
        self.ask(Demand::Accept).await.unwrap_or_else(|| Err("this process ends".into()))
    }

    async fn ask<T>(&self, demand: impl FnOnce(oneshot::Sender<T>) -> Demand) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.demands.send(demand(reply)).await.ok()?;
        answer.await.ok()
    }
}

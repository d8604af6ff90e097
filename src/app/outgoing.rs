//! Owns: what is to be sent to another process, and sending it.
//! Invariant: frames leave in the order in which they were queued; a connection that breaks keeps nobody waiting.
//! Must not know: what the frames mean, but for the end of the state that there was.

use std::convert::Infallible;

use tokio::sync::mpsc;

use crate::takeover::{Frame, FrameSender, Part, StateEnd};

/// What is to be sent.
pub(super) enum Outgoing {
    /// A message.
    Frame(Frame),
    /// So many followers begin.
    Followers(usize),
    /// One of them has sent all that there was when it began.
    Complete,
    /// Nothing follows.
    Last,
}

/// Returns the frame of a message.
pub(super) fn frame(part: &impl Part) -> Option<Frame> {
    part.frame().inspect_err(|error| tracing::error!(%error, "cannot write a message of a takeover")).ok()
}

/// Sends a message. Returns false if nobody receives it.
pub(super) async fn send(out: &mpsc::Sender<Outgoing>, part: &impl Part) -> bool {
    match frame(part) {
        Some(frame) => out.send(Outgoing::Frame(frame)).await.is_ok(),
        None => false,
    }
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
            frames.extend(frame(&StateEnd {}));
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

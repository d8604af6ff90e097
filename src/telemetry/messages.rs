//! Owns: the queue and the thread that write log messages to standard error.
//! Invariant: a thread that logs never waits; messages that don't fit into the queue are counted and reported.
//! Must not know: what a message says.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::sink::Sink;

/// Messages that may wait for standard error.
const QUEUE: usize = 1024;
/// How long the end of the process waits until the last messages are written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// The time between two tries to enter a full queue.
const RETRY_DELAY: Duration = Duration::from_millis(10);

enum Message {
    Line(Vec<u8>),
    /// Requests a notification once all earlier messages are written.
    Flush(SyncSender<()>),
}

/// The senders' side of the queue. Each write must be one complete message.
#[derive(Clone)]
pub(super) struct Messages {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

/// The queue of this process, once it is started.
static MESSAGES: OnceLock<Messages> = OnceLock::new();

impl Messages {
    /// Returns the queue of this process. The first call starts its thread.
    ///
    /// # Errors
    /// The thread cannot be started, or standard error is closed.
    pub(super) fn of_process() -> io::Result<Messages> {
        if let Some(messages) = MESSAGES.get() {
            return Ok(messages.clone());
        }
        let sink = Sink::stream(&io::stderr())?;
        let (messages, waiting) = Messages::new();
        let dropped = Arc::clone(&messages.dropped);
        std::thread::Builder::new().name("messages".into()).spawn(move || write(sink, &waiting, &dropped))?;
        Ok(MESSAGES.get_or_init(|| messages).clone())
    }

    fn new() -> (Messages, Receiver<Message>) {
        let (queue, waiting) = sync_channel(QUEUE);
        (Messages { queue, dropped: Arc::default() }, waiting)
    }

    fn flush(&self, within: Duration) {
        let (done, is_done) = sync_channel(1);
        let mut message = Message::Flush(done);
        for _ in 0..within.as_millis() / RETRY_DELAY.as_millis() {
            match self.queue.try_send(message) {
                Ok(()) => {
                    // An error means that the time is up, or that the thread has ended.
                    let _ = is_done.recv_timeout(within);
                    return;
                }
                Err(TrySendError::Full(back)) => message = back,
                Err(TrySendError::Disconnected(_)) => return,
            }
            std::thread::sleep(RETRY_DELAY);
        }
    }
}

/// Waits until all messages are written, for a second at most: a full pipe that nobody reads must not keep the process
/// from ending.
pub fn flush() {
    if let Some(messages) = MESSAGES.get() {
        messages.flush(FLUSH_TIMEOUT);
    }
}

impl Write for Messages {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Message::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes messages until all senders are dropped.
fn write(mut sink: Sink, waiting: &Receiver<Message>, dropped: &AtomicU64) {
    let mut reported = 0;
    while let Ok(message) = waiting.recv() {
        match message {
            Message::Line(line) => {
                if sink.write(&line).is_err() {
                    dropped.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
            }
            Message::Flush(done) => drop(done.try_send(())),
        }
        let lost = dropped.load(Ordering::Relaxed);
        if lost > reported {
            tracing::error!(
                messages = lost - reported,
                "messages were lost: standard error did not accept them; check what reads it"
            );
            reported = lost;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_thread_waits_for_a_reader_and_lost_messages_are_counted() {
        let (mut messages, waiting) = Messages::new();
        for _ in 0..QUEUE + 7 {
            messages.write_all(b"line\n").unwrap();
        }
        assert_eq!((waiting.try_iter().count(), messages.dropped.load(Ordering::Relaxed)), (QUEUE, 7));
    }

    #[test]
    fn the_flush_waits_for_queued_messages_and_not_for_a_reader_that_never_reads() {
        let (messages, waiting) = Messages::new();
        let waits = std::thread::spawn({
            let messages = messages.clone();
            move || messages.flush(Duration::from_secs(20))
        });
        let Message::Flush(done) = waiting.recv().unwrap() else { panic!("nothing was said") };
        done.send(()).unwrap();
        waits.join().unwrap();
        messages.flush(Duration::from_millis(30));
    }
}

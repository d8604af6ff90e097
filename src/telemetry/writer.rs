//! Owns: the thread that writes the access log, and when it reopens its file.
//! Invariant: its queue is bounded; if it is full, senders drop whole buffers and count their lines.
//! Must not know: the content of a line.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::access::AccessLogHandle;
use super::access_layout::AccessLayout;
use super::log_queue::{Buffer, LogQueue};
use super::loss_report::LossReporter;
use super::settings::AccessTarget;
use super::sink::Sink;
use crate::files;

/// The most buffers, of about 64 KiB each, that may wait for the writer.
const QUEUE: usize = 128;
/// How long the end of the process waits until the last lines are written.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The time between two checks whether the path still names the open file.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The access log of the process: writes the lines of all threads.
pub struct AccessLog {
    shared: Option<Arc<LogQueue>>,
    layout: Arc<AccessLayout>,
    losses: Losses,
    reopen: Reopen,
    /// Disconnected once the writer has ended.
    ended: Option<Receiver<()>>,
}

/// What was lost so far: a log that replaces another one goes on counting.
#[derive(Debug, Clone, Default)]
struct Losses {
    /// Lines.
    dropped: Arc<AtomicU64>,
    /// Why the last lost lines could not be written.
    reason: Arc<Mutex<Option<String>>>,
}

/// Makes the [`AccessLog`] of the process reopen its file, whichever log that is by then.
#[derive(Clone, Default)]
pub struct Reopen(Arc<Mutex<Weak<LogQueue>>>);

impl Reopen {
    /// Requests that the writer reopens its file: at once, or after the write that is under way. Returns whether the
    /// log is a file.
    pub fn reopen(&self) -> bool {
        let shared = self.lock().upgrade().filter(|shared| shared.is_file);
        if let Some(shared) = &shared {
            shared.reopen.store(true, Ordering::Release);
            // If the queue is full, the writer checks the flag anyway, after its current buffer.
            let _ = shared.queue.try_send(Buffer::default());
        }
        shared.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Weak<LogQueue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why the access log cannot be opened.
#[derive(Debug)]
pub struct OpenError {
    path: PathBuf,
    error: files::Error,
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let OpenError { path, error } = self;
        write!(
            f,
            "the access log {} can't be opened: {error}; check [log] access and the folder's owner",
            path.display()
        )
    }
}

impl std::error::Error for OpenError {}

impl OpenError {
    fn new(path: impl Into<PathBuf>, error: impl Into<files::Error>) -> OpenError {
        OpenError { path: path.into(), error: error.into() }
    }
}

impl AccessLog {
    /// Opens the log and starts its writer.
    ///
    /// # Errors
    /// The file can't be opened for appending, or the thread can't be started.
    pub fn open(access: &AccessTarget, layout: &AccessLayout) -> Result<AccessLog, OpenError> {
        let log = AccessLog::start(access, layout, Losses::default(), Reopen::default())?;
        log.take_over();
        Ok(log)
    }

    /// Opens the log that is to replace this one, and starts its writer. Both write until the threads have switched.
    ///
    /// # Errors
    /// Those of [`AccessLog::open`].
    pub fn open_next(&self, access: &AccessTarget, layout: &AccessLayout) -> Result<AccessLog, OpenError> {
        AccessLog::start(access, layout, self.losses.clone(), self.reopen.clone())
    }

    /// Becomes the log that [`Reopen`] means.
    pub fn take_over(&self) {
        *self.reopen.lock() = self.shared.as_ref().map(Arc::downgrade).unwrap_or_default();
    }

    fn start(
        access: &AccessTarget,
        layout: &AccessLayout,
        losses: Losses,
        reopen: Reopen,
    ) -> Result<AccessLog, OpenError> {
        let layout = Arc::new(layout.clone());
        let sink = match access {
            AccessTarget::Off => return Ok(AccessLog { shared: None, layout, losses, reopen, ended: None }),
            AccessTarget::Stdout => {
                Sink::stream(&io::stdout()).map_err(|error| OpenError::new("standard output", error))
            }
            AccessTarget::File(path) => Sink::open(path).map_err(|error| OpenError::new(path, error)),
        }?;
        let (queue, buffers) = sync_channel(QUEUE);
        let is_file = matches!(access, AccessTarget::File(_));
        let shared = LogQueue { queue, dropped: Arc::clone(&losses.dropped), reopen: Arc::default(), is_file };
        let (end, ended) = channel::<()>();
        let mut writer =
            Writer { sink, checked: Instant::now(), reopen: Arc::clone(&shared.reopen), losses: losses.clone() };
        let work = move || {
            let _end = end;
            writer.write(&buffers);
        };
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(work)
            .map_err(|error| OpenError::new("access-log thread", error))?;
        Ok(AccessLog { shared: Some(Arc::new(shared)), layout, losses, reopen, ended: Some(ended) })
    }

    /// Returns the handle that makes the logs of threads.
    pub fn handle(&self) -> AccessLogHandle {
        AccessLogHandle { shared: self.shared.clone(), layout: Arc::clone(&self.layout) }
    }

    /// Returns the handle that makes the writer reopen its file.
    pub fn reopen(&self) -> Reopen {
        self.reopen.clone()
    }

    /// Returns the reporter of lost lines.
    pub fn loss_reporter(&self) -> LossReporter {
        LossReporter::new(Arc::clone(&self.losses.dropped), Arc::clone(&self.losses.reason))
    }

    /// Returns the counter of lost lines.
    pub fn dropped(&self) -> &Arc<AtomicU64> {
        &self.losses.dropped
    }

    /// Writes what is queued and ends the writer, once the log of every thread is dropped. It waits a second at most: a
    /// pipe that nobody reads must not keep the process from its end.
    pub fn close(mut self) {
        self.shared = None;
        if let Some(ended) = self.ended.take() {
            // The writer ends when the last sender is dropped. A panic in it has been logged.
            let _ = ended.recv_timeout(CLOSE_TIMEOUT);
        }
    }
}

struct Writer {
    sink: Sink,
    checked: Instant,
    reopen: Arc<AtomicBool>,
    losses: Losses,
}

impl Writer {
    /// Writes until all senders are dropped.
    fn write(&mut self, buffers: &Receiver<Buffer>) {
        loop {
            match buffers.recv_timeout(CHECK_INTERVAL) {
                Ok(buffer) => {
                    self.check_file();
                    if let Err(lost) = self.sink.write(&buffer.bytes) {
                        *self.losses.reason.lock().unwrap_or_else(PoisonError::into_inner) =
                            Some(lost.error.to_string());
                        self.losses.dropped.fetch_add(lost.lines, Ordering::Relaxed);
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.check_file(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Reopens the file if log rotation has moved it away. That is checked every second, and at once after a signal.
    fn check_file(&mut self) {
        if self.reopen.swap(false, Ordering::Acquire) {
            self.sink.reopen();
        } else if self.checked.elapsed() >= CHECK_INTERVAL {
            self.sink.reopen_if_moved();
        } else {
            return;
        }
        self.checked = Instant::now();
    }
}

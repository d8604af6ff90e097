//! Owns: the thread that writes the access log, and when it reopens its file.
//! Invariant: its queue is bounded; if it is full, senders drop whole buffers and count their lines.
//! Must not know: the content of a line.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::access::ThreadLog;
use super::log_queue::{Buffer, LogQueue};
use super::loss_report::LossReporter;
use super::settings::{AccessTarget, LogFormat};
use super::sink::Sink;
use crate::files;

/// The most buffers, of about 64 KiB each, that may wait for the writer.
const QUEUE: usize = 128;
/// How long the end of the process waits until the last lines are written.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The time between two checks whether the path still names the open file.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The access log of the process: makes a [`ThreadLog`] for each thread, and writes the lines of all.
pub struct AccessLog {
    shared: Option<Arc<LogQueue>>,
    format: LogFormat,
    dropped: Arc<AtomicU64>,
    /// Why the last lost lines could not be written.
    reason: Arc<Mutex<Option<String>>>,
    /// Disconnected once the writer has ended.
    ended: Option<Receiver<()>>,
}

/// Makes the [`ThreadLog`]s of an [`AccessLog`]. The writer runs for as long as there is a handle.
#[derive(Clone)]
pub struct AccessLogHandle {
    shared: Option<Arc<LogQueue>>,
    format: LogFormat,
}

impl AccessLogHandle {
    /// Makes the log of one thread.
    pub fn thread_log(&self) -> ThreadLog {
        self.shared.as_ref().map_or_else(ThreadLog::off, |shared| ThreadLog::new(Arc::clone(shared), self.format))
    }
}

/// Makes an [`AccessLog`] reopen its file, for as long as the log exists.
#[derive(Clone)]
pub struct Reopen(Weak<LogQueue>);

impl Reopen {
    /// Requests that the writer reopens its file: at once, or after the write that is under way. Returns whether the
    /// log is a file.
    pub fn reopen(&self) -> bool {
        let shared = self.0.upgrade().filter(|shared| shared.is_file);
        if let Some(shared) = &shared {
            shared.reopen.store(true, Ordering::Release);
            // If the queue is full, the writer checks the flag anyway, after its current buffer.
            let _ = shared.queue.try_send(Buffer::default());
        }
        shared.is_some()
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
    pub fn open(access: &AccessTarget, format: LogFormat) -> Result<AccessLog, OpenError> {
        let (dropped, reason) = (Arc::new(AtomicU64::new(0)), Arc::default());
        let sink = match access {
            AccessTarget::Off => return Ok(AccessLog { shared: None, format, dropped, reason, ended: None }),
            AccessTarget::Stdout => {
                Sink::stream(&io::stdout()).map_err(|error| OpenError::new("standard output", error))
            }
            AccessTarget::File(path) => Sink::open(path).map_err(|error| OpenError::new(path, error)),
        }?;
        let (queue, buffers) = sync_channel(QUEUE);
        let is_file = matches!(access, AccessTarget::File(_));
        let shared = LogQueue { queue, dropped: Arc::clone(&dropped), reopen: Arc::default(), is_file };
        let (end, ended) = channel::<()>();
        let mut writer = Writer {
            sink,
            checked: Instant::now(),
            reopen: Arc::clone(&shared.reopen),
            dropped: Arc::clone(&dropped),
            reason: Arc::clone(&reason),
        };
        let work = move || {
            let _end = end;
            writer.write(&buffers);
        };
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(work)
            .map_err(|error| OpenError::new("access-log thread", error))?;
        Ok(AccessLog { shared: Some(Arc::new(shared)), format, dropped, reason, ended: Some(ended) })
    }

    /// Returns the handle that makes the logs of threads.
    pub fn handle(&self) -> AccessLogHandle {
        AccessLogHandle { shared: self.shared.clone(), format: self.format }
    }

    /// Returns the handle that makes the writer reopen its file.
    pub fn reopen(&self) -> Reopen {
        Reopen(self.shared.as_ref().map(Arc::downgrade).unwrap_or_default())
    }

    /// Returns the reporter of lost lines.
    pub fn loss_reporter(&self) -> LossReporter {
        LossReporter::new(Arc::clone(&self.dropped), Arc::clone(&self.reason))
    }

    /// Returns the counter of lost lines.
    pub fn dropped(&self) -> &Arc<AtomicU64> {
        &self.dropped
    }

    /// Writes what is queued and ends the writer, once every [`ThreadLog`] is dropped. It waits a second at most: a
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
    dropped: Arc<AtomicU64>,
    reason: Arc<Mutex<Option<String>>>,
}

impl Writer {
    /// Writes until all senders are dropped.
    fn write(&mut self, buffers: &Receiver<Buffer>) {
        loop {
            match buffers.recv_timeout(CHECK_INTERVAL) {
                Ok(buffer) => {
                    self.check_file();
                    if let Err(lost) = self.sink.write(&buffer.bytes) {
                        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(lost.error.to_string());
                        self.dropped.fetch_add(lost.lines, Ordering::Relaxed);
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

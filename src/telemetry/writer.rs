//! Owns: the thread that writes the access log, and when it opens its file anew.
//! Invariant: a bounded queue; a full one drops whole buffers and counts their lines.
//! Must not know: what a line says.

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

/// Buffers of some 64 KiB that may wait for the writer.
const QUEUE: usize = 128;
/// How long the end waits for the last lines to be taken.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the file is checked at: whether it is still the one that its name stands for.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The access log of the process: hands out one [`ThreadLog`] a thread, and writes them all.
pub struct AccessLog {
    shared: Option<Arc<LogQueue>>,
    format: LogFormat,
    dropped: Arc<AtomicU64>,
    /// Why lines could not be written last.
    reason: Arc<Mutex<Option<String>>>,
    /// Hung up on when the writer has ended.
    ended: Option<Receiver<()>>,
}

/// Makes the ends of an [`AccessLog`]. The log is written for as long as there is one.
#[derive(Clone)]
pub struct AccessLogHandle {
    shared: Option<Arc<LogQueue>>,
    format: LogFormat,
}

impl AccessLogHandle {
    /// One thread's end.
    pub fn thread_log(&self) -> ThreadLog {
        self.shared.as_ref().map_or_else(ThreadLog::off, |shared| ThreadLog::new(Arc::clone(shared), self.format))
    }
}

/// Has an [`AccessLog`] open its file anew, for as long as there is one.
#[derive(Clone)]
pub struct Reopen(Weak<LogQueue>);

impl Reopen {
    /// Opens it anew: at once, or as soon as what is being written has been taken. Whether there is a file.
    pub fn reopen(&self) -> bool {
        let shared = self.0.upgrade().filter(|shared| shared.is_file);
        if let Some(shared) = &shared {
            shared.reopen.store(true, Ordering::Release);
            // Where the queue is full, the writer comes by without being told.
            let _ = shared.queue.try_send(Buffer::default());
        }
        shared.is_some()
    }
}

/// The access log can't be opened.
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
    /// The file can't be opened for appending, or there is no thread to be had.
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

    /// What threads get their ends from.
    pub fn handle(&self) -> AccessLogHandle {
        AccessLogHandle { shared: self.shared.clone(), format: self.format }
    }

    /// What opens its file anew.
    pub fn reopen(&self) -> Reopen {
        Reopen(self.shared.as_ref().map(Arc::downgrade).unwrap_or_default())
    }

    /// What says when lines are lost.
    pub fn loss_reporter(&self) -> LossReporter {
        LossReporter::new(Arc::clone(&self.dropped), Arc::clone(&self.reason))
    }

    /// Counts the lines that were dropped.
    pub fn dropped(&self) -> &Arc<AtomicU64> {
        &self.dropped
    }

    /// Writes what is queued and ends the writer, once every [`ThreadLog`] is dropped. It waits a second at most: a
    /// pipe that nobody reads must not keep the process from its end.
    pub fn close(mut self) {
        self.shared = None;
        if let Some(ended) = self.ended.take() {
            // It ends by itself when the last sender is gone; a panic in it was its own report.
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
    /// Writes until nobody is left who could have a line.
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

    /// Log rotation moves the file away; no signal is needed to be told so, and one is heard at once.
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

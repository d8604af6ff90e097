//! Owns: the thread that writes the access log, and the file it writes to.
//! Invariant: a bounded queue; a full one drops whole buffers and counts their lines.
//! Must not know: what a line says.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use super::access::Lines;
use super::{Access, Format};

/// Buffers of some 64 KiB that may wait for the writer.
const QUEUE: usize = 128;
/// How long the end waits for the last lines to be taken.
const LAST: Duration = Duration::from_secs(1);
/// How often the file is looked at: whether it is still the one that its name stands for.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Buffer {
    pub(super) bytes: Vec<u8>,
    pub(super) lines: u64,
}

pub(super) struct Shared {
    pub(super) queue: SyncSender<Buffer>,
    pub(super) dropped: Arc<AtomicU64>,
}

/// The access log of the process: hands out one [`Lines`] a thread, and writes them all.
pub struct AccessLog {
    shared: Option<Arc<Shared>>,
    format: Format,
    dropped: Arc<AtomicU64>,
    /// Hung up on when the writer has ended.
    ended: Option<Receiver<()>>,
}

/// Makes the ends of an [`AccessLog`]. The log is written for as long as there is one.
#[derive(Clone)]
pub struct Handle {
    shared: Option<Arc<Shared>>,
    format: Format,
}

impl Handle {
    /// One thread's end.
    pub fn lines(&self) -> Lines {
        self.shared.as_ref().map_or_else(Lines::off, |shared| Lines::new(Arc::clone(shared), self.format))
    }
}

/// The access log can't be opened.
#[derive(Debug)]
pub struct OpenError {
    path: PathBuf,
    error: io::Error,
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

impl AccessLog {
    /// Opens the log and starts its writer.
    ///
    /// # Errors
    /// The file can't be opened for appending, or there is no thread to be had.
    pub fn open(access: &Access, format: Format) -> Result<AccessLog, OpenError> {
        let dropped = Arc::new(AtomicU64::new(0));
        let sink = match access {
            Access::Off => return Ok(AccessLog { shared: None, format, dropped, ended: None }),
            Access::Stdout => Sink::Stdout,
            Access::File(path) => {
                let file = open(path).map_err(|error| OpenError { path: path.clone(), error })?;
                Sink::File { path: path.clone(), file, looked: Instant::now() }
            }
        };
        let (queue, buffers) = sync_channel(QUEUE);
        let lost = Arc::clone(&dropped);
        let (end, ended) = channel::<()>();
        let work = move || {
            let _end = end;
            write(sink, &buffers, &lost);
        };
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(work)
            .map_err(|error| OpenError { path: "access-log thread".into(), error })?;
        let shared = Some(Arc::new(Shared { queue, dropped: Arc::clone(&dropped) }));
        Ok(AccessLog { shared, format, dropped, ended: Some(ended) })
    }

    /// What threads get their ends from.
    pub fn handle(&self) -> Handle {
        Handle { shared: self.shared.clone(), format: self.format }
    }

    /// Counts the lines that were dropped.
    pub fn dropped(&self) -> &Arc<AtomicU64> {
        &self.dropped
    }

    /// Writes what is queued and ends the writer, once every [`Lines`] is gone. Whoever doesn't take
    /// the last lines in time doesn't get them: a pipe that nobody reads keeps no process from its end.
    pub fn close(mut self) {
        self.shared = None;
        if let Some(ended) = self.ended.take() {
            // It ends by itself when the last sender is gone; a panic in it was its own report.
            let _ = ended.recv_timeout(LAST);
        }
    }
}

enum Sink {
    Stdout,
    File { path: PathBuf, file: File, looked: Instant },
}

fn write(mut sink: Sink, buffers: &Receiver<Buffer>, lost: &AtomicU64) {
    loop {
        match buffers.recv_timeout(LOOK) {
            Ok(buffer) => {
                sink.reopen_if_moved();
                if sink.write_all(&buffer.bytes).is_err() {
                    lost.fetch_add(buffer.lines, Ordering::Relaxed);
                }
            }
            Err(RecvTimeoutError::Timeout) => sink.reopen_if_moved(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Sink {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Sink::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes)?;
                stdout.flush()
            }
            Sink::File { file, .. } => file.write_all(bytes),
        }
    }

    /// Log rotation moves the file away; no signal is needed to be told so.
    fn reopen_if_moved(&mut self) {
        let Sink::File { path, file, looked } = self else { return };
        if looked.elapsed() < LOOK {
            return;
        }
        *looked = Instant::now();
        let id = |metadata: io::Result<std::fs::Metadata>| metadata.ok().map(|m| (m.dev(), m.ino()));
        if id(std::fs::metadata(&*path)) != id(file.metadata()) {
            match open(path) {
                Ok(new) => *file = new,
                Err(error) => tracing::warn!(path = %path.display(), %error, "access log moved and can't be reopened"),
            }
        }
    }
}

fn open(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

//! Owns: the file or standard stream that log lines are written to.
//! Invariant: a line is written whole or reported as lost; a part of a lost line never corrupts the next one.
//! Must not know: the content of a line.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::files;
use crate::files::watch::FileId;

/// The time between two writes to a full stream that doesn't block: another process that shares the stream may have set
/// `O_NONBLOCK`.
const RETRY_DELAY: Duration = Duration::from_millis(5);

/// An open log.
pub(super) struct Sink {
    file: File,
    /// Its path, if it is a file that log rotation can move away.
    path: Option<PathBuf>,
    /// Whether the file ends with a part of a line.
    ends_mid_line: bool,
    /// Whether the failure to open a new file was logged.
    has_reported: bool,
}

/// Lines that could not be written.
#[derive(Debug)]
pub(super) struct LostLines {
    pub(super) lines: u64,
    pub(super) error: io::Error,
}

impl Sink {
    /// Opens a standard stream, without the standard library's buffer: that would keep what it could not write.
    pub(super) fn stream(stream: &impl AsFd) -> io::Result<Sink> {
        Ok(Sink::new(stream.as_fd().try_clone_to_owned()?.into(), None))
    }

    /// Opens the file at `path` for appending.
    pub(super) fn open(path: &Path) -> Result<Sink, files::Error> {
        Ok(Sink::new(files::append(path)?, Some(path.to_owned())))
    }

    fn new(file: File, path: Option<PathBuf>) -> Sink {
        Sink { file, path, ends_mid_line: false, has_reported: false }
    }

    /// Writes `lines`, each of which ends with a line feed. Blocks until they are written or have failed.
    pub(super) fn write(&mut self, lines: &[u8]) -> Result<(), LostLines> {
        if self.ends_mid_line {
            match write_all(&mut self.file, b"\n") {
                Ok(()) => self.ends_mid_line = false,
                Err((_, error)) => return Err(LostLines { lines: count(lines), error }),
            }
        }
        let before = self.length();
        write_all(&mut self.file, lines).map_err(|(written, error)| {
            let (taken, _) = lines.split_at(written.min(lines.len()));
            let whole = taken.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
            self.ends_mid_line = whole < written && !self.cut_partial_line(before, written, whole);
            LostLines { lines: count(lines) - count(taken), error }
        })
    }

    /// Cuts the incomplete last line from the file, unless another process has appended to it. Returns whether it did.
    fn cut_partial_line(&self, before: Option<u64>, written: usize, whole: usize) -> bool {
        let Some(before) = before else { return false };
        let at = |bytes: usize| before + bytes as u64;
        self.length() == Some(at(written)) && self.file.set_len(at(whole)).is_ok()
    }

    /// Returns the length of a file; `None` for a stream.
    fn length(&self) -> Option<u64> {
        self.path.as_ref()?;
        self.file.metadata().ok().map(|metadata| metadata.len())
    }

    /// Continues in a new file if the old one was moved away.
    pub(super) fn reopen_if_moved(&mut self) {
        let Some(path) = &self.path else { return };
        let open = self.file.metadata().ok().map(|metadata| FileId::of(&metadata));
        if FileId::at(path) != open {
            self.reopen();
        }
    }

    /// Reopens the file by its path. If that fails, continues in the old one.
    pub(super) fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match files::append(path) {
            Ok(file) => (self.file, self.ends_mid_line, self.has_reported) = (file, false, false),
            Err(error) if !std::mem::replace(&mut self.has_reported, true) => {
                tracing::error!(
                    path = %path.display(),
                    %error,
                    "cannot reopen the access log; Linchpin still writes to the file that was moved away; check the folder's owner"
                );
            }
            Err(_) => {}
        }
    }
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// Works like [`Write::write_all`], but returns how many bytes were written before the error.
fn write_all(to: &mut impl Write, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match to.write(rest) {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(RETRY_DELAY),
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    /// Accepts so many bytes, reports now and then that it is busy, and fails after that.
    struct Narrow(usize, bool);

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let taken = bytes.len().min(self.0).min(3);
            self.0 -= taken;
            if taken == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_error_comes_with_the_number_of_bytes_written_before_it() {
        assert!(write_all(&mut Narrow(9, false), b"12345").is_ok());
        let (written, error) = write_all(&mut Narrow(4, false), b"12345").unwrap_err();
        assert_eq!((written, error.kind()), (4, io::ErrorKind::StorageFull));
    }

    #[test]
    fn an_incomplete_line_is_cut_off_unless_another_process_has_written_after_it() {
        let path = std::env::temp_dir().join(format!("linchpin-sink-{}", std::process::id()));
        let mut sink = Sink::open(&path).unwrap();
        sink.write(b"one\n").unwrap();
        let before = sink.length();
        write_all(&mut sink.file, b"two\nthr").unwrap();
        assert!(sink.cut_partial_line(before, 7, 4));
        write_all(&mut sink.file, b"fou").unwrap();
        write_all(&mut File::options().append(true).open(&path).unwrap(), b"other\n").unwrap();
        assert!(!sink.cut_partial_line(Some(8), 3, 0));
        // Otherwise the next line begins after it.
        sink.ends_mid_line = true;
        sink.write(b"five\n").unwrap();
        let mut text = String::new();
        let mut file = File::open(&path).unwrap();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one\ntwo\nfouother\n\nfive\n");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_full_device_loses_all_its_lines() {
        let mut sink = Sink::new(File::options().write(true).open("/dev/full").unwrap(), None);
        let lost = sink.write(b"one\ntwo\n").unwrap_err();
        assert_eq!((lost.lines, lost.error.kind()), (2, io::ErrorKind::StorageFull));
        assert!(!sink.ends_mid_line);
    }
}

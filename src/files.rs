//! Owns: opening the files that a configuration names: regular files only, read up to a limit.
//! Invariant: no path makes its reader wait for another process, or read without end.
//! Must not know: what the files contain.

pub mod watch;

use std::fmt;
use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Access, OFlags, access};

/// Why a file can't be used.
#[derive(Debug)]
pub enum Error {
    /// The operating system's error.
    Io(io::Error),
    /// It is not a regular file; this says what it is.
    NotRegular(&'static str),
    /// It has more bytes than this limit.
    TooLarge(u64),
    /// It is not UTF-8.
    NotText,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io(error) => error.fmt(f),
            Error::NotRegular(what) => write!(f, "it is {what}, not a regular file"),
            Error::TooLarge(most) => write!(f, "it has more than {most} bytes"),
            Error::NotText => f.write_str("it is not UTF-8 text"),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error::Io(error)
    }
}

/// Reads the file at `path`, of at most `most` bytes.
///
/// # Errors
/// If it can't be read, is not a regular file, or is longer.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>, Error> {
    read_with_metadata(path, most).map(|(bytes, _)| bytes)
}

/// Reads the text file at `path`, of at most `most` bytes.
///
/// # Errors
/// Those of [`read`], and if it is not UTF-8.
pub fn read_text(path: &Path, most: u64) -> Result<String, Error> {
    read_text_with_metadata(path, most).map(|(text, _)| text)
}

/// Reads a text file like [`read_text`], and the metadata of the same open file.
///
/// # Errors
/// Those of [`read_text`].
pub fn read_text_with_metadata(path: &Path, most: u64) -> Result<(String, Metadata), Error> {
    let (bytes, metadata) = read_with_metadata(path, most)?;
    Ok((String::from_utf8(bytes).map_err(|_| Error::NotText)?, metadata))
}

fn read_with_metadata(path: &Path, most: u64) -> Result<(Vec<u8>, Metadata), Error> {
    let (file, metadata) = open(path, OpenOptions::new().read(true))?;
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(Error::TooLarge(most)) } else { Ok((bytes, metadata)) }
}

/// Opens the file at `path` for appending, and creates it if there is none.
///
/// # Errors
/// If it can't be opened, or is not a regular file.
pub fn append(path: &Path) -> Result<File, Error> {
    open(path, OpenOptions::new().create(true).append(true)).map(|(file, _)| file)
}

/// Says what is at `path`, if that exists and is not a regular file.
pub fn irregular_type_at(path: &Path) -> Option<&'static str> {
    std::fs::metadata(path).ok().and_then(|metadata| irregular_type(metadata.file_type()))
}

/// Returns why this user cannot append to or create a file at `path`, as far as this is known without doing so.
pub fn cannot_append(path: &Path) -> Option<String> {
    match std::fs::metadata(path) {
        Ok(_) => access(path, Access::WRITE_OK).err().map(|error| format!("this user cannot write to it: {error}")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => cannot_make(path),
        Err(error) => Some(error.to_string()),
    }
}

/// Like [`cannot_append`], for a Unix socket to listen on. A socket that exists is fine: the listener replaces one that
/// nobody uses.
pub fn cannot_listen(path: &Path) -> Option<String> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => Some(
            "the path is in use by a file that is not a \
                                                                   socket"
                .into(),
        ),
        Ok(_) => cannot_make(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => cannot_make(path),
        Err(error) => Some(error.to_string()),
    }
}

/// Returns why this user cannot create files in a folder at `path`, which may be missing, as its own folders may be.
pub fn cannot_fill(path: &Path) -> Option<String> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match path.parent() {
            Some(above) if !above.as_os_str().is_empty() => cannot_fill(above),
            _ => cannot_make(path),
        },
        _ => cannot_make(&path.join("file")),
    }
}

/// Returns why this user cannot create a file in the folder of `path`.
fn cannot_make(path: &Path) -> Option<String> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let shown = folder.display();
    match std::fs::metadata(folder) {
        Ok(metadata) if !metadata.is_dir() => Some(format!("{shown} is not a folder")),
        Ok(_) => {
            let writable = access(folder, Access::WRITE_OK | Access::EXEC_OK);
            writable.err().map(|error| format!("this user cannot create files in {shown}: {error}"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(format!("the folder {shown} does not exist")),
        Err(error) => Some(format!("{shown}: {error}")),
    }
}

/// Quotes a path as one word of a shell command that an operator may copy.
pub fn shell_word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+=@%,:~".contains(c);
    match text.chars().all(is_plain) && !text.is_empty() && !text.starts_with(['-', '~']) {
        true => text.into_owned(),
        false if text.starts_with('-') => shell_word(&Path::new(".").join(path)),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// Opens a regular file. Checks its type before, since opening a device can have effects, and opening a socket or a
/// FIFO without a reader gives no useful error; and again afterwards, since it may be another file by then.
/// `O_NONBLOCK` keeps a FIFO from blocking the open, and changes nothing for a regular file.
fn open(path: &Path, options: &mut OpenOptions) -> Result<(File, Metadata), Error> {
    if let Some(what) = irregular_type_at(path) {
        return Err(Error::NotRegular(what));
    }
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = options.custom_flags(i32::try_from(flags.bits()).unwrap_or_default()).open(path)?;
    let metadata = file.metadata()?;
    match irregular_type(metadata.file_type()) {
        None => Ok((file, metadata)),
        Some(what) => Err(Error::NotRegular(what)),
    }
}

fn irregular_type(kind: FileType) -> Option<&'static str> {
    Some(match kind {
        _ if kind.is_file() => return None,
        _ if kind.is_dir() => "a folder",
        _ if kind.is_fifo() => "a FIFO or pipe",
        _ if kind.is_socket() => "a socket",
        _ if kind.is_char_device() || kind.is_block_device() => "a device",
        _ => "something else",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn whatever_is_not_a_regular_file_is_refused_at_once_and_named() {
        let folder = std::env::temp_dir().join(format!("linchpin-files-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (fifo, socket, link) = (folder.join("fifo"), folder.join("socket"), folder.join("link"));
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let _listener = UnixListener::bind(&socket).unwrap();
        std::os::unix::fs::symlink(&fifo, &link).unwrap();
        let table = [
            (fifo.as_path(), "a FIFO or pipe"),
            (&link, "a FIFO or pipe"),
            (&socket, "a socket"),
            (&folder, "a folder"),
            (Path::new("/dev/zero"), "a device"),
        ];
        for (path, what) in table {
            let message = format!("it is {what}, not a regular file");
            assert_eq!(read(path, 10).unwrap_err().to_string(), message);
            assert_eq!(append(path).unwrap_err().to_string(), message);
            assert_eq!(irregular_type_at(path), Some(what));
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_can_be_made_where_is_known_beforehand_and_nothing_is_made() {
        let folder = std::env::temp_dir().join(format!("linchpin-files-made-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (file, socket) = (folder.join("file"), folder.join("socket"));
        std::fs::write(&file, "").unwrap();
        let _listener = UnixListener::bind(&socket).unwrap();
        for (path, log, listen) in [
            (folder.join("new"), None, None),
            (file.clone(), None, Some("the path is in use by a file that is not a socket".into())),
            (
                folder.join("gone/new"),
                Some(format!("the folder {}/gone does not exist", folder.display())),
                Some(format!("the folder {}/gone does not exist", folder.display())),
            ),
        ] {
            assert_eq!((cannot_append(&path), cannot_listen(&path)), (log, listen), "{path:?}");
        }
        assert_eq!(cannot_listen(&socket), None);
        assert!(cannot_append(&file.join("below")).is_some() && cannot_listen(&file.join("below")).is_some());
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_path_is_one_word_of_a_command() {
        for (path, word) in [
            ("/etc/linchpin/a_1.key", "/etc/linchpin/a_1.key"),
            ("my key", "'my key'"),
            ("it's", r"'it'\''s'"),
            ("$(reboot)", "'$(reboot)'"),
            ("-rf", "./-rf"),
            ("~/key", "'~/key'"),
            ("", "''"),
        ] {
            assert_eq!(shell_word(Path::new(path)), word);
        }
    }

    #[test]
    fn a_file_is_read_up_to_the_limit_and_as_text_only_if_it_is_utf_8() {
        let path = std::env::temp_dir().join(format!("linchpin-files-{}.txt", std::process::id()));
        std::fs::write(&path, "0123456789").unwrap();
        assert_eq!(read_text(&path, 10).unwrap(), "0123456789");
        assert_eq!(read_text(&path, 9).unwrap_err().to_string(), "it has more than 9 bytes");
        std::fs::write(&path, b"\xff").unwrap();
        assert_eq!(read_text(&path, 9).unwrap_err().to_string(), "it is not UTF-8 text");
        assert_eq!(irregular_type_at(&path), None);
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(read(&path, 9), Err(Error::Io(error)) if error.kind() == io::ErrorKind::NotFound));
    }
}

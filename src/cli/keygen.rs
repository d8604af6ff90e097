//! Owns: `linchpin keygen`.
//! Invariant: what it writes is what a key file of `[[keys]]` holds, for its owner's eyes alone; no file is overwritten.
//! Must not know: where the configuration names the key.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::affinity::seal::random_secret;

/// The command line of `linchpin keygen`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Make this file, with mode 0600. One that exists is never overwritten. Without it, the key is printed.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Makes a new key.
///
/// # Errors
/// If the system has no randomness to give, or the key can't be written where it should go.
pub fn run(args: &Args) -> Result<(), String> {
    let secret = random_secret().ok_or("the system has no randomness to make a key of: try again later")?;
    let line = format!("{}\n", STANDARD.encode(secret));
    match &args.output {
        Some(path) => write(path, &line).map_err(|error| creation_error(path, &error)),
        None => io::stdout().write_all(line.as_bytes()).map_err(|error| format!("cannot print the key: {error}")),
    }
}

/// Makes the file, or leaves nothing behind.
fn write(path: &Path, line: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    // On the disk before anything is sealed with it.
    file.write_all(line.as_bytes()).and_then(|()| file.sync_all()).inspect_err(|_| {
        // What can't be removed either is found out by `linchpin check`.
        let _ = std::fs::remove_file(path);
    })
}

/// Why the file was not made, and what to do.
fn creation_error(path: &Path, error: &io::Error) -> String {
    let shown = path.display();
    let is_there = |path: &Path| path.as_os_str().is_empty() || path.is_dir();
    match error.kind() {
        io::ErrorKind::AlreadyExists => format!(
            "{shown} is there already, and stays as it is: if it is a key, clients' pins are sealed with it; name \
             another file"
        ),
        io::ErrorKind::NotFound if !path.parent().is_none_or(is_there) => {
            let folder = path.parent().unwrap_or(path).display();
            format!("cannot make {shown}: there is no folder {folder}; make it first")
        }
        io::ErrorKind::PermissionDenied => {
            format!("cannot make {shown}: {error}; name a folder that this user may write to, or run as another one")
        }
        _ => format!("cannot make {shown}: {error}; name another file"),
    }
}

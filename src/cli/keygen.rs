//! Owns: `linchpin keygen`.
//! Invariant: it writes a key file for `[[keys]]` that only its owner can read, and never overwrites a file.
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
    /// Create this file, with mode 0600; a file that exists is never overwritten. Without it, the key is printed.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Generates a new key.
///
/// # Errors
/// If the system returns no random bytes, or the key can't be written.
pub fn run(args: &Args) -> Result<(), String> {
    let secret = random_secret().ok_or("the system returned no random bytes for a key; try again later")?;
    let line = format!("{}\n", STANDARD.encode(secret));
    match &args.output {
        Some(path) => write(path, &line).map_err(|error| creation_error(path, &error)),
        None => io::stdout().write_all(line.as_bytes()).map_err(|error| format!("cannot print the key: {error}")),
    }
}

/// Creates the file, and removes it again if writing fails.
fn write(path: &Path, line: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    // The key must be on the disk before it seals anything.
    file.write_all(line.as_bytes()).and_then(|()| file.sync_all()).inspect_err(|_| {
        // If the removal fails, too, `linchpin check` reports the incomplete key.
        let _ = std::fs::remove_file(path);
    })
}

/// Returns why the file was not created, and what to do.
fn creation_error(path: &Path, error: &io::Error) -> String {
    let shown = path.display();
    let is_there = |path: &Path| path.as_os_str().is_empty() || path.is_dir();
    match error.kind() {
        io::ErrorKind::AlreadyExists => format!(
            "{shown} already exists and was not changed: if it holds a key, clients' pins are sealed with it; name \
             another file"
        ),
        io::ErrorKind::NotFound if !path.parent().is_none_or(is_there) => {
            let folder = path.parent().unwrap_or(path).display();
            format!("cannot create {shown}: the folder {folder} does not exist; create it first")
        }
        io::ErrorKind::PermissionDenied => {
            format!("cannot create {shown}: {error}; name a folder that this user can write to, or run as another user")
        }
        _ => format!("cannot create {shown}: {error}; name another file"),
    }
}

//! Owns: `linchpin keygen`.
//! Invariant: what it prints is what a key file of `[[keys]]` holds.
//! Must not know: where the key goes.

use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::affinity::seal::random_secret;

/// Prints a new key.
///
/// # Errors
/// If the system has no randomness to give, or standard output is closed.
pub fn run() -> io::Result<()> {
    let secret = random_secret().ok_or_else(|| io::Error::other("the system has no randomness to make a key of"))?;
    writeln!(io::stdout(), "{}", STANDARD.encode(secret))
}

//! Owns: what can be said of files before anything is made of them.
//! Invariant: what passes here can be opened; nothing of a key is told.
//! Must not know: where the configuration names them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustls::SignatureAlgorithm;

use super::certificate::{Certificate, is_in_order};
use super::pem::{self, CertificateFiles, Error};

/// What a pair of files holds.
#[derive(Debug, Clone)]
pub struct Inspected {
    /// The certificate.
    pub certificate: Certificate,
    /// Whether each of those behind it is the one that signed the one before.
    pub is_in_order: bool,
    /// What kind of key it is.
    pub algorithm: SignatureAlgorithm,
}

/// What a pair of files holds.
///
/// # Errors
/// If it can't be used.
pub fn pair(pair: &CertificateFiles) -> Result<Inspected, Error> {
    let (certificate, key) = pem::pair(pair)?;
    Ok(Inspected { certificate, is_in_order: is_in_order(&key.cert), algorithm: key.key.algorithm() })
}

/// Whether there are authorities in `file`, or else in the system, that can be believed.
///
/// # Errors
/// If not.
pub fn authorities(file: Option<&Path>) -> Result<(), Error> {
    match file {
        Some(file) => pem::authorities(file).map(drop),
        None => pem::system_authorities().map(drop),
    }
}

/// The mode of a file that everyone on this machine may read. A group may: that is how many get at their keys.
pub fn mode_if_open(file: &Path) -> Option<u32> {
    let mode = std::fs::metadata(file).ok()?.permissions().mode() & 0o777;
    (mode & 0o007 != 0).then_some(mode)
}

//! Owns: inspecting certificate and key files without using them.
//! Invariant: files that pass here can be opened at start; no part of a key is revealed.
//! Must not know: where the configuration names the files.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustls::SignatureAlgorithm;

use super::certificate::{Certificate, is_in_order};
use super::pem::{self, CertificateFiles, Error};

/// The content of a certificate file and its key file.
#[derive(Debug, Clone)]
pub struct Inspected {
    /// The certificate.
    pub certificate: Certificate,
    /// Whether each further certificate in the file issued the one before it.
    pub is_in_order: bool,
    /// The algorithm of the key.
    pub algorithm: SignatureAlgorithm,
}

/// Reads a certificate file and its key file.
///
/// # Errors
/// The first file that can't be used.
pub fn pair(pair: &CertificateFiles) -> Result<Inspected, Error> {
    let (certificate, key) = pem::pair(pair)?;
    Ok(Inspected { certificate, is_in_order: is_in_order(&key.cert), algorithm: key.key.algorithm() })
}

/// Checks that `file`, or else the system, has authorities that can be trusted.
///
/// # Errors
/// Why not.
pub fn authorities(file: Option<&Path>) -> Result<(), Error> {
    match file {
        Some(file) => pem::authorities(file).map(drop),
        None => pem::system_authorities().map(drop),
    }
}

/// Returns the mode of a file that everyone on this machine may read. A group may read it: that is how many services
/// get at their keys.
pub fn mode_if_open(file: &Path) -> Option<u32> {
    let mode = std::fs::metadata(file).ok()?.permissions().mode() & 0o777;
    (mode & 0o007 != 0).then_some(mode)
}

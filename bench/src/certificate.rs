//! Owns: the certificate of every proxy of a run: one file with the certificate and its key, of the kind most sites use.
//! Invariant: it is self-signed, so that a client verifies one signature.
//! Must not know: the proxies.

use std::error::Error;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The name that it is for.
pub(crate) const HOST: &str = "app.test";

/// Where to.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The file to write.
    file: PathBuf,
}

/// Makes a certificate and is done.
pub(crate) fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    write(&args.file)
}

/// Makes an ECDSA key on P-256 and a certificate for it.
pub(crate) fn write(file: &Path) -> Result<(), Box<dyn Error>> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let certificate = rcgen::CertificateParams::new(vec![HOST.to_owned()])?.self_signed(&key)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    file.write_all(certificate.pem().as_bytes())?;
    file.write_all(key.serialize_pem().as_bytes())?;
    Ok(())
}

//! Owns: PEM files of certificates and keys, and the errors in them.
//! Invariant: every error names the file and a remedy; no error contains any part of a key.
//! Must not know: what a certificate is used for.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::certificate::Certificate;
use super::parameters::provider;
use crate::files;

/// The largest file that is read. The system's file of all public authorities is a quarter of it.
const MAX_BYTES: u64 = 1024 * 1024;

/// The files of a certificate and of its key; the same file if it contains both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, followed by the intermediate certificates.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

impl CertificateFiles {
    pub(super) fn paths(&self) -> impl Iterator<Item = PathBuf> {
        [self.certificate.clone(), self.key.clone()].into_iter()
    }
}

/// What [`Problem::Holds`] calls content that is not PEM.
const BINARY: &str = "DER or PKCS #12 data, which is not PEM";
/// What [`Problem::Holds`] calls a certificate signing request.
const REQUEST: &str = "a certificate request";

/// The purpose of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A certificate and its intermediate certificates.
    Certificate,
    /// The private key of a certificate.
    Key,
    /// Trusted authorities.
    Authorities,
}

/// A file that can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The purpose of the file.
    pub role: Role,
    /// The file; empty if no file is to blame.
    pub file: PathBuf,
    /// The fault.
    pub problem: Problem,
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The operating system refused to read it, for this reason.
    Unreadable(String),
    /// A folder, a pipe, a device: anything but a regular file.
    NoFile,
    /// Larger than any file of certificates.
    TooLarge,
    /// No PEM block of the expected kind.
    Empty,
    /// No PEM block of the expected kind, but this.
    Holds(String),
    /// A private key instead of the certificate, which is in this file of the key.
    Swapped(PathBuf),
    /// An invalid PEM block.
    Malformed,
    /// A key that is encrypted with a password.
    Encrypted,
    /// An invalid certificate or key, or one of an unsupported algorithm.
    Unusable,
    /// A key that does not belong to the certificate in this file.
    Mismatch(PathBuf),
    /// A key that belongs to a later certificate in this file, and not to the first.
    Order(PathBuf),
    /// The operating system has no trusted authorities.
    NoRoots,
    /// An error of the TLS library, for this reason.
    Tls(String),
}

impl Error {
    fn new(role: Role, file: &Path, problem: Problem) -> Error {
        Error { role, file: file.into(), problem }
    }

    /// Returns what the operator can do about it.
    pub fn remedy(&self) -> String {
        match (&self.problem, self.role) {
            (Problem::Unreadable(_) | Problem::NoFile, _) => "name a file that this user can read".into(),
            (Problem::TooLarge, _) => "name a PEM file".into(),
            (Problem::Swapped(_), _) => "swap `cert` and `key`".into(),
            (Problem::Holds(what), _) if what == BINARY => {
                "convert it to PEM with `openssl x509 -inform DER` or `openssl pkcs12`".into()
            }
            (Problem::Holds(what), _) if what == REQUEST => {
                "name the certificate that was issued for this request".into()
            }
            (Problem::Encrypted, _) => format!(
                "remove the password, and name the new file: (umask 077; openssl pkey -in {} -out {})",
                files::shell_word(&self.file),
                files::shell_word(&self.file.with_added_extension("plain"))
            ),
            (
                Problem::Empty | Problem::Holds(_) | Problem::Malformed | Problem::Unusable,
                Role::Certificate | Role::Authorities,
            ) => "the file must contain -----BEGIN CERTIFICATE----- blocks".into(),
            (Problem::Empty | Problem::Holds(_) | Problem::Malformed | Problem::Unusable, Role::Key) => {
                "the file must contain one -----BEGIN PRIVATE KEY----- block: RSA, ECDSA or Ed25519".into()
            }
            (Problem::Mismatch(_), _) => "name the key that belongs to the certificate".into(),
            (Problem::Order(_), _) => "put the server's own certificate first, then the one that signed it".into(),
            (Problem::NoRoots, _) => "install the package ca-certificates, or set `ca`".into(),
            (Problem::Tls(_), _) => "try again with other files".into(),
        }
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, holds) = match self.role {
            Role::Certificate => ("certificate", "no certificate"),
            Role::Key => ("key", "no private key"),
            Role::Authorities => ("CA", "no certificate"),
        };
        let file = &self.file;
        match &self.problem {
            Problem::Unreadable(why) => write!(f, "cannot read the {what} file {file:?}: {why}"),
            Problem::NoFile => write!(f, "cannot read the {what} file {file:?}: it is not a regular file"),
            Problem::TooLarge => write!(f, "the {what} file {file:?} is longer than {MAX_BYTES} bytes"),
            Problem::Empty => write!(f, "the {what} file {file:?} contains {holds}"),
            Problem::Holds(other) => write!(f, "the {what} file {file:?} contains {holds}, but {other}"),
            Problem::Swapped(key) => {
                write!(f, "{file:?} contains a private key, and {key:?} the certificate: the two are swapped")
            }
            Problem::Malformed => write!(f, "the {what} file {file:?} is not valid PEM"),
            Problem::Encrypted => write!(f, "the key in {file:?} is encrypted with a password"),
            Problem::Unusable => {
                write!(f, "the content of the {what} file {file:?} is invalid or of an unsupported kind")
            }
            Problem::Mismatch(certificate) => {
                write!(f, "the key in {file:?} does not belong to the certificate in {certificate:?}")
            }
            Problem::Order(certificate) => {
                write!(f, "the key in {file:?} belongs to a later certificate in {certificate:?}, not to the first one")
            }
            Problem::NoRoots => write!(f, "this system has no certificate authorities to trust"),
            Problem::Tls(why) => write!(f, "cannot set up TLS: {why}"),
        }
    }
}

/// Reads the certificates in a file, of which there must be at least one.
pub(super) fn certificates(role: Role, file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let wrong = |problem| Error::new(role, file, problem);
    let text = read(file).map_err(wrong)?;
    let certificates = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    match certificates.map_err(|_| wrong(Problem::Malformed))? {
        none if none.is_empty() => Err(wrong(instead(&text))),
        certificates => Ok(certificates),
    }
}

/// Reads a certificate and its key, and checks that they belong together.
pub(super) fn pair(files: &CertificateFiles) -> Result<(Certificate, Arc<CertifiedKey>), Error> {
    let key = certified_key(files)?;
    let certificate = key.cert.first().and_then(Certificate::read);
    let unusable = || Error::new(Role::Certificate, &files.certificate, Problem::Unusable);
    Ok((certificate.ok_or_else(unusable)?, Arc::new(key)))
}

fn certified_key(files: &CertificateFiles) -> Result<CertifiedKey, Error> {
    let chain = certificates(Role::Certificate, &files.certificate).map_err(|error| {
        let is_swapped = matches!(error.problem, Problem::Holds(_))
            && matches!(key(&files.certificate), Ok(_) | Err(Problem::Encrypted))
            && certificates(Role::Certificate, &files.key).is_ok();
        if is_swapped { Error { problem: Problem::Swapped(files.key.clone()), ..error } } else { error }
    })?;
    let wrong = |problem| Error::new(Role::Key, &files.key, problem);
    let key = key(&files.key).map_err(wrong)?;
    let key = provider().key_provider.load_private_key(key).map_err(|_| wrong(Problem::Unusable))?;
    let unusable = || Error::new(Role::Certificate, &files.certificate, Problem::Unusable);
    let is_of = |certificate: &CertificateDer<'static>| match CertifiedKey::new(vec![certificate.clone()], key.clone())
        .keys_match()
    {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(true),
        Err(rustls::Error::InconsistentKeys(_)) => Ok(false),
        Err(_) => Err(unusable()),
    };
    if !chain.first().map_or(Ok(false), &is_of)? {
        let is_later = chain.iter().skip(1).any(|certificate| matches!(is_of(certificate), Ok(true)));
        let problem = if is_later { Problem::Order } else { Problem::Mismatch };
        return Err(wrong(problem(files.certificate.clone())));
    }
    Ok(CertifiedKey::new(chain, key))
}

/// Reads the authorities in a file, all of which must be usable.
pub(super) fn authorities(file: &Path) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), Error> {
    let certificates = certificates(Role::Authorities, file)?;
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots.add(certificate.clone()).map_err(|_| Error::new(Role::Authorities, file, Problem::Unusable))?;
    }
    Ok((roots, certificates))
}

/// Reads the authorities that the system trusts.
pub(super) fn system_authorities() -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    // The operator does not choose these: unreadable ones are skipped as long as one is left.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(Error::new(Role::Authorities, Path::new(""), Problem::NoRoots));
    }
    Ok(roots)
}

/// Makes an error that no file is to blame for.
pub(super) fn setup_error(error: impl fmt::Display) -> Error {
    Error::new(Role::Certificate, Path::new(""), Problem::Tls(error.to_string()))
}

/// Says what a file contains that has no PEM block of the expected kind.
fn instead(text: &[u8]) -> Problem {
    const LABEL: &[u8] = b"-----BEGIN ";
    // Certificates, keys and PKCS #12 in DER begin with a SEQUENCE.
    if let [0x30, 0x80..=0x84, ..] = text {
        return Problem::Holds(BINARY.into());
    }
    let at = text.windows(LABEL.len()).position(|window| window == LABEL);
    let label = at.and_then(|at| text.get(at + LABEL.len()..)).map(|rest| {
        let is_of_label = |byte: &&u8| byte.is_ascii_uppercase() || **byte == b' ' || byte.is_ascii_digit();
        rest.iter().take(40).take_while(is_of_label).map(|byte| char::from(*byte)).collect::<String>()
    });
    match label.as_deref() {
        None | Some("") => Problem::Empty,
        Some("CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST") => Problem::Holds(REQUEST.into()),
        Some(label) => Problem::Holds(format!("a block of {label}")),
    }
}

fn key(file: &Path) -> Result<PrivateKeyDer<'static>, Problem> {
    let text = read(file)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        // Both PKCS #8 and the older PEM format mark an encrypted key by this word.
        _ if text.windows(9).any(|word| word == b"ENCRYPTED") => Problem::Encrypted,
        pem::Error::NoItemsFound => instead(&text),
        _ => Problem::Malformed,
    })
}

fn read(file: &Path) -> Result<Vec<u8>, Problem> {
    files::read(file, MAX_BYTES).map_err(|error| match error {
        files::Error::NotRegular(_) => Problem::NoFile,
        files::Error::TooLarge(_) => Problem::TooLarge,
        files::Error::Io(_) | files::Error::NotText => Problem::Unreadable(error.to_string()),
    })
}

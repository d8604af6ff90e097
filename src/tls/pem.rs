//! Owns: PEM files of certificates and keys, and what can be wrong with them.
//! Invariant: every error names the file and what to do; nothing of a key stands in one.
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

/// More than this is no file of certificates: the system's own, of all authorities there are, is a
/// quarter of it.
const MAX_BYTES: u64 = 1024 * 1024;

/// The files of a certificate and of its key; the same one if it holds both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, and behind it those that vouch for it.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl CertificateFiles {
    pub(super) fn paths(&self) -> impl Iterator<Item = PathBuf> {
        [self.certificate.clone(), self.key.clone()].into_iter()
    }
}

/// What is called so in [`Problem::Holds`]: what isn't PEM at all.
const BINARY: &str = "DER or PKCS #12, which is no PEM";
/// What is called so: what a certificate is asked for with.
const REQUEST: &str = "a request for one";

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A certificate and those that vouch for it.
    Certificate,
    /// The key of a certificate.
    Key,
    /// Authorities that are believed.
    Authorities,
}

/// A file that can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What it is for.
    pub role: Role,
    /// The file; empty for what is the system's.
    pub file: PathBuf,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The system says why.
    Unreadable(String),
    /// A folder, a pipe, a device.
    NoFile,
    /// Larger than any such file.
    TooLarge,
    /// No PEM block of the kind that is looked for.
    Empty,
    /// None of the kind that is looked for, but something else: in words.
    Holds(String),
    /// A certificate where the key should be, which is in this file, and the other way round.
    Swapped(PathBuf),
    /// A PEM block that is none.
    Malformed,
    /// A key behind a password.
    Encrypted,
    /// A certificate or a key of a kind that is not spoken here.
    Unusable,
    /// A key that is not that of the certificate.
    Mismatch(PathBuf),
    /// A key that is that of a certificate further down in the file.
    Order(PathBuf),
    /// The system has no authorities.
    NoRoots,
    /// The cryptography's own trouble.
    Tls(String),
}

impl Error {
    fn new(role: Role, file: &Path, problem: Problem) -> Error {
        Error { role, file: file.into(), problem }
    }

    /// What can be done about it.
    pub fn remedy(&self) -> String {
        match (&self.problem, self.role) {
            (Problem::Unreadable(_) | Problem::NoFile, _) => "name a file that this user can read".into(),
            (Problem::TooLarge, _) => "name a file of PEM blocks".into(),
            (Problem::Swapped(_), _) => "write the one in the place of the other".into(),
            (Problem::Holds(what), _) if what == BINARY => {
                "make PEM of it, with `openssl x509 -inform DER` or `openssl pkcs12`".into()
            }
            (Problem::Holds(what), _) if what == REQUEST => {
                "name the certificate that was issued for this request".into()
            }
            (Problem::Encrypted, _) => format!(
                "take the password off, and name the file without it: (umask 077; openssl pkey -in {} -out {})",
                files::shell_word(&self.file),
                files::shell_word(&self.file.with_added_extension("plain"))
            ),
            (
                Problem::Empty | Problem::Holds(_) | Problem::Malformed | Problem::Unusable,
                Role::Certificate | Role::Authorities,
            ) => "it should hold blocks of -----BEGIN CERTIFICATE-----".into(),
            (Problem::Empty | Problem::Holds(_) | Problem::Malformed | Problem::Unusable, Role::Key) => {
                "it should hold one block of -----BEGIN PRIVATE KEY-----, RSA or ECDSA or Ed25519".into()
            }
            (Problem::Mismatch(_), _) => "name the key that the certificate was made for".into(),
            (Problem::Order(_), _) => "put the server's own certificate first, then the one that signed it".into(),
            (Problem::NoRoots, _) => "install the package ca-certificates, or write `ca`".into(),
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
            Problem::NoFile => write!(f, "cannot read the {what} file {file:?}: it is no regular file"),
            Problem::TooLarge => write!(f, "the {what} file {file:?} is longer than {MAX_BYTES} bytes"),
            Problem::Empty => write!(f, "there is {holds} in the {what} file {file:?}"),
            Problem::Holds(other) => write!(f, "there is {holds} in the {what} file {file:?}, but {other}"),
            Problem::Swapped(key) => {
                write!(f, "{file:?} holds a private key, and {key:?} the certificate: the two are swapped")
            }
            Problem::Malformed => write!(f, "the {what} file {file:?} is not valid PEM"),
            Problem::Encrypted => write!(f, "the key in {file:?} is behind a password"),
            Problem::Unusable => write!(f, "what is in the {what} file {file:?} can't be used"),
            Problem::Mismatch(certificate) => write!(f, "the key in {file:?} is not that of {certificate:?}"),
            Problem::Order(certificate) => {
                write!(
                    f,
                    "the key in {file:?} is not that of the first certificate in {certificate:?}, but of a later one"
                )
            }
            Problem::NoRoots => write!(f, "the system has no certificate authorities that could be believed"),
            Problem::Tls(why) => write!(f, "TLS can't be set up: {why}"),
        }
    }
}

/// The certificates in a file, at least one.
pub(super) fn certificates(role: Role, file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let wrong = |problem| Error::new(role, file, problem);
    let text = read(file).map_err(wrong)?;
    let certificates = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    match certificates.map_err(|_| wrong(Problem::Malformed))? {
        none if none.is_empty() => Err(wrong(instead(&text))),
        certificates => Ok(certificates),
    }
}

/// Reads a certificate and its key, which fit together.
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

/// The authorities in a file, each of them usable.
pub(super) fn authorities(file: &Path) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), Error> {
    let certificates = certificates(Role::Authorities, file)?;
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots.add(certificate.clone()).map_err(|_| Error::new(Role::Authorities, file, Problem::Unusable))?;
    }
    Ok((roots, certificates))
}

/// The authorities that the system believes.
pub(super) fn system_authorities() -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    // What can't be read or understood is nobody's fault here, as long as something is left.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(Error::new(Role::Authorities, Path::new(""), Problem::NoRoots));
    }
    Ok(roots)
}

/// For what no file is to blame for.
pub(super) fn setup_error(error: impl fmt::Display) -> Error {
    Error::new(Role::Certificate, Path::new(""), Problem::Tls(error.to_string()))
}

/// What a file without a certificate or key, whichever is looked for, holds instead.
fn instead(text: &[u8]) -> Problem {
    const LABEL: &[u8] = b"-----BEGIN ";
    // A SEQUENCE of DER, as certificates, keys and PKCS #12 begin.
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
        // Both ways of saying it: of PKCS #8, and of the older form.
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

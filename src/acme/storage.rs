//! Owns: the folder of an ACME server: account, certificates, orders under way, histories; and the challenges of all.
//! Invariant: a file is whole or absent whenever it is read, only its owner may read it, and one process writes at a time.
//! Must not know: the ACME server; when anything is due.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use instant_acme::{AccountCredentials, CertificateIdentifier};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::plan::{History, StoredCertificate};
use super::settings::{ChallengeKind, Settings, certificate_file, server_folder};
use crate::files;
use crate::tls::inspect;
use crate::tls::{Certificate, CertificateFiles};

/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 256 * 1024;
/// The most challenges that are read: more than any number of names that are validated at the same time.
const MAX_CHALLENGES: usize = 1000;
/// The most files that are read for them. Those that are no challenges leave the others their places.
const MAX_CHALLENGE_FILES: usize = 4 * MAX_CHALLENGES;

/// The files of one ACME server.
#[derive(Debug, Clone)]
pub(super) struct Storage {
    root: PathBuf,
    server: PathBuf,
    directory: String,
}

/// The account with the ACME server.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredAccount {
    pub(super) credentials: AccountCredentials,
    /// The contacts that the server knows.
    pub(super) contacts: Vec<String>,
    /// The directory and the external account that it is for.
    pub(super) directory: String,
    pub(super) external: Option<String>,
}

/// An order under way. A process that ends before it is complete goes on with it, instead of ordering again.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredOrder {
    /// The URL of the order.
    pub(super) url: String,
    /// The key of the certificate, in PEM.
    pub(super) key: String,
}

/// What the ACME server will ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredChallenge {
    pub(super) kind: ChallengeKind,
    /// The name that is validated.
    pub(super) name: String,
    pub(super) token: String,
    pub(super) key_authorization: String,
    /// When nobody asks for it any more, in seconds since 1970.
    pub(super) until: u64,
}

/// The right to write, as long as it lives. The kernel takes it back from a process that ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Storage {
    pub(super) fn new(settings: &Settings) -> Storage {
        Storage {
            root: settings.storage.clone(),
            server: server_folder(&settings.storage, &settings.directory),
            directory: settings.directory.clone(),
        }
    }

    /// Makes the folders that are missing.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn prepare(&self) -> io::Result<()> {
        for folder in ["certificates", "orders", "history"] {
            DirBuilder::new().recursive(true).mode(0o700).create(self.server.join(folder))?;
        }
        DirBuilder::new().recursive(true).mode(0o700).create(challenge_folder(&self.root))
    }

    /// Takes the right to write, if no other process has it.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn lock(&self) -> io::Result<Option<Lock>> {
        let path = self.server.join("lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// Reads the certificate for `name`. `None` if there is none that can be used for it.
    pub(super) fn certificate(&self, name: &str) -> Option<StoredCertificate> {
        read_certificate(&self.certificate_file(name), name).ok()
    }

    /// Returns why the certificate that is stored for `name` can't be used, if there is a file.
    pub(super) fn damage(&self, name: &str) -> Option<String> {
        let file = self.certificate_file(name);
        file.exists().then(|| read_certificate(&file, name).err()).flatten()
    }

    /// Stores a certificate, which `pem` contains with its chain and its key, if it can be used for `name` at the time
    /// `now`, and better than the one that is stored.
    ///
    /// # Errors
    /// Why it can't be used, or the operating system's error.
    pub(super) fn save_certificate(
        &self,
        _: &Lock,
        name: &str,
        pem: &str,
        now: u64,
    ) -> Result<StoredCertificate, String> {
        let file = self.certificate_file(name);
        let new = write_new(&file, pem.as_bytes()).map_err(|error| cannot_write(&file, &error))?;
        let read =
            read_certificate(&new, name).and_then(|read| match read.refusal(now, self.certificate(name).as_ref()) {
                Some(why) => Err(why.into()),
                None => Ok(read),
            });
        if read.is_ok() {
            publish(&new, &file).map_err(|error| cannot_write(&file, &error))?;
        } else {
            // It has a key that nobody needs.
            let _ = std::fs::remove_file(&new);
        }
        read
    }

    /// Reads what has become of the orders for `name`.
    pub(super) fn history(&self, name: &str) -> History {
        read_json(&self.file("history", name)).unwrap_or_default()
    }

    /// Stores it.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn save_history(&self, _: &Lock, name: &str, history: &History) -> io::Result<()> {
        write_json(&self.file("history", name), history)
    }

    /// Reads the order under way for `name`.
    pub(super) fn order(&self, name: &str) -> Option<StoredOrder> {
        read_json(&self.file("orders", name))
    }

    /// Stores it.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn save_order(&self, _: &Lock, name: &str, order: &StoredOrder) -> io::Result<()> {
        write_json(&self.file("orders", name), order)
    }

    /// Forgets it.
    pub(super) fn remove_order(&self, _: &Lock, name: &str) {
        let _ = std::fs::remove_file(self.file("orders", name));
    }

    /// Reads the account, if it is one with this ACME server and for this external account.
    pub(super) fn account(&self, external: Option<&str>) -> Option<StoredAccount> {
        let account: StoredAccount = read_json(&self.account_file())?;
        (account.directory == self.directory && account.external.as_deref() == external).then_some(account)
    }

    /// Stores it.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn save_account(&self, _: &Lock, account: &StoredAccount) -> io::Result<()> {
        write_json(&self.account_file(), account)
    }

    /// Forgets it.
    pub(super) fn remove_account(&self, _: &Lock) {
        let _ = std::fs::remove_file(self.account_file());
    }

    /// Lists the challenges in the storage `root` that are under way at the time `now`, whichever process has begun them.
    /// Removes those that have ended.
    pub(super) fn challenges(root: &Path, now: u64) -> Vec<StoredChallenge> {
        let Ok(entries) = std::fs::read_dir(challenge_folder(root)) else { return Vec::new() };
        let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let files = files.filter(|file| file.extension().is_some_and(|extension| extension == "json"));
        let mut all = Vec::new();
        for file in files.take(MAX_CHALLENGE_FILES) {
            match read_json::<StoredChallenge>(&file) {
                Some(challenge) if challenge.until > now => {
                    all.push(challenge);
                    if all.len() == MAX_CHALLENGES {
                        break;
                    }
                }
                // Of a process that ended.
                Some(_) => drop(std::fs::remove_file(&file)),
                // It may be that of another version.
                None => {}
            }
        }
        // A folder has no order, and two looks are compared.
        all.sort_by(|one, other| one.token.cmp(&other.token));
        all
    }

    /// Stores a challenge, for all processes that share the folder.
    ///
    /// # Errors
    /// The operating system's, and for a token that is not one of RFC 8555 §8.
    pub(super) fn save_challenge(&self, _: &Lock, challenge: &StoredChallenge) -> io::Result<()> {
        if !is_token(&challenge.token) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the ACME server's token is malformed"));
        }
        write_json(&self.challenge_file(&challenge.token), challenge)
    }

    /// Forgets it.
    pub(super) fn remove_challenge(&self, _: &Lock, token: &str) {
        if is_token(token) {
            let _ = std::fs::remove_file(self.challenge_file(token));
        }
    }

    /// Forgets the challenges for `name`.
    pub(super) fn remove_challenges(&self, lock: &Lock, name: &str, now: u64) {
        for challenge in Self::challenges(&self.root, now).iter().filter(|challenge| challenge.name == name) {
            self.remove_challenge(lock, &challenge.token);
        }
    }

    fn certificate_file(&self, name: &str) -> PathBuf {
        certificate_file(&self.root, &self.directory, name)
    }

    fn account_file(&self) -> PathBuf {
        self.server.join("account.json")
    }

    fn challenge_file(&self, token: &str) -> PathBuf {
        challenge_folder(&self.root).join(format!("{token}.json"))
    }

    fn file(&self, folder: &str, name: &str) -> PathBuf {
        self.server.join(folder).join(format!("{name}.json"))
    }
}

fn challenge_folder(root: &Path) -> PathBuf {
    root.join("challenges")
}

/// Whether a token has only the characters of base64url, and a length that a file's name may have.
fn is_token(token: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=200).contains(&token.len()) && token.bytes().all(is_part)
}

fn read_certificate(file: &Path, name: &str) -> Result<StoredCertificate, String> {
    let read = CertificateFiles { certificate: file.into(), key: file.into() };
    let Certificate { names, not_before, not_after, .. } =
        inspect::pair(&read).map_err(|error| error.to_string())?.certificate;
    if !names.iter().any(|other| other == name) {
        return Err(format!("the certificate is not for {name}"));
    }
    let pem = files::read(file, MAX_BYTES).map_err(|error| error.to_string())?;
    let der = CertificateDer::from_pem_slice(&pem).map_err(|error| error.to_string())?;
    let id = CertificateIdentifier::try_from(&der).ok().map(|id| id.to_string());
    let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
    Ok(StoredCertificate { id, not_before: seconds(not_before), not_after: seconds(not_after) })
}

fn cannot_write(file: &Path, error: &io::Error) -> String {
    format!("cannot write {}: {error}", file.display())
}

/// Reads a file of ours. `None` if it is not there or damaged: all that they hold can be had again.
fn read_json<T: DeserializeOwned>(file: &Path) -> Option<T> {
    serde_json::from_slice(&files::read(file, MAX_BYTES).ok()?).ok()
}

fn write_json(file: &Path, value: &impl Serialize) -> io::Result<()> {
    publish(&write_new(file, &serde_json::to_vec(value)?)?, file)
}

/// Writes to a new file beside `file`, which is on the disk afterwards; returns its path.
fn write_new(file: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let new = file.with_added_extension("new");
    // One that a process left when it ended may have any content.
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    written.write_all(bytes)?;
    written.sync_all()?;
    Ok(new)
}

/// Puts a new file in the place of `file`.
fn publish(new: &Path, file: &Path) -> io::Result<()> {
    std::fs::rename(new, file)?;
    match file.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

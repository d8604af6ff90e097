//! Owns: the settings of `[listeners.tls.acme]`, and where the certificate of a name is stored.
//! Invariant: settings are plain data; no text made of them contains the key of an external account.
//! Must not know: configuration files; what is in the stored files.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The directory URL of Let's Encrypt.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// `[listeners.tls.acme]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The name of the listener.
    pub listener: String,
    /// The host names, in lower case, at least one. Each has a certificate of its own.
    pub names: Vec<String>,
    /// The URL of the ACME server's directory (RFC 8555 §7.1.1), with `https`.
    pub directory: String,
    /// The file of the authorities that issue the ACME server's own certificate; the system's authorities if not set.
    pub authorities: Option<PathBuf>,
    /// How the authority can reach the operator: URLs such as `mailto:ops@app.example`.
    pub contacts: Vec<String>,
    /// The folder of the account, the certificates and the challenges. Several Linchpins may share it.
    pub storage: PathBuf,
    /// The profile of the certificates, of those that the ACME server offers.
    pub profile: Option<String>,
    /// How to prove control of a name, the preferred way first; at least one.
    pub challenges: Vec<ChallengeKind>,
    /// The account with the authority that the ACME account belongs to, if the authority requires one.
    pub external_account: Option<ExternalAccount>,
}

/// A way to prove control of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChallengeKind {
    /// A response over plain HTTP on port 80 (RFC 8555 §8.3).
    #[serde(rename = "http-01")]
    Http01,
    /// A certificate in a handshake on port 443 (RFC 8737).
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

impl ChallengeKind {
    /// Its name in RFC 8555.
    pub fn as_str(self) -> &'static str {
        match self {
            ChallengeKind::Http01 => "http-01",
            ChallengeKind::TlsAlpn01 => "tls-alpn-01",
        }
    }
}

/// What binds an ACME account to another account with the authority (RFC 8555 §7.3.4).
#[derive(Clone, PartialEq, Eq)]
pub struct ExternalAccount {
    /// The identifier of the key.
    pub key_id: String,
    /// The key of the HMAC.
    pub key: Vec<u8>,
}

/// Leaves out the key.
impl fmt::Debug for ExternalAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExternalAccount").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// Returns the folder of what belongs to one ACME server: a certificate of a staging server is none for the real one.
pub(super) fn server_folder(storage: &Path, directory: &str) -> PathBuf {
    let url = directory.strip_prefix("https://").unwrap_or(directory);
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' };
    storage.join(url.chars().take(120).map(plain).collect::<String>().trim_start_matches('.'))
}

/// Returns the file of the certificate for `name` from the ACME server with this directory, and of its key.
pub fn certificate_file(storage: &Path, directory: &str, name: &str) -> PathBuf {
    server_folder(storage, directory).join("certificates").join(format!("{name}.pem"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_url_leaves_the_storage_and_two_servers_have_two_folders() {
        let file = |directory: &str| certificate_file(Path::new("/s"), directory, "app.example");
        assert_eq!(
            file(LETS_ENCRYPT),
            Path::new("/s/acme-v02.api.letsencrypt.org-directory/certificates/app.example.pem")
        );
        assert_eq!(file("https://../../x"), Path::new("/s/-..-x/certificates/app.example.pem"));
        assert_ne!(file(LETS_ENCRYPT), file("https://acme-staging-v02.api.letsencrypt.org/directory"));
    }

    #[test]
    fn the_key_of_an_external_account_is_in_no_text() {
        let account = ExternalAccount { key_id: "kid-1".into(), key: b"secret".to_vec() };
        assert_eq!(format!("{account:?}"), "ExternalAccount { key_id: \"kid-1\", .. }");
    }
}

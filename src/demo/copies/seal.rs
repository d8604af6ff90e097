//! Owns: what a copy holds, and its sealing with the secret that all servers of the shop share.
//! Invariant: only a holder of the secret can read or make a copy, and no input panics.
//! Must not know: whose request it is; the caller compares the id in a copy with the client's cookie.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use serde::{Deserialize, Serialize};

use super::super::session::{SavedSession, SessionId};

/// Shortest secret, in bytes.
pub const MIN_SECRET_BYTES: usize = 32;

/// What the key and each copy are bound to.
const PURPOSE: &[u8] = b"session copy v1";

/// How copies of sessions are sealed: with a key from the secret that all servers of the shop share.
#[derive(Clone)]
pub struct CopySettings(Arc<RandomizedNonceKey>);

/// The secret is never shown.
impl fmt::Debug for CopySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CopySettings(_)")
    }
}

/// The content of a copy.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Copy {
    /// The session's id. The copy is for the client whose cookie has it, and for nobody else.
    pub(super) id: SessionId,
    pub(super) session: SavedSession,
    /// The server that saved it.
    pub(super) server: String,
    /// When it was saved, in milliseconds of Unix time.
    pub(super) saved_ms: u64,
}

struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        AES_256_GCM.key_len()
    }
}

impl CopySettings {
    /// Derives the key from the secret. Returns `None` if the secret is shorter than [`MIN_SECRET_BYTES`].
    #[must_use]
    pub fn new(secret: &[u8]) -> Option<Self> {
        if secret.len() < MIN_SECRET_BYTES {
            return None;
        }
        let mut key = [0; 32];
        Salt::new(HKDF_SHA256, &[]).extract(secret).expand(&[PURPOSE], Length).ok()?.fill(&mut key).ok()?;
        Some(Self(Arc::new(RandomizedNonceKey::new(&AES_256_GCM, &key).ok()?)))
    }

    /// Returns the sealed copy: nonce, cipher text, tag. Returns `None` if the system's random source fails.
    pub(super) fn seal(&self, copy: &Copy) -> Option<Vec<u8>> {
        let mut bytes = serde_json::to_vec(copy).ok()?;
        let nonce = self.0.seal_in_place_append_tag(Aad::from(PURPOSE), &mut bytes).ok()?;
        Some([&nonce.as_ref()[..], &bytes].concat())
    }

    /// Opens a sealed copy. Returns `None` if it was not sealed with this secret.
    pub(super) fn open(&self, sealed: &[u8]) -> Option<Copy> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut bytes = sealed.to_vec();
        let plain = self.0.open_in_place(nonce, Aad::from(PURPOSE), &mut bytes).ok()?;
        serde_json::from_slice(plain).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy() -> Copy {
        let session = SavedSession { user: "ann".into(), cart: vec!["axle".into()], count: 7, since_ms: 5 };
        Copy { id: SessionId::random().unwrap(), session, server: "b".into(), saved_ms: 9 }
    }

    #[test]
    fn only_the_same_secret_opens_a_copy() {
        let (key, other) = (CopySettings::new(&[7; 32]).unwrap(), CopySettings::new(&[8; 32]).unwrap());
        let sealed = key.seal(&copy()).unwrap();
        assert_ne!(sealed, key.seal(&copy()).unwrap(), "each has a nonce of its own");
        assert!(!sealed.windows(3).any(|bytes| bytes == b"ann"));
        assert_eq!(key.open(&sealed).map(|copy| copy.session.count), Some(7));
        assert_eq!(other.open(&sealed), None);
        assert!(CopySettings::new(&[7; 31]).is_none());
    }

    #[test]
    fn a_changed_or_shortened_copy_does_not_open() {
        let key = CopySettings::new(&[7; 32]).unwrap();
        let sealed = key.seal(&copy()).unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(key.open(&changed), None, "byte {at}");
            assert_eq!(key.open(&sealed[..at]), None, "the first {at} bytes");
        }
    }
}

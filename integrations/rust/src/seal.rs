//! Owns: what a copy holds, and its sealing with the application's secrets.
//! Invariant: only who has a secret can read or make a copy; no input panics.
//! Must not know: versions, nor whose request it is.

use std::collections::HashMap;
use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use tower_sessions_core::session::Record;

/// Shortest secret, in bytes.
pub(crate) const MIN_SECRET_BYTES: usize = 32;

/// What keys and copies are bound to.
const PURPOSE: &[u8] = b"linchpin session copy v1";

/// The keys of the application's secrets: the first seals, all open.
pub(crate) struct Keys {
    first: RandomizedNonceKey,
    others: Vec<RandomizedNonceKey>,
}

/// The content of a copy.
#[derive(Deserialize, Serialize)]
struct Content {
    id: String,
    /// Milliseconds of Unix time.
    expiry: i64,
    data: HashMap<String, Value>,
}

struct KeyLength;

impl KeyType for KeyLength {
    fn len(&self) -> usize {
        AES_256_GCM.key_len()
    }
}

impl Keys {
    /// Derives the keys. Returns `None` if there is no secret, or one that is too short.
    pub(crate) fn new<S: AsRef<[u8]>>(secrets: &[S]) -> Option<Self> {
        let mut keys = secrets.iter().map(|secret| key(secret.as_ref())).collect::<Option<Vec<_>>>()?.into_iter();
        Some(Self { first: keys.next()?, others: keys.collect() })
    }

    /// Returns the sealed copy of a session: nonce, cipher text, tag. Returns `None` if the session has no JSON, or the
    /// system no random numbers.
    pub(crate) fn seal(&self, record: &Record) -> Option<Vec<u8>> {
        let expiry = i64::try_from(record.expiry_date.unix_timestamp_nanos() / 1_000_000).ok()?;
        let content = Content { id: record.id.to_string(), expiry, data: record.data.clone() };
        let mut bytes = serde_json::to_vec(&content).ok()?;
        let nonce = self.first.seal_in_place_append_tag(Aad::from(PURPOSE), &mut bytes).ok()?;
        Some([&nonce.as_ref()[..], &bytes].concat())
    }

    /// Opens a copy. Returns `None` if none of the secrets sealed it.
    pub(crate) fn open(&self, sealed: &[u8]) -> Option<Record> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        std::iter::once(&self.first).chain(&self.others).find_map(|key| {
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut bytes = sealed.to_vec();
            let plain = key.open_in_place(nonce, Aad::from(PURPOSE), &mut bytes).ok()?;
            let Content { id, expiry, data } = serde_json::from_slice(plain).ok()?;
            let expiry_date = OffsetDateTime::from_unix_timestamp_nanos(i128::from(expiry) * 1_000_000).ok()?;
            Some(Record { id: id.parse().ok()?, data, expiry_date })
        })
    }
}

/// The secrets are never shown.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(_)")
    }
}

fn key(secret: &[u8]) -> Option<RandomizedNonceKey> {
    if secret.len() < MIN_SECRET_BYTES {
        return None;
    }
    let mut key = [0; 32];
    Salt::new(HKDF_SHA256, &[]).extract(secret).expand(&[PURPOSE], KeyLength).ok()?.fill(&mut key).ok()?;
    RandomizedNonceKey::new(&AES_256_GCM, &key).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let data = [("user".to_owned(), Value::from("ann"))].into();
        // A copy has milliseconds.
        let expiry_date = OffsetDateTime::UNIX_EPOCH + time::Duration::milliseconds(1_800_000_000_123);
        Record { id: Default::default(), data, expiry_date }
    }

    #[test]
    fn the_first_secret_seals_and_all_open() {
        let [old, new] = [[1; 32], [2; 32]];
        let record = record();
        let sealed = Keys::new(&[old]).unwrap().seal(&record).unwrap();
        assert_eq!(Keys::new(&[new, old]).unwrap().open(&sealed), Some(record.clone()));
        assert_eq!(Keys::new(&[new]).unwrap().open(&sealed), None);
        let sealed = Keys::new(&[new, old]).unwrap().seal(&record).unwrap();
        assert_eq!(Keys::new(&[new]).unwrap().open(&sealed), Some(record));
    }

    #[test]
    fn a_changed_or_shortened_copy_does_not_open_and_shows_nothing() {
        let keys = Keys::new(&[[1; 32]]).unwrap();
        let sealed = keys.seal(&record()).unwrap();
        assert!(!sealed.windows(3).any(|bytes| bytes == b"ann"));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(keys.open(&changed).is_none() && keys.open(&sealed[..at]).is_none(), "byte {at}");
        }
    }

    #[test]
    fn a_short_secret_or_none_is_refused() {
        assert!(Keys::new(&[[1; 31]]).is_none());
        assert!(Keys::new::<[u8; 32]>(&[]).is_none());
    }
}

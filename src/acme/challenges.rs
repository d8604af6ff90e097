//! Owns: what this process answers to ACME servers that validate names, for all storages together.
//! Invariant: a request or a handshake reads a table, and no file; a challenge that has ended is no longer answered.
//! Must not know: who ordered what.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;

use super::settings::ChallengeKind;
use super::storage::StoredChallenge;
use crate::tls::ChallengeCertificates;
use crate::tls::challenge::ChallengeCertificate;

/// The path of HTTP-01 (RFC 8555 §8.3), up to the token.
const PATH: &str = "/.well-known/acme-challenge/";

/// The responses to HTTP-01 challenges. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct HttpChallenges(Arc<ArcSwap<HashMap<String, Bytes>>>);

impl HttpChallenges {
    /// Returns the response to a request for `path`, if that is a challenge of an order under way. Any other path may
    /// be one that a backend answers, which has its own ACME client.
    pub fn response(&self, path: &str) -> Option<Bytes> {
        let token = path.strip_prefix(PATH)?;
        self.0.load().get(token).cloned()
    }
}

/// The challenges of orders under way. Clones share them.
#[derive(Clone, Default)]
pub struct Challenges {
    http: HttpChallenges,
    tls: ChallengeCertificates,
    by_storage: Arc<Mutex<HashMap<PathBuf, Vec<KnownChallenge>>>>,
}

#[derive(Clone)]
struct KnownChallenge {
    challenge: StoredChallenge,
    /// For TLS-ALPN-01: made once.
    certificate: Option<ChallengeCertificate>,
}

impl Challenges {
    /// Returns those of HTTP-01.
    pub fn http(&self) -> &HttpChallenges {
        &self.http
    }

    /// Returns those of TLS-ALPN-01.
    pub fn tls(&self) -> &ChallengeCertificates {
        &self.tls
    }

    /// Answers the challenges in `storage` from now on, and none of before.
    pub(super) fn set(&self, storage: &Path, found: Vec<StoredChallenge>) {
        let mut by_storage = self.by_storage.lock().unwrap_or_else(PoisonError::into_inner);
        let known = by_storage.remove(storage).unwrap_or_default();
        if known.len() == found.len() && known.iter().zip(&found).all(|(known, found)| known.challenge == *found) {
            if !known.is_empty() {
                by_storage.insert(storage.into(), known);
            }
            return;
        }
        let next: Vec<_> = found.into_iter().map(|challenge| known_or_new(&known, challenge)).collect();
        if !next.is_empty() {
            by_storage.insert(storage.into(), next);
        }
        let all = || by_storage.values().flatten();
        let of = |kind| all().filter(move |known| known.challenge.kind == kind);
        let response = |known: &KnownChallenge| {
            (known.challenge.token.clone(), Bytes::from(known.challenge.key_authorization.clone()))
        };
        self.http.0.store(Arc::new(of(ChallengeKind::Http01).map(response).collect()));
        let certificates = of(ChallengeKind::TlsAlpn01);
        let certificates =
            certificates.filter_map(|known| Some((known.challenge.name.clone(), known.certificate.clone()?)));
        self.tls.replace(certificates.collect());
    }
}

fn known_or_new(known: &[KnownChallenge], challenge: StoredChallenge) -> KnownChallenge {
    if let Some(same) = known.iter().find(|known| known.challenge == challenge) {
        return same.clone();
    }
    let certificate = (challenge.kind == ChallengeKind::TlsAlpn01).then(|| {
        let digest = digest(&SHA256, challenge.key_authorization.as_bytes());
        let digest = <&[u8; 32]>::try_from(digest.as_ref()).ok()?;
        let made = ChallengeCertificate::new(&challenge.name, digest);
        // The validation fails, and the next attempt says why.
        let made = made.inspect_err(|error| {
            tracing::warn!(name = challenge.name, %error, "cannot make the certificate for a challenge");
        });
        made.ok()
    });
    KnownChallenge { challenge, certificate: certificate.flatten() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(token: &str) -> StoredChallenge {
        StoredChallenge {
            kind: ChallengeKind::Http01,
            name: "app.example".into(),
            token: token.into(),
            key_authorization: format!("{token}.thumb"),
            until: 1,
        }
    }

    #[test]
    fn only_the_tokens_of_pending_orders_are_answered() {
        let challenges = Challenges::default();
        let answer = |path: &str| challenges.http().response(path);
        assert_eq!(answer("/.well-known/acme-challenge/a"), None);
        challenges.set(Path::new("one"), vec![http("a")]);
        challenges.set(Path::new("two"), vec![http("b")]);
        assert_eq!(answer("/.well-known/acme-challenge/a").unwrap(), "a.thumb");
        assert_eq!(answer("/.well-known/acme-challenge/b").unwrap(), "b.thumb");
        for path in [
            "/",
            "/a",
            "/.well-known/acme-challenge/",
            "/.well-known/acme-challenge/c",
            "/x/.well-known/acme-challenge/a",
        ] {
            assert_eq!(answer(path), None, "{path}");
        }
        challenges.set(Path::new("one"), Vec::new());
        assert_eq!(answer("/.well-known/acme-challenge/a"), None);
        assert!(answer("/.well-known/acme-challenge/b").is_some());
    }
}

//! Owns: TLS: certificates and keys, who is asked for which, and their files when they change.
//! Invariant: what runs was read whole and fits together; a change that does not leaves the old one at work.
//! Must not know: HTTP, listeners, pools.

pub mod certificate;
pub mod client;
mod insecure;
pub mod inspect;
pub mod pem;
pub mod reload;
pub mod server;
mod sni;
mod subject;

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use certificate::Certificate;
pub use client::Connector;
pub use pem::Error;
pub use server::Acceptor;

/// The field in which a backend is told whose certificate the client has shown: the subject, as RFC
/// 4514 writes it. Like every `Linchpin-*` field it is dropped where a client sends it.
pub const SUBJECT_FIELD: &str = "linchpin-client-subject";

/// ALPN's word for HTTP/2.
const HTTP2: &[u8] = b"h2";
/// ALPN's word for HTTP/1.1.
const HTTP1: &[u8] = b"http/1.1";

/// The files of a certificate and of its key; the same one if it holds both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate, and behind it those that vouch for it.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Pair {
    fn files(&self) -> impl Iterator<Item = PathBuf> {
        [self.certificate.clone(), self.key.clone()].into_iter()
    }
}

/// Bytes that wait in a connection for a side that reads slowly: a record. rustls has four times as much by default.
const BUFFER: usize = 16 * 1024;

/// The one provider of cryptography, that of the pins.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The protocols that are spoken, best first.
fn protocols(http2: bool) -> Vec<Vec<u8>> {
    let words: &[&[u8]] = if http2 { &[HTTP2, HTTP1] } else { &[HTTP1] };
    words.iter().map(|word| word.to_vec()).collect()
}

#[cfg(test)]
pub(crate) mod tests;

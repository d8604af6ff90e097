//! Owns: the parameters that every handshake shares: the cryptography provider, the ALPN protocols, the buffer's size.
//! Invariant: clients and backends get the same ones.
//! Must not know: certificates, files, or which side of a handshake it is.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// The ALPN name of HTTP/2.
pub(super) const HTTP2: &[u8] = b"h2";
/// The ALPN name of HTTP/1.1.
const HTTP1: &[u8] = b"http/1.1";

/// Bytes that a connection buffers for a peer that reads slowly: one TLS record. rustls allows four times as much by
/// default.
pub(super) const BUFFER: usize = 16 * 1024;

/// The cryptography provider. The pins use the same library.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The ALPN protocols to offer, the preferred one first.
pub(super) fn protocols(http2: bool) -> Vec<Vec<u8>> {
    let names: &[&[u8]] = if http2 { &[HTTP2, HTTP1] } else { &[HTTP1] };
    names.iter().map(|name| name.to_vec()).collect()
}

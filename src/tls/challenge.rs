//! Owns: the certificates that prove control of a name to an ACME server: TLS-ALPN-01 (RFC 8737).
//! Invariant: only a client that asks for this protocol alone gets one, and no such connection carries a request.
//! Must not know: orders, accounts, files.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, NoServerSessionStorage};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::parameters::provider;
use super::pem::{self, Error};

/// The ALPN name of the protocol (RFC 8737 §6.2).
const PROTOCOL: &[u8] = b"acme-tls/1";

/// The names that are being validated by TLS-ALPN-01. Clones share them.
#[derive(Clone, Default)]
pub struct ChallengeCertificates(Arc<ArcSwap<HashMap<String, ChallengeCertificate>>>);

/// What a connection gets that validates one name.
#[derive(Clone)]
pub struct ChallengeCertificate(Arc<ServerConfig>);

impl ChallengeCertificate {
    /// Makes the certificate for `name` with the SHA-256 digest of the key authorization (RFC 8737 §3).
    ///
    /// # Errors
    /// If the name can't be in a certificate, or the system provides no random numbers.
    pub fn new(name: &str, digest: &[u8; 32]) -> Result<ChallengeCertificate, Error> {
        let mut params = CertificateParams::new([name.to_owned()]).map_err(pem::setup_error)?;
        params.distinguished_name = DistinguishedName::new();
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
        let key = KeyPair::generate().map_err(pem::setup_error)?;
        let certificate = params.self_signed(&key).map_err(pem::setup_error)?;
        let builder = ServerConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions().map_err(pem::setup_error)?;
        // An ACME server has no certificate to show, even where clients need one.
        let builder = builder.with_no_client_auth();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let key = provider().key_provider.load_private_key(key).map_err(pem::setup_error)?;
        // rustls would refuse the certificate for its critical extension, which ordinary clients don't know.
        let certified = CertifiedKey::new(vec![certificate.into()], key);
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(ChallengeCertificate(Arc::new(config)))
    }
}

impl ChallengeCertificates {
    /// Replaces all of them: certificates by name, in lower case.
    pub fn replace(&self, all: HashMap<String, ChallengeCertificate>) {
        self.0.store(Arc::new(all));
    }

    /// Whether any name is being validated.
    pub(super) fn is_pending(&self) -> bool {
        !self.0.load().is_empty()
    }

    /// Returns the configuration for a connection that validates a name. Browsers never ask for this protocol.
    pub(super) fn config_for(&self, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        let mut protocols = hello.alpn()?;
        if (protocols.next(), protocols.next()) != (Some(PROTOCOL), None) {
            return None;
        }
        let name = hello.server_name()?.to_ascii_lowercase();
        self.0.load().get(&name).map(|certificate| Arc::clone(&certificate.0))
    }
}

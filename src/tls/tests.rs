//! Owns: tests of handshakes between two ends of a connection, and of reloading files.
//! Invariant: handshakes are real and run over a pipe in memory; files are real; there are no sockets.
//! Must not know: how TLS is implemented.

pub(crate) mod authority;
mod files;
mod issued;
mod towards_backends;
mod towards_clients;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsConnector, client, server as accepted};

use super::parameters::{protocols, provider};
use super::reload::Reload;
use super::server::{HandshakeInfo, Settings, Version};
use super::*;
use authority::{Authority, Issued};

/// A temporary folder of one test, removed on drop.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("linchpin-tls-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn pair(&self, name: &str, issued: &Issued) -> CertificateFiles {
        let (certificate, key) = issued.write(&self.0, name);
        CertificateFiles { certificate, key }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn settings(certificates: Vec<CertificateFiles>) -> Settings {
    Settings { certificates, issued: Vec::new(), min_version: Version::default(), http2: true, clients: None }
}

/// A client that trusts one authority, and may have a certificate.
struct TestClient {
    config: Arc<ClientConfig>,
}

const ALL: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12, &rustls::version::TLS13];
const OLD: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];

impl TestClient {
    fn new(
        authority: &Authority,
        versions: &[&'static SupportedProtocolVersion],
        certificate: Option<&Issued>,
    ) -> TestClient {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = match certificate {
            None => builder.with_no_client_auth(),
            Some(issued) => {
                let chain = CertificateDer::pem_slice_iter(issued.certificate.as_bytes()).map(Result::unwrap).collect();
                let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = protocols(true);
        TestClient { config: Arc::new(config) }
    }

    /// Connects, and sends a byte each way: in TLS 1.3 a client learns only then that the server rejected it.
    async fn connect(&self, acceptor: &Acceptor, name: &str) -> std::io::Result<TestConnection> {
        let (client_io, server_io) = tokio::io::duplex(64 * 1024);
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connecting = TlsConnector::from(Arc::clone(&self.config)).connect(name, client_io);
        let (client, server) = tokio::join!(connecting, acceptor.accept(server_io));
        let (server, handshake) = server?;
        let mut connection = TestConnection { client: client?, server, handshake };
        connection.exchange().await?;
        Ok(connection)
    }
}

struct TestConnection {
    client: client::TlsStream<DuplexStream>,
    server: accepted::TlsStream<DuplexStream>,
    handshake: HandshakeInfo,
}

impl TestConnection {
    async fn exchange(&mut self) -> std::io::Result<()> {
        self.client.write_all(b"?").await?;
        assert_eq!(self.server.read_u8().await?, b'?');
        self.server.write_all(b"!").await?;
        assert_eq!(self.client.read_u8().await?, b'!');
        Ok(())
    }

    /// Returns the certificate that the server sent.
    fn server_certificate(&self) -> Certificate {
        Certificate::read(&self.client.get_ref().1.peer_certificates().unwrap()[0]).unwrap()
    }

    fn is_resumed(&self) -> bool {
        self.server.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }
}

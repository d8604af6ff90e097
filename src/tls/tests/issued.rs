//! Owns: tests of certificates that are issued while a listener runs, and of handshakes with the server that issues them.
//! Invariant: a damaged or missing file takes no certificate away.
//! Must not know: who issues certificates.

use std::collections::HashMap;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::UnixTime;
use rustls::{DigitallySignedStruct, SignatureScheme};

use super::super::challenge::ChallengeCertificate;
use super::super::server::ClientVerification;
use super::*;

/// An ACME server looks at the certificate itself: its critical extension is unknown to TLS libraries.
#[derive(Debug)]
struct Validator;

impl ServerCertVerifier for Validator {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn issued(folder: &Folder) -> Settings {
    Settings { issued: vec![folder.0.join("app.example.pem")], ..settings(Vec::new()) }
}

#[tokio::test]
async fn until_there_is_a_certificate_no_handshake_succeeds_and_a_damaged_file_takes_none_away() {
    let (folder, authority) = (Folder::new(), Authority::new("root"));
    let acceptor = Acceptor::open("web", &issued(&folder)).unwrap();
    let client = TestClient::new(&authority, ALL, None);
    assert!(client.connect(&acceptor, "app.example").await.is_err());
    assert!(!acceptor.reload().unwrap());
    let write = |issued: &Issued| folder.write("app.example.pem", &format!("{}{}", issued.key, issued.certificate));
    let file = write(&authority.issue(&["app.example"]));
    assert!(acceptor.reload().unwrap());
    assert!(client.connect(&acceptor, "app.example").await.is_ok());
    std::fs::write(&file, "damaged").unwrap();
    assert!(!acceptor.reload().unwrap());
    std::fs::remove_file(&file).unwrap();
    assert!(!acceptor.reload().unwrap());
    assert!(client.connect(&acceptor, "app.example").await.is_ok());
    // Nor does it keep a listener from opening.
    std::fs::write(&file, "damaged").unwrap();
    assert!(Acceptor::open("web", &issued(&folder)).unwrap().certificates().is_empty());
}

#[tokio::test]
async fn a_server_that_validates_a_name_gets_its_certificate_and_no_connection() {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (folder, authority) = (Folder::new(), Authority::new("root"));
    let asks = ClientVerification { authorities: folder.write("ca.pem", &authority.pem()), is_required: true };
    let challenges = ChallengeCertificates::default();
    let settings = Settings { clients: Some(asks), ..issued(&folder) };
    let acceptor = Acceptor::open("web", &settings).unwrap().with_challenges(&challenges);
    let certificate = ChallengeCertificate::new("app.example", &[7; 32]).unwrap();
    challenges.replace(HashMap::from([("app.example".to_owned(), certificate)]));
    let validate = async |name: &str, protocols: &[&[u8]]| {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Validator))
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let (client_io, server_io) = tokio::io::duplex(64 * 1024);
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, client_io);
        let (client, server) = tokio::join!(connecting, acceptor.accept(server_io));
        // Whatever it is, it is no connection for requests.
        assert!(server.is_err());
        let mut client = client.ok()?;
        let der = client.get_ref().1.peer_certificates()?.first()?.clone();
        assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"acme-tls/1"[..]));
        assert_eq!(client.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
        Some(der)
    };
    let der = validate("app.example", &[b"acme-tls/1"]).await.unwrap();
    let (_, read) = X509Certificate::from_der(&der).unwrap();
    let extension = read.extensions().iter().find(|one| one.oid.to_id_string() == "1.3.6.1.5.5.7.1.31").unwrap();
    assert!(extension.critical);
    assert_eq!(extension.value, [&[4, 32][..], &[7; 32]].concat());
    assert_eq!(Certificate::read(&der).unwrap().names, ["app.example"]);
    for (name, protocols) in [
        ("other.example", &[&b"acme-tls/1"[..]][..]),
        ("app.example", &[b"h2", b"acme-tls/1"]),
        ("app.example", &[b"http/1.1"]),
    ] {
        assert!(validate(name, protocols).await.is_none(), "{name}");
    }
    challenges.replace(HashMap::new());
    assert!(validate("app.example", &[b"acme-tls/1"]).await.is_none());
}

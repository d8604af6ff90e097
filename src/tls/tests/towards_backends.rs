//! Owns: tests of verifying backends, and of our own certificate for them.
//! Invariant: as in `tests`.
//! Must not know: how handshakes are done.

use super::super::client::Settings as ConnectorSettings;
use super::super::server::ClientVerification;
use super::*;

/// Connects to a backend at `host` with `settings`. Returns whether HTTP/2 was negotiated, and the handshake as the
/// backend saw it.
async fn connect(
    settings: &ConnectorSettings,
    http2: bool,
    host: &str,
    backend: &Acceptor,
) -> std::io::Result<(bool, HandshakeInfo)> {
    let connector = Connector::open("app", settings).unwrap();
    let (client_io, server_io) = tokio::io::duplex(64 * 1024);
    let (connected, accepted) =
        tokio::join!(connector.connect(connector.name_of(host)?, client_io, http2), backend.accept(server_io));
    let (mut stream, is_http2) = connected?;
    let (mut backend, handshake) = accepted?;
    backend.write_all(b"!").await?;
    stream.read_u8().await?;
    Ok((is_http2, handshake))
}

#[tokio::test]
async fn a_backend_is_accepted_if_a_trusted_authority_issued_its_certificate_for_the_expected_name() {
    let (folder, authority) = (Folder::new(), Authority::new("root"));
    let backend = settings(vec![folder.pair("backend", &authority.issue(&["app.internal", "127.0.0.1"]))]);
    let backend = Acceptor::open("backend", &backend).unwrap();
    let ours = folder.write("ca.pem", &authority.pem());
    let others = folder.write("others.pem", &Authority::new("others").pem());
    let named = |name: &str| Some(name.to_owned());
    let by = |authorities: &PathBuf, server_name| ConnectorSettings {
        authorities: Some(authorities.clone()),
        server_name,
        ..ConnectorSettings::default()
    };

    let (is_http2, handshake) = connect(&by(&ours, None), true, "127.0.0.1", &backend).await.unwrap();
    assert_eq!((is_http2, handshake.server_name), (true, None));
    let (is_http2, handshake) = connect(&by(&ours, named("App.Internal")), false, "127.0.0.2", &backend).await.unwrap();
    assert_eq!((is_http2, handshake.server_name.as_deref()), (false, Some("app.internal")));

    for (settings, host) in [
        (by(&ours, None), "127.0.0.2"),
        (by(&ours, named("other.internal")), "127.0.0.1"),
        (by(&others, None), "127.0.0.1"),
    ] {
        assert!(connect(&settings, true, host, &backend).await.is_err(), "{settings:?}");
        // With `verify = false` every certificate is accepted.
        let settings = ConnectorSettings { verify: false, ..settings };
        assert!(connect(&settings, true, host, &backend).await.is_ok(), "{settings:?}");
    }
    // The system does not trust the authority of this test, if it trusts any.
    if let Ok(connector) = Connector::open("app", &ConnectorSettings::default()) {
        let (client_io, server_io) = tokio::io::duplex(64 * 1024);
        let name = connector.name_of("127.0.0.1").unwrap();
        let (connected, _) = tokio::join!(connector.connect(name, client_io, true), backend.accept(server_io));
        assert!(connected.is_err());
    }
}

#[tokio::test]
async fn a_backend_that_requests_a_certificate_gets_ours_and_the_new_one_after_a_change() {
    let (folder, authority) = (Folder::new(), Authority::new("root"));
    let ca = folder.write("ca.pem", &authority.pem());
    let asks = Settings {
        clients: Some(ClientVerification { authorities: ca.clone(), is_required: true }),
        ..settings(vec![folder.pair("backend", &authority.issue(&["127.0.0.1"]))])
    };
    let backend = Acceptor::open("backend", &asks).unwrap();
    let without = ConnectorSettings { authorities: Some(ca), ..ConnectorSettings::default() };
    assert!(connect(&without, false, "127.0.0.1", &backend).await.is_err());

    let with = ConnectorSettings { certificate: Some(folder.pair("own", &authority.issue(&["one"]))), ..without };
    let connector = Connector::open("app", &with).unwrap();
    for (name, is_new) in [("one", false), ("two", true)] {
        if is_new {
            folder.pair("own", &authority.issue(&[name]));
        }
        assert_eq!(connector.reload().unwrap(), is_new);
        let (client_io, server_io) = tokio::io::duplex(64 * 1024);
        let of = connector.name_of("127.0.0.1").unwrap();
        let (connected, accepted) = tokio::join!(connector.connect(of, client_io, false), backend.accept(server_io));
        connected.unwrap();
        assert_eq!(accepted.unwrap().1.subject.unwrap(), format!("CN={name}"));
        assert_eq!(connector.certificates()[0].name(), name);
    }
}

#[test]
fn a_backend_without_a_name_needs_one() {
    let folder = Folder::new();
    let ca = folder.write("ca.pem", &Authority::new("root").pem());
    let settings = ConnectorSettings { authorities: Some(ca), ..ConnectorSettings::default() };
    assert!(Connector::open("app", &settings).unwrap().name_of("").is_err());
    let settings = ConnectorSettings { server_name: Some("not a name".into()), ..settings };
    assert!(Connector::open("app", &settings).is_err());
}

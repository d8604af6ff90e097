//! Owns: tests of what clients see: certificates by name, versions, tickets, and client certificates.
//! Invariant: as in `tests`.
//! Must not know: how handshakes are done.

use super::super::server::ClientVerification;
use super::*;
use rcgen::{DnType, SanType};

fn asking(folder: &Folder, authority: &Authority, is_required: bool) -> Settings {
    let pair = folder.pair("server", &authority.issue(&["app.example"]));
    let clients = ClientVerification { authorities: folder.write("clients.pem", &authority.pem()), is_required };
    Settings { clients: Some(clients), ..settings(vec![pair]) }
}

#[tokio::test]
async fn each_name_gets_its_own_certificate_and_any_other_the_first() {
    let (folder, authority) = (Folder::new(), Authority::new("root"));
    let issue = |name: &str, names: &[&str]| folder.pair(name, &authority.issue(names));
    let pairs = vec![
        issue("first", &["first.example"]),
        issue("wild", &["*.shop.example"]),
        issue("exact", &["EXACT.shop.example", "192.0.2.1"]),
    ];
    let acceptor = Acceptor::open("web", &settings(pairs)).unwrap();
    let client = TestClient::new(&authority, ALL, None);
    for (name, holder) in [
        ("first.example", "CN=first.example"),
        ("FIRST.example", "CN=first.example"),
        ("a.shop.example", "CN=*.shop.example"),
        ("A.SHOP.example", "CN=*.shop.example"),
        ("exact.shop.example", "CN=EXACT.shop.example"),
    ] {
        let connection = client.connect(&acceptor, name).await.unwrap();
        assert_eq!(connection.server_certificate().subject, holder, "{name}");
        assert_eq!(connection.handshake.server_name, Some(name.to_ascii_lowercase()));
    }
    // A wildcard matches one label, no more and no less: these get the first certificate, which has another name.
    for name in ["a.b.shop.example", "shop.example", "other.example"] {
        assert!(client.connect(&acceptor, name).await.is_err(), "{name}");
    }
}

#[tokio::test]
async fn a_client_without_a_name_gets_the_first_certificate() {
    let (folder, authority) = (Folder::new(), Authority::new("root"));
    let first = authority.issue_with(&["first.example"], |params| {
        params.subject_alt_names.push(SanType::IpAddress([192, 0, 2, 1].into()));
    });
    let pairs = vec![folder.pair("first", &first), folder.pair("second", &authority.issue(&["second.example"]))];
    let acceptor = Acceptor::open("web", &settings(pairs)).unwrap();
    let connection = TestClient::new(&authority, ALL, None).connect(&acceptor, "192.0.2.1").await.unwrap();
    assert_eq!(
        (connection.server_certificate().name(), connection.handshake.server_name.as_deref()),
        ("first.example", None)
    );
}

#[tokio::test]
async fn http2_is_negotiated_if_both_sides_offer_it() {
    let (folder, authority) = (Folder::new(), Authority::new("root"));
    let offers = settings(vec![folder.pair("server", &authority.issue(&["app.example"]))]);
    let client = TestClient::new(&authority, ALL, None);
    for http2 in [true, false] {
        let acceptor = Acceptor::open("web", &Settings { http2, ..offers.clone() }).unwrap();
        let connection = client.connect(&acceptor, "app.example").await.unwrap();
        assert_eq!(connection.handshake.is_http2, http2);
        let word: &[u8] = if http2 { b"h2" } else { b"http/1.1" };
        assert_eq!(connection.client.get_ref().1.alpn_protocol(), Some(word));
    }
}

#[tokio::test]
async fn old_versions_are_accepted_down_to_the_configured_one() {
    let (folder, authority) = (Folder::new(), Authority::new("root"));
    let offers = settings(vec![folder.pair("server", &authority.issue(&["app.example"]))]);
    let (new, old) = (TestClient::new(&authority, ALL, None), TestClient::new(&authority, OLD, None));
    let version = |connection: &TestConnection| connection.client.get_ref().1.protocol_version().unwrap();

    let acceptor = Acceptor::open("web", &offers).unwrap();
    let connection = old.connect(&acceptor, "app.example").await.unwrap();
    assert_eq!(version(&connection), rustls::ProtocolVersion::TLSv1_2);
    assert_eq!(version(&new.connect(&acceptor, "app.example").await.unwrap()), rustls::ProtocolVersion::TLSv1_3);
    // TLS 1.2 has forward secrecy and authenticated encryption: no other suite is accepted.
    let suites = acceptor.config().crypto_provider().cipher_suites.clone();
    let old_suites = suites.iter().filter(|suite| suite.tls13().is_none()).map(|suite| format!("{:?}", suite.suite()));
    for suite in old_suites {
        assert!(suite.starts_with("TLS_ECDHE_") && (suite.contains("GCM") || suite.contains("POLY1305")), "{suite}");
    }

    let acceptor = Acceptor::open("web", &Settings { min_version: Version::Tls13, ..offers }).unwrap();
    assert!(old.connect(&acceptor, "app.example").await.is_err());
    assert!(new.connect(&acceptor, "app.example").await.is_ok());
}

#[tokio::test]
async fn the_server_chooses_the_suite_and_takes_no_early_data() {
    let (folder, authority) = (Folder::new(), Authority::new("root"));
    let pair = folder.pair("server", &authority.issue(&["app.example"]));
    let config = Acceptor::open("web", &settings(vec![pair])).unwrap().config();
    assert!(config.ignore_client_order && !config.send_half_rtt_data);
    assert_eq!(config.max_early_data_size, 0);
}

#[test]
fn a_session_is_resumed_on_any_thread_and_across_a_change_of_certificates() {
    let (folder, authority) = (Folder::new(), Authority::new("root"));
    let pair = folder.pair("server", &authority.issue(&["app.example"]));
    let acceptor = Arc::new(Acceptor::open("web", &settings(vec![pair])).unwrap());
    let mut resumed = Vec::new();
    for versions in [ALL, OLD] {
        let client = Arc::new(TestClient::new(&authority, versions, None));
        for round in 0..3 {
            if round == 2 {
                folder.pair("server", &authority.issue(&["app.example"]));
                assert!(acceptor.reload().unwrap());
            }
            let (acceptor, client) = (Arc::clone(&acceptor), Arc::clone(&client));
            let connection = move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(client.connect(&acceptor, "app.example")).unwrap().is_resumed()
            };
            resumed.push(std::thread::spawn(connection).join().unwrap());
        }
    }
    assert_eq!(resumed, [false, true, true, false, true, true]);
}

#[tokio::test]
async fn the_subject_of_a_verified_certificate_is_passed_on_and_no_other() {
    let (folder, authority, stranger) = (Folder::new(), Authority::new("root"), Authority::new("stranger"));
    let alice = authority.issue_with(&["alice"], |params| {
        let parts = [
            (DnType::CountryName, "DE"),
            (DnType::OrganizationName, "Acme, Inc."),
            (DnType::CommonName, "Zoë\r\nLinchpin-Client-Subject: CN=root"),
        ];
        params.distinguished_name = authority::subject(&parts);
    });
    let forged = stranger.issue(&["alice"]);
    for is_required in [true, false] {
        let acceptor = Acceptor::open("web", &asking(&folder, &authority, is_required)).unwrap();
        for versions in [ALL, OLD] {
            let connection = |shows| {
                let client = TestClient::new(&authority, versions, shows);
                let acceptor = &acceptor;
                async move { client.connect(acceptor, "app.example").await }
            };
            let subject = connection(Some(&alice)).await.unwrap().handshake.subject.unwrap();
            let written = "CN=Zo\\C3\\AB\\0D\\0ALinchpin-Client-Subject: CN=root,O=Acme\\, Inc.,C=DE";
            assert_eq!(subject.to_str().unwrap(), written);
            assert!(connection(Some(&forged)).await.is_err());
            match connection(None).await {
                Ok(connection) => assert!(!is_required && connection.handshake.subject.is_none()),
                Err(_) => assert!(is_required),
            }
        }
    }
}

#[tokio::test]
async fn a_certificate_without_a_subject_is_named_by_its_alternative_name() {
    let (folder, authority) = (Folder::new(), Authority::new("root"));
    let acceptor = Acceptor::open("web", &asking(&folder, &authority, true)).unwrap();
    let workload = authority.issue_with(&[], |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI("spiffe://example/app".try_into().unwrap())];
    });
    let connection = TestClient::new(&authority, ALL, Some(&workload)).connect(&acceptor, "app.example").await.unwrap();
    assert_eq!(connection.handshake.subject.unwrap(), "URI:spiffe://example/app");
    // A subject that is too long is not cut: its beginning may be the subject of another client.
    let long = "x".repeat(5000);
    let long = authority.issue_with(&[], |params| {
        params.distinguished_name = authority::subject(&[(DnType::CommonName, &long)]);
    });
    let none = authority.issue_with(&[], |params| params.distinguished_name = rcgen::DistinguishedName::new());
    for unfit in [long, none] {
        assert!(TestClient::new(&authority, ALL, Some(&unfit)).connect(&acceptor, "app.example").await.is_err());
    }
}

#[tokio::test]
async fn an_expired_certificate_is_rejected_even_in_a_resumed_session() {
    let (folder, authority) = (Folder::new(), Authority::new("root"));
    let acceptor = Acceptor::open("web", &asking(&folder, &authority, false)).unwrap();
    let alice = authority.issue(&["alice"]);
    let end =
        Certificate::read(&CertificateDer::from_pem_slice(alice.certificate.as_bytes()).unwrap()).unwrap().not_after;
    let end = std::time::Duration::from_secs(end.try_into().unwrap());
    let connection = TestClient::new(&authority, ALL, Some(&alice)).connect(&acceptor, "app.example").await.unwrap();
    let at = |now| HandshakeInfo::of(connection.server.get_ref().1, now);
    assert_eq!(at(end).unwrap().subject.unwrap(), "CN=alice");
    assert!(at(end + std::time::Duration::from_secs(1)).is_err());
}

#[tokio::test]
async fn a_ticket_does_not_outlive_the_authority_that_verified_its_client() {
    let (folder, authority, next) = (Folder::new(), Authority::new("root"), Authority::new("next"));
    let acceptor = Acceptor::open("web", &asking(&folder, &authority, true)).unwrap();
    let alice = authority.issue(&["alice"]);
    for versions in [ALL, OLD] {
        folder.write("clients.pem", &authority.pem());
        acceptor.reload().unwrap();
        let client = TestClient::new(&authority, versions, Some(&alice));
        assert!(!client.connect(&acceptor, "app.example").await.unwrap().is_resumed());
        let connection = client.connect(&acceptor, "app.example").await.unwrap();
        assert!(connection.is_resumed());
        assert_eq!(connection.handshake.subject.unwrap(), "CN=alice");
        folder.write("clients.pem", &next.pem());
        assert!(acceptor.reload().unwrap());
        assert!(client.connect(&acceptor, "app.example").await.is_err());
    }
}

#[tokio::test]
async fn a_ticket_of_one_listener_is_invalid_at_another() {
    let (folder, authority) = (Folder::new(), Authority::new("root"));
    let open = asking(&folder, &authority, false);
    let strict = Settings {
        clients: open.clients.clone().map(|it| ClientVerification { is_required: true, ..it }),
        ..open.clone()
    };
    let (open, strict) = (Acceptor::open("open", &open).unwrap(), Acceptor::open("strict", &strict).unwrap());
    for versions in [ALL, OLD] {
        let client = TestClient::new(&authority, versions, None);
        client.connect(&open, "app.example").await.unwrap();
        assert!(client.connect(&open, "app.example").await.unwrap().is_resumed());
        assert!(client.connect(&strict, "app.example").await.is_err());
    }
}

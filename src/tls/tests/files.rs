//! Owns: tests of files that can't be used, and of files that change while they are in use.
//! Invariant: as in `tests`.
//! Must not know: how files are read.

use std::os::unix::fs::symlink;
use std::time::Duration;

use super::super::pem::{Problem, Role};
use super::super::reload::{CertificateExpiry, WatchedCertificates, watch};
use super::*;
use crate::events::{Delivery, Event, Events, Start};

#[test]
fn a_file_that_cannot_be_used_is_named_with_a_remedy_and_no_key_is_revealed() {
    let (folder, authority) = (Folder::new(), Authority::new("root"));
    let (one, other) = (authority.issue(&["one.example"]), authority.issue(&["other.example"]));
    let (one_file, other_file) = (folder.pair("one", &one), folder.pair("other", &other));
    let write = |name: &str, text: &str| folder.write(name, text);
    let broken = one.key.replace("-----END", "%%%%%\n-----END");
    let chain = write("chain", &format!("{}{}", authority.pem(), one.certificate));
    let fifo = folder.0.join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let no_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let no_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let request = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n";
    let holds = |what: &str| Problem::Holds(what.into());
    for (certificate, key, role, problem) in [
        (folder.0.clone(), one_file.key.clone(), Role::Certificate, Problem::NoFile),
        (fifo.clone(), one_file.key.clone(), Role::Certificate, Problem::NoFile),
        (one_file.certificate.clone(), fifo, Role::Key, Problem::NoFile),
        (write("empty", ""), one_file.key.clone(), Role::Certificate, Problem::Empty),
        (one_file.key.clone(), one_file.key.clone(), Role::Certificate, holds("a block of PRIVATE KEY")),
        (
            one_file.key.clone(),
            one_file.certificate.clone(),
            Role::Certificate,
            Problem::Swapped(one_file.certificate.clone()),
        ),
        (
            write("encrypted.pem", encrypted),
            one_file.certificate.clone(),
            Role::Certificate,
            Problem::Swapped(one_file.certificate.clone()),
        ),
        (write("request", request), one_file.key.clone(), Role::Certificate, holds("a certificate request")),
        (write("der", "0\u{2}"), one_file.key.clone(), Role::Certificate, Problem::Empty),
        (write("no-der", no_der), one_file.key.clone(), Role::Certificate, Problem::Unusable),
        (write("long", &"x".repeat(2 << 20)), one_file.key.clone(), Role::Certificate, Problem::TooLarge),
        (one_file.certificate.clone(), write("broken", &broken), Role::Key, Problem::Malformed),
        (one_file.certificate.clone(), one_file.certificate.clone(), Role::Key, holds("a block of CERTIFICATE")),
        (one_file.certificate.clone(), write("encrypted", encrypted), Role::Key, Problem::Encrypted),
        (one_file.certificate.clone(), write("no-key", no_key), Role::Key, Problem::Unusable),
        (
            one_file.certificate.clone(),
            other_file.key.clone(),
            Role::Key,
            Problem::Mismatch(one_file.certificate.clone()),
        ),
        (chain.clone(), one_file.key.clone(), Role::Key, Problem::Order(chain.clone())),
    ] {
        let file = if role == Role::Key { key.clone() } else { certificate.clone() };
        let error = Acceptor::open("web", &settings(vec![CertificateFiles { certificate, key }])).err().unwrap();
        assert_eq!(error, Error { role, file, problem });
        assert!(!error.remedy().is_empty());
        let secret = one.key.lines().nth(1).unwrap();
        assert!(!format!("{error} {error:?}").contains(secret));
    }
    let gone = CertificateFiles { certificate: folder.0.join("gone"), key: one_file.key.clone() };
    assert!(matches!(Acceptor::open("web", &settings(vec![gone])).err().unwrap().problem, Problem::Unreadable(_)));
    // Both in one file, in either order.
    for text in [format!("{}{}", one.certificate, one.key), format!("{}{}", one.key, one.certificate)] {
        let both = write("both", &text);
        Acceptor::open("web", &settings(vec![CertificateFiles { certificate: both.clone(), key: both }])).unwrap();
    }
}

/// Waits until `acceptor` sends new clients the certificate of `holder`, for 20 seconds at most.
async fn until_shown(acceptor: &Acceptor, client: &TestClient, holder: &str) {
    let shown = async {
        loop {
            let connection = client.connect(acceptor, "app.example").await.unwrap();
            if connection.server_certificate().subject == format!("CN={holder}") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), shown).await.unwrap_or_else(|_| panic!("{holder} is not shown"));
}

/// The clock is paused: looks follow each other as fast as files can be read.
#[tokio::test(start_paused = true)]
async fn files_that_change_however_are_used_for_new_connections_only() {
    let (folder, authority) = (Folder::new(), Authority::new("root"));
    let issue = |holder: &str| {
        authority.issue_with(&["app.example"], |params| {
            params.distinguished_name = authority::subject(&[(rcgen::DnType::CommonName, holder)]);
        })
    };
    // Kubernetes mounts a secret like this: the files are links into ..data, which is a link to a folder.
    let mount = |version: &str| {
        let inner = folder.0.join(version);
        std::fs::create_dir(&inner).unwrap();
        issue(version).write(&inner, "tls");
        symlink(version, folder.0.join("..new")).unwrap();
        std::fs::rename(folder.0.join("..new"), folder.0.join("..data")).unwrap();
    };
    mount("v1");
    for name in ["tls.pem", "tls.key"] {
        symlink(format!("..data/{name}"), folder.0.join(name)).unwrap();
    }
    let pair = CertificateFiles { certificate: folder.0.join("tls.pem"), key: folder.0.join("tls.key") };
    let acceptor = Arc::new(Acceptor::open("web", &settings(vec![pair.clone()])).unwrap());
    let (events, watched) = (Events::default(), WatchedCertificates::new([Arc::clone(&acceptor) as Arc<dyn Reload>]));
    let watching = tokio::spawn(watch(watched, events.clone()));
    let client = TestClient::new(&authority, ALL, None);
    // Without tickets every handshake is a full one, in which the server sends its certificate.
    let client = TestClient {
        config: Arc::new({
            let mut config = (*client.config).clone();
            config.resumption = rustls::client::Resumption::disabled();
            config
        }),
    };
    let mut old = client.connect(&acceptor, "app.example").await.unwrap();

    mount("v2");
    until_shown(&acceptor, &client, "v2").await;

    // Written in place, the key long after the certificate: the old ones stay in use meanwhile.
    let third = issue("v3");
    let files = [folder.0.join("v2/tls.pem"), folder.0.join("v2/tls.key")];
    std::fs::write(&files[0], &third.certificate).unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    until_shown(&acceptor, &client, "v2").await;
    std::fs::write(&files[1], &third.key).unwrap();
    until_shown(&acceptor, &client, "v3").await;

    // Renamed into place.
    let fourth = issue("v4");
    for (file, text) in files.iter().zip([&fourth.certificate, &fourth.key]) {
        std::fs::write(file.with_extension("tmp"), text).unwrap();
        std::fs::rename(file.with_extension("tmp"), file).unwrap();
    }
    until_shown(&acceptor, &client, "v4").await;

    // Broken and removed, then valid again.
    std::fs::write(&files[0], "what is this?").unwrap();
    std::fs::remove_file(&files[1]).unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    until_shown(&acceptor, &client, "v4").await;
    let fifth = issue("v5");
    std::fs::write(&files[1], &fifth.key).unwrap();
    std::fs::write(&files[0], &fifth.certificate).unwrap();
    until_shown(&acceptor, &client, "v5").await;

    old.exchange().await.unwrap();
    assert_eq!(old.server_certificate().subject, "CN=v1");
    watching.abort();

    // Each change is an event, and so is each thing that is wrong once it stays wrong.
    let (mut all, mut subscription) = (Vec::new(), events.subscribe(&Start::Last(100)));
    while let Some(Delivery::Event(published)) = futures_util::FutureExt::now_or_never(subscription.next()) {
        let Event::Certificate { of: "listener", name, ok, reason } = &published.event else { panic!("{published:?}") };
        assert_eq!((name.as_str(), reason.is_none()), ("web", *ok), "{published:?}");
        all.push(*ok);
    }
    assert_eq!(all, [true, false, true, true, false, true]);
}

#[test]
fn the_days_left_follow_a_change_of_files() {
    let (folder, authority) = (Folder::new(), Authority::new("root"));
    let now = crate::clock::unix();
    let until = |days: i64| {
        authority.issue_with(&["app.example"], |params| {
            let end = i64::try_from(now.as_secs()).unwrap() + days * 24 * 60 * 60 + 60;
            params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(end.try_into().unwrap());
            params.not_before = params.not_after - Duration::from_secs(90 * 24 * 60 * 60);
        })
    };
    let pairs = vec![folder.pair("one", &until(80)), folder.pair("other", &until(70))];
    let acceptor = Arc::new(Acceptor::open("web", &settings(pairs)).unwrap());
    let watched = WatchedCertificates::new([Arc::clone(&acceptor) as Arc<dyn Reload>]);
    let expected = |days: i64| {
        let not_after = i64::try_from(now.as_secs()).unwrap() + days * 24 * 60 * 60 + 60;
        let not_before = not_after - 90 * 24 * 60 * 60;
        let (of, certificate) = ("web".into(), "app.example".into());
        vec![CertificateExpiry { kind: "listener", of, certificate, not_before, not_after, days }]
    };
    // Of two certificates with one name, the one that expires first counts.
    assert_eq!(watched.expiries(now), expected(70));
    folder.pair("other", &until(90));
    assert!(acceptor.reload().unwrap());
    assert_eq!(watched.expiries(now), expected(80));
    assert!(!acceptor.reload().unwrap());
    // One day after it expired.
    folder.pair("other", &until(-1));
    acceptor.reload().unwrap();
    assert_eq!(watched.expiries(now), expected(-1));
}

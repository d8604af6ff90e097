//! Certificates from a real ACME server, which validates names by connecting to Linchpin.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::support::acme::{EAB_KEY, Pebble};
use super::support::authority::Authority;
use super::support::reloads::Reloadable;
use super::support::{Backend, Client, Proxy};

/// Returns each file in a folder and the folders in it, with its mode.
fn files(folder: &Path) -> Vec<(PathBuf, u32)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, mode) = (entry.path(), entry.metadata().unwrap().permissions().mode() & 0o777);
        if path.is_dir() {
            all.extend(files(&path));
        }
        all.push((path, mode));
    }
    all
}

#[tokio::test]
async fn names_are_validated_over_http_by_whichever_linchpin_shares_the_storage() {
    let pebble = Pebble::start(&["app.internal", "www.internal"], false).await;
    let tls = format!(
        "[[listeners]]\naddress = \"127.0.0.1:0\"\nredirect_https = true\n\
         [[listeners]]\naddress = \"127.0.0.1:0\"\n[listeners.tls.acme]\nnames = [\"app.internal\", \"www.internal\"]\n\
         challenges = [\"http-01\"]\nemail = \"ops@app.internal\"\n{}",
        pebble.settings()
    );
    let a = Backend::named("a").await;
    let other = Proxy::builder().top(&tls).backend(&a, "").start();
    // Its redirect answers every request but those of an ACME server.
    pebble.http.leads_to(other.listener(0));
    let proxy = Proxy::builder().top(&tls).backend(&a, "").start();
    let redirected = Client::connect(other.listener(0)).await.get("/.well-known/acme-challenge/unknown").await;
    assert_eq!(redirected.status, 308);
    for name in ["app.internal", "www.internal"] {
        for one in [&proxy, &other] {
            assert!(pebble.certified(name, one.listener(1), &[]).await.contains(" 200"));
        }
    }
    let storage = PathBuf::from(pebble.folder.file("storage"));
    for (path, mode) in files(&storage) {
        assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{path:?}");
    }
    let left =
        |folder: &str| files(&storage).iter().filter(|(path, _)| path.parent().unwrap().ends_with(folder)).count();
    assert_eq!((left("certificates"), left("orders"), left("challenges")), (2, 0, 0));
}

#[tokio::test]
async fn names_are_validated_in_the_handshake_where_clients_need_certificates_and_the_authority_an_account() {
    let pebble = Pebble::start(&["app.internal", "www.internal"], true).await;
    let authority = Authority::new("clients");
    let clients = pebble.folder.write("clients.pem", authority.pem().as_bytes());
    let key = pebble.folder.write("eab.key", EAB_KEY.1.as_bytes());
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let a = Backend::named("a").await;
    let text = |names: &[&str]| {
        let tls = format!(
            "[admin]\naddress = \"127.0.0.1:0\"\n[[listeners]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
             [listeners.tls]\nclient_ca = {clients:?}\nmin_version = \"1.3\"\n\
             [listeners.tls.acme]\nnames = {names:?}\nchallenges = [\"tls-alpn-01\"]\n{}\
             [listeners.tls.acme.eab]\nkey_id = {:?}\nfile = {key:?}\n",
            pebble.settings(),
            EAB_KEY.0
        );
        Proxy::builder().top(&tls).backend(&a, "").text()
    };
    let linchpin = Reloadable::start(&text(&["app.internal"]));
    let proxy = &linchpin.proxy;
    pebble.tls.leads_to(proxy.listener(0));
    let (cert, key) = authority.issue(&["client"]).write(Path::new(&pebble.folder.file("")), "client");
    let shown = ["--cert", cert.to_str().unwrap(), "--key", key.to_str().unwrap()];
    assert!(pebble.certified("app.internal", proxy.listener(0), &shown).await.contains(" 200"));
    assert_eq!(a.count(), 1);
    // A reload adds a name, and the account is the same.
    let report = linchpin.reload(&text(&["app.internal", "www.internal"])).await;
    assert!(report.errors.is_empty(), "{report:?}");
    assert!(pebble.certified("www.internal", proxy.listener(0), &shown).await.contains(" 200"));
    let metrics = proxy.ask("GET", "/metrics", "").await.text();
    for line in [
        "linchpin_acme_failures{listener=\"web\",certificate=\"www.internal\"} 0",
        "linchpin_acme_orders_total{listener=\"web\",result=\"failed\"} 0",
        "linchpin_certificate_not_after_timestamp_seconds{listener=\"web\",certificate=\"www.internal\"} ",
    ] {
        assert!(metrics.lines().any(|one| one.starts_with(line)), "{line}: {metrics}");
    }
    let renewals: Value = serde_json::from_str(&proxy.ask("GET", "/api/v1/renewals", "").await.text()).unwrap();
    let names: Vec<_> = renewals.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["app.internal", "www.internal"]);
    assert!(renewals[1]["not_after"].as_u64() > renewals[1]["next_order"].as_u64(), "{renewals}");
}

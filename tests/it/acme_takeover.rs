//! A certificate that is being ordered while another process takes over.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use linchpin::acme::certificate_file;

use super::support::acme::Pebble;
use super::support::authority::Authority;
use super::support::load::Load;
use super::support::tool::run;
use super::support::upgrades::{Place, ask};
use super::support::{Backend, until};

const NAME: &str = "app.internal";

/// Stores a certificate of this authority that is due for renewal, as if an ACME server had issued it.
fn store_old_certificate(pebble: &Pebble, authority: &Authority) {
    let end = UNIX_EPOCH.elapsed().unwrap() + Duration::from_secs(10 * 24 * 60 * 60);
    let issued = authority.issue_with(&[NAME], |params| params.not_after = rcgen::date_time_ymd(1970, 1, 1) + end);
    let storage = PathBuf::from(pebble.folder.file("storage"));
    let file = certificate_file(&storage, &pebble.directory(), NAME);
    let mut folders = std::fs::DirBuilder::new();
    folders.recursive(true).mode(0o700).create(file.parent().unwrap()).unwrap();
    std::fs::write(&file, format!("{}{}", issued.key, issued.certificate)).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn count(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

#[tokio::test]
async fn an_order_under_way_is_completed_by_the_process_that_takes_over_and_the_old_certificate_serves_until_then() {
    let (pebble, authority, place) = (Pebble::start(&[NAME], false).await, Authority::new("old"), Place::new());
    store_old_certificate(&pebble, &authority);
    let a = Backend::named("a").await;
    let text = place.text(
        "threads = 1",
        &format!(
            "[[listeners]]\naddress = \"127.0.0.1:0\"\n[listeners.tls.acme]\nnames = [\"{NAME}\"]\n\
             challenges = [\"tls-alpn-01\"]\n{}[[pools]]\nname = \"app\"\n[[pools.backends]]\nname = \"a\"\naddress = \"{}\"\n",
            pebble.settings(),
            a.address()
        ),
    );
    let mut old = place.start(&text).await;
    let address: std::net::SocketAddr = old.address.parse().unwrap();
    pebble.tls.leads_to(address);
    // Clients trust the authority of the old certificate and that of the new one.
    let roots = std::fs::read_to_string(pebble.folder.file("root.pem")).unwrap() + &authority.pem();
    let roots = pebble.folder.write("roots.pem", roots.as_bytes());
    let load = Load::begin(1, |_, told| {
        let (roots, port) = (roots.clone(), address.port());
        async move {
            while !told.is_over() {
                let (resolve, url) = (format!("{NAME}:{port}:127.0.0.1"), format!("https://{NAME}:{port}/"));
                run("curl", &["-sSf", "--cacert", &roots, "--resolve", &resolve, &url]).await;
                told.served();
                // A curl and a handshake each time: enough of them to notice a gap, and no load.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
    // The order exists, and the ACME server was not told yet that the challenge is answered: the others that share the
    // storage have two seconds to learn it.
    let challenges = PathBuf::from(pebble.folder.file("storage/challenges"));
    until("a challenge", async || count(&challenges) > 0).await;
    assert_eq!((pebble.requests("/order-plz"), pebble.requests("/chalZ/")), (1, 0));
    let _new = place.upgrade(&text).await;
    assert!(pebble.certified(NAME, address, &[]).await.contains(" 200"));
    load.more(2).await;
    load.end().await;
    old.line("stopped: the last connection has ended").await;
    assert_eq!((pebble.requests("/order-plz"), pebble.requests("/finalize-order/")), (1, 1));
    until("nothing to be left", async || count(&challenges) == 0).await;
    let renewals = ask(&place, "GET", "/api/v1/renewals", "").await;
    assert!(renewals.contains("\"failures\":0"), "{renewals}");
}

//! Health checks that go elsewhere than requests: to another port, with TLS or without.

use linchpin::pool::Health;

use super::support::authority::Authority;
use super::support::tool::Folder;
use super::support::{Backend, Proxy, Reply};

/// Probes without a pause, with a timeout that suits a slow machine.
const PROBES: &str = "path = \"/ready\"\ninterval = \"10ms\"\ntimeout = \"10s\"";

#[tokio::test]
async fn probes_go_to_their_own_port_with_their_own_host() {
    let a = Backend::named("a").await;
    let probes = Backend::start("probes", |_| Reply::new(503, "", "")).await;
    let table = format!("{PROBES}\nport = {}\nhost = \"health.example\"", probes.address().port());
    let proxy = Proxy::builder().table("health", &table).backend(&a, "").start();
    proxy.health("a", Health::Down).await;
    let seen = probes.seen();
    assert_eq!((seen[0].path(), seen[0].field("host")), ("/ready", Some("health.example")));
    assert_eq!(a.count(), 0);
}

#[tokio::test]
async fn probes_without_tls_check_a_pool_with_tls() {
    let (a, probes, folder) = (Backend::named("a").await, Backend::named("probes").await, Folder::new());
    let table = format!("{PROBES}\nport = {}\ntls = false", probes.address().port());
    let ca = folder.write("ca.pem", Authority::new("ca").pem().as_bytes());
    let builder = Proxy::builder().table("health", &table).table("upstream", &format!("tls = {{ ca = {ca:?} }}"));
    let proxy = builder.backend(&a, "").start();
    probes.has(3).await;
    proxy.health("a", Health::Up).await;
    // The backend itself speaks no TLS, so no request could have succeeded.
    assert_eq!(a.count(), 0);
}

#[tokio::test]
async fn probes_with_tls_of_their_own_check_a_pool_without() {
    let (a, folder) = (Backend::named("a").await, Folder::new());
    let ca = folder.write("ca.pem", Authority::new("ca").pem().as_bytes());
    // The server never responds to a handshake.
    let table = format!("interval = \"10ms\"\ntimeout = \"300ms\"\ntls = {{ ca = {ca:?} }}");
    let proxy = Proxy::builder().table("health", &table).backend(&a, "").start();
    proxy.health("a", Health::Down).await;
    assert!(a.connections() > 0 && a.count() == 0);
}

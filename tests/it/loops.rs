//! Loops: requests that return through other proxies, and backends that are Linchpin's own listeners.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::net::{TcpListener, TcpStream};

use super::support::process::Linchpin;
use super::support::tool::Folder;
use super::support::{Backend, Client, Proxy, soon, until};

/// A TCP relay whose target is set later.
struct Relay {
    address: SocketAddr,
    target: Arc<OnceLock<SocketAddr>>,
    connections: Arc<AtomicUsize>,
}

impl Relay {
    async fn start() -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (target, connections) = (Arc::new(OnceLock::new()), Arc::new(AtomicUsize::new(0)));
        let relay = Relay { address: listener.local_addr().unwrap(), target, connections };
        let (target, connections) = (Arc::clone(&relay.target), Arc::clone(&relay.connections));
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let target: SocketAddr = *target.get().unwrap();
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(target).await?;
                    tokio::io::copy_bidirectional(&mut client, &mut server).await
                });
            }
        });
        relay
    }

    fn leads_to(&self, target: SocketAddr) {
        self.target.set(target).unwrap();
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_request_that_loops_through_another_proxy_is_a_508_and_is_logged() {
    let relay = Relay::start().await;
    let linchpin = Linchpin::start(
        &format!(
            "[server]\nthreads = 1\n[log]\naccess = \"off\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n[[pools]]\n\
             name = \"app\"\n[[pools.backends]]\nname = \"back\"\naddress = \"{}\"\n",
            relay.address
        ),
        None,
    )
    .await;
    let between = Proxy::builder().backend_at("linchpin", linchpin.address, "").start();
    relay.leads_to(between.address());
    for _ in 0..5 {
        let response = soon("a response", async { linchpin.client().await.get("/").await }).await;
        assert_eq!(response.status, 508, "{}", response.text());
    }
    // Each request goes round once, and not thousands of times.
    assert!(relay.connections() <= 10, "{}", relay.connections());
    let line = linchpin.says("already received").await;
    assert!(line.contains("WARN") && line.contains("pool=\"app\""), "{line}");
    assert_eq!(linchpin.times_logged("already received"), 1, "five loops within one second");
}

#[tokio::test]
async fn two_linchpins_in_a_chain_both_appear_in_via() {
    let a = Backend::named("a").await;
    let inner = Proxy::before(&[&a]);
    let outer = Proxy::builder().backend_at("inner", inner.address(), "").start();
    let response = Client::connect(outer.address()).await.request("GET", "/", "via: 1.0 fred\r\n", b"").await;
    assert_eq!(response.text(), "a");
    let seen = a.seen().pop().unwrap();
    let hops = seen.fields("via");
    assert_eq!((hops.len(), hops[0]), (3, "1.0 fred"), "{hops:?}");
    assert!(hops[1..].iter().all(|hop| hop.starts_with("1.1 linchpin-")) && hops[1] != hops[2], "{hops:?}");
    assert_eq!(response.fields("via"), [hops[2], hops[1]]);
}

#[tokio::test]
async fn a_gateway_may_forward_a_request_to_another_pool_of_the_same_linchpin() {
    let (a, relay, back) = (Backend::named("a").await, Relay::start().await, Relay::start().await);
    let gateway = format!(
        "[[routes]]\npool = \"app\"\n[[routes]]\npath_prefix = \"/gw\"\npool = \"gw\"\n\
         [[pools]]\nname = \"gw\"\n[[pools.backends]]\nname = \"gateway\"\naddress = \"{}\"\n",
        relay.address
    );
    let proxy = Proxy::builder().top(&gateway).backend(&a, "").start();
    let route = "[[routes]]\npath_prefix = \"/gw\"\nstrip_prefix = \"/gw\"\npool = \"app\"\n";
    let between = Proxy::builder().top(route).backend_at("linchpin", back.address, "").start();
    relay.leads_to(between.address());
    back.leads_to(proxy.address());
    let response = Client::connect(proxy.address()).await.get("/gw/x").await;
    assert_eq!((response.status, response.text().as_str()), (200, "a"));
    // A second round to the same pool ends, whatever the gateway does with the path.
    assert_eq!(Client::connect(proxy.address()).await.get("/gw/gw/x").await.status, 508);
}

#[tokio::test]
async fn via_has_the_configured_name_or_is_not_sent() {
    let a = Backend::named("a").await;
    for (line, begins) in
        [("via = true", Some("1.1 linchpin-")), ("via = \"edge\"", Some("1.1 edge-")), ("via = false", None)]
    {
        let proxy = Proxy::builder().server(line).backend(&a, "").start();
        let response = proxy.get(None).await;
        let seen = a.seen().pop().unwrap();
        match begins {
            Some(begins) => {
                let [hop] = seen.fields("via")[..] else { panic!("{}", seen.head) };
                assert!(hop.starts_with(begins), "{hop}");
                assert_eq!(response.fields("via"), [hop]);
            }
            None => assert_eq!((seen.field("via"), response.field("via")), (None, None)),
        }
    }
}

#[tokio::test]
async fn an_address_of_this_linchpin_is_not_accepted_as_a_discovered_backend() {
    let (a, folder) = (Backend::named("a").await, Folder::new());
    let file = folder.write("backends.txt", b"");
    let socket = folder.file("admin.sock");
    let top = format!(
        "[admin]\naddress = \"unix:{socket}\"\n[[listeners]]\naddress = \"0.0.0.0:0\"\n[[listeners]]\n\
         address = \"[::]:0\"\n"
    );
    let proxy = Proxy::builder().top(&top).discover(&format!("file = {file:?}")).start();
    let [v4, v6, own] = [0, 1, 2].map(|index| proxy.listener(index).port());
    let mut lines = format!("a {}\nadmin unix:{socket}\n", a.address());
    let loopback =
        [format!("127.0.0.1:{v4}"), format!("127.7.7.7:{v4}"), format!("[::1]:{v6}"), format!("127.0.0.1:{own}")];
    let here = linchpin::net::local_addresses::interfaces();
    let interfaces = here.iter().filter(|ip| ip.is_ipv4() && !ip.is_loopback()).map(|ip| format!("{ip}:{v4}"));
    for (index, address) in loopback.into_iter().chain(interfaces).enumerate() {
        lines += &format!("back-{index} {address}\n");
    }
    let next = folder.write("next", lines.as_bytes());
    std::fs::rename(next, &file).unwrap();
    until("the backend to be discovered", async || proxy.pool().position("a").is_some()).await;
    let pool = proxy.pool();
    let names: Vec<_> = pool.backends().iter().map(|backend| &**backend.name()).collect();
    assert_eq!(names, ["a"]);
    // Each thread gets the new backends at its next event-loop iteration.
    let get = async || Client::connect(([127, 0, 0, 1], v4).into()).await.get("/").await.text();
    until("the backend to serve", async || get().await == "a").await;
}

//! Clients of a shop with session copies, while its servers are killed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::application::Application;
use super::process::Linchpin;
use super::{Client, Response, soon, until};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// How to start a server: its command, and its environment.
pub struct Launch {
    pub words: Vec<String>,
    pub environment: Vec<(&'static str, String)>,
}

impl Launch {
    async fn try_start(&self) -> Result<Application, String> {
        let words: Vec<_> = self.words.iter().map(String::as_str).collect();
        let environment: Vec<_> = self.environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Application::try_start(&words, &environment).await
    }
}

/// Three servers of a shop behind a Linchpin that holds copies of their sessions.
pub struct Shop<L> {
    linchpin: Linchpin,
    servers: Vec<Option<Application>>,
    addresses: Vec<SocketAddr>,
    /// Says how to start the server with this name on this port; it has nothing from an earlier life.
    launch: L,
}

impl<L: Fn(&str, u16) -> Launch> Shop<L> {
    pub async fn open(launch: L) -> Shop<L> {
        let (mut servers, mut addresses, mut backends) = (Vec::new(), Vec::new(), String::new());
        for name in NAMES {
            let server = launch(name, 0).try_start().await.unwrap_or_else(|output| panic!("{output}"));
            backends += &format!("[[pools.backends]]\nname = \"{name}\"\naddress = \"{}\"\n", server.address);
            addresses.push(server.address);
            servers.push(Some(server));
        }
        let top = "[server]\nthreads = 2\n[[listeners]]\naddress = \"127.0.0.1:0\"\n[[pools]]\nname = \"app\"\n";
        let configuration = format!("{top}[pools.copies]\n{backends}");
        Shop { linchpin: Linchpin::start(&configuration, None).await, servers, addresses, launch }
    }

    pub fn browser(&self) -> Browser {
        Browser { address: self.linchpin.address, cookies: BTreeMap::new(), told: 0, unknown: 0, failed: 0 }
    }

    /// kill -9 of the server with this index.
    pub fn kill(&mut self, index: usize) {
        self.servers[index] = None;
    }

    /// Starts a server on its port again. Somebody's connection may have that port for an instant.
    pub async fn restart(&mut self, index: usize) {
        let launch = (self.launch)(NAMES[index], self.addresses[index].port());
        let again = soon("the server to have its port again", async {
            loop {
                if let Ok(server) = launch.try_start().await {
                    return server;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        self.servers[index] = Some(again);
    }
}

/// A client with its cookies.
#[derive(Clone)]
pub struct Browser {
    address: SocketAddr,
    pub cookies: BTreeMap<String, String>,
    /// The count that it was told last.
    pub told: usize,
    /// How many of its increments since then have failed: nobody knows whether they ran.
    unknown: usize,
    /// How many have failed at all.
    failed: usize,
}

impl Browser {
    pub async fn request(&mut self, method: &str, path: &str, form: &str) -> Response {
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookie = if cookies.is_empty() { String::new() } else { format!("cookie: {}\r\n", cookies.join("; ")) };
        let fields = format!("{cookie}content-type: application/x-www-form-urlencoded\r\n");
        let response = Client::connect(self.address).await.request(method, path, &fields, form.as_bytes()).await;
        assert!(!response.head.to_ascii_lowercase().contains("\nlinchpin-session"), "{response:?}");
        for cookie in response.fields("set-cookie") {
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        response
    }

    /// Logs in and fills the cart.
    pub async fn enter(&mut self, name: &str) {
        assert_eq!(self.request("POST", "/login", &format!("user={name}")).await.status, 303);
        assert_eq!(self.request("POST", "/cart", "item=axle").await.status, 303);
        assert_eq!(self.cart().await, whole(name));
    }

    pub async fn cart(&mut self) -> String {
        let response = self.request("GET", "/", "").await;
        assert_eq!(response.status, 200, "{response:?}");
        response.text()
    }

    /// Adds 1 to the counter. A response tells a value that follows from all that was told before.
    pub async fn count(&mut self) {
        let response = self.request("POST", "/count", "").await;
        if response.status == 502 {
            self.unknown += 1;
            self.failed += 1;
            return;
        }
        assert_eq!(response.status, 200, "{response:?}");
        if response.text().is_empty() {
            // The server died behind its header section. A response without a length is complete then for everybody
            // (RFC 9112 §6.3), and PHP's own server sends none.
            self.unknown += 1;
            self.failed += 1;
            return;
        }
        let value: usize = response.text().trim().parse().unwrap();
        let possible = self.told + 1..=self.told + 1 + self.unknown;
        assert!(possible.contains(&value), "told {value} where {possible:?} is possible: {response:?}");
        (self.told, self.unknown) = (value, 0);
    }
}

fn whole(name: &str) -> String {
    format!("{{\"user\":\"{name}\",\"cart\":[\"axle\"]}}")
}

/// Sessions survive kills and restarts between their requests. A POST on a connection that the kill has just ended may be a 502.
pub async fn survives_kills_between_requests<L: Fn(&str, u16) -> Launch>(mut shop: Shop<L>) {
    let mut clients: Vec<_> = (0..4).map(|n| (format!("user{n}"), shop.browser())).collect();
    for (name, client) in &mut clients {
        client.enter(name).await;
    }
    for round in 0..6 {
        for (_, client) in &mut clients {
            client.count().await;
        }
        shop.kill(round % 3);
        if round % 2 == 0 {
            // Faster than any probe: the server is there, and has forgotten everything.
            shop.restart(round % 3).await;
        }
        for (name, client) in &mut clients {
            client.count().await;
            assert_eq!(client.cart().await, whole(name));
            let sent = 2 * (round + 1);
            assert!(client.told <= sent && sent <= client.told + client.failed, "{} of {sent}", client.told);
            assert!(client.failed <= round + 1, "{} requests failed", client.failed);
        }
        if round % 2 == 1 {
            shop.restart(round % 3).await;
        }
    }
}

/// A logout and a new id last, whichever server dies.
pub async fn old_cookies_are_worth_nothing_after_kills<L: Fn(&str, u16) -> Launch>(mut shop: Shop<L>) {
    let mut client = shop.browser();
    client.enter("anna").await;
    client.count().await;
    let before = client.clone();
    assert_eq!(client.request("POST", "/renew", "").await.text(), "1");
    let renewed = client.clone();
    for index in 0..3 {
        shop.kill(index);
        assert_eq!(before.clone().cart().await, NOBODY, "with the id from before");
        assert_eq!(client.cart().await, whole("anna"));
        shop.restart(index).await;
    }
    assert_eq!(client.request("POST", "/logout", "").await.status, 200);
    for index in 0..3 {
        for mut old in [before.clone(), renewed.clone(), client.clone()] {
            assert_eq!(old.cart().await, NOBODY, "after the logout");
        }
        shop.kill(index);
        assert_eq!(renewed.clone().cart().await, NOBODY, "after the logout and a kill");
        shop.restart(index).await;
    }
    client.enter("bert").await;
}

/// Servers are killed in the middle of requests, and clients go on at once.
pub async fn survives_kills_under_load<L: Fn(&str, u16) -> Launch>(mut shop: Shop<L>) {
    let is_over = AtomicBool::new(false);
    let counted = AtomicUsize::new(0);
    let client = async |n: usize, mut browser: Browser| {
        let name = format!("user{n}");
        browser.enter(&name).await;
        while !is_over.load(Ordering::Relaxed) {
            browser.count().await;
            counted.fetch_add(1, Ordering::Relaxed);
        }
        assert_eq!(browser.cart().await, whole(&name));
        browser.count().await;
    };
    let [a, b, c, d] = [0, 1, 2, 3].map(|n| client(n, shop.browser()));
    let kills = async {
        for index in 0..3 {
            let enough = counted.load(Ordering::Relaxed) + 20;
            until("more requests", async || counted.load(Ordering::Relaxed) >= enough).await;
            shop.kill(index);
            shop.restart(index).await;
        }
        is_over.store(true, Ordering::Relaxed);
    };
    tokio::join!(kills, a, b, c, d);
}

const NOBODY: &str = "{\"user\":null,\"cart\":[]}";

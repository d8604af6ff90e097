//! A Linchpin in this process.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use linchpin::app::App;
use linchpin::config;
use linchpin::pool::{Health, Pool};

use super::{Backend, Client, Response, until};

/// A running proxy; ends when dropped.
pub struct Proxy {
    app: App,
}

/// The configuration of a proxy. The pool is called `app`; the defaults are those of a minimal configuration, with one
/// thread.
#[derive(Default)]
pub struct Builder {
    server: String,
    top: String,
    pool: String,
    tables: String,
    backends: String,
}

impl Proxy {
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Starts a proxy in front of these backends, with the defaults.
    pub fn before(backends: &[&Backend]) -> Proxy {
        let builder = backends.iter().fold(Proxy::builder(), |builder, backend| builder.backend(backend, ""));
        builder.start()
    }

    /// Wraps one that runs.
    pub fn of(app: App) -> Proxy {
        Proxy { app }
    }

    /// Reads the configuration file again.
    pub async fn reload(&self, is_dry_run: bool) -> linchpin::admin::ReloadReport {
        super::soon("the reload", self.app.reload(is_dry_run)).await
    }

    /// Reopens the access log; returns whether it is a file.
    pub fn reopen_log(&self) -> bool {
        self.app.log().reopen()
    }

    pub fn address(&self) -> SocketAddr {
        self.listener(0)
    }

    /// Returns the address of the listener with this index in the configuration.
    pub fn listener(&self, index: usize) -> SocketAddr {
        self.app.listeners()[index].tcp().expect("a TCP address")
    }

    pub fn admin(&self) -> SocketAddr {
        self.app.admin().expect("an admin listener")
    }

    /// Returns the current pools.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        self.app.pools()
    }

    /// Returns the current pool.
    pub fn pool(&self) -> Arc<Pool> {
        self.app.pools().remove(0)
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.address()).await
    }

    /// Connects a client that has this routing cookie.
    pub async fn client_with(&self, pin: &str) -> Client {
        let mut client = self.client().await;
        client.pin = Some(pin.into());
        client
    }

    /// Sends one GET on a new connection.
    pub async fn get(&self, pin: Option<&str>) -> Response {
        let mut client = self.client().await;
        client.pin = pin.map(str::to_owned);
        client.get("/").await
    }

    /// Sends a request to the admin listener and returns the response.
    pub async fn ask(&self, method: &str, path: &str, body: &str) -> Response {
        let mut admin = Client::connect(self.admin()).await;
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n");
        admin.send(format!("{head}content-length: {length}\r\n\r\n{body}").as_bytes()).await;
        admin.response().await
    }

    /// Returns the live state of a backend.
    pub fn live(&self, backend: &str) -> Arc<linchpin::pool::Live> {
        let pool = self.pool();
        let index = pool.position(backend).expect("a backend of the pool");
        Arc::clone(pool.backend(index).live())
    }

    /// Waits until a backend has this health.
    pub async fn health(&self, backend: &str, health: Health) {
        let what = format!("{backend} is {}", health.as_str());
        until(&what, async || self.live(backend).health() == health).await;
    }

    /// Drains the proxy and ends it.
    pub async fn stop(self) {
        self.app.stop().await;
    }
}

impl Builder {
    /// Lines of `[server]`.
    pub fn server(mut self, lines: &str) -> Builder {
        self.server += &format!("{lines}\n");
        self
    }

    /// Whole tables before the pool.
    pub fn top(mut self, tables: &str) -> Builder {
        self.top += &format!("{tables}\n");
        self
    }

    /// Lines of `[[pools]]` itself.
    pub fn pool(mut self, lines: &str) -> Builder {
        self.pool += &format!("{lines}\n");
        self
    }

    /// A table of the pool, such as `persistence`, with its lines.
    pub fn table(mut self, name: &str, lines: &str) -> Builder {
        self.tables += &format!("[pools.{name}]\n{lines}\n");
        self
    }

    /// A backend, with more lines of its table.
    pub fn backend(self, backend: &Backend, lines: &str) -> Builder {
        self.backend_at(backend.name(), backend.address(), lines)
    }

    /// A backend at an address where none need listen.
    pub fn backend_at(mut self, name: &str, address: SocketAddr, lines: &str) -> Builder {
        self.backends += &format!("[[pools.backends]]\nname = \"{name}\"\naddress = \"{address}\"\n{lines}\n");
        self
    }

    /// A backend at an address as the configuration writes it.
    pub fn backend_on(mut self, name: &str, address: &str) -> Builder {
        self.backends += &format!("[[pools.backends]]\nname = \"{name}\"\naddress = \"{address}\"\n");
        self
    }

    /// A source of backends.
    pub fn discover(mut self, lines: &str) -> Builder {
        self.backends += &format!("[[pools.discover]]\n{lines}\n");
        self
    }

    /// The configuration as text.
    pub fn text(&self) -> String {
        let Builder { server, top, pool, tables, backends } = self;
        let threads = if server.contains("threads") { "" } else { "threads = 1\n" };
        let log = if top.contains("[log]") { "" } else { "[log]\naccess = \"off\"\n" };
        format!(
            "[server]\n{threads}{server}\n{log}{top}\n[[listeners]]\naddress = \"127.0.0.1:0\"\n\
             [[pools]]\nname = \"app\"\n{pool}\n{tables}\n{backends}"
        )
    }

    pub fn start(self) -> Proxy {
        let text = self.text();
        match config::parse(&text, Path::new("test.toml")) {
            Ok((plan, _)) => Proxy { app: App::start(plan).expect("a proxy that starts") },
            Err(report) => panic!("{report}\n{text}"),
        }
    }
}

//! A real ACME server, Pebble, and the ways by which it reaches Linchpins to validate names.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use super::authority::Authority;
use super::dns::{Dns, free_port};
use super::tool::{Folder, try_run};
use super::until;

/// A port that ACME servers connect to, as they do to port 80 or 443. It leads where the test says.
pub struct Way {
    pub port: u16,
    target: Arc<Mutex<Option<SocketAddr>>>,
}

impl Way {
    pub async fn open() -> Way {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, target) = (listener.local_addr().unwrap().port(), Arc::<Mutex<Option<SocketAddr>>>::default());
        let leads_to = Arc::clone(&target);
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let target = *leads_to.lock().unwrap();
                tokio::spawn(async move {
                    let Some(target) = target else { return };
                    let Ok(mut to) = TcpStream::connect(target).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                });
            }
        });
        Way { port, target }
    }

    /// Leads there from now on.
    pub fn leads_to(&self, address: SocketAddr) {
        *self.target.lock().unwrap() = Some(address);
    }
}

/// A `pebble` on ports of loopback; killed when dropped.
pub struct Pebble {
    pub http: Way,
    pub tls: Way,
    pub folder: Folder,
    port: u16,
    _dns: Dns,
    _process: Child,
}

/// The key of the external account that Pebble may require, and its id.
pub const EAB_KEY: (&str, &str) = ("kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W");

impl Pebble {
    /// Starts one for these names, which lead to this machine.
    pub async fn start(names: &[&str], requires_eab: bool) -> Pebble {
        let hosts: Vec<_> = names.iter().map(|name| (*name, "127.0.0.1")).collect();
        let (dns, folder, authority) = (Dns::start(&hosts, &[]).await, Folder::new(), Authority::new("pebble"));
        let (http, tls, port, management) = (Way::open().await, Way::open().await, free_port(), free_port());
        let (certificate, key) = authority.issue(&["127.0.0.1"]).write(Path::new(&folder.file("")), "pebble");
        folder.write("ca.pem", authority.pem().as_bytes());
        let text = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": certificate,
            "privateKey": key,
            "httpPort": http.port,
            "tlsPort": tls.port,
            "externalAccountBindingRequired": requires_eab,
            "externalAccountMACKeys": { EAB_KEY.0: EAB_KEY.1 },
        }});
        let file = folder.write("pebble.json", text.to_string().as_bytes());
        let mut command = Command::new("pebble");
        command.args(["-config", &file, "-dnsserver", &dns.address()]).kill_on_drop(true);
        command.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", "0");
        command.stdout(std::fs::File::create(folder.file("pebble.log")).unwrap()).stderr(Stdio::null());
        let process = command.spawn().expect("pebble; `tests/run` installs what the tests need");
        let pebble = Pebble { http, tls, folder, port, _dns: dns, _process: process };
        let is_up = async || pebble.ask(port, "dir").await.is_ok() && pebble.ask(management, "roots/0").await.is_ok();
        until("Pebble answers", is_up).await;
        let root = pebble.ask(management, "roots/0").await.unwrap();
        pebble.folder.write("root.pem", root.as_bytes());
        pebble
    }

    async fn ask(&self, port: u16, path: &str) -> Result<String, String> {
        let url = format!("https://127.0.0.1:{port}/{path}");
        try_run("curl", &["-sSf", "--cacert", &self.folder.file("ca.pem"), &url]).await.map(|output| output.out)
    }

    /// The URL of its directory.
    pub fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.port)
    }

    /// Counts the requests for paths that begin so.
    pub fn requests(&self, path: &str) -> usize {
        let log = std::fs::read_to_string(self.folder.file("pebble.log")).unwrap();
        log.matches(&format!("POST {path}")).count()
    }

    /// Returns the lines of `[listeners.tls.acme]` that name it, and a storage in its folder.
    pub fn settings(&self) -> String {
        format!(
            "directory = {:?}\nca = {:?}\nagree_to_terms = true\nstorage = {:?}\n",
            self.directory(),
            self.folder.file("ca.pem"),
            self.folder.file("storage")
        )
    }

    /// Waits until the listener at this address has a certificate for `name` from this server, and returns its response.
    pub async fn certified(&self, name: &str, address: SocketAddr, more: &[&str]) -> String {
        let port = address.port();
        let (root, resolve, url) =
            (self.folder.file("root.pem"), format!("{name}:{port}:127.0.0.1"), format!("https://{name}:{port}/"));
        let arguments = [&["-sS", "-i", "--cacert", &root, "--resolve", &resolve, &url][..], more].concat();
        let mut response = String::new();
        until(&format!("the certificate for {name}"), async || match try_run("curl", &arguments).await {
            Ok(output) => {
                response = output.out;
                true
            }
            Err(_) => false,
        })
        .await;
        response
    }
}

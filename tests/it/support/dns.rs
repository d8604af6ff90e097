//! A DNS server: a real dnsmasq, on a free port of loopback.

use std::net::{TcpListener, UdpSocket};
use std::process::Stdio;

use tokio::process::{Child, Command};

use super::tool::{Folder, run};
use super::until;

/// A DNS server for names that end in `.internal`. Killed when dropped.
pub struct Dns {
    folder: Folder,
    port: u16,
    records: Vec<String>,
    process: Option<Child>,
}

impl Dns {
    /// Creates a server without starting it. `records` are arguments such as `--srv-host=…`.
    pub fn new(records: &[&str]) -> Dns {
        let records = records.iter().map(|record| (*record).to_owned()).collect();
        let dns = Dns { folder: Folder::new(), port: free_port(), records, process: None };
        dns.write(&[]);
        dns
    }

    /// Starts a server with these address records: name and IP.
    pub async fn start(hosts: &[(&str, &str)], records: &[&str]) -> Dns {
        let mut dns = Dns::new(records);
        dns.write(hosts);
        dns.restart().await;
        dns
    }

    /// Returns the configuration's `resolver` line.
    pub fn resolver(&self) -> String {
        format!("resolver = [\"127.0.0.1:{}\"]", self.port)
    }

    /// Returns its address.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts the server, or restarts it.
    pub async fn restart(&mut self) {
        self.kill().await;
        let user = run("id", &["-un"]).await.out;
        let mut command = Command::new("dnsmasq");
        command.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
        command.args(["--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file="]);
        command.args(["--listen-address=127.0.0.1", "--bind-interfaces", "--local=/internal/", "--local-ttl=1"]);
        command.arg(format!("--user={}", user.trim())).arg(format!("--port={}", self.port));
        command.arg(format!("--addn-hosts={}", self.hosts())).args(&self.records);
        command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        self.process = Some(command.spawn().expect("dnsmasq; `tests/run` installs what the tests need"));
        let port = self.port;
        until("the DNS server listens", async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok())
            .await;
    }

    /// Replaces the address records.
    pub async fn knows(&self, hosts: &[(&str, &str)]) {
        self.write(hosts);
        if let Some(pid) = self.process.as_ref().and_then(Child::id) {
            run("kill", &["-HUP", &pid.to_string()]).await;
        }
    }

    /// kill -9.
    pub async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await.unwrap();
        }
    }

    fn hosts(&self) -> String {
        self.folder.file("hosts")
    }

    /// Replaces the file at once, so that the server never reads half of it.
    fn write(&self, hosts: &[(&str, &str)]) {
        let lines: String = hosts.iter().map(|(name, ip)| format!("{ip} {name}\n")).collect();
        let new = self.folder.write("hosts.new", lines.as_bytes());
        std::fs::rename(new, self.hosts()).unwrap();
    }
}

/// A port of loopback that is free for both UDP and TCP.
pub fn free_port() -> u16 {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

//! Several Redis servers that belong together: a master and its replica behind Sentinels, and a cluster.

use std::path::Path;
use std::process::Stdio;

use tokio::process::{Child, Command};

use super::authority::Authority;
use super::dns::free_port;
use super::tool::{Folder, try_run};
use super::until;

/// The certificate of all servers, and the authority that they and their clients trust.
pub struct ServerTls {
    _folder: Folder,
    pub trusted: String,
    certificate: String,
    key: String,
}

impl ServerTls {
    pub fn new() -> ServerTls {
        let (folder, authority) = (Folder::new(), Authority::new("root"));
        let files = authority.issue(&["127.0.0.1", "localhost"]).write(Path::new(&folder.file("")), "redis");
        let [certificate, key] = [files.0, files.1].map(|file| file.to_str().unwrap().to_owned());
        let trusted = folder.write("ca.pem", authority.pem().as_bytes());
        ServerTls { _folder: folder, trusted, certificate, key }
    }

    fn arguments(&self) -> Vec<String> {
        let files = [
            ("--tls-cert-file", &self.certificate),
            ("--tls-key-file", &self.key),
            ("--tls-ca-cert-file", &self.trusted),
        ];
        let files = files.into_iter().flat_map(|(name, file)| [name.to_owned(), file.clone()]);
        let ways = ["--tls-auth-clients", "no", "--tls-replication", "yes", "--tls-cluster", "yes"].map(str::to_owned);
        files.chain(ways).collect()
    }
}

/// A `redis-server` on a port of loopback; killed when dropped.
pub struct RedisServer {
    pub port: u16,
    folder: Folder,
    arguments: Vec<String>,
    password: Option<String>,
    /// It speaks TLS alone. The file with what its clients trust.
    trusted: Option<String>,
    process: Option<Child>,
}

impl RedisServer {
    /// Starts one with these arguments, which keeps nothing on disk.
    async fn start(arguments: &[&str], password: Option<&str>, tls: Option<&ServerTls>) -> RedisServer {
        let own = arguments.iter().map(|argument| (*argument).to_owned());
        let arguments = own.chain(tls.into_iter().flat_map(ServerTls::arguments)).collect();
        let (port, folder, password) = (free_port(), Folder::new(), password.map(str::to_owned));
        let trusted = tls.map(|tls| tls.trusted.clone());
        let mut server = RedisServer { port, folder, arguments, password, trusted, process: None };
        server.restart().await;
        server
    }

    /// Starts it again, without data.
    pub async fn restart(&mut self) {
        let mut command = Command::new("redis-server");
        // A file may come first; what the server writes is in the folder.
        let (files, more): (Vec<_>, Vec<_>) = self.arguments.iter().partition(|argument| argument.ends_with(".conf"));
        let (port, folder) = (self.port.to_string(), self.folder.file(""));
        let ports = match self.trusted {
            Some(_) => vec!["--port", "0", "--tls-port", &port],
            None => vec!["--port", &port],
        };
        command.args(files).args(ports).args(["--bind", "127.0.0.1", "--dir", &folder, "--save", ""]).args(more);
        command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        self.process = Some(command.spawn().expect("redis-server; `tests/run` installs what the tests need"));
        until("Redis replies", async || self.try_ask(&["ping"]).await.is_ok_and(|out| out.trim() == "PONG")).await;
    }

    /// kill -9.
    pub async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await.unwrap();
        }
    }

    /// Runs a command and returns its output.
    pub async fn ask(&self, command: &[&str]) -> String {
        self.try_ask(command).await.unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    async fn try_ask(&self, command: &[&str]) -> Result<String, String> {
        let port = self.port.to_string();
        let login = self.password.iter().flat_map(|password| ["--no-auth-warning", "-a", password]);
        let tls = self.trusted.iter().flat_map(|trusted| ["--tls", "--cacert", trusted]);
        let way = ["-p", &port].into_iter().chain(tls).chain(login);
        let arguments: Vec<&str> = way.chain(command.iter().copied()).collect();
        try_run("redis-cli", &arguments).await.map(|output| output.out)
    }

    /// Returns the keys of sessions and copies.
    pub async fn keys(&self) -> Vec<String> {
        let out = self.ask(&["keys", "linchpin:*"]).await;
        out.lines().filter(|line| !line.is_empty() && !line.ends_with(":store")).map(str::to_owned).collect()
    }
}

/// A master and a replica, and three Sentinels. Both have passwords.
pub struct Sentinels {
    pub servers: Vec<RedisServer>,
    sentinels: Vec<RedisServer>,
    is_secure: bool,
    _folder: Folder,
}

impl Sentinels {
    pub async fn start() -> Sentinels {
        Sentinels::start_with(None).await
    }

    /// Starts them with TLS alone, if there is a certificate.
    pub async fn start_with(tls: Option<&ServerTls>) -> Sentinels {
        let login = ["--requirepass", "secret", "--masterauth", "secret", "--repl-diskless-sync-delay", "0"];
        let master = RedisServer::start(&login, Some("secret"), tls).await;
        let port = master.port.to_string();
        let replica = [&login[..], &["--replicaof", "127.0.0.1", &port]].concat();
        let replica = RedisServer::start(&replica, Some("secret"), tls).await;
        until("the replica is in sync", async || {
            replica.ask(&["info", "replication"]).await.contains("master_link_status:up")
        })
        .await;
        let folder = Folder::new();
        let mut sentinels = Vec::new();
        for n in 0..3 {
            let text = format!(
                "requirepass guard\nsentinel sentinel-pass guard\nsentinel monitor mymaster 127.0.0.1 {port} 2\n\
                 sentinel auth-pass mymaster secret\nsentinel down-after-milliseconds mymaster 500\n\
                 sentinel failover-timeout mymaster 2000\n"
            );
            let file = folder.write(&format!("{n}.conf"), text.as_bytes());
            sentinels.push(RedisServer::start(&[&file, "--sentinel"], Some("guard"), tls).await);
        }
        let (servers, is_secure) = (vec![master, replica], tls.is_some());
        let all = Sentinels { servers, sentinels, is_secure, _folder: folder };
        for sentinel in &all.sentinels {
            let knows = |info: &str| info.contains("slaves=1,sentinels=3");
            until("the Sentinels know each other", async || knows(&sentinel.ask(&["info", "sentinel"]).await)).await;
        }
        all
    }

    /// Returns the configuration's value of `store`.
    pub fn address(&self) -> String {
        let hosts: Vec<_> = self.sentinels.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
        let scheme = if self.is_secure { "rediss" } else { "redis" };
        format!("{scheme}-sentinel://:secret@{}/mymaster/0?sentinel_password=guard", hosts.join(","))
    }

    /// Kills the first Sentinel.
    pub async fn kill_sentinel(&mut self) {
        self.sentinels.remove(0).kill().await;
    }
}

/// A cluster of three masters without replicas, which serves what it can when one is down.
pub struct RedisCluster {
    pub nodes: Vec<RedisServer>,
    is_secure: bool,
}

impl RedisCluster {
    pub async fn start() -> RedisCluster {
        RedisCluster::start_with(None).await
    }

    /// Starts it with TLS alone, if there is a certificate.
    pub async fn start_with(tls: Option<&ServerTls>) -> RedisCluster {
        let mut nodes = Vec::new();
        for _ in 0..3 {
            let bus = free_port().to_string();
            let cluster = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "1000"];
            let coverage = ["--cluster-require-full-coverage", "no"];
            nodes.push((RedisServer::start(&[&cluster[..], &coverage].concat(), None, tls).await, bus));
        }
        for (n, (node, _)) in nodes.iter().enumerate() {
            let slots = [["0", "5460"], ["5461", "10922"], ["10923", "16383"]][n];
            node.ask(&["cluster", "addslotsrange", slots[0], slots[1]]).await;
            node.ask(&["cluster", "set-config-epoch", &(n + 1).to_string()]).await;
        }
        for (node, bus) in &nodes[1..] {
            nodes[0].0.ask(&["cluster", "meet", "127.0.0.1", &node.port.to_string(), bus]).await;
        }
        let nodes: Vec<_> = nodes.into_iter().map(|(node, _)| node).collect();
        for node in &nodes {
            until("the cluster is complete", async || {
                let info = node.ask(&["cluster", "info"]).await;
                info.contains("cluster_slots_ok:16384") && info.contains("cluster_size:3")
            })
            .await;
        }
        RedisCluster { nodes, is_secure: tls.is_some() }
    }

    /// Returns the configuration's value of `store`. It names two of the nodes.
    pub fn address(&self) -> String {
        let hosts: Vec<_> = self.nodes[1..].iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        let scheme = if self.is_secure { "rediss" } else { "redis" };
        format!("{scheme}-cluster://{}", hosts.join(","))
    }
}

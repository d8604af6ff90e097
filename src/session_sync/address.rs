//! Owns: the address of a store: one Redis, a Redis behind Sentinels, or a Redis Cluster.
//! Invariant: what this file accepts the client library accepts; no part of an address gets into a message.
//! Must not know: how to connect, what is kept in the store.

use redis::sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType};
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, TlsMode};

/// The port of a Redis, and of a node of a cluster.
const PORT: u16 = 6379;
/// The port of a Sentinel.
const SENTINEL_PORT: u16 = 26379;

/// Why an address is not valid. Neither text repeats a part of it, since it may contain a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidAddress {
    /// What an address must be.
    pub problem: &'static str,
    /// What to write.
    pub remedy: &'static str,
}

/// Where a store is.
#[derive(Debug, Clone)]
pub(super) enum Address {
    /// One Redis.
    One(ConnectionInfo),
    /// The master of this name, which Sentinels know.
    Sentinel {
        /// The Sentinels, with their own user and password.
        sentinels: Vec<ConnectionInfo>,
        /// The name of the master.
        master: String,
        /// The user, password and database of the master, and whether it speaks TLS.
        node: SentinelNodeConnectionInfo,
    },
    /// A cluster, of which these nodes are known.
    Cluster(Vec<ConnectionInfo>),
}

/// What kind of store a scheme means, and the scheme of one of its servers.
const SCHEMES: [(&str, Kind, &str); 7] = [
    ("redis://", Kind::One, "redis://"),
    ("rediss://", Kind::One, "rediss://"),
    ("redis+unix://", Kind::One, "redis+unix://"),
    ("redis-sentinel://", Kind::Sentinel, "redis://"),
    ("rediss-sentinel://", Kind::Sentinel, "rediss://"),
    ("redis-cluster://", Kind::Cluster, "redis://"),
    ("rediss-cluster://", Kind::Cluster, "rediss://"),
];

#[derive(Debug, Clone, Copy)]
enum Kind {
    One,
    Sentinel,
    Cluster,
}

const NO_SCHEME: InvalidAddress = InvalidAddress {
    problem: "must begin with redis://, rediss://, redis+unix://, redis-sentinel://, rediss-sentinel://, \
              redis-cluster:// or rediss-cluster://",
    remedy: "write \"redis://127.0.0.1:6379\"",
};
const NOT_ONE: InvalidAddress = InvalidAddress {
    problem: "must be like redis://:password@127.0.0.1:6379/0",
    remedy: "write \"redis://127.0.0.1:6379\"",
};
const SEVERAL: InvalidAddress = InvalidAddress {
    problem: "must name one host: several are either Sentinels or nodes of a cluster",
    remedy: "write redis-sentinel://host1,host2/mymaster or redis-cluster://host1,host2",
};
const NOT_SENTINEL: InvalidAddress = InvalidAddress {
    problem: "must name the Sentinels, and then the master, like redis-sentinel://:password@host1,host2:26379/mymaster/0",
    remedy: "write \"redis-sentinel://host1:26379,host2:26379/mymaster\"",
};
const NOT_CLUSTER: InvalidAddress = InvalidAddress {
    problem: "must name nodes of the cluster and nothing after them, like redis-cluster://:password@host1,host2:6379",
    remedy: "write \"redis-cluster://host1:6379,host2:6379\"",
};
const INSECURE: InvalidAddress = InvalidAddress {
    problem: "must not end with #insecure, since the certificate is always verified",
    remedy: "remove #insecure, and name the authority of the certificate in the environment variable SSL_CERT_FILE",
};

impl Address {
    /// Reads an address.
    ///
    /// # Errors
    /// Returns what a valid address looks like.
    pub(super) fn parse(text: &str) -> Result<Address, InvalidAddress> {
        let (rest, kind, scheme) = SCHEMES
            .iter()
            .find_map(|(begin, kind, scheme)| Some((text.strip_prefix(begin)?, *kind, *scheme)))
            .ok_or(NO_SCHEME)?;
        match kind {
            Kind::One => match server(text, NOT_ONE)? {
                server if matches!(server.addr(), ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } if host.contains(',')) => {
                    Err(SEVERAL)
                }
                server => Ok(Address::One(server)),
            },
            Kind::Sentinel => Address::of_sentinels(rest, scheme),
            Kind::Cluster => {
                let (login, hosts) = login_and_hosts(rest);
                Ok(Address::Cluster(servers(scheme, login, hosts, PORT, NOT_CLUSTER)?))
            }
        }
    }

    /// Reads `user:password@host1:port,host2/master/database?sentinel_user=…&sentinel_password=…`.
    fn of_sentinels(rest: &str, scheme: &str) -> Result<Address, InvalidAddress> {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (login, rest) = login_and_hosts(rest);
        let (hosts, path) = rest.split_once('/').ok_or(NOT_SENTINEL)?;
        let (master, database) = path.split_once('/').unwrap_or((path, "0"));
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if master.is_empty() || !master.chars().all(is_name) || database.contains(['?', '#', '/']) {
            return Err(NOT_SENTINEL);
        }
        let (mut user, mut password) = ("", "");
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=') {
                Some(("sentinel_user", value)) => user = value,
                Some(("sentinel_password", value)) => password = value,
                _ => return Err(NOT_SENTINEL),
            }
        }
        let own_login =
            if user.is_empty() && password.is_empty() { String::new() } else { format!("{user}:{password}@") };
        let sentinels = servers(scheme, &own_login, hosts, SENTINEL_PORT, NOT_SENTINEL)?;
        // The master's own host is known to the Sentinels.
        let login = server(&format!("{scheme}{login}localhost/{database}"), NOT_SENTINEL)?;
        let node = SentinelNodeConnectionInfo::default().set_redis_connection_info(login.redis_settings().clone());
        let node = if scheme == "rediss://" { node.set_tls_mode(TlsMode::Secure) } else { node };
        let address = Address::Sentinel { sentinels, master: master.into(), node };
        // The library's own check.
        address.sentinels().transpose().map_err(|_| NOT_SENTINEL)?;
        Ok(address)
    }

    /// Returns what asks the Sentinels, if there are any.
    pub(super) fn sentinels(&self) -> Option<redis::RedisResult<SentinelClient>> {
        let Address::Sentinel { sentinels, master, node } = self else { return None };
        Some(SentinelClient::build(sentinels.clone(), master, Some(node.clone()), SentinelServerType::Master))
    }

    /// Returns whether a server of the store speaks TLS.
    pub(super) fn is_secure(&self) -> bool {
        let servers = match self {
            Address::One(server) => std::slice::from_ref(server),
            Address::Sentinel { sentinels: servers, .. } | Address::Cluster(servers) => servers,
        };
        servers.iter().any(|server| matches!(server.addr(), ConnectionAddr::TcpTls { .. }))
    }
}

/// Splits `user:password@` off. A password may contain no @ but as %40.
fn login_and_hosts(rest: &str) -> (&str, &str) {
    rest.rfind('@').map_or(("", rest), |at| rest.split_at(at + 1))
}

/// Reads hosts with or without ports, separated by commas.
fn servers(
    scheme: &str,
    login: &str,
    hosts: &str,
    port: u16,
    error: InvalidAddress,
) -> Result<Vec<ConnectionInfo>, InvalidAddress> {
    let one = |host: &str| {
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-_.:[]".contains(c);
        if host.is_empty() || !host.chars().all(is_host) {
            return Err(error);
        }
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let port = if has_port { String::new() } else { format!(":{port}") };
        server(&format!("{scheme}{login}{host}{port}"), error)
    };
    hosts.split(',').map(one).collect()
}

fn server(address: &str, error: InvalidAddress) -> Result<ConnectionInfo, InvalidAddress> {
    let info = address.into_connection_info().map_err(|_| error)?;
    match info.addr() {
        ConnectionAddr::TcpTls { insecure: true, .. } => Err(INSECURE),
        _ => Ok(info),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(address: &str) -> Vec<String> {
        match Address::parse(address).unwrap() {
            Address::One(server) => vec![server.addr().to_string()],
            Address::Sentinel { sentinels: servers, .. } | Address::Cluster(servers) => {
                servers.iter().map(|server| server.addr().to_string()).collect()
            }
        }
    }

    #[test]
    fn addresses_of_one_redis_are_checked() {
        for good in [
            "redis://127.0.0.1",
            "redis://:secret@localhost:6380/2",
            "rediss://user:secret@redis.test:6380",
            "redis+unix:///run/redis.sock",
        ] {
            assert!(matches!(Address::parse(good), Ok(Address::One(_))), "{good}");
        }
        for (bad, error) in [
            ("127.0.0.1:6379", NO_SCHEME),
            ("valkey://localhost", NO_SCHEME),
            ("http://localhost", NO_SCHEME),
            ("redis+sentinel://localhost/mymaster", NO_SCHEME),
            ("rediss://localhost/#insecure", INSECURE),
            ("redis://localhost:99999", NOT_ONE),
            ("redis://", NOT_ONE),
            ("redis://one,two", SEVERAL),
        ] {
            assert_eq!(Address::parse(bad).err(), Some(error), "{bad}");
        }
    }

    #[test]
    fn sentinels_have_their_own_port_and_login_and_name_the_master() {
        let text = "redis-sentinel://user:p%40ss@one,two:5000,[::1]/my-master/3?sentinel_user=s&sentinel_password=t%2F";
        assert_eq!(addresses(text), ["one:26379", "two:5000", "::1:26379"]);
        let Ok(Address::Sentinel { sentinels, master, node }) = Address::parse(text) else { panic!("no Sentinels") };
        assert_eq!(master, "my-master");
        let login = sentinels[0].redis_settings();
        assert_eq!((login.username(), login.password(), login.db()), (Some("s"), Some("t/"), 0));
        let node = format!("{node:?}");
        assert!(node.contains("user") && node.contains("db: 3"), "{node}");
        assert!(!Address::parse(text).unwrap().is_secure());
        assert!(Address::parse("rediss-sentinel://one/m").unwrap().is_secure());
        for bad in [
            "redis-sentinel://one,two",
            "redis-sentinel://one/",
            "redis-sentinel://one,,two/m",
            "redis-sentinel:///m",
            "redis-sentinel://one/m/x",
            "redis-sentinel://one/m/0/1",
            "redis-sentinel://one:99999/m",
            "redis-sentinel://one/m?password=x",
            "redis-sentinel://one/a b",
            "redis-sentinel://one#x/m",
        ] {
            assert_eq!(Address::parse(bad).err(), Some(NOT_SENTINEL), "{bad}");
        }
    }

    #[test]
    fn a_cluster_is_some_of_its_nodes_and_has_no_database() {
        assert_eq!(addresses("redis-cluster://u:p@one,two:7001,127.0.0.1"), ["one:6379", "two:7001", "127.0.0.1:6379"]);
        let Ok(Address::Cluster(nodes)) = Address::parse("rediss-cluster://u:p@one,two") else { panic!("no cluster") };
        assert!(nodes.iter().all(|node| node.redis_settings().password() == Some("p")));
        assert!(Address::Cluster(nodes).is_secure());
        for bad in ["redis-cluster://", "redis-cluster://one/0", "redis-cluster://one,", "redis-cluster://one?x=y"] {
            assert_eq!(Address::parse(bad).err(), Some(NOT_CLUSTER), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_address_panics(scheme in 0..SCHEMES.len(), rest: String) {
            let _ = Address::parse(&format!("{}{rest}", SCHEMES[scheme].0));
        }
    }
}

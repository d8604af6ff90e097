//! Owns: what the demo says before anything happens: where to look, and what to try.
//! Invariant: every address in it can be typed as it stands, and whoever else can get there is named.
//! Must not know: how anything is started.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::addresses::{is_loopback_only, reachable_addresses};
use super::restart::RESTART_DELAY;
use crate::demo::PASSWORD;

/// The text.
pub(super) struct StartupMessage<'a> {
    /// Where the proxy listens.
    pub(super) shop: SocketAddr,
    /// Where the dashboard is.
    pub(super) dashboard: SocketAddr,
    /// What the dashboard asks for, if others than this machine's users can get there.
    pub(super) token: Option<&'a str>,
    /// The demo backends.
    pub(super) servers: &'a [(&'a str, SocketAddr)],
    /// The addresses of this machine.
    pub(super) interfaces: &'a HashSet<IpAddr>,
}

impl fmt::Display for StartupMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shops = reachable_addresses(self.shop, self.interfaces);
        let dashboards = reachable_addresses(self.dashboard, self.interfaces);
        let shop = shops.first().unwrap_or(&self.shop);
        let dashboard = dashboards.first().unwrap_or(&self.dashboard);

        f.write_str(
            "Linchpin demo: three servers that keep logins and carts in their own memory, behind one address.\n\n",
        )?;
        writeln!(f, "  shop       http://{shop}    log in as anybody, password {PASSWORD}")?;
        for other in shops.iter().skip(1) {
            writeln!(f, "             http://{other}    from other machines")?;
        }
        if !is_loopback_only(self.shop) {
            f.write_str("             Whoever gets there can kill these servers, too.\n")?;
        }
        writeln!(f, "  dashboard  http://{dashboard}")?;
        for other in dashboards.iter().skip(1) {
            writeln!(f, "             http://{other}    from other machines")?;
        }
        if let Some(token) = self.token {
            writeln!(f, "  token      {token}")?;
            writeln!(
                f,
                "             The dashboard asks for it, because other machines get there. It is new at each start, and is"
            )?;
            writeln!(f, "             sent unencrypted. With curl: -H 'Authorization: Bearer {token}'")?;
        }
        for (place, (name, address)) in self.servers.iter().enumerate() {
            let label = if place == 0 { "servers" } else { "" };
            writeln!(f, "  {label:<9}  {name} http://{address}")?;
        }
        write!(
            f,
            r#"
Try this:
  1. Log in, fill the cart, and reload: the server is always the same one, and it knows you.
  2. Open a private window. That is another client, most likely with another server.
  3. Press "Kill server" in one window. Its client is moved to another server and sees no error; the page says what was
     lost with the server's memory. The other window notices nothing.
  4. After {delay} seconds the server is back, and nobody is moved again.

Without a browser:
  curl -c jar -b jar -d user=ann -d password={PASSWORD} http://{shop}/login
  curl -c jar -b jar http://{shop}/whoami
  curl -c jar -b jar -X POST http://{shop}/kill

Ctrl-C ends the demo.

"#,
            delay = RESTART_DELAY.as_secs(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(shop: &str, dashboard: &str, token: Option<&str>) -> String {
        let interfaces = ["127.0.0.1", "10.0.0.5"].map(|ip| ip.parse().unwrap()).into();
        let servers = [("a", "127.0.0.1:9001".parse().unwrap()), ("b", "127.0.0.1:9002".parse().unwrap())];
        let (shop, dashboard) = (shop.parse().unwrap(), dashboard.parse().unwrap());
        StartupMessage { shop, dashboard, token, servers: &servers, interfaces: &interfaces }.to_string()
    }

    #[test]
    fn what_is_private_is_said_shortly() {
        let text = opening("127.0.0.1:8080", "127.0.0.1:9090", None);
        for absent in ["other machines", "Whoever", "token"] {
            assert!(!text.contains(absent), "{text}");
        }
        assert!(text.contains("  dashboard  http://127.0.0.1:9090\n  servers    a http://127.0.0.1:9001\n"), "{text}");
    }

    #[test]
    fn what_others_can_reach_is_said_with_the_addresses_that_they_type() {
        let text = opening("0.0.0.0:8080", "10.0.0.5:9090", Some("secret"));
        for words in [
            "shop       http://127.0.0.1:8080 ",
            "http://10.0.0.5:8080    from other",
            "can kill",
            "token      secret\n",
        ] {
            assert!(text.contains(words), "{text}");
        }
        assert!(!text.contains("0.0.0.0"), "{text}");
    }
}

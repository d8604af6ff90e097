//! Owns: the text that the demo prints when it has started: its addresses, and what to try.
//! Invariant: a browser can open every address in it, and it states which of them other machines can reach.
//! Must not know: how anything is started.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::addresses::{is_loopback_only, reachable_addresses};
use super::restart::RESTART_DELAY;
use crate::demo::PASSWORD;

/// The values of the text.
pub(super) struct StartupMessage<'a> {
    /// The proxy's address.
    pub(super) shop: SocketAddr,
    /// The dashboard's address.
    pub(super) dashboard: SocketAddr,
    /// The dashboard's token, if other machines can reach it.
    pub(super) token: Option<&'a str>,
    /// The demo backends.
    pub(super) servers: &'a [(&'a str, SocketAddr)],
    /// Whether Linchpin keeps copies of the sessions.
    pub(super) copies: bool,
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
        writeln!(f, "  shop       http://{shop}    log in with any user name and the password {PASSWORD}")?;
        for other in shops.iter().skip(1) {
            writeln!(f, "             http://{other}    from other machines")?;
        }
        if !is_loopback_only(self.shop) {
            f.write_str("             Anyone who can reach this address can kill these servers.\n")?;
        }
        writeln!(f, "  dashboard  http://{dashboard}")?;
        for other in dashboards.iter().skip(1) {
            writeln!(f, "             http://{other}    from other machines")?;
        }
        if let Some(token) = self.token {
            writeln!(f, "  token      {token}")?;
            writeln!(
                f,
                "             The dashboard asks for this token, because other machines can reach it. Each start makes a new"
            )?;
            writeln!(f, "             one. It is sent unencrypted. With curl: -H 'Authorization: Bearer {token}'")?;
        }
        for (index, (name, address)) in self.servers.iter().enumerate() {
            let label = if index == 0 { "servers" } else { "" };
            writeln!(f, "  {label:<9}  {name} http://{address}")?;
        }
        let kept = if self.copies {
            "You are still logged in, your cart is as it was, and the page says where they come from"
        } else {
            "The page says what was lost with the server's memory"
        };
        let known = if self.copies { "which knows you" } else { "which doesn't know you" };
        write!(
            f,
            r#"
Try this:
  1. Log in, add items to the cart, and reload: the same server responds each time, and it knows you.
  2. Open a private window. It is another client, most likely on another server.
  3. Press "Kill server" in one window. You move to another server and see no error.
     {kept}.
     A client on another server sees no change.
  4. After {delay} seconds the server runs again, and no client moves back.

Without a browser:
  curl -c jar -b jar -d user=ann -d password={PASSWORD} http://{shop}/login
  curl -c jar -b jar http://{shop}/whoami
  curl -c jar -b jar -X POST http://{shop}/kill
  sleep 1; curl -c jar -b jar http://{shop}/whoami    # another server, {known}

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
        StartupMessage { shop, dashboard, token, servers: &servers, copies: true, interfaces: &interfaces }.to_string()
    }

    #[test]
    fn private_addresses_need_no_warning() {
        let text = opening("127.0.0.1:8080", "127.0.0.1:9090", None);
        for absent in ["other machines", "Anyone", "token"] {
            assert!(!text.contains(absent), "{text}");
        }
        assert!(text.contains("  dashboard  http://127.0.0.1:9090\n  servers    a http://127.0.0.1:9001\n"), "{text}");
        assert!(text.contains("http://127.0.0.1:8080/whoami    # another server, which knows you\n"), "{text}");
    }

    #[test]
    fn addresses_that_others_reach_are_listed_with_a_warning() {
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

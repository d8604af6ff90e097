//! Owns: who may use a route.
//! Invariant: a client that nobody has named is refused wherever addresses matter; so is another spelling of a path.
//! Must not know: status codes; how a client is identified; which backend has what.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderValue;
use ipnet::IpNet;

use super::host;
use super::path_readings;
use super::route::{RouteEntry, Routes};
use crate::net::Networks;
use crate::telemetry::Denial;

/// `allow` and `deny` of `[[routes]]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The networks whose clients may use the route; empty for all.
    pub allow: Vec<IpNet>,
    /// The networks whose clients may not, whatever `allow` says.
    pub deny: Vec<IpNet>,
}

/// Who may use a route, as requests need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRules {
    allow: Option<Networks>,
    deny: Networks,
}

impl AccessRules {
    /// Makes the rules; `None` if everybody may use the route.
    pub fn new(settings: &Settings) -> Option<AccessRules> {
        let allow = (!settings.allow.is_empty()).then(|| Networks::new(&settings.allow));
        let deny = Networks::new(&settings.deny);
        (allow.is_some() || !deny.is_empty()).then_some(AccessRules { allow, deny })
    }

    /// Whether no client may use the route.
    pub fn refuse_everybody(&self) -> bool {
        self.allow.as_ref().is_some_and(|allow| self.deny.covers(allow))
    }

    /// Whether the client at this address may use the route; `None` is a client whose address is not known.
    fn permit(&self, client: Option<IpAddr>) -> bool {
        client.is_some_and(|client| {
            !self.deny.contains(client) && self.allow.as_ref().is_none_or(|allow| allow.contains(client))
        })
    }
}

/// Where a request was received, and what for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Requested<'r> {
    pub(super) listener: usize,
    pub(super) is_secure: bool,
    pub(super) host: Option<&'r HeaderValue>,
    pub(super) path: &'r str,
}

/// Checks whether the client at this address may use the route that it asked for.
///
/// A server may read a path otherwise than Linchpin matches it: decoded, with `..` resolved, or in lower case. If such a
/// reading belongs to another route with rules of its own, the request is refused: it would get around them.
///
/// # Errors
/// It may not.
pub(super) fn check(
    routes: &Routes,
    route: &RouteEntry,
    requested: Requested<'_>,
    client: Option<IpAddr>,
) -> Result<(), Denial> {
    if route.access.as_ref().is_some_and(|rules| !rules.permit(client)) {
        return Err(Denial::Address);
    }
    if path_readings::is_plain(requested.path) {
        return Ok(());
    }
    let host = requested.host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    let of_reading = |path: String| {
        routes.find_folded(requested.listener, requested.is_secure, host::host_name(host), &path)?.access.as_ref()
    };
    match path_readings::folded(requested.path)
        .filter_map(of_reading)
        .all(|rules| route.access.as_ref().is_some_and(|own| Arc::ptr_eq(own, rules)))
    {
        true => Ok(()),
        false => Err(Denial::AmbiguousPath),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Timeouts;
    use super::super::route;
    use super::*;

    fn rules(allow: &[&str], deny: &[&str]) -> Option<AccessRules> {
        let read = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect();
        AccessRules::new(&Settings { allow: read(allow), deny: read(deny) })
    }

    #[test]
    fn deny_beats_allow_and_an_unknown_client_is_refused() {
        let address = |text: &str| Some(text.parse().unwrap());
        let both = rules(&["10.0.0.0/8", "2001:db8::/32"], &["10.9.0.0/16"]).unwrap();
        for (client, may) in [("10.1.0.1", true), ("10.9.0.1", false), ("192.0.2.1", false), ("2001:db8::1", true)] {
            assert_eq!(both.permit(address(client)), may, "{client}");
        }
        let denied = rules(&[], &["192.0.2.0/24"]).unwrap();
        assert!(denied.permit(address("10.0.0.1")) && !denied.permit(address("192.0.2.1")));
        assert!(!both.permit(None) && !denied.permit(None));
        assert_eq!(rules(&[], &[]), None);
        assert!(rules(&["10.1.0.0/16"], &["10.0.0.0/8"]).unwrap().refuse_everybody());
        assert!(!both.refuse_everybody() && !denied.refuse_everybody());
    }

    #[test]
    fn no_spelling_of_a_path_gets_around_the_rules_of_its_route() {
        let timeouts = Timeouts::default();
        let to = |prefix: &str, allow: &[&str]| route::Settings {
            path_prefix: prefix.into(),
            access: Settings { allow: allow.iter().map(|net| net.parse().unwrap()).collect(), deny: Vec::new() },
            ..route::Settings::all_to("0")
        };
        let settings =
            [to("/", &[]), to("/Admin", &["10.0.0.0/8"]), to("/admin/public", &[]), to("/b", &["10.0.0.0/8"])];
        let routes = Routes::new(&settings, 0, |_| None, |_| Some((0, &timeouts)));
        let check = |path: &str, client: &str| {
            let entry = routes.entry(routes.find(0, false, "a", path).unwrap()).unwrap();
            let requested = Requested { listener: 0, is_secure: false, host: None, path };
            check(&routes, entry, requested, Some(client.parse().unwrap()))
        };
        for (path, outside, inside) in [
            ("/", Ok(()), Ok(())),
            ("/Admin", Err(Denial::Address), Ok(())),
            ("/Admin/x%20y;z", Err(Denial::Address), Ok(())),
            ("/admin", Ok(()), Ok(())),
            ("/a%20b", Ok(()), Ok(())),
            ("/ADMIN", Err(Denial::AmbiguousPath), Err(Denial::AmbiguousPath)),
            ("/%41dmin", Err(Denial::AmbiguousPath), Err(Denial::AmbiguousPath)),
            ("//Admin", Err(Denial::AmbiguousPath), Err(Denial::AmbiguousPath)),
            ("/x/..;/Admin", Err(Denial::AmbiguousPath), Err(Denial::AmbiguousPath)),
            ("/x/%252e%252e/Admin", Err(Denial::AmbiguousPath), Err(Denial::AmbiguousPath)),
            ("/admin/public/%41", Ok(()), Ok(())),
            // The other route has the same rules.
            ("/b/../Admin", Err(Denial::Address), Ok(())),
        ] {
            assert_eq!((check(path, "192.0.2.1"), check(path, "10.0.0.1")), (outside, inside), "{path}");
        }
    }
}

//! Owns: who may use a route.
//! Invariant: a client that nobody has named is refused wherever addresses matter.
//! Must not know: status codes; how a client is identified; routes.

use std::net::IpAddr;

use ipnet::IpNet;

use super::basic_auth::{self, BasicAuth};
use crate::net::Networks;

/// `allow` and `deny` of `[[routes]]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The networks whose clients may use the route; empty for all.
    pub allow: Vec<IpNet>,
    /// The networks whose clients may not, whatever `allow` says.
    pub deny: Vec<IpNet>,
    /// `[routes.basic_auth]`, if users need a password.
    pub basic_auth: Option<basic_auth::Settings>,
}

/// Who may use a route, as requests need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRules {
    allow: Option<Networks>,
    deny: Networks,
    /// Asks for a password, once the address is permitted.
    pub(super) basic_auth: Option<BasicAuth>,
}

impl AccessRules {
    /// Makes the rules; `None` if everybody may use the route.
    pub fn new(settings: &Settings) -> Option<AccessRules> {
        let allow = (!settings.allow.is_empty()).then(|| Networks::new(&settings.allow));
        let deny = Networks::new(&settings.deny);
        let basic_auth = settings.basic_auth.as_ref().map(BasicAuth::new);
        let has_any = allow.is_some() || !deny.is_empty() || basic_auth.is_some();
        has_any.then_some(AccessRules { allow, deny, basic_auth })
    }

    /// Whether no client may use the route.
    pub fn refuse_everybody(&self) -> bool {
        self.allow.as_ref().is_some_and(|allow| self.deny.covers(allow))
    }

    /// Whether the client at this address may use the route; `None` is a client whose address is not known.
    pub(super) fn permit(&self, client: Option<IpAddr>) -> bool {
        if self.allow.is_none() && self.deny.is_empty() {
            return true;
        }
        client.is_some_and(|client| {
            !self.deny.contains(client) && self.allow.as_ref().is_none_or(|allow| allow.contains(client))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allow: &[&str], deny: &[&str]) -> Option<AccessRules> {
        let read = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect();
        AccessRules::new(&Settings { allow: read(allow), deny: read(deny), basic_auth: None })
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
}

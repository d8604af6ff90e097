//! Owns: certificates that the source obtains by ACME, as `[listeners.tls.acme]` has them.
//! Invariant: a configuration accepts each setting and name; no key of an account is written.
//! Must not know: the formats of sources; addresses.

use super::grammar;
use super::toml::{Table, Value};

/// The longest name that Linchpin orders a certificate for.
const MAX_NAME: usize = 240;
/// The most names of a listener.
const MAX_NAMES: usize = 1000;
/// Why a name can't have a certificate.
pub(super) const NO_NAME: &str = "Linchpin obtains certificates for whole host names; authorities issue those for wildcards by DNS records only, so obtain them by another ACME client and name their files in [[listeners.tls.certificates]]";
/// Why DNS records prove nothing here.
pub(super) const NO_DNS: &str = "Linchpin proves control of a name by HTTP-01 or TLS-ALPN-01, not by DNS records: if the names lead to this machine, remove the #; otherwise obtain the certificates by another ACME client and name their files in [listeners.tls]";
/// What becomes of the account and the certificates of the source.
pub(super) const ANEW: &str = "Linchpin makes an account of its own and orders new certificates, which it keeps in `storage` of [listeners.tls.acme]";
/// Why a setting of an ACME client is left out.
pub(super) const NO_SETTING: &str = "Linchpin's ACME client has no such setting";
/// What to write beside an account that the authority knows.
pub(super) const KEY_FILE: &str =
    "the key of the account is not imported: write it into the file that `file` of [listeners.tls.acme.eab] names";

/// How the source orders certificates from one authority.
#[derive(Debug, Clone)]
pub(super) struct Issuer {
    /// Its name in the source.
    name: String,
    settings: Table,
    external: Table,
    is_off: bool,
}

impl Issuer {
    /// Returns an issuer without settings; `terms` says who agreed to the authority's terms, if that is not plain.
    pub(super) fn new(name: &str, terms: Option<&str>) -> Issuer {
        let mut issuer =
            Issuer { name: name.into(), settings: Table::default(), external: Table::default(), is_off: false };
        issuer.settings.set("agree_to_terms", Value::flag(true));
        if let Some(terms) = terms {
            issuer.settings.comment(terms);
        }
        issuer
    }

    /// Returns an issuer that can't be used as it is, for this reason.
    pub(super) fn unusable(name: &str, why: &str) -> Issuer {
        let mut settings = Table::default();
        settings.comment(why);
        Issuer { name: name.into(), settings, external: Table::default(), is_off: true }
    }

    pub(super) fn is_usable(&self) -> bool {
        !self.is_off
    }

    /// Disables it, for this reason.
    pub(super) fn switch_off(&mut self, why: &str) {
        self.is_off = true;
        self.settings.comment(why);
    }

    /// Sets the URL of the authority's directory; returns whether it could.
    pub(super) fn directory(&mut self, url: &str) -> bool {
        let is_url = |uri: http::Uri| {
            let authority = uri.authority();
            uri.scheme_str() == Some("https") && authority.is_some_and(|authority| !authority.as_str().contains('@'))
        };
        let is_good = !url.contains('#') && url.parse().is_ok_and(is_url);
        if is_good {
            self.settings.set("directory", Value::text(url));
        }
        is_good
    }

    /// Sets where the authority can reach the operator; returns whether it could.
    pub(super) fn email(&mut self, text: &str) -> bool {
        let address = text.strip_prefix("mailto:").unwrap_or(text);
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !b",?&<>\"".contains(&byte);
        let is_host = |host: &str| grammar::host(host).is_some_and(|host| !host.starts_with('*') && is_name(&host));
        let is_good = address.bytes().all(is_plain)
            && address.split_once('@').is_some_and(|(user, host)| !user.is_empty() && is_host(host));
        if is_good {
            self.settings.set("email", Value::text(address));
        }
        is_good
    }

    /// Sets the authorities of the ACME server's own certificate; returns whether it could.
    pub(super) fn authorities(&mut self, path: &str) -> bool {
        self.file("ca", path)
    }

    /// Sets the profile; returns whether it could.
    pub(super) fn profile(&mut self, text: &str) -> bool {
        let profile = grammar::token(text);
        if let Some(profile) = &profile {
            self.settings.set("profile", Value::text(profile));
        }
        profile.is_some()
    }

    /// Sets how names are proven, the preferred challenge first.
    pub(super) fn challenges(&mut self, kinds: &[&str]) {
        self.settings.set("challenges", Value::list(kinds.iter().copied()));
    }

    /// Sets the account that the authority knows, with the file of its key; returns whether it could. Without a file,
    /// the key is in the source.
    pub(super) fn external(&mut self, key_id: &str, file: Option<&str>) -> bool {
        let Some(key_id) = grammar::file(key_id).filter(|key_id| !key_id.trim().is_empty()) else { return false };
        self.external.set("key_id", Value::text(&key_id));
        self.external.set("file", Value::text(file.unwrap_or("eab.key")));
        true
    }

    fn file(&mut self, key: &'static str, path: &str) -> bool {
        let path = grammar::file(path).filter(|path| !path.trim().is_empty());
        if let Some(path) = &path {
            self.settings.set(key, Value::text(path));
        }
        path.is_some()
    }
}

/// The certificates that a listener orders.
#[derive(Debug, Clone)]
pub(super) struct Orders {
    issuer: Issuer,
    names: Vec<String>,
}

impl Orders {
    pub(super) fn new(issuer: &Issuer) -> Orders {
        Orders { issuer: issuer.clone(), names: Vec::new() }
    }

    /// Adds a name; returns why it can't have a certificate, if so.
    pub(super) fn add(&mut self, issuer: &Issuer, text: &str) -> Result<(), String> {
        let name = text.to_ascii_lowercase();
        if self.issuer.name != issuer.name {
            return Err(format!(
                "a listener orders certificates from one authority, and this one does so as {} says",
                self.issuer.name
            ));
        }
        if !is_name(&name) {
            return Err(NO_NAME.into());
        }
        if self.names.len() >= MAX_NAMES && !self.names.contains(&name) {
            return Err(format!("a listener orders {MAX_NAMES} certificates at most"));
        }
        if !self.names.contains(&name) {
            self.names.push(name);
        }
        Ok(())
    }

    /// Takes over the names of a listener with the same issuer.
    pub(super) fn absorb(&mut self, other: Orders) {
        for name in other.names {
            if !self.names.contains(&name) {
                self.names.push(name);
            }
        }
    }

    /// Returns whether another listener orders certificates in the same way.
    pub(super) fn is_like(&self, other: &Orders) -> bool {
        self.issuer.name == other.issuer.name
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Returns whether Linchpin can order any of them.
    pub(super) fn can_be_had(&self) -> bool {
        !self.issuer.is_off && !self.names.is_empty()
    }

    /// Writes the sections of a listener.
    pub(super) fn write(&self, is_off: bool, text: &mut String) {
        if self.names.is_empty() {
            return;
        }
        let is_off = is_off || self.issuer.is_off;
        let mut table = Table::default();
        table.set("names", Value::list(self.names.iter().map(String::as_str)));
        table.append(self.issuer.settings.clone());
        table.write("[listeners.tls.acme]", is_off, text);
        self.issuer.external.write("[listeners.tls.acme.eab]", is_off, text);
    }
}

/// Returns whether an authority can validate a name without DNS records.
fn is_name(name: &str) -> bool {
    let is_address = || name.parse::<std::net::IpAddr>().is_ok();
    name.len() <= MAX_NAME
        && !name.contains(['_', '*', ':'])
        && grammar::host(name).is_some_and(|host| host == name)
        && !is_address()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_configuration_takes_is_set() {
        let mut issuer = Issuer::new("le", None);
        for url in ["http://ca.internal/directory", "https://me:secret@ca.internal/", "ca.internal", "https://a/#b", ""]
        {
            assert!(!issuer.directory(url), "{url}");
        }
        for email in ["ops", "ops@", "@example.com", "ops@ex ample.com", "a,b@example.com", ""] {
            assert!(!issuer.email(email), "{email}");
        }
        assert!(issuer.directory("https://ca.internal/acme/directory") && issuer.email("mailto:ops@example.com"));
        assert!(!issuer.external(" ", None) && issuer.external("kid-1", Some("/etc/eab.key")));
    }

    #[test]
    fn a_name_is_ordered_once_and_no_wildcard_is() {
        let issuer = Issuer::new("le", None);
        let mut orders = Orders::new(&issuer);
        for name in ["*.example.com", "10.0.0.1", "a_b.example.com", "", "a.example:80"] {
            assert_eq!(orders.add(&issuer, name), Err(NO_NAME.into()), "{name}");
        }
        assert!(!orders.can_be_had());
        assert!(orders.add(&issuer, "A.example").is_ok() && orders.add(&issuer, "a.example").is_ok());
        assert_eq!(orders.names, ["a.example"]);
        assert!(orders.add(&Issuer::new("other", None), "b.example").unwrap_err().contains("as le says"));
    }
}

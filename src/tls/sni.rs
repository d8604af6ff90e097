//! Owns: choosing the certificate for the name that a client asks for (SNI).
//! Invariant: an exact name comes before a wildcard, and the first certificate serves all other names and no name.
//! Must not know: files, or what is served under a name.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::certificate::Certificate;

/// The certificates of a listener, by name.
#[derive(Debug)]
pub(super) struct CertificateResolver {
    default: Vec<Arc<CertifiedKey>>,
    exact: HashMap<Box<str>, Vec<Arc<CertifiedKey>>>,
    /// By the part after `*.`.
    wildcard: HashMap<Box<str>, Vec<Arc<CertifiedKey>>>,
}

impl CertificateResolver {
    /// Several certificates may have one name, such as an RSA and an ECDSA one: a client gets the first that it
    /// supports.
    pub(super) fn new(certificates: &[(Certificate, Arc<CertifiedKey>)]) -> CertificateResolver {
        let mut resolver = CertificateResolver { default: Vec::new(), exact: HashMap::new(), wildcard: HashMap::new() };
        for (certificate, key) in certificates {
            for name in &certificate.names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(domain) => (&mut resolver.wildcard, domain),
                    None => (&mut resolver.exact, name.as_str()),
                };
                map.entry(name.into()).or_default().push(Arc::clone(key));
            }
        }
        if let Some((first, key)) = certificates.first() {
            // Certificates with the same names and another algorithm are defaults as well.
            let variants = certificates.iter().skip(1).filter(|(other, _)| other.names == first.names);
            resolver.default = std::iter::once(key).chain(variants.map(|(_, key)| key)).map(Arc::clone).collect();
        }
        resolver
    }

    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let all = name.and_then(|name| self.lookup(name)).unwrap_or(&self.default);
        let supported = all.iter().find(|key| key.key.choose_scheme(schemes).is_some());
        supported.or(all.first()).map(Arc::clone)
    }

    fn lookup(&self, name: &str) -> Option<&Vec<Arc<CertifiedKey>>> {
        // RFC 6066 §3 excludes the trailing dot of the root; with it, the name is the same.
        let name = name.strip_suffix('.').unwrap_or(name);
        let name = match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(name.to_ascii_lowercase()),
            false => Cow::Borrowed(name),
        };
        // A wildcard matches exactly one label (RFC 6125 §6.4.3).
        let domain = || name.split_once('.').and_then(|(_, domain)| self.wildcard.get(domain));
        self.exact.get(&*name).or_else(domain)
    }
}

impl ResolvesServerCert for CertificateResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes())
    }
}

#[cfg(test)]
mod tests {
    use super::super::pem;
    use super::super::tests::Folder;
    use super::super::tests::authority::Authority;
    use super::*;

    #[test]
    fn a_name_with_the_dot_of_the_root_is_the_same_name() {
        let (folder, authority) = (Folder::new(), Authority::new("root"));
        let first = folder.pair("first", &authority.issue(&["app.example"]));
        let other = folder.pair("other", &authority.issue(&["shop.example", "*.shop.example"]));
        let read: Vec<_> = [first, other].iter().map(|files| pem::pair(files).unwrap()).collect();
        let resolver = CertificateResolver::new(&read);
        for (name, at) in
            [("shop.example.", 1), ("Shop.Example.", 1), ("a.shop.example.", 1), ("shop.example..", 0), (".", 0)]
        {
            assert!(Arc::ptr_eq(&resolver.choose(Some(name), &[]).unwrap(), &read[at].1), "{name}");
        }
    }

    #[test]
    fn of_two_certificates_for_one_name_a_client_gets_the_one_that_it_supports() {
        let (folder, authority) = (Folder::new(), Authority::new("root"));
        let modern = authority.issue_by(&rcgen::PKCS_ED25519, &["app.example"], |_| {});
        let pairs = [folder.pair("modern", &modern), folder.pair("common", &authority.issue(&["app.example"]))];
        let read: Vec<_> = pairs.iter().map(|files| pem::pair(files).unwrap()).collect();
        let resolver = CertificateResolver::new(&read);
        let (modern, p256) = (SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256);
        for name in [Some("app.example"), Some("other.example"), None] {
            for (schemes, at) in [(vec![p256, modern], 0), (vec![p256], 1), (vec![], 0)] {
                assert!(Arc::ptr_eq(&resolver.choose(name, &schemes).unwrap(), &read[at].1), "{name:?} {schemes:?}");
            }
        }
    }
}

//! Owns: the conversion of `acme_issuer` and `acme_certificate`.
//! Invariant: a name that no certificate is ordered for is noted.
//! Must not know: locations.

use super::super::acme::{ANEW, Issuer, NO_SETTING};
use super::super::listener::Listener;
use super::super::toml::Table;
use super::reader::Reader;
use super::syntax::Directive;

/// The certificate of a server that nginx obtains.
pub(super) const CERTIFICATE: &str = "$acme_certificate";

const TERMS: &str =
    "nginx has not accepted the terms of service of the authority: read them, and remove the # if you agree";
const NO_ISSUER: &str = "there is no such acme_issuer: complete this section, and remove the #";
const SEE: &str = "[listeners.tls.acme] of the listener has to be completed";

/// Converts an `acme_issuer`.
pub(super) fn issuer(directive: &Directive, notes: &mut Table) -> Issuer {
    let mut issuer = Issuer::new(directive.word(1), None);
    let mut has_terms = false;
    for each in directive.inside() {
        let (line, text, value) = (each.line, each.text.as_str(), each.word(1));
        let is_kept = match each.word(0) {
            "uri" => issuer.directory(value),
            "contact" => issuer.email(value),
            "ssl_trusted_certificate" => issuer.authorities(value),
            "profile" => issuer.profile(value),
            "external_account_key" => match each.word(2).starts_with("data:") {
                true => {
                    issuer.external(value, None);
                    notes.unsupported(line, "external_account_key …", super::super::acme::KEY_FILE);
                    true
                }
                false => issuer.external(value, Some(each.word(2)).filter(|file| !file.is_empty())),
            },
            "challenge" => match value {
                "http-01" | "http" => {
                    issuer.challenges(&["http-01"]);
                    true
                }
                "tls-alpn-01" | "tls-alpn" => {
                    issuer.challenges(&["tls-alpn-01"]);
                    true
                }
                _ => false,
            },
            "accept_terms_of_service" => {
                has_terms = true;
                true
            }
            "ssl_verify" => value == "on",
            "state_path" | "account_key" => {
                notes.unneeded(line, text, ANEW);
                true
            }
            _ => false,
        };
        if !is_kept {
            notes.unsupported(line, text, NO_SETTING);
        }
    }
    if !has_terms {
        issuer.switch_off(TERMS);
    }
    issuer
}

impl<'d> Reader<'d> {
    /// Orders the certificates of a server at a listener, by its `acme_certificate`.
    pub(super) fn order(&mut self, server: &'d Directive, listener: &mut Listener) {
        let Some(directive) = server.inside().iter().rfind(|each| each.word(0) == "acme_certificate") else {
            return listener.table.unsupported(server.line, &server.text, "it has no acme_certificate");
        };
        let named = server.inside().iter().filter(|each| each.word(0) == "server_name").flat_map(|each| each.from(1));
        let given: Vec<&String> = directive.from(2).iter().filter(|word| !word.starts_with("key=")).collect();
        let names: Vec<&String> = if given.is_empty() { named.collect() } else { given };
        let known = self.issuers.get(directive.word(1)).cloned();
        let issuer = known.unwrap_or_else(|| Issuer::unusable(directive.word(1), NO_ISSUER));
        let is_new = self.applied.insert(directive.at);
        let mut note = |text: &str, why: &str| {
            if is_new {
                listener.table.unsupported(directive.line, text, why);
            }
        };
        let mut lost = Vec::new();
        if names.is_empty() {
            note(&directive.text, "neither it nor server_name has a name, so there is no certificate to obtain");
        }
        if !issuer.is_usable() {
            note(&directive.text, SEE);
        }
        for name in names {
            // `.example.com` is the name itself, and all names below it.
            let own = name.strip_prefix('.').unwrap_or(name);
            let below = (own != name).then(|| format!("*{name}"));
            for name in [Some(own.to_owned()), below].into_iter().flatten() {
                lost.extend(listener.order(&issuer, &name).err().map(|why| (name, why)));
            }
        }
        for (name, why) in lost.into_iter().filter(|_| is_new) {
            listener.table.unsupported(directive.line, &format!("{}, for {name}", directive.text), why);
        }
    }
}

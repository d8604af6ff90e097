//! Owns: the conversion of `acme` and `crt-store` sections, and of `ssl-f-use`.
//! Invariant: a certificate is a file, or names that one is ordered for; what is neither is noted.
//! Must not know: addresses.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use super::super::acme::{ANEW, Issuer, NO_DNS, NO_SETTING};
use super::super::grammar;
use super::super::toml::Table;
use super::syntax::{Section, Statement, note_whole};

const TERMS: &str =
    "HAProxy agreed to the authority's terms of service; Linchpin makes a new account, so read them again";
const NO_ISSUER: &str = "there is no such acme section: complete this one, and remove the #";

/// The certificates of `crt-store` sections, and who issues those that HAProxy obtains.
#[derive(Default)]
pub(super) struct Stores {
    issuers: HashMap<String, Issuer>,
    /// By `STORE/NAME`, where the name is an alias or the file's.
    loaded: HashMap<String, (usize, Certificate)>,
    used: RefCell<HashSet<usize>>,
}

/// Where a certificate comes from.
#[derive(Debug, Clone)]
pub(super) enum Certificate {
    Files(String, Option<String>),
    Ordered(Box<Issuer>, Vec<String>),
}

impl Stores {
    /// Reads the sections; notes what of `acme` sections has no equivalent.
    pub(super) fn read(sections: &[Section], notes: &mut Table) -> Stores {
        let mut stores = Stores::default();
        for section in sections.iter().filter(|section| section.header.word(0) == "acme") {
            stores.issuers.insert(section.header.word(1).into(), issuer(section, notes));
        }
        for section in sections.iter().filter(|section| section.header.word(0) == "crt-store") {
            let base = |word: &str| {
                let base = section.statements.iter().rfind(|line| line.word(0) == word);
                base.map(|line| line.word(1).trim_end_matches('/').to_owned())
            };
            let (certificates, keys) = (base("crt-base"), base("key-base"));
            for line in section.statements.iter().filter(|line| line.word(0) == "load") {
                let based = |base: &Option<String>, file: &str| match base {
                    Some(base) if !file.starts_with('/') => format!("{base}/{file}"),
                    _ => file.to_owned(),
                };
                let (certificate, _) = stores.certificate(line.from(1), |file| based(&certificates, file));
                let certificate = match certificate {
                    Some(Certificate::Files(file, key)) => {
                        let own = value(line.from(1), "key").map(|key| based(&keys, key));
                        Some(Certificate::Files(file, own.or(key)))
                    }
                    other => other,
                };
                let names = [value(line.from(1), "alias"), value(line.from(1), "crt")].into_iter().flatten();
                for name in names {
                    let at = format!("{}/{name}", section.header.word(1));
                    stores.loaded.extend(certificate.clone().map(|certificate| (at, (line.line, certificate))));
                }
            }
        }
        stores
    }

    /// Reads `crt FILE key FILE acme NAME domains A,B`; also returns the other words. `path` completes a file's name.
    pub(super) fn certificate(
        &self,
        words: &[String],
        path: impl Fn(&str) -> String,
    ) -> (Option<Certificate>, Vec<String>) {
        let file = value(words, "crt").and_then(grammar::file).map(|file| path(&file));
        let names = value(words, "domains").map(|names| names.split(',').map(|name| name.trim().to_owned()).collect());
        let certificate = match (value(words, "acme"), names) {
            (Some(name), Some(names)) => {
                let issuer = self.issuers.get(name).cloned();
                Some(Certificate::Ordered(Box::new(issuer.unwrap_or_else(|| Issuer::unusable(name, NO_ISSUER))), names))
            }
            _ => file.map(|file| Certificate::Files(file, value(words, "key").map(path))),
        };
        let mut others = Vec::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "crt" | "key" | "alias" | "acme" | "domains" => drop(words.next()),
                other => others.push(other.to_owned()),
            }
        }
        (certificate, others)
    }

    /// Returns the certificate that `@STORE/NAME` refers to.
    pub(super) fn find(&self, name: &str) -> Option<Certificate> {
        let (line, certificate) = self.loaded.get(name.strip_prefix('@')?)?;
        self.used.borrow_mut().insert(*line);
        Some(certificate.clone())
    }

    /// Notes the lines of a `crt-store` that are not converted.
    pub(super) fn note(&self, section: &Section, notes: &mut Table) {
        let used = self.used.borrow();
        if !section.statements.iter().any(|line| used.contains(&line.line)) {
            return note_whole(&section.header, &section.statements, "no imported bind uses it", notes);
        }
        for line in &section.statements {
            let (_, others) = self.certificate(line.from(1), str::to_owned);
            match line.word(0) {
                "crt-base" | "key-base" => {}
                "load" if used.contains(&line.line) && others.is_empty() => {}
                "load" if used.contains(&line.line) => {
                    notes.unsupported(line.line, &others.join(" "), super::super::reasons::NONE);
                }
                _ => notes.unsupported(line.line, &line.text, "no imported bind uses it"),
            }
        }
    }
}

/// Returns the word after `key`.
fn value<'w>(words: &'w [String], key: &str) -> Option<&'w str> {
    let at = words.iter().position(|word| word == key)?;
    words.get(at + 1).map(String::as_str)
}

/// Converts an `acme` section.
fn issuer(section: &Section, notes: &mut Table) -> Issuer {
    let mut issuer = Issuer::new(section.header.word(1), Some(TERMS));
    for statement in &section.statements {
        let (line, text, word) = (statement.line, statement.text.as_str(), statement.word(1));
        let is_kept = match statement.word(0) {
            "directory" => issuer.directory(word),
            "contact" => issuer.email(word),
            "profile" => issuer.profile(word),
            "challenge" => match word.to_ascii_lowercase().as_str() {
                "http-01" => {
                    issuer.challenges(&["http-01"]);
                    true
                }
                "tls-alpn-01" => {
                    issuer.challenges(&["tls-alpn-01"]);
                    true
                }
                _ => {
                    issuer.switch_off(NO_DNS);
                    false
                }
            },
            "account-key" | "map" => {
                notes.unneeded(line, text, ANEW);
                true
            }
            _ => false,
        };
        if !is_kept {
            notes.unsupported(line, text, NO_SETTING);
        }
    }
    issuer
}

/// Returns whether a line responds to an ACME server with what HAProxy's own client has stored for it.
pub(super) fn is_challenge(statement: &Statement) -> bool {
    let has = |part: &str| statement.words.iter().any(|word| word.contains(part));
    statement.word(1) == "return" && has("map(virt@") && has("/.well-known/acme-challenge")
}

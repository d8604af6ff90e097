//! Owns: `[listeners.tls.acme]`.
//! Invariant: no certificate is ordered without the operator's consent to the terms, or for a name that can't have one.
//! Must not know: how certificates are obtained.

use std::collections::HashSet;
use std::path::PathBuf;

use http::Uri;
use toml::de::DeValue;

use super::names::is_host;
use super::reader::{Spanned, Table};
use super::secrets;
use super::values::{InvalidValue, Value, flag, must_be, plain_text, shown, text, word};
use crate::acme::{ChallengeKind, ExternalAccount, LETS_ENCRYPT, Settings, certificate_file};
use crate::files;
use crate::tls::inspect;

/// Where the account and the certificates are, if the file says nothing else: the folder of the packages.
const STORAGE: &str = "/var/lib/linchpin/acme";
/// The most names of a listener. Let's Encrypt accepts 300 orders of an account in three hours.
const MAX_NAMES: usize = 1000;
/// The longest name, which is a file's name too.
const MAX_NAME: usize = 240;

/// One `[listeners.tls.acme]`. A `None` has an error, which is noted.
pub(super) struct AcmeDraft {
    names: Option<Vec<String>>,
    directory: Option<String>,
    authorities: Option<PathBuf>,
    contacts: Vec<String>,
    storage: Option<PathBuf>,
    profile: Option<String>,
    challenges: Option<Vec<ChallengeKind>>,
    /// Where it asks for HTTP-01, if the file says so.
    pub(super) http01: Option<std::ops::Range<usize>>,
    external_account: Option<Option<ExternalAccount>>,
}

impl AcmeDraft {
    /// Returns the files of the certificates.
    pub(super) fn certificate_files(&self) -> Vec<PathBuf> {
        let (Some(names), Some(directory), Some(storage)) = (&self.names, &self.directory, &self.storage) else {
            return Vec::new();
        };
        names.iter().map(|name| certificate_file(storage, directory, name)).collect()
    }

    /// Returns the settings of the listener with this name. `has_plain` is whether any listener has no TLS.
    pub(super) fn settings(&self, listener: String, has_plain: bool) -> Option<Settings> {
        // Without a listener that could answer over HTTP, asking for it would cost a failure first.
        let default = || match has_plain {
            true => vec![ChallengeKind::Http01, ChallengeKind::TlsAlpn01],
            false => vec![ChallengeKind::TlsAlpn01],
        };
        Some(Settings {
            listener,
            names: self.names.clone()?,
            directory: self.directory.clone()?,
            authorities: self.authorities.clone(),
            contacts: self.contacts.clone(),
            storage: self.storage.clone()?,
            profile: self.profile.clone(),
            challenges: self.challenges.clone().unwrap_or_else(default),
            external_account: self.external_account.clone()?,
        })
    }
}

/// Reads the section, which the file has.
pub(super) fn acme(table: &Table<'_>) -> AcmeDraft {
    let kind = word([("http-01", ChallengeKind::Http01), ("tls-alpn-01", ChallengeKind::TlsAlpn01)]);
    consent(table);
    let challenges = table.filled_list("challenges", kind);
    let is_http = |entry: &&Spanned<ChallengeKind>| entry.value == ChallengeKind::Http01;
    let http01 = challenges.iter().flatten().find(is_http).map(|entry| entry.span.clone());
    AcmeDraft {
        names: names(table),
        directory: match table.has("directory") {
            true => table.get("directory", directory),
            false => {
                // Read it, so that it is a known key.
                let _ = table.get("directory", directory);
                Some(LETS_ENCRYPT.into())
            }
        },
        authorities: authorities(table),
        contacts: table.get("email", email).into_iter().collect(),
        storage: storage(table),
        profile: table.get("profile", plain_text),
        challenges: challenges.map(|entries| entries.into_iter().map(|entry| entry.value).collect()),
        http01,
        external_account: table.section("eab", |table| if table.is_present() { external(table) } else { Some(None) }),
    }
}

fn consent(table: &Table<'_>) {
    const REMEDY: &str = "read the terms of service of the authority, and write agree_to_terms = true if you agree";
    let notes = table.notes();
    match table.get("agree_to_terms", flag) {
        None if !table.has("agree_to_terms") => {
            notes.missing(table.span(), "[listeners.tls.acme] has no `agree_to_terms`", REMEDY);
        }
        Some(false) => {
            notes.error(&table.at("agree_to_terms"), "no authority issues certificates without this", REMEDY);
        }
        _ => {}
    }
}

fn names(table: &Table<'_>) -> Option<Vec<String>> {
    if !table.has("names") {
        let problem = "[listeners.tls.acme] has no `names`";
        table.notes().missing(table.span(), problem, "write for example names = [\"app.example.com\"]");
    }
    let given = table.filled_list("names", name)?;
    let mut known = HashSet::new();
    for entry in &given {
        if !known.insert(&entry.value) {
            let problem = format!("{} is in this list twice", shown(&entry.value));
            table.notes().error(&entry.span, problem, "remove one");
        }
    }
    if given.len() > MAX_NAMES {
        let problem = format!("these are {} names, and a listener may have {MAX_NAMES}", given.len());
        table.notes().error(&table.at("names"), problem, "obtain certificates with wildcards by another client");
    }
    Some(given.into_iter().map(|entry| entry.value).collect())
}

/// Reads a name that an ACME server can validate by HTTP-01 or TLS-ALPN-01.
fn name(value: &DeValue<'_>) -> Value<String> {
    const WHAT: &str = "a host name such as \"app.example.com\"";
    let text = text(value)?;
    let name = text.to_lowercase();
    let refused = |remedy: &str| Err(must_be(WHAT, shown(text), remedy));
    if name.starts_with("*.") {
        return Err(InvalidValue {
            problem: format!("is the wildcard {}, which authorities issue by DNS-01 only", shown(text)),
            remedy:
                "list each name, or obtain the certificate by a client that can change your DNS, and name its file \
                     in [[listeners.tls.certificates]]"
                    .into(),
        });
    }
    if name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok() {
        return refused("write the name that clients use; for an IP address, name a certificate's file in `cert`");
    }
    if !is_host(&name) || name.contains('_') {
        return match name {
            _ if name.contains("://") => refused("write only the host, without scheme and path"),
            _ if name.contains(':') => refused("write it without the port"),
            _ if !name.is_ascii() => refused("write it in its ASCII form, which starts with \"xn--\""),
            _ => refused("write letters, digits, `-` and dots"),
        };
    }
    if name.len() > MAX_NAME { refused("write one of at most 240 characters") } else { Ok(name) }
}

/// Reads the URL of an ACME server's directory.
fn directory(value: &DeValue<'_>) -> Value<String> {
    const WHAT: &str = "the URL of an ACME server's directory, with https";
    let text = text(value)?;
    let is_url = |uri: &Uri| {
        let authority = uri.authority();
        uri.scheme_str() == Some("https") && authority.is_some_and(|authority| !authority.as_str().contains('@'))
    };
    if text.parse::<Uri>().is_ok_and(|uri| is_url(&uri)) && !text.contains('#') {
        return Ok(text.into());
    }
    let remedy = match text.strip_prefix("http://") {
        Some(rest) => format!("write {}: ACME servers speak TLS (RFC 8555 §6.1)", shown(&format!("https://{rest}"))),
        None => format!("write for example {}", shown(LETS_ENCRYPT)),
    };
    Err(must_be(WHAT, shown(text), remedy))
}

fn email(value: &DeValue<'_>) -> Value<String> {
    let text = text(value)?;
    let address = text.strip_prefix("mailto:").unwrap_or(text);
    let is_good = |byte: u8| byte.is_ascii_graphic() && !b",?&<>\"".contains(&byte);
    let is_address = address.split_once('@').is_some_and(|(user, host)| !user.is_empty() && is_host(host));
    if is_address && address.bytes().all(is_good) {
        return Ok(format!("mailto:{address}"));
    }
    Err(must_be("one e-mail address", shown(text), "write for example \"ops@example.com\""))
}

fn authorities(table: &Table<'_>) -> Option<PathBuf> {
    let file = table.spot("ca", plain_text).map(|spot| (table.notes().resolve_input(&spot.value), spot.span));
    if file.is_none() && table.has("ca") {
        return None;
    }
    let path = file.as_ref().map(|(path, _)| path.as_path());
    if let Err(error) = inspect::authorities(path) {
        let span = file.as_ref().map_or_else(|| table.span().clone(), |(_, span)| span.clone());
        table.notes().error(&span, error.to_string(), error.remedy());
    }
    file.map(|(path, _)| path)
}

fn storage(table: &Table<'_>) -> Option<PathBuf> {
    let given = table.spot("storage", plain_text);
    if given.is_none() && table.has("storage") {
        return None;
    }
    let path = given.as_ref().map_or_else(|| STORAGE.into(), |spot| table.notes().resolve(&spot.value));
    if let Some(why) = files::cannot_fill(&path) {
        let span = given.map_or_else(|| table.span().clone(), |spot| spot.span);
        let problem = format!("certificates cannot be stored in {}: {why}", shown(&path.to_string_lossy()));
        let remedy = "create the folder and let the user who runs Linchpin write there, or write another `storage`";
        table.notes().error(&span, problem, remedy);
        return None;
    }
    Some(path)
}

fn external(table: &Table<'_>) -> Option<Option<ExternalAccount>> {
    let key_id = table.required("key_id", "\"…\", as the authority gave it to you", plain_text);
    let key = secrets::external_key(table);
    Some(Some(ExternalAccount { key_id: key_id?.value, key: key? }))
}

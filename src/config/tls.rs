//! Owns: `[listeners.tls]` and `[pools.upstream.tls]`, and findings about the files that they name.
//! Invariant: a certificate that is expired or not valid yet is a warning: the proxy starts anyway.
//! Must not know: handshakes; what is served.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeValue;

use super::acme::{self, AcmeDraft};
use super::reader::{Spanned, Table};
use super::values::{Value, YEAR, duration, flag, found, must_be, plain_text, shown, text, word};
use crate::clock;
use crate::files::shell_word;
use crate::tls::certificate::Validity;
use crate::tls::inspect::{self, Inspected};
use crate::tls::server::{ClientVerification, Version};
use crate::tls::{CertificateFiles, Error, client, pem, server};

/// `[listeners.tls]`. A `None` has an error, which is noted, or is not in the file.
pub(super) struct ListenerTls {
    pub(super) settings: Option<Arc<server::Settings>>,
    pub(super) acme: Option<AcmeDraft>,
    pub(super) hsts: Option<Duration>,
}

pub(super) fn listener(table: &Table<'_>) -> ListenerTls {
    let mut named: HashMap<(String, String), usize> = HashMap::new();
    let mut certificates = Vec::new();
    let has_list = table.has("certificates");
    let acme = table.section("acme", |table| table.is_present().then(|| acme::acme(table)));
    if table.has("cert") || table.has("key") || !has_list && acme.is_none() {
        certificates.push(named_pair(table, &mut named));
    }
    certificates.extend(table.sections("certificates", |entry| entry_pair(entry)).into_iter().map(
        |(pair, inspected)| {
            if let (Some((_, span)), Some(inspected)) = (&pair, &inspected) {
                judge_for_clients(table, span, inspected, &mut named);
            }
            pair.map(|(pair, _)| pair)
        },
    ));
    if has_list && certificates.is_empty() {
        let remedy = "write [[listeners.tls.certificates]] with `cert`, or write `cert` in [listeners.tls]";
        table.notes().error(&table.at("certificates"), "`certificates` is empty", remedy);
    }
    let clients = clients(table);
    let version = word([("1.2", Version::Tls12), ("1.3", Version::Tls13)]);
    let (min_version, http2) = (table.get("min_version", version), table.get("http2", flag));
    let hsts = table.get("hsts", duration(Duration::ZERO..=2 * YEAR));
    let certificates = certificates.into_iter().collect::<Option<Vec<_>>>();
    let issued = acme.as_ref().map(AcmeDraft::certificate_files).unwrap_or_default();
    let is_some = |all: &Vec<_>| (!all.is_empty() || !issued.is_empty()) && table.is_present();
    let settings = certificates.filter(is_some).map(|certificates| {
        let (min_version, issued) = (min_version.unwrap_or_default(), issued.clone());
        Arc::new(server::Settings { certificates, issued, min_version, http2: http2.unwrap_or(true), clients })
    });
    ListenerTls { settings, acme, hsts }
}

/// Reads `[pools.upstream.tls]`, or `tls = true`. `None` if it has an error, which is noted.
pub(super) fn upstream(table: &Table<'_>) -> Option<Arc<client::Settings>> {
    let default = client::Settings::default();
    let authorities = table.spot("ca", plain_text).map(|spot| resolved(table, spot));
    let server_name = table.get("server_name", server_name);
    let verify = table.get("verify", flag).unwrap_or(default.verify);
    let certificate = if table.has("cert") || table.has("key") {
        let (pair, inspected) = entry_pair(table);
        if let (Some((_, span)), Some(inspected)) = (&pair, &inspected) {
            judge(table, span, inspected);
        }
        pair.map(|(pair, _)| Some(pair))
    } else {
        // Read them, so that they are known keys.
        let _ = (table.get("cert", plain_text), table.get("key", plain_text));
        Some(None)
    };
    let file = authorities.as_ref().map(|file| file.value.as_path());
    if !verify {
        let problem =
            "`verify` = false: Linchpin accepts any certificate, so an attacker on the network can pose as a backend";
        let remedy = "remove it, and write ca = \"ca.pem\" with the CA certificate that signed the backends' \
                      certificates";
        table.notes().warn(&table.at("verify"), problem, remedy);
        if table.has("ca") {
            table.notes().warn(&table.at("ca"), "`ca` has no effect with `verify` = false", "remove `verify` = false");
        }
    } else if (file.is_some() || !table.has("ca"))
        && let Err(error) = inspect::authorities(file)
    {
        refuse(table, &table.at("ca"), &error);
        return None;
    }
    let certificate = certificate?;
    let authorities = authorities.map(|file| file.value);
    Some(Arc::new(client::Settings { authorities, server_name, certificate, verify }))
}

/// Reads the file of the authorities that issue the certificate of a collector, in `[tracing]`. Without one they are the
/// system's.
pub(super) fn collector_authorities(table: &Table<'_>, is_secure: bool) -> Option<PathBuf> {
    let authorities = table.spot("ca", plain_text).map(|spot| resolved(table, spot));
    if !is_secure {
        if table.has("ca") && table.has("otlp") {
            let problem = "`ca` has no effect: `otlp` is no https URL";
            table.notes().warn(&table.at("ca"), problem, "remove it, or write an https URL");
        }
    } else if (authorities.is_some() || !table.has("ca"))
        && let Err(error) = inspect::authorities(authorities.as_ref().map(|file| file.value.as_path()))
    {
        refuse(table, &table.at("ca"), &error);
    }
    authorities.map(|file| file.value)
}

/// Reads `redirect_https`: `true` for port 443, or a port.
pub(super) fn https_port(value: &DeValue<'_>) -> Value<Option<u16>> {
    let number = value.as_integer().and_then(|number| u16::from_str_radix(number.as_str(), number.radix()).ok());
    match (value.as_bool(), number) {
        (Some(is_on), _) => Ok(is_on.then_some(443)),
        (None, Some(port)) if port > 0 => Ok(Some(port)),
        _ => Err(must_be("true, false or a port", found(value), "write true for port 443")),
    }
}

/// Reads the pair in the section itself.
fn named_pair(table: &Table<'_>, named: &mut HashMap<(String, String), usize>) -> Option<CertificateFiles> {
    let (pair, inspected) = entry_pair(table);
    let (pair, span) = pair?;
    if let Some(inspected) = &inspected {
        judge_for_clients(table, &span, inspected, named);
    }
    Some(pair)
}

/// Reads `cert` and `key`, and their files.
fn entry_pair(table: &Table<'_>) -> (Option<(CertificateFiles, Range<usize>)>, Option<Inspected>) {
    let certificate = table.required("cert", "\"fullchain.pem\"", plain_text).map(|spot| resolved(table, spot));
    let key = table.spot("key", plain_text).map(|spot| resolved(table, spot));
    let (Some(certificate), false) = (certificate, table.has("key") && key.is_none()) else { return (None, None) };
    // Without `key`, the certificate's file contains the key.
    let key = key.unwrap_or_else(|| certificate.clone());
    let pair = CertificateFiles { certificate: certificate.value, key: key.value };
    match inspect::pair(&pair) {
        Ok(inspected) => {
            if let Some(mode) = inspect::mode_if_open(&pair.key) {
                let shown_key = shown(&pair.key.to_string_lossy());
                let problem = format!("everyone on this machine can read {shown_key} (mode {mode:03o})");
                table.notes().warn(&key.span, problem, format!("run: chmod 600 {}", shell_word(&pair.key)));
            }
            (Some((pair, certificate.span)), Some(inspected))
        }
        Err(error) => {
            let span = if error.role == pem::Role::Key { &key.span } else { &certificate.span };
            refuse(table, span, &error);
            (None, None)
        }
    }
}

/// Warns of problems of a certificate for clients, and of a second certificate for one name.
fn judge_for_clients(
    table: &Table<'_>,
    span: &Range<usize>,
    read: &Inspected,
    named: &mut HashMap<(String, String), usize>,
) {
    judge(table, span, read);
    let notes = table.notes();
    let certificate = &read.certificate;
    if certificate.names.is_empty() {
        let problem =
            format!("the certificate of {} contains no host name: clients reject it", shown(&certificate.subject));
        notes.warn(span, problem, "get one with a subject alternative name");
    }
    let line = notes.line_of(span.start) + 1;
    let kind = format!("{:?}", read.algorithm);
    let known = certificate.names.iter().find_map(|name| Some((name, *named.get(&(name.clone(), kind.clone()))?)));
    if let Some((name, line)) = known {
        let problem = format!("line {line} already has a certificate for {}, and clients get that one", shown(name));
        notes.warn(
            span,
            problem,
            "remove one of the two; two certificates for one name are useful only with different key types",
        );
    }
    for name in &certificate.names {
        named.entry((name.clone(), kind.clone())).or_insert(line);
    }
}

/// Warns of problems that any certificate can have.
fn judge(table: &Table<'_>, span: &Range<usize>, read: &Inspected) {
    const RENEW: &str = "renew it; Linchpin loads new files without a reload";
    let notes = table.notes();
    let name = shown(read.certificate.name());
    match read.certificate.validity(clock::unix()) {
        Validity::Good => {}
        Validity::Soon(0) => notes.warn(span, format!("the certificate for {name} expires within a day"), RENEW),
        Validity::Soon(days) => {
            notes.warn(span, format!("the certificate for {name} expires in {}", count(days)), RENEW)
        }
        Validity::Expired(0) => {
            notes.warn(
                span,
                format!("the certificate for {name} EXPIRED today: clients and backends reject it"),
                RENEW,
            );
        }
        Validity::Expired(days) => {
            let problem =
                format!("the certificate for {name} EXPIRED {} ago: clients and backends reject it", count(days));
            notes.warn(span, problem, RENEW);
        }
        Validity::NotYet(days) => {
            let problem =
                format!("the certificate for {name} is NOT VALID yet: it becomes valid within {}", count(days));
            notes.warn(span, problem, "check this machine's clock, or wait");
        }
    }
    if !read.is_in_order {
        let problem = format!(
            "the next certificate after the one for {name} did not sign it: many clients reject such a \
                     chain"
        );
        notes.warn(span, problem, "put the server's own certificate first, then the one that signed it, and so on");
    }
}

fn count(days: i64) -> String {
    if days == 1 { "1 day".into() } else { format!("{days} days") }
}

fn clients(table: &Table<'_>) -> Option<ClientVerification> {
    let authorities = table.spot("client_ca", plain_text).map(|spot| resolved(table, spot));
    let is_required = table.get("client_certificate", word([("required", true), ("optional", false)]));
    if table.has("client_certificate") && !table.has("client_ca") {
        let problem = "`client_certificate` needs `client_ca`, which says whose certificates to accept";
        let remedy = "write client_ca = \"clients.pem\" with the CA certificate that signed the clients' \
                      certificates";
        table.notes().missing(&table.at("client_certificate"), problem, remedy);
    }
    let authorities = authorities?;
    if let Err(error) = inspect::authorities(Some(&authorities.value)) {
        refuse(table, &authorities.span, &error);
        return None;
    }
    Some(ClientVerification { authorities: authorities.value, is_required: is_required.unwrap_or(true) })
}

fn server_name(value: &DeValue<'_>) -> Value<String> {
    let name = text(value)?;
    if client::is_server_name(name) {
        return Ok(name.into());
    }
    Err(must_be("a host name or an IP address", shown(name), "write for example \"app.internal\""))
}

fn resolved(table: &Table<'_>, spot: Spanned<String>) -> Spanned<PathBuf> {
    Spanned { value: table.notes().resolve_input(&spot.value), span: spot.span }
}

fn refuse(table: &Table<'_>, span: &Range<usize>, error: &Error) {
    table.notes().error(span, error.to_string(), error.remedy());
}

//! Owns: `[pools.persistence]`, and the cookies that browsers would not keep.
//! Invariant: a combination of attributes that cannot work is an error here, not a surprise in a browser.
//! Must not know: keys, pins, other pools.

mod policies;

use std::ops::Range;
use std::time::Duration;

use toml::de::DeValue;

use super::names::{cookie_domain, cookie_name, cookie_path, field_name, parameter};
use super::reader::Table;
use super::values::{MILLISECOND, SECOND, Value, YEAR, duration, flag, must_be, shown, text, whole, word};
use crate::affinity::cookie::{self, LifetimeType, SameSite};
use crate::affinity::learned::SessionIdSource;
use crate::affinity::pin_names;
use crate::affinity::{Carrier, MAX_CLOCK_SKEW, Settings, header, learned, route};
use crate::session_sync::{self, InvalidAddress};

/// The values of `type`.
#[derive(Clone, Copy, PartialEq)]
enum PersistenceType {
    Cookie,
    Header,
    Route,
    Learned,
    None,
}

impl PersistenceType {
    const WORDS: [(&'static str, PersistenceType); 5] = [
        ("cookie", PersistenceType::Cookie),
        ("header", PersistenceType::Header),
        ("route", PersistenceType::Route),
        ("learned", PersistenceType::Learned),
        ("none", PersistenceType::None),
    ];

    fn as_str(self) -> &'static str {
        PersistenceType::WORDS.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word)
    }
}

/// Longer than any login lasts, and short enough to be added to any clock.
const LONGEST: Duration = YEAR.saturating_mul(10);
/// The default capacity of a table of learned sessions, about 70 MiB.
const CAPACITY: usize = 1_000_000;

/// Reads the persistence of the pool named `pool`. Also returns the position of its cookie's name.
pub(super) fn persistence(table: &Table<'_>, pool: &str) -> (Settings, Range<usize>) {
    let kind = table.get("type", word(PersistenceType::WORDS)).unwrap_or(PersistenceType::Cookie);
    let idle_timeout = table.get("idle_timeout", duration(SECOND..=LONGEST));
    let absolute_timeout = table.get("absolute_timeout", duration(SECOND..=LONGEST));
    let has_absolute = table.has("absolute_timeout");
    let max_clock_skew = table.get("max_clock_skew", duration(Duration::ZERO..=LONGEST)).unwrap_or(MAX_CLOCK_SKEW);
    let (cookie, named_at) = table.section("cookie", |table| (cookie(table, pool, has_absolute), table.at("name")));
    let header = table.section("header", header);
    let route = table.section("route", route);
    let learned = table.section("learned", learned);
    let settings = Settings {
        carrier: Carrier::None,
        idle_timeout,
        absolute_timeout,
        max_clock_skew,
        converge: table.get("converge", duration(MILLISECOND..=SECOND * 60)),
        on: policies::policies(table),
        rules: table.sections("rules", policies::rule).into_iter().flatten().collect(),
        verdict_header: table.get("verdict_header", field_name),
    };

    if let (Some(idle), Some(absolute)) = (idle_timeout, absolute_timeout)
        && idle >= absolute
    {
        let problem = "`idle_timeout` is not shorter than `absolute_timeout`, so it never ends a session";
        table.notes().warn(&table.at("idle_timeout"), problem, "shorten it, or remove it");
    }
    warn_of_unused_keys(table, kind);
    if kind == PersistenceType::Learned && learned.as_ref().is_some_and(|learned| learned.store.is_none()) {
        let problem = "learned sessions are in this process only: they are lost when it ends, and other Linchpins \
                       do not have them";
        table.notes().warn(&table.at("learned"), problem, "write store = \"redis://…\" to keep and share them");
    }
    let carrier = match kind {
        PersistenceType::None => {
            return (Settings { verdict_header: settings.verdict_header, ..Settings::none() }, named_at);
        }
        PersistenceType::Cookie => Carrier::Cookie(cookie),
        PersistenceType::Header => required(table, kind, "header = { name = \"X-Pin\" }", header, Carrier::Header),
        PersistenceType::Route => required(table, kind, "route = { cookie = \"JSESSIONID\" }", route, Carrier::Route),
        PersistenceType::Learned => {
            required(table, kind, "learned = { cookie = \"PHPSESSID\" }", learned, Carrier::Learned)
        }
    };
    (Settings { carrier, ..settings }, named_at)
}

/// Returns the carrier of a type that needs its own section.
fn required<T>(
    table: &Table<'_>,
    kind: PersistenceType,
    example: &str,
    read: Option<T>,
    carrier: fn(T) -> Carrier,
) -> Carrier {
    let word = kind.as_str();
    if !table.has(word) {
        let problem = format!("type = \"{word}\" needs `{word}`, which says where requests carry the session");
        table.notes().missing(&table.at("type"), problem, format!("write for example {example}"));
    }
    read.map_or(Carrier::None, carrier)
}

/// Warns of keys that have no effect for this type.
fn warn_of_unused_keys(table: &Table<'_>, kind: PersistenceType) {
    let sections = ["cookie", "header", "route", "learned"].into_iter().filter(|section| *section != kind.as_str());
    let others: &[&str] = match kind {
        PersistenceType::None => &["idle_timeout", "absolute_timeout", "max_clock_skew", "converge", "on", "rules"],
        PersistenceType::Route => &["idle_timeout", "absolute_timeout", "max_clock_skew"],
        PersistenceType::Learned => &["max_clock_skew"],
        PersistenceType::Cookie | PersistenceType::Header => &[],
    };
    for key in sections.chain(others.iter().copied()).filter(|key| table.has(key)) {
        let why = match kind {
            PersistenceType::None => "type = \"none\" pins no client".into(),
            PersistenceType::Route if others.contains(&key) => {
                "the application decides how long a session lasts".into()
            }
            PersistenceType::Learned if others.contains(&key) => {
                "learned sessions carry no time from another clock".into()
            }
            _ => format!("it is for type = \"{key}\""),
        };
        let remedy = if kind == PersistenceType::None { "remove it, or write type = \"cookie\"" } else { "remove it" };
        table.notes().warn(&table.at(key), format!("`{key}` has no effect: {why}"), remedy);
    }
}

fn header(table: &Table<'_>) -> Option<header::Settings> {
    Some(header::Settings { name: table.required("name", "\"X-Pin\"", field_name)?.value })
}

fn route(table: &Table<'_>) -> Option<route::Settings> {
    let cookie = table.required("cookie", "\"JSESSIONID\"", cookie_name);
    let parameter = table.get("path_parameter", parameter);
    let separator = table.get("separator", separator);
    let default = route::Settings::for_cookie(&cookie?.value);
    Some(route::Settings {
        path_parameter: parameter.unwrap_or(default.path_parameter),
        separator: separator.unwrap_or(default.separator),
        ..default
    })
}

/// Reads the character between a session id and the name of its backend: one that occurs in no name and in no quoted
/// cookie value.
fn separator(value: &DeValue<'_>) -> Value<char> {
    let text = text(value)?;
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(c), None) if c.is_ascii_punctuation() && !"\";,\\=_%/".contains(c) => Ok(c),
        _ => Err(must_be("one punctuation character", shown(text), "write for example \".\" or \"!\"")),
    }
}

fn learned(table: &Table<'_>) -> Option<learned::Settings> {
    let cookie = table.get("cookie", cookie_name).map(SessionIdSource::Cookie);
    let header = table.get("header", field_name).map(SessionIdSource::Header);
    let capacity = table.get("capacity", whole(1..=100_000_000)).unwrap_or(CAPACITY);
    let store = table.get("store", store);
    if table.is_present() && !table.has("cookie") && !table.has("header") {
        let problem = "`learned` does not say where the application's session id is";
        table.notes().missing(table.span(), problem, "write cookie = \"PHPSESSID\", or header = \"Mcp-Session-Id\"");
    }
    if table.has("cookie") && table.has("header") {
        let problem = "`learned` has a `cookie` and a `header`: a session id is in one of them";
        table.notes().warn(&table.at("header"), problem, "take one of them out; the cookie is taken");
    }
    Some(learned::Settings { source: cookie.or(header)?, capacity, store })
}

/// Reads the name of a routing cookie. The last character is reserved: Linchpin appends it to the cookies of a Linchpin
/// behind this one that have the same name.
fn routing_cookie(value: &DeValue<'_>) -> Value<String> {
    let name = cookie_name(value)?;
    let behind = char::from(pin_names::CHAIN_SUFFIX);
    match name.strip_suffix(behind) {
        None => Ok(name),
        Some(_) => {
            let what = format!(
                "a cookie name that does not end with `{behind}`, which marks the cookies of a Linchpin behind this \
                 one"
            );
            let remedy = match name.trim_end_matches(behind) {
                "" => "write another name".into(),
                without => format!("write {}", shown(without)),
            };
            Err(must_be(&what, shown(&name), remedy))
        }
    }
}

/// Reads the address of a store. Never shows it, since it may contain a password.
pub(super) fn store(value: &DeValue<'_>) -> Value<String> {
    let address = text(value)?;
    match session_sync::check_address(address) {
        Ok(()) => Ok(address.into()),
        Err(InvalidAddress { problem, remedy }) => {
            Err(super::values::InvalidValue { problem: problem.into(), remedy: remedy.into() })
        }
    }
}

fn cookie(table: &Table<'_>, pool: &str, has_absolute_timeout: bool) -> cookie::Settings {
    let default = cookie::Settings::for_pool(pool);
    let settings = cookie::Settings {
        name: table.get("name", routing_cookie).unwrap_or(default.name),
        path: table.get("path", cookie_path).unwrap_or(default.path),
        domain: table.get("domain", cookie_domain).or(default.domain),
        secure: table.get("secure", flag),
        http_only: table.get("http_only", flag).unwrap_or(default.http_only),
        same_site: table
            .get("same_site", word(SameSite::ALL.map(|same_site| (same_site.as_str(), same_site))))
            .unwrap_or(default.same_site),
        partitioned: table.get("partitioned", flag).unwrap_or(default.partitioned),
        lifetime: table
            .get("lifetime_type", word(LifetimeType::ALL.map(|lifetime| (lifetime.as_str(), lifetime))))
            .unwrap_or(default.lifetime),
    };
    if settings.lifetime == LifetimeType::Permanent && !has_absolute_timeout {
        let problem = "`lifetime_type` = \"permanent\" needs `absolute_timeout`, which sets when the cookie expires";
        let remedy = "write absolute_timeout = \"12h\" in [pools.persistence]";
        table.notes().missing(&table.at("lifetime_type"), problem, remedy);
    }
    check_attributes(table, &settings);
    check_prefix(table, &settings);
    settings
}

fn check_attributes(table: &Table<'_>, cookie: &cookie::Settings) {
    let notes = table.notes();
    let without = "without `secure`: browsers drop such a cookie";
    if cookie.same_site == SameSite::None && cookie.secure != Some(true) {
        notes.error(&table.at("same_site"), format!("`same_site` = \"None\" {without}"), "write secure = true");
    }
    if cookie.partitioned && cookie.secure != Some(true) {
        notes.error(&table.at("partitioned"), format!("`partitioned` {without}"), "write secure = true");
    }
    if cookie.partitioned && cookie.same_site != SameSite::None {
        let problem = "`partitioned` is for pages embedded in other sites, where browsers send only cookies with \
                       `same_site` = \"None\"";
        notes.warn(&table.at("partitioned"), problem, "write same_site = \"None\", or remove it");
    }
}

/// Refuses names that browsers accept only with certain attributes (RFC 6265bis §4.1.3), whatever their case.
fn check_prefix(table: &Table<'_>, cookie: &cookie::Settings) {
    let name = cookie.name.to_ascii_lowercase();
    let mut needed = Vec::new();
    if name.starts_with("__host-") || name.starts_with("__secure-") {
        needed.extend((cookie.secure != Some(true)).then_some("secure = true"));
    }
    if name.starts_with("__host-") {
        needed.extend((cookie.path != "/").then_some("path = \"/\""));
        needed.extend(cookie.domain.is_some().then_some("no `domain`"));
    }
    if !needed.is_empty() {
        let prefix = if name.starts_with("__host-") { "__Host-" } else { "__Secure-" };
        let problem = format!(
            "browsers drop a cookie named {prefix}… without the attributes that this prefix \
                               requires"
        );
        table.notes().error(&table.at("name"), problem, format!("write {}", needed.join(" and ")));
    }
}

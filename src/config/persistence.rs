//! Owns: `[pools.persistence]`, and which cookies no browser would keep.
//! Invariant: a combination of attributes that can't work is an error here, not a riddle in a browser.
//! Must not know: keys, pins, other pools.

use std::ops::Range;
use std::time::Duration;

use super::names::{cookie_domain, cookie_name, cookie_path};
use super::reader::Table;
use super::values::{SECOND, YEAR, duration, flag, word};
use crate::affinity::cookie::{self, LifetimeType, SameSite};
use crate::affinity::{Carrier, Settings};

/// The values of `type`.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Cookie,
    None,
}

/// Longer than any login lasts, and short enough for every clock.
const LONGEST: Duration = YEAR.saturating_mul(10);

/// Reads the persistence of the pool named `pool`; also gives the place where its cookie gets its name.
pub(super) fn persistence(table: &Table<'_>, pool: &str) -> (Settings, Range<usize>) {
    table.later(&["header", "route", "learned", "converge", "on"]);
    let default = Settings::for_pool(pool);
    let kinds = word([("cookie", Kind::Cookie), ("none", Kind::None)], &["header", "route", "learned"]);
    let kind = table.get("type", kinds).unwrap_or(Kind::Cookie);
    let idle_timeout = table.get("idle_timeout", duration(SECOND..=LONGEST)).or(default.idle_timeout);
    let absolute_timeout = table.get("absolute_timeout", duration(SECOND..=LONGEST)).or(default.absolute_timeout);
    let has_absolute = table.has("absolute_timeout");
    let (cookie, named_at) = table.section("cookie", |table| (cookie(table, pool, has_absolute), table.at("name")));

    if let (Some(idle), Some(absolute)) = (idle_timeout, absolute_timeout)
        && idle >= absolute
    {
        let problem = "`idle_timeout` is not shorter than `absolute_timeout`, so that no session ever ends by it";
        table.notes().warn(&table.at("idle_timeout"), problem, "shorten it, or leave it out");
    }
    if kind == Kind::None {
        for key in ["cookie", "idle_timeout", "absolute_timeout"].into_iter().filter(|key| table.has(key)) {
            let problem = format!("`{key}` has no effect: type = \"none\" pins nobody");
            table.notes().warn(&table.at(key), problem, "take it out, or write type = \"cookie\"");
        }
        return (Settings { carrier: Carrier::None, idle_timeout: None, absolute_timeout: None }, named_at);
    }
    (Settings { carrier: Carrier::Cookie(cookie), idle_timeout, absolute_timeout }, named_at)
}

fn cookie(table: &Table<'_>, pool: &str, has_absolute_timeout: bool) -> cookie::Settings {
    let default = cookie::Settings::for_pool(pool);
    let settings = cookie::Settings {
        name: table.get("name", cookie_name).unwrap_or(default.name),
        path: table.get("path", cookie_path).unwrap_or(default.path),
        domain: table.get("domain", cookie_domain).or(default.domain),
        secure: table.get("secure", flag).unwrap_or(default.secure),
        http_only: table.get("http_only", flag).unwrap_or(default.http_only),
        same_site: table
            .get("same_site", word(SameSite::ALL.map(|same_site| (same_site.as_str(), same_site)), &[]))
            .unwrap_or(default.same_site),
        partitioned: table.get("partitioned", flag).unwrap_or(default.partitioned),
        lifetime: table
            .get("lifetime_type", word(LifetimeType::ALL.map(|lifetime| (lifetime.as_str(), lifetime)), &[]))
            .unwrap_or(default.lifetime),
    };
    if settings.lifetime == LifetimeType::Permanent && !has_absolute_timeout {
        let problem = "`lifetime_type` = \"permanent\" needs an `absolute_timeout`, which says when the cookie ends";
        let remedy = "write absolute_timeout = \"12h\" into [pools.persistence]";
        table.notes().missing(&table.at("lifetime_type"), problem, remedy);
    }
    check_attributes(table, &settings);
    check_prefix(table, &settings);
    settings
}

fn check_attributes(table: &Table<'_>, cookie: &cookie::Settings) {
    let notes = table.notes();
    let without = "without `secure`: browsers drop such a cookie";
    if cookie.same_site == SameSite::None && !cookie.secure {
        notes.error(&table.at("same_site"), format!("`same_site` = \"None\" {without}"), "write secure = true");
    }
    if cookie.partitioned && !cookie.secure {
        notes.error(&table.at("partitioned"), format!("`partitioned` {without}"), "write secure = true");
    }
    if cookie.partitioned && cookie.same_site != SameSite::None {
        let problem = "`partitioned` is for pages embedded in other sites, where only `same_site` = \"None\" is sent";
        notes.warn(&table.at("partitioned"), problem, "write same_site = \"None\", or take it out");
    }
}

/// Names that browsers take only with certain attributes (RFC 6265bis §4.1.3), whatever their case.
fn check_prefix(table: &Table<'_>, cookie: &cookie::Settings) {
    let name = cookie.name.to_ascii_lowercase();
    let mut needed = Vec::new();
    if name.starts_with("__host-") || name.starts_with("__secure-") {
        needed.extend((!cookie.secure).then_some("secure = true"));
    }
    if name.starts_with("__host-") {
        needed.extend((cookie.path != "/").then_some("path = \"/\""));
        needed.extend(cookie.domain.is_some().then_some("no `domain`"));
    }
    if !needed.is_empty() {
        let prefix = if name.starts_with("__host-") { "__Host-" } else { "__Secure-" };
        let problem = format!("browsers drop a cookie named {prefix}… that has not the attributes of its prefix");
        table.notes().error(&table.at("name"), problem, format!("write {}", needed.join(" and ")));
    }
}

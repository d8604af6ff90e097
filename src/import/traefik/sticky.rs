//! Owns: the conversion of a service's sticky cookie.
//! Invariant: a pool has one routing cookie.
//! Must not know: servers.

use std::time::Duration;

use super::super::grammar;
use super::super::grammar::{domain, routing_cookie, same_site};
use super::super::node::Map;
use super::super::notes::{left, map_in, note};
use super::super::pool::{Cookie, Pinning, Pool};
use super::super::reasons::NONE;

pub(super) fn sticky(holder: &Map, path: &str, pool: &mut Pool) {
    const COOKIE: &str = "Linchpin pins clients by a cookie";
    let path = format!("{path}.sticky");
    let Some(sticky) = map_in(holder, "sticky", &path, &mut pool.persistence) else { return };
    let Some(node) = sticky.take("cookie") else {
        return left(sticky, &path, COOKIE, &mut pool.persistence);
    };
    left(sticky, &path, COOKIE, &mut pool.persistence);
    let empty = Map::default();
    if !node.list().is_empty() || node.text().is_some_and(|text| !matches!(text, "" | "~" | "null" | "true")) {
        note(&format!("{path}.cookie"), node.line, node, COOKIE, &mut pool.persistence);
    }
    if pool.pinning.is_some() {
        let map = node.map().unwrap_or(&empty);
        return match map.is_empty() {
            true => pool.persistence.unsupported(
                node.line,
                &format!("{path}.cookie"),
                "the pool already has a routing cookie",
            ),
            false => {
                left(map, &format!("{path}.cookie"), "the pool already has a routing cookie", &mut pool.persistence)
            }
        };
    }
    let mut cookie = Cookie::default();
    for (key, line, value) in node.map().unwrap_or(&empty).take_all() {
        let text = value.text().unwrap_or_default();
        let flag = match text.to_ascii_lowercase().as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        };
        let is_kept = match key.to_ascii_lowercase().as_str() {
            "name" => set(&mut cookie.name, routing_cookie(text)),
            "path" => set(&mut cookie.path, grammar::prefix(text)),
            "domain" => set(&mut cookie.domain, domain(text)),
            "secure" => set(&mut cookie.secure, flag),
            "httponly" => set(&mut cookie.http_only, flag),
            "samesite" => set(&mut cookie.same_site, same_site(text)),
            "maxage" => match text.parse::<u64>() {
                Ok(seconds) => {
                    cookie.permanent = seconds > 0;
                    pool.absolute_timeout = Some(Duration::from_secs(seconds));
                    true
                }
                Err(_) => false,
            },
            _ => false,
        };
        if !is_kept {
            note(&format!("{path}.cookie.{key}"), line, value, NONE, &mut pool.persistence);
        }
    }
    pool.pinning = Some(Pinning::Cookie(cookie));
}

/// Sets a value that could be parsed; returns whether it could.
fn set<T>(place: &mut Option<T>, value: Option<T>) -> bool {
    let is_read = value.is_some();
    *place = value.or(place.take());
    is_read
}

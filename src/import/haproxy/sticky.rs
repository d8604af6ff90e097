//! Owns: the conversion of `cookie`, `appsession`, `stick`, `stick-table` and `balance`.
//! Invariant: a pool has one kind of pin; a second one is noted.
//! Must not know: servers, routes.

use std::time::Duration;

use super::super::grammar::{domain, field, parameter, routing_cookie, same_site, token};
use super::super::pool::{Balance, By, Cookie, Pinning, Pool};
use super::super::units::{self, size};
use super::disposition::Disposition;
use super::syntax::Statement;

/// `cookie NAME insert …`, `… prefix`, `… rewrite`.
pub(super) fn cookie(statement: &Statement, pool: &mut Pool) -> Disposition {
    let (line, text) = (statement.line, statement.text.as_str());
    let Some(name) = routing_cookie(statement.word(1)) else {
        return Disposition::Unsupported("it names no cookie".into());
    };
    let is_insert = statement.words.iter().any(|word| word == "insert");
    let is_rewrite = statement.words.iter().any(|word| word == "rewrite");
    if let Some(lost) = second(pool) {
        return lost;
    }
    let mut cookie = Cookie { name: Some(name.clone()), ..Cookie::default() };
    let mut losses = Vec::new();
    let mut is_indirect = false;
    let mut words = statement.from(2).iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "insert" | "rewrite" | "prefix" | "nocache" | "dynamic" => {}
            "indirect" => is_indirect = true,
            "httponly" => cookie.http_only = Some(true),
            "secure" => cookie.secure = Some(true),
            "postonly" => {
                losses.push((word.clone(), "Linchpin sets the pin on a backend's first response, whatever the method"))
            }
            "preserve" => losses.push((word.clone(), "backends can't set the routing cookie")),
            "domain" => match words.next().and_then(|text| domain(text)) {
                Some(domain) if cookie.domain.is_none() => cookie.domain = Some(domain),
                _ => losses.push((word.clone(), "a cookie has one domain")),
            },
            "maxidle" | "maxlife" => {
                let time = words.next().and_then(|text| seconds(text));
                match (word.as_str(), time) {
                    (_, None) => losses.push((word.clone(), "not a duration")),
                    ("maxidle", time) => pool.idle_timeout = time,
                    (_, time) => pool.absolute_timeout = time,
                }
            }
            "attr" => attribute(words.next().map_or("", String::as_str), &mut cookie, &mut losses),
            other => losses.push((other.to_owned(), super::super::reasons::NONE)),
        }
    }
    for (what, why) in losses {
        pool.persistence.unsupported(line, &what, why);
    }
    if is_insert {
        if !is_indirect {
            pool.persistence.unneeded(line, text, "backends never see the routing cookie, as with `indirect`");
        }
        pool.pinning = Some(Pinning::Cookie(cookie));
    } else {
        learned(&name, pool);
        if is_rewrite {
            let why = "Linchpin learns the application's cookie: each client must get a value of its own";
            pool.persistence.unneeded(line, text, why);
        }
    }
    Disposition::Converted
}

/// Parses a time of a cookie: without a unit, it is in seconds.
fn seconds(text: &str) -> Option<Duration> {
    units::seconds(text)
}

fn attribute(text: &str, cookie: &mut Cookie, losses: &mut Vec<(String, &'static str)>) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    match name.trim().to_ascii_lowercase().as_str() {
        "samesite" if same_site(value.trim()).is_some() => cookie.same_site = same_site(value.trim()),
        "partitioned" => cookie.partitioned = true,
        "path" if value.starts_with('/') => cookie.path = super::super::grammar::prefix(value),
        _ => losses.push((format!("attr {text}"), super::super::reasons::NONE)),
    }
}

/// `appsession JSESSIONID len 52 timeout 3h`
pub(super) fn appsession(statement: &Statement, pool: &mut Pool) -> Disposition {
    let Some(name) = token(statement.word(1)) else {
        return Disposition::Unsupported("it names no cookie".into());
    };
    if let Some(lost) = second(pool) {
        return lost;
    }
    learned(&name, pool);
    let timeout = statement.words.iter().position(|word| word == "timeout");
    pool.idle_timeout = timeout.and_then(|at| units::milliseconds(statement.word(at + 1)));
    Disposition::Converted
}

/// `stick-table type string len 32 size 1m expire 30m`
pub(super) fn table(statement: &Statement, pool: &mut Pool) -> Disposition {
    let mut losses = Vec::new();
    let mut words = statement.from(1).iter().map(String::as_str);
    let mut capacity = None;
    while let Some(word) = words.next() {
        match word {
            "type" => {
                words.next();
            }
            "len" => {
                words.next();
            }
            "nopurge" => {}
            "size" => capacity = words.next().and_then(size),
            "expire" => match words.next().and_then(units::milliseconds) {
                Some(time) => pool.idle_timeout = pool.idle_timeout.or(Some(time)),
                None => losses.push("expire".to_owned()),
            },
            other => losses.push(format!("{other} {}", words.next().unwrap_or_default())),
        }
    }
    let is_learned = matches!(pool.pinning, Some(Pinning::LearnedCookie(_) | Pinning::LearnedHeader(_)));
    match &pool.pinning {
        Some(_) if is_learned => {}
        Some(Pinning::None) => {
            pool.persistence.unneeded(statement.line, &statement.text, "a hash needs no table");
        }
        _ => return Disposition::Unsupported("no imported `stick on` uses it".into()),
    }
    if let Some(capacity) = capacity.filter(|_| is_learned) {
        pool.capacity = Some(capacity);
    }
    for loss in losses {
        let why = if loss.starts_with("peers") {
            "replicas share a table through `store`: learned = { …, store = \"redis://HOST\" }; sealed cookies need none"
        } else {
            super::super::reasons::NONE
        };
        pool.persistence.unsupported(statement.line, loss.trim(), why);
    }
    Disposition::Converted
}

/// `stick on src`, `stick match …`, `stick store-request …`, `stick store-response …`.
pub(super) fn stick(statement: &Statement, pool: &mut Pool) -> Disposition {
    let is_condition = |word: &String| matches!(word.as_str(), "if" | "unless");
    if statement.words.iter().any(is_condition) {
        return Disposition::Unsupported(
            "a pool pins all requests, except those that [[pools.persistence.rules]] exempts".into(),
        );
    }
    let rule = statement.word(1);
    let Some(wanted) =
        source(statement.word(2)).filter(|_| ["on", "match", "store-request", "store-response"].contains(&rule))
    else {
        return Disposition::Unsupported(
            "Linchpin identifies clients only by a cookie, a header field, a query parameter or their address".into(),
        );
    };
    let (pinning, by) = match wanted {
        Source::Address => (Pinning::None, Some(By::Address)),
        Source::Query(name) => (Pinning::None, Some(By::Query(name))),
        Source::Cookie(name) => (Pinning::LearnedCookie(name), None),
        Source::Header(name) => (Pinning::LearnedHeader(name), None),
    };
    if pool.pinning.as_ref().is_some_and(|other| *other == pinning) {
        return Disposition::Converted;
    }
    if let Some(lost) = second(pool) {
        return lost;
    }
    if let Some(by) = by {
        pool.balance(&Balance::Hash(by));
    }
    pool.pinning = Some(pinning);
    Disposition::Converted
}

enum Source {
    Address,
    Cookie(String),
    Header(String),
    Query(String),
}

/// Returns what a fetch method identifies clients by.
fn source(fetch: &str) -> Option<Source> {
    let fetch = fetch.split("),").next().unwrap_or(fetch).trim_end_matches(')');
    let (name, argument) = fetch.split_once('(').unwrap_or((fetch, ""));
    let argument = argument.split(',').next().unwrap_or_default();
    let name = name.split(',').next().unwrap_or(name);
    match name {
        "src" | "src_ip" => Some(Source::Address),
        "cookie" | "cook" | "req.cook" | "req.cookie" | "set-cookie" | "scook" | "res.cook" | "hdr_cookie" => {
            token(argument).map(Source::Cookie)
        }
        "hdr" | "req.hdr" | "req.fhdr" | "res.hdr" | "shdr" | "hdr_ip" => field(argument).map(Source::Header),
        "url_param" | "urlp" => parameter(argument).map(Source::Query),
        _ => None,
    }
}

/// `balance ALGORITHM`
pub(super) fn balance(statement: &Statement) -> Result<Balance, &'static str> {
    const HASHED: &str =
        "Linchpin can hash only the client's address, the path, a header field, a cookie or a query parameter";
    let argument = |text: &str| text.split_once('(').and_then(|(_, rest)| field(rest.split([')', ',']).next()?));
    let word = statement.word(1);
    match word.split('(').next().unwrap_or_default() {
        "roundrobin" | "static-rr" => Ok(Balance::RoundRobin),
        "leastconn" => Ok(Balance::LeastRequests),
        "random" => Ok(Balance::RandomTwo),
        "source" => Ok(Balance::Hash(By::Address)),
        "uri" => Ok(Balance::Hash(By::Path)),
        "url_param" => parameter(statement.word(2)).map(|name| Balance::Hash(By::Query(name))).ok_or(HASHED),
        "hdr" => argument(word).map(|name| Balance::Hash(By::Header(name))).ok_or(HASHED),
        "hash" => match source(statement.word(2)) {
            Some(Source::Address) => Ok(Balance::Hash(By::Address)),
            Some(Source::Cookie(name)) => Ok(Balance::Hash(By::Cookie(name))),
            Some(Source::Header(name)) => Ok(Balance::Hash(By::Header(name))),
            Some(Source::Query(name)) => Ok(Balance::Hash(By::Query(name))),
            None if statement.word(2) == "path" => Ok(Balance::Hash(By::Path)),
            None => Err(HASHED),
        },
        "first" => Err("Linchpin always spreads sessions over all backends"),
        _ => Err(super::super::reasons::NONE),
    }
}

fn learned(name: &str, pool: &mut Pool) {
    pool.pinning = Some(Pinning::LearnedCookie(name.into()));
}

/// Returns how to note a second kind of pin; `None` if the pool has none yet.
fn second(pool: &Pool) -> Option<Disposition> {
    pool.pinning.as_ref().map(|_| Disposition::Unsupported("the pool already has another kind of pin".into()))
}

//! Owns: `[[pools]]` and the sections below it, except persistence.
//! Invariant: the defaults are those of the module that owns the `Settings`.
//! Must not know: other pools, listeners, routes.

use std::ops::Range;
use std::time::Duration;

use toml::de::DeValue;

use super::addresses::backend_endpoint;
use super::copies;
use super::discovery;
use super::names::{authority, cookie_name, field_name, name, parameter, target};
use super::pages::pages;
use super::persistence::persistence;
use super::reader::{Spanned, Table};
use super::report::Notes;
use super::tls;
use super::values::{MILLISECOND, Value, YEAR, duration, flag, found, must_be, nearest, percent};
use super::values::{size, statuses, whole, word};
use crate::health::Probe;
use crate::net::Address;
use crate::pool::{AdminState, backend, capacity_queue, health_state, rebalance};
use crate::proxy::{Timeouts, key, retry};
use crate::upstream::ProxyProtocol;
use crate::{affinity, balance, discover, health, upstream};

/// One `[[pools]]`. A `None` has an error, which is noted, or is not in the file.
pub(super) struct PoolDraft {
    pub(super) span: Range<usize>,
    pub(super) name: Option<Spanned<String>>,
    pub(super) balance: balance::BalancerKind,
    /// The position of `balance`.
    pub(super) balance_at: Range<usize>,
    pub(super) hash: Option<key::Settings>,
    pub(super) slow_start: Duration,
    pub(super) queue: Option<capacity_queue::Settings>,
    pub(super) rebalance: Option<rebalance::Settings>,
    /// The position of `rebalance`.
    pub(super) rebalance_at: Range<usize>,
    /// The position of `queue`.
    pub(super) queue_at: Range<usize>,
    pub(super) persistence: affinity::Settings,
    /// The position of the cookie's name.
    pub(super) cookie_at: Range<usize>,
    /// The position of `wait`, or of `on`.
    pub(super) waits_at: Range<usize>,
    pub(super) copies: Option<crate::copies::Settings>,
    /// The position of `copies`.
    pub(super) copies_at: Range<usize>,
    pub(super) health: health::Settings,
    /// The position of `port` in `health`.
    pub(super) health_port_at: Range<usize>,
    pub(super) health_state: health_state::Settings,
    pub(super) retry: retry::Settings,
    pub(super) timeouts: Timeouts,
    pub(super) pages: crate::proxy::pages::Settings,
    pub(super) upstream: upstream::Settings,
    pub(super) backends: Vec<BackendDraft>,
    pub(super) discover: Vec<Option<discover::Settings>>,
}

/// One `[[pools.backends]]`.
pub(super) struct BackendDraft {
    pub(super) name: Option<Spanned<String>>,
    pub(super) address: Option<Spanned<Address>>,
    pub(super) weight: Option<u32>,
    pub(super) state: Option<AdminState>,
    pub(super) backup: Option<bool>,
    pub(super) failover: Vec<Spanned<String>>,
    pub(super) route: Option<Spanned<String>>,
    pub(super) max_requests: Option<u32>,
    pub(super) max_sessions: Option<u32>,
    pub(super) group: Option<String>,
}

impl PoolDraft {
    /// Warns if `total` ends a request that waits for its backend before it can move to another. `at` is the position
    /// of the warning.
    pub(super) fn warn_of_waits(&self, at: &Range<usize>, total: Duration, notes: &Notes<'_>) {
        if let Some(wait) = self.persistence.on.longest_wait().filter(|wait| *wait >= total) {
            let (wait, total) = (humantime::format_duration(wait), humantime::format_duration(total));
            let problem = format!(
                "a request may wait {wait} for its backend, but `total` ends it after {total}, so \
                                   it never moves to another backend"
            );
            notes.warn(at, problem, "shorten `wait.time`, or make `total` longer");
        }
    }
}

impl BackendDraft {
    pub(super) fn settings(&self) -> Option<backend::Settings> {
        let (name, address) = (&self.name.as_ref()?.value, self.address.as_ref()?.value.clone());
        let default = backend::Settings::new(name, address.clone());
        Some(backend::Settings {
            name: name.clone(),
            address,
            weight: self.weight.unwrap_or(default.weight),
            state: self.state.unwrap_or(default.state),
            backup: self.backup.unwrap_or(default.backup),
            failover: self.failover.iter().map(|spot| spot.value.clone()).collect(),
            route: self.route.as_ref().map(|spot| spot.value.clone()),
            max_requests: self.max_requests,
            max_sessions: self.max_sessions,
            group: self.group.clone(),
            ..default
        })
    }
}

pub(super) fn pool(table: &Table<'_>) -> PoolDraft {
    let name = table.required("name", "\"app\"", name);
    let kinds = word(balance::BalancerKind::ALL.map(|kind| (kind.as_str(), kind)));
    let balance = table.get("balance", kinds).unwrap_or_default();
    let (hash, max_load) = table.section("hash", hash);
    let (balance, hash) = match balance {
        balance::BalancerKind::Hash { .. } => (balance::BalancerKind::Hash { max_load }, hash),
        other => {
            if table.has("hash") {
                let problem = "`hash` has no effect without balance = \"hash\"";
                table.notes().warn(&table.at("hash"), problem, "remove it, or write balance = \"hash\"");
            }
            (other, None)
        }
    };
    let known_name = name.as_ref().map_or("", |name| &name.value);
    let (persistence, cookie_at, waits_at) = table.section("persistence", |table| {
        let (persistence, cookie_at) = persistence(table, known_name);
        (persistence, cookie_at, table.at(if table.has("wait") { "wait" } else { "on" }))
    });
    let mut health_state = health_state::Settings::default();
    let upstream = table.section("upstream", upstream);
    let (health, health_port_at) =
        table.section("health", |table| (health(table, &mut health_state, &upstream), table.at("port")));
    table.section("ejection", |table| ejection(table, &mut health_state));
    PoolDraft {
        span: table.span().clone(),
        name,
        balance,
        balance_at: table.at("balance"),
        hash,
        slow_start: slow_start(table),
        queue: table.switched_section("queue", queue),
        queue_at: table.at("queue"),
        rebalance: table.switched_section("rebalance", rebalance),
        rebalance_at: table.at("rebalance"),
        persistence,
        cookie_at,
        waits_at,
        copies: table.section("copies", copies::copies),
        copies_at: table.at("copies"),
        health,
        health_port_at,
        health_state,
        retry: table.section("retry", retry),
        timeouts: table.section("timeouts", timeouts),
        pages: table.section("pages", pages),
        upstream,
        backends: table.sections("backends", backend),
        discover: table.sections("discover", discovery::discover),
    }
}

fn backend(table: &Table<'_>) -> BackendDraft {
    let states = word(AdminState::ALL.map(|state| (state.as_str(), state)));
    BackendDraft {
        name: table.required("name", "\"a\"", name),
        address: table.required("address", "\"127.0.0.1:9001\"", backend_endpoint(table)),
        weight: table.get("weight", whole(0..=1000)),
        state: table.get("state", states),
        backup: table.get("backup", flag),
        failover: table.list("failover", name).unwrap_or_default(),
        route: table.spot("route", name),
        max_requests: table.get("max_requests", whole(1..=1_000_000)),
        max_sessions: table.get("max_sessions", whole(1..=1_000_000_000)),
        group: table.get("group", name),
    }
}

/// Reads `slow_start`.
fn slow_start(table: &Table<'_>) -> Duration {
    const LONG: Duration = Duration::from_secs(60 * 60);
    let Some(slow_start) = table.get("slow_start", duration(Duration::ZERO..=YEAR)) else { return Duration::ZERO };
    if slow_start > LONG {
        let lasts = humantime::format_duration(slow_start);
        let problem = format!("a backend that returns gets less than its share of new clients for {lasts}");
        table.notes().warn(
            &table.at("slow_start"),
            problem,
            "write the time that a server needs to warm up, such as \"60s\"",
        );
    }
    slow_start
}

fn rebalance(table: &Table<'_>) -> rebalance::Settings {
    let default = rebalance::Settings::default();
    rebalance::Settings {
        sessions_per_minute: table
            .get("sessions_per_minute", whole(1..=1_000_000))
            .unwrap_or(default.sessions_per_minute),
        factor: table.get("factor", factor).unwrap_or(default.factor),
        idle: table.get("idle", duration(MILLISECOND * 100..=YEAR)).unwrap_or(default.idle),
    }
}

/// Reads a factor such as 1.25 or "125%", in percent.
fn factor(value: &DeValue<'_>) -> Value<u32> {
    let number = value.as_float().and_then(|number| number.as_str().parse::<f64>().ok());
    let number = number.or_else(|| value.as_integer().and_then(|number| number.as_str().parse().ok()));
    let of_text = || value.as_str().and_then(|text| text.trim().strip_suffix('%')?.trim_end().parse::<f64>().ok());
    let percent =
        number.map(|number| number * 100.0).or_else(of_text).filter(|percent| (100.0..=1000.0).contains(percent));
    let remedy = "write for example 1.25, for a quarter more than the mean";
    percent.map(|percent| percent.round() as u32).ok_or_else(|| must_be("a number from 1 to 10", found(value), remedy))
}

fn queue(table: &Table<'_>) -> capacity_queue::Settings {
    let default = capacity_queue::Settings::default();
    capacity_queue::Settings {
        size: table.get("size", whole(1..=100_000)).unwrap_or(default.size),
        timeout: table.get("timeout", duration(MILLISECOND..=YEAR)).unwrap_or(default.timeout),
    }
}

/// The values of `by`.
#[derive(Clone, Copy, PartialEq)]
enum HashBy {
    Address,
    Path,
    Header,
    Cookie,
    Query,
}

/// Reads what requests are hashed by, and the highest share of its fair load that a backend may have, in percent.
fn hash(table: &Table<'_>) -> (Option<key::Settings>, u32) {
    const WORDS: [(&str, HashBy); 5] = [
        ("address", HashBy::Address),
        ("path", HashBy::Path),
        ("header", HashBy::Header),
        ("cookie", HashBy::Cookie),
        ("query", HashBy::Query),
    ];
    let by = table.get("by", word(WORDS)).unwrap_or(HashBy::Address);
    let max_load = table.get("max_load", percent(100..=10_000)).unwrap_or(125);
    let is_named = matches!(by, HashBy::Header | HashBy::Cookie | HashBy::Query);
    if is_named && !table.has("name") {
        let problem = "`by` needs the `name` of the header, cookie or query parameter";
        table.notes().missing(&table.at("by"), problem, "write for example name = \"user\"");
    }
    if !is_named && table.has("name") {
        let problem = "`name` has no effect: only `by` = \"header\", \"cookie\" or \"query\" uses it";
        table.notes().warn(&table.at("name"), problem, "remove it");
    }
    let key = match by {
        HashBy::Header => table.get("name", field_name).map(key::Settings::Header),
        HashBy::Cookie => table.get("name", cookie_name).map(key::Settings::Cookie),
        HashBy::Query => table.get("name", parameter).map(key::Settings::Query),
        HashBy::Address | HashBy::Path => {
            table.get("name", parameter);
            Some(if by == HashBy::Path { key::Settings::Path } else { key::Settings::Address })
        }
    };
    (key, max_load)
}

/// The values of `type`.
#[derive(Clone, Copy, PartialEq)]
enum ProbeType {
    Http,
    Tcp,
    None,
}

/// Reads `tls` of `[pools.health]`: how probes connect, if not as requests do. A port of its own is another server on the
/// same machine: it gets no PROXY header, as with HAProxy, and HTTP/2 only if it offers that.
fn probe_connections(table: &Table<'_>, requests: &upstream::Settings) -> (Option<u16>, Option<upstream::Settings>) {
    let port = table.get("port", whole(1..=65535));
    let own_tls = table.switched_section("tls", tls::upstream).flatten();
    let tls = if table.has("tls") { own_tls } else { requests.tls.clone() };
    let proxy_protocol = requests.proxy_protocol.filter(|_| port.is_none());
    let http2 = requests.http2 && (!table.has("tls") || tls.is_some()) && (port.is_none() || tls.is_some());
    let own = upstream::Settings { tls, proxy_protocol, http2, ..requests.clone() };
    (port, Some(own).filter(|own| own != requests))
}

fn health(
    table: &Table<'_>,
    health_state: &mut health_state::Settings,
    requests: &upstream::Settings,
) -> health::Settings {
    let default = health::Settings::default();
    let kinds = word([("http", ProbeType::Http), ("tcp", ProbeType::Tcp), ("none", ProbeType::None)]);
    let default_type = if table.is_present() { ProbeType::Http } else { ProbeType::None };
    let kind = table.get("type", kinds).unwrap_or(default_type);
    let mut probe = Probe::http();
    if let Probe::Http { path, host, expect } = &mut probe {
        if let Some(value) = table.get("path", target) {
            *path = value;
        }
        *host = table.get("host", authority);
        if let Some(ranges) = table.filled_list("expect", statuses) {
            *expect = ranges.into_iter().map(|spot| spot.value).collect();
        }
    }
    let interval = table.get("interval", duration(MILLISECOND * 10..=YEAR)).unwrap_or(default.interval);
    let timeout = table.get("timeout", duration(MILLISECOND..=YEAR));
    if timeout.is_some_and(|timeout| timeout > interval) {
        let problem = "`timeout` is longer than `interval`: the next probe is due while one still waits";
        table.notes().warn(&table.at("timeout"), problem, "shorten it, or make `interval` longer");
    }
    health_state.rise = table.get("rise", whole(1..=100)).unwrap_or(health_state.rise);
    health_state.fall = table.get("fall", whole(1..=100)).unwrap_or(health_state.fall);
    if kind != ProbeType::Http {
        for key in ["path", "host", "expect"].into_iter().filter(|key| table.has(key)) {
            let problem = format!("`{key}` has no effect: only probes of type = \"http\" send a request");
            table.notes().warn(&table.at(key), problem, "remove it, or write type = \"http\"");
        }
    }
    let probe = match kind {
        ProbeType::Http => probe,
        ProbeType::Tcp => Probe::Tcp,
        ProbeType::None => Probe::None,
    };
    let (port, upstream) = probe_connections(table, requests);
    if kind == ProbeType::None {
        for key in ["port", "tls"].into_iter().filter(|key| table.has(key)) {
            let problem = format!("`{key}` has no effect: there are no probes");
            table.notes().warn(&table.at(key), problem, "remove it, or write type = \"http\" or \"tcp\"");
        }
    }
    // With probes every second, an operator hardly wants to wait two seconds for each.
    let timeout = timeout.unwrap_or(default.timeout.min(interval));
    health::Settings { probe, port, upstream, interval, timeout }
}

fn ejection(table: &Table<'_>, health_state: &mut health_state::Settings) {
    let time = || duration(MILLISECOND..=YEAR);
    let failures = table.get("consecutive_failures", whole(0..=1_000_000));
    health_state.consecutive_failures = failures.unwrap_or(health_state.consecutive_failures);
    health_state.base_time = table.get("base_time", time()).unwrap_or(health_state.base_time);
    health_state.max_time = table.get("max_time", time()).unwrap_or(health_state.max_time);
    health_state.max_ejected = table.get("max_ejected", percent(0..=100)).unwrap_or(health_state.max_ejected);
    if table.has("base_time") && health_state.base_time > health_state.max_time {
        let problem = "`base_time` is longer than `max_time`, so every ejection lasts `max_time`";
        table.notes().warn(&table.at("base_time"), problem, "shorten it, or make `max_time` longer");
    }
}

fn retry(table: &Table<'_>) -> retry::Settings {
    let default = retry::Settings::default();
    retry::Settings {
        attempts: table.get("attempts", whole(1..=16)).unwrap_or(default.attempts),
        connect_attempts: table.get("connect_attempts", whole(1..=1000)).unwrap_or(default.connect_attempts),
        retry_on: table.list("retry_on", retry_word).map_or(default.retry_on, |words| retry_on(&words)),
        replay_limit: table.get("replay_limit", size(0..=1 << 30)).unwrap_or(default.replay_limit),
        budget: table.get("budget", percent(0..=1000)).unwrap_or(default.budget),
    }
}

/// One word of `retry_on`.
#[derive(Clone, Copy)]
enum RetryWord {
    Reset,
    Timeout,
    NonIdempotent,
    IdempotencyKey,
    Status(u16),
}

const RETRY_WORDS: [(&str, RetryWord); 4] = [
    ("reset", RetryWord::Reset),
    ("timeout", RetryWord::Timeout),
    ("idempotency_key", RetryWord::IdempotencyKey),
    ("non_idempotent", RetryWord::NonIdempotent),
];

fn retry_word(value: &DeValue<'_>) -> Value<RetryWord> {
    if let Ok(codes) = statuses(value)
        && codes.start() == codes.end()
        && *codes.start() >= 400
    {
        return Ok(RetryWord::Status(*codes.start()));
    }
    let text = value.as_str().unwrap_or_default();
    if let Some((_, word)) = RETRY_WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)) {
        return Ok(*word);
    }
    let what = "\"reset\", \"timeout\", \"idempotency_key\", \"non_idempotent\" or a status code from 400 to 599";
    let remedy = match nearest(text, RETRY_WORDS.map(|(word, _)| word)) {
        Some(word) => format!("did you mean \"{word}\"?"),
        None => "write one of them, such as \"503\"".into(),
    };
    Err(must_be(what, found(value), remedy))
}

fn retry_on(words: &[Spanned<RetryWord>]) -> retry::RetryOn {
    let mut on = retry::RetryOn {
        reset: false,
        timeout: false,
        status: Vec::new(),
        non_idempotent: false,
        idempotency_key: false,
    };
    for word in words {
        match word.value {
            RetryWord::Reset => on.reset = true,
            RetryWord::Timeout => on.timeout = true,
            RetryWord::NonIdempotent => on.non_idempotent = true,
            RetryWord::IdempotencyKey => on.idempotency_key = true,
            RetryWord::Status(code) if on.status.contains(&code) => {}
            RetryWord::Status(code) => on.status.push(code),
        }
    }
    // It says which requests are repeated, and no failure: alone, it adds to the failures that count by default.
    let is_alone = words.iter().all(|word| matches!(word.value, RetryWord::IdempotencyKey));
    if is_alone && on.idempotency_key {
        return retry::RetryOn { idempotency_key: true, ..retry::Settings::default().retry_on };
    }
    on
}

fn timeouts(table: &Table<'_>) -> Timeouts {
    let default = Timeouts::default();
    let wait = || duration(MILLISECOND..=YEAR);
    let timeouts = Timeouts {
        connect: table.get("connect", wait()).unwrap_or(default.connect),
        response: table.get("response", wait()).unwrap_or(default.response),
        idle: table.get("idle", wait()).unwrap_or(default.idle),
        total: table.get("total", wait()).unwrap_or(default.total),
        stream_idle: table.get("stream_idle", wait()).unwrap_or(default.stream_idle),
        tunnel_lifetime: table.get("tunnel_lifetime", wait()),
    };
    for (key, timeout) in [("connect", timeouts.connect), ("response", timeouts.response)] {
        if table.has(key) {
            warn_of_total(key, timeout, timeouts.total, &table.at(key), table.notes());
        }
    }
    timeouts
}

/// Warns at the position `at` if `total` ends a request before the timeout `key` can.
pub(super) fn warn_of_total(key: &str, timeout: Duration, total: Duration, at: &Range<usize>, notes: &Notes<'_>) {
    if timeout > total {
        let total = humantime::format_duration(total);
        let problem = format!("`{key}` never applies: `total` ends the request after {total}");
        notes.warn(at, problem, "shorten it, or make `total` longer");
    }
}

const PROXY_PROTOCOLS: [(&str, ProxyProtocol); 2] = [("v1", ProxyProtocol::V1), ("v2", ProxyProtocol::V2)];

fn upstream(table: &Table<'_>) -> upstream::Settings {
    let default = upstream::Settings::default();
    let idle_timeout = table.get("idle_timeout", duration(MILLISECOND..=YEAR));
    let settings = upstream::Settings {
        max_idle_per_thread: table
            .get("max_idle_per_thread", whole(0..=100_000))
            .unwrap_or(default.max_idle_per_thread),
        idle_timeout: idle_timeout.unwrap_or(default.idle_timeout),
        header_count: table.get("header_count", whole(1..=1000)).unwrap_or(default.header_count),
        http2: table.get("http2", flag).unwrap_or(default.http2),
        proxy_protocol: table.get("proxy_protocol", word(PROXY_PROTOCOLS)),
        tls: table.switched_section("tls", tls::upstream).flatten(),
    };
    if settings.http2 && settings.proxy_protocol.is_some() {
        let problem = "`proxy_protocol` cannot be combined with `http2`: a PROXY header names one client, and \
                       clients share HTTP/2 connections";
        table.notes().error(&table.at("proxy_protocol"), problem, "remove one of the two");
    }
    settings
}

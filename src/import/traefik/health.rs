//! Owns: the conversion of a service's health checks.
//! Invariant: a probe sends the same request, but always with GET, and expects the same statuses.
//! Must not know: servers.

use super::super::grammar;
use super::super::node::{Map, Node};
use super::super::notes::{duration, left, note, number_in};
use super::super::pool::{INTERVAL, WAIT};
use super::super::reasons::NONE;
use super::super::toml::{Table, Value};

pub(super) fn health(check: &Map, path: &str, health: &mut Table) {
    let shown = |key: &str, node: &Node| format!("{path}.{key}: {}", node.text().unwrap_or_default());
    let is_path = |text: &&str| text.starts_with('/') && text.chars().all(|c| c.is_ascii_graphic() && c != '#');
    let line = check.all().next().map_or(1, |(_, line, _)| line);
    health.share("type", Value::text("http"), line, path);
    for (key, line, node) in check.take_all() {
        let text = node.text().unwrap_or_default();
        match key.to_ascii_lowercase().as_str() {
            "path" if is_path(&text) => health.share("path", Value::text(text), line, &shown(key, node)),
            "interval" | "timeout" if node.text().is_none() => {
                note(&format!("{path}.{key}"), line, node, "not a duration", health);
            }
            "interval" => health.share_time("interval", duration(node), INTERVAL, line, &shown(key, node)),
            "timeout" => health.share_time("timeout", duration(node), WAIT, line, &shown(key, node)),
            "hostname" => match grammar::host(text).filter(|host| !host.starts_with('*')) {
                Some(host) => health.share("host", Value::text(&host), line, &shown(key, node)),
                None => note(&format!("{path}.{key}"), line, node, "not a host name", health),
            },
            "status" if text.parse().is_ok_and(|code: u16| (100..=599).contains(&code)) => {
                health.share("expect", Value::list([text]), line, &shown(key, node));
            }
            "port" if text.parse::<u16>().is_ok_and(|port| port > 0) => {
                health.share("port", Value::number(text.parse().unwrap_or(1)), line, &shown(key, node));
            }
            "method" if text == "GET" => {}
            "method" if !text.is_empty() => health.unneeded(line, &shown(key, node), "probes use GET"),
            "scheme" if matches!(text, "http" | "https") => {}
            "mode" if text == "http" => {}
            _ => note(&format!("{path}.{key}"), line, node, NONE, health),
        }
    }
}

pub(super) fn passive(check: &Map, path: &str, ejection: &mut Table) {
    let line = check.take("maxFailedAttempts").map_or(1, |node| node.line);
    if let Some(count) = number_in(check, "maxFailedAttempts", path, ejection) {
        let shown = format!("{path}.maxFailedAttempts: {count}");
        ejection.share("consecutive_failures", Value::number(count.min(1_000_000)), line, &shown);
    }
    if let Some(node) = check.take("failureWindow") {
        note(
            &format!("{path}.failureWindow"),
            node.line,
            node,
            "only consecutive failures count, at any distance; `base_time` sets how long a backend is ejected",
            ejection,
        );
    }
    left(check, path, NONE, ejection);
}

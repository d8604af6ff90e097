//! Owns: the sections of the file that stand once, and the listeners, keys and routes.
//! Invariant: what a section's room calls its default is the default.
//! Must not know: how sections bear on each other.

use std::ops::Range;
use std::time::Duration;

use toml::de::DeValue;
use tracing_subscriber::EnvFilter;

use super::listeners::{ListenerDraft, listener};
use super::names::{endpoint, host_pattern, name, path_prefix};
use super::pools::{self, PoolDraft};
use super::reader::{Spot, Table};
use super::secrets;
use super::values::{
    KIB, MIB, MILLISECOND, Value, YEAR, duration, found, must_be, nearest, plain_text, shown, size, text, whole, word,
};
use crate::affinity::seal::{KEY_BYTES, Key};
use crate::net::Address;
use crate::{admin, proxy, runtime, telemetry};

/// The file, section by section. What is `None` was said to be wrong.
pub(super) struct Draft {
    pub(super) server: runtime::Settings,
    pub(super) log: telemetry::Settings,
    pub(super) admin: Option<Spot<admin::Settings>>,
    pub(super) keys: Vec<KeyDraft>,
    pub(super) listeners: Vec<ListenerDraft>,
    pub(super) routes: Vec<RouteDraft>,
    pub(super) pools: Vec<PoolDraft>,
}

/// One `[[keys]]`.
pub(super) struct KeyDraft {
    pub(super) id: Option<Spot<String>>,
    pub(super) secret: Option<[u8; KEY_BYTES]>,
}

impl KeyDraft {
    pub(super) fn key(&self) -> Option<Key> {
        Key::new(&self.id.as_ref()?.value, self.secret.as_ref()?)
    }
}

/// One `[[routes]]`.
pub(super) struct RouteDraft {
    pub(super) span: Range<usize>,
    /// The file says which hosts; they are all `hosts` unless one of them is wrong.
    pub(super) has_hosts: bool,
    pub(super) hosts: Vec<Spot<String>>,
    pub(super) path_prefix: String,
    pub(super) pool: Option<Spot<String>>,
}

impl Draft {
    pub(super) fn read(root: &Table<'_>) -> Draft {
        Draft {
            server: root.section("server", server),
            log: root.section("log", log),
            admin: root.section("admin", admin),
            keys: root.sections("keys", |table| KeyDraft {
                id: table.required("id", "\"2026-01\"", name),
                secret: secrets::key(table),
            }),
            listeners: root.sections("listeners", listener),
            routes: root.sections("routes", route),
            pools: root.sections("pools", pools::pool),
        }
    }
}

fn server(table: &Table<'_>) -> runtime::Settings {
    let default = runtime::Settings::default();
    runtime::Settings {
        threads: table.get("threads", whole(0..=1024)).unwrap_or(default.threads),
        shutdown_grace: table.get("shutdown_grace", duration(Duration::ZERO..=YEAR)).unwrap_or(default.shutdown_grace),
        max_connections: table.get("max_connections", whole(1..=10_000_000)).unwrap_or(default.max_connections),
        limits: table.section("limits", limits),
    }
}

fn limits(table: &Table<'_>) -> runtime::Limits {
    let default = runtime::Limits::default();
    let wait = || duration(MILLISECOND..=YEAR);
    let limits = runtime::Limits {
        header_bytes: table.get("header_bytes", size(8 * KIB..=MIB)).unwrap_or(default.header_bytes),
        header_count: table.get("header_count", whole(1..=100)).unwrap_or(default.header_count),
        target_bytes: table.get("target_bytes", size(64..=MIB)).unwrap_or(default.target_bytes),
        header_read_timeout: table.get("header_read_timeout", wait()).unwrap_or(default.header_read_timeout),
        idle_timeout: table.get("idle_timeout", wait()).unwrap_or(default.idle_timeout),
        body_bytes: table.get("body_bytes", body_bytes).unwrap_or(default.body_bytes),
    };
    if limits.target_bytes > limits.header_bytes {
        let problem = "`target_bytes` is more than `header_bytes`, which holds for target and fields together";
        table.notes().warn(&table.at("target_bytes"), problem, "lower the one or raise the other");
    }
    limits
}

/// A size that can be unlimited. 0, which means just that elsewhere, is refused.
fn body_bytes(value: &DeValue<'_>) -> Value<u64> {
    match value.as_str() {
        Some("unlimited") => Ok(u64::MAX),
        Some("0" | "0B") => Err(must_be("a size, or \"unlimited\"", found(value), "write \"unlimited\" for no limit")),
        _ => size(1..=1 << 50)(value),
    }
}

fn log(table: &Table<'_>) -> telemetry::Settings {
    use telemetry::Format::{Json, Text};
    let default = telemetry::Settings::default();
    telemetry::Settings {
        level: table.get("level", level).unwrap_or(default.level),
        format: table.get("format", word([("text", Text), ("json", Json)], &[])).unwrap_or(default.format),
        access: table.get("access", |value| access(table, value)).unwrap_or(default.access),
    }
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

fn level(value: &DeValue<'_>) -> Value<String> {
    let text = text(value)?;
    // A filter may be a bare target, so that a mistyped level would be one.
    let is_filter = text.contains('=') && EnvFilter::builder().parse(text).is_ok();
    if is_filter || LEVELS.contains(&text) {
        return Ok(text.into());
    }
    let remedy = match nearest(text, LEVELS) {
        Some(level) => format!("did you mean \"{level}\"?"),
        None => format!("write one of {}, or a filter such as \"info,linchpin::health=debug\"", LEVELS.join(", ")),
    };
    Err(must_be("a level or a filter", shown(text), remedy))
}

fn access(table: &Table<'_>, value: &DeValue<'_>) -> Value<telemetry::Access> {
    match plain_text(value)?.as_str() {
        "off" => Ok(telemetry::Access::Off),
        "stdout" => Ok(telemetry::Access::Stdout),
        path if path.contains(['/', '.']) => Ok(telemetry::Access::File(table.notes().resolve(path))),
        other => {
            let remedy = match nearest(other, ["off", "stdout"]) {
                Some(word) => format!("did you mean \"{word}\"?"),
                None => format!("write {} for a file of that name", shown(&format!("./{other}"))),
            };
            Err(must_be("\"off\", \"stdout\" or a path", shown(other), remedy))
        }
    }
}

fn admin(table: &Table<'_>) -> Option<Spot<admin::Settings>> {
    let token = secrets::token(table);
    let address = table.required("address", "\"127.0.0.1:9090\"", endpoint(table))?;
    if let Address::Tcp(socket) = &address.value
        && !socket.ip().is_loopback()
        && !table.has("token_file")
    {
        let problem = "[admin] can be reached from other machines and has no `token_file`";
        let remedy = "write token_file = \"admin.token\", or an address of 127.0.0.1";
        table.notes().missing(&address.span, problem, remedy);
    }
    Some(Spot { value: admin::Settings { address: address.value, token }, span: address.span })
}

fn route(table: &Table<'_>) -> RouteDraft {
    let default = proxy::route::Settings::all_to("");
    RouteDraft {
        span: table.span().clone(),
        has_hosts: table.has("hosts"),
        hosts: table.filled_list("hosts", host_pattern).unwrap_or_default(),
        path_prefix: table.get("path_prefix", path_prefix).unwrap_or(default.path_prefix),
        pool: table.required("pool", "\"app\"", name),
    }
}

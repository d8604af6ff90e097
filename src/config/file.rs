//! Owns: the sections that occur once, and `[[keys]]`.
//! Invariant: the defaults are those of the module that owns the `Settings`.
//! Must not know: how sections affect each other.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;
use tracing_subscriber::EnvFilter;

use super::addresses::socket_path;
use super::listeners::{ListenerDraft, listener};
use super::names::name;
use super::pools::{self, PoolDraft};
use super::reader::{Spanned, Table};
use super::routes::{self, RouteDraft};
use super::secrets;
use super::tracing::{self, TracingPlan};
use super::values::{
    InvalidValue, KIB, MIB, MILLISECOND, Value, YEAR, body_bytes, duration, flag, found, must_be, nearest, plain_text,
    rate, shown, size, text, whole, word,
};
use super::{access_log, admin};
use crate::affinity::seal::{KEY_BYTES, SealingKey};
use crate::proxy::{rate, replay, via};
use crate::{files, runtime, telemetry};

/// The file, section by section. A `None` has an error, which is noted.
pub(super) struct Draft {
    pub(super) server: runtime::Settings,
    /// The position of `max_connections`, if the file has it.
    pub(super) max_connections: Option<Range<usize>>,
    /// The position of `handover`, or of its section.
    pub(super) handover_at: Range<usize>,
    pub(super) watch: bool,
    pub(super) rate: Option<rate::Settings>,
    pub(super) login_failures: rate::Settings,
    pub(super) replay_memory: usize,
    pub(super) via: Option<String>,
    pub(super) log: telemetry::Settings,
    /// `None` if there is no such section, or it has an error.
    pub(super) tracing: Option<TracingPlan>,
    pub(super) admin: Option<Spanned<crate::admin::Settings>>,
    pub(super) keys: Vec<KeyDraft>,
    pub(super) listeners: Vec<ListenerDraft>,
    pub(super) routes: Vec<RouteDraft>,
    pub(super) pools: Vec<PoolDraft>,
}

/// One `[[keys]]`.
pub(super) struct KeyDraft {
    pub(super) id: Option<Spanned<String>>,
    pub(super) secret: Option<[u8; KEY_BYTES]>,
}

impl KeyDraft {
    pub(super) fn key(&self) -> Option<SealingKey> {
        SealingKey::new(&self.id.as_ref()?.value, self.secret.as_ref()?)
    }
}

impl Draft {
    pub(super) fn read(root: &Table<'_>) -> Draft {
        let ((server, (rate, login_failures), replay_memory, via), watch, max_connections, handover_at) =
            root.section("server", |table| {
                let (settings, watch) = (server(table), table.get("watch", flag).unwrap_or(false));
                let max_connections = table.has("max_connections").then(|| table.at("max_connections"));
                (settings, watch, max_connections, table.at("handover"))
            });
        Draft {
            server,
            max_connections,
            handover_at,
            watch,
            rate,
            login_failures,
            replay_memory,
            via,
            log: root.section("log", |table| log(table, root.has("tracing"))),
            tracing: root.section("tracing", tracing::tracing),
            admin: root.section("admin", admin::admin),
            keys: root.sections("keys", |table| KeyDraft {
                id: table.required("id", "\"2026-01\"", name),
                secret: secrets::key(table),
            }),
            listeners: root.sections("listeners", listener),
            routes: root.sections("routes", routes::route),
            pools: root.sections("pools", pools::pool),
        }
    }
}

fn server(table: &Table<'_>) -> (runtime::Settings, (Option<rate::Settings>, rate::Settings), usize, Option<String>) {
    let default = runtime::Settings::default();
    let mut settings = runtime::Settings {
        threads: table.get("threads", whole(0..=1024)).unwrap_or(default.threads),
        shutdown_delay: table.get("shutdown_delay", duration(Duration::ZERO..=YEAR)).unwrap_or(default.shutdown_delay),
        shutdown_grace: table.get("shutdown_grace", duration(Duration::ZERO..=YEAR)).unwrap_or(default.shutdown_grace),
        handover: table.get("handover", socket_path(table)),
        max_connections: table.get("max_connections", whole(1..=10_000_000)).unwrap_or(default.max_connections),
        limits: default.limits,
    };
    let replay_memory = table.get("replay_memory", size(0..=1 << 40)).unwrap_or(replay::MEMORY);
    let via = table.get("via", known_as).unwrap_or_else(|| Some(via::NAME.into()));
    let (limits, rates) = table.section("limits", |table| (limits(table), (rate_of(table), login_failures(table))));
    settings.limits = limits;
    (settings, rates, replay_memory, via)
}

/// Reads `via`: `false` for no field, or the name of this Linchpin in it.
fn known_as(value: &DeValue<'_>) -> Value<Option<String>> {
    match value.as_bool() {
        Some(is_on) => Ok(is_on.then(|| via::NAME.into())),
        None if value.is_str() => name(value).map(Some),
        None => Err(must_be("true, false or a name", found(value), "write for example \"edge\"")),
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
        connections_per_client: table.get("connections_per_client", whole(1..=1_000_000)),
        requests_per_connection: table.get("requests_per_connection", whole(1..=1_000_000_000)),
    };
    if limits.target_bytes > limits.header_bytes {
        let problem = "`target_bytes` is larger than `header_bytes`, which limits the target and all fields together";
        table.notes().warn(&table.at("target_bytes"), problem, "lower `target_bytes`, or raise `header_bytes`");
    }
    limits
}

/// Reads how many wrong passwords a client may send.
fn login_failures(table: &Table<'_>) -> rate::Settings {
    let (requests, per) =
        table.get("login_failures_per_client", rate(1..=100_000)).unwrap_or((10, Duration::from_secs(60)));
    rate::Settings { requests, per, burst: requests }
}

/// Reads the request rate of a client. The default burst is what the rate allows in one second.
fn rate_of(table: &Table<'_>) -> Option<rate::Settings> {
    let rate = table.get("requests_per_client", rate(1..=100_000));
    let burst = table.get("request_burst", whole(1..=1_000_000));
    if table.has("request_burst") && !table.has("requests_per_client") {
        let problem = "`request_burst` has no effect without `requests_per_client`";
        table.notes().warn(&table.at("request_burst"), problem, "add for example requests_per_client = \"100/s\"");
    }
    let (requests, per) = rate?;
    let in_a_second = u32::try_from(u64::from(requests).div_ceil(per.as_secs().max(1))).unwrap_or(requests);
    Some(rate::Settings { requests, per, burst: burst.unwrap_or(in_a_second) })
}

fn log(table: &Table<'_>, is_traced: bool) -> telemetry::Settings {
    use telemetry::LogFormat::{Json, Text};
    let default = telemetry::Settings::default();
    let format = table.get("format", word([("text", Text), ("json", Json)])).unwrap_or(default.format);
    telemetry::Settings {
        level: table.get("level", level).unwrap_or(default.level),
        format,
        access: table.get("access", |value| access(table, value)).unwrap_or(default.access),
        layout: access_log::layout(table, format, is_traced),
    }
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

fn level(value: &DeValue<'_>) -> Value<String> {
    let text = text(value)?;
    // A filter may be a bare target, so a mistyped level would be a valid filter.
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

fn access(table: &Table<'_>, value: &DeValue<'_>) -> Value<telemetry::AccessTarget> {
    match plain_text(value)?.as_str() {
        "off" => Ok(telemetry::AccessTarget::Off),
        "stdout" => Ok(telemetry::AccessTarget::Stdout),
        path if path.contains(['/', '.']) => log_file(table.notes().resolve(path)),
        other => {
            let remedy = match nearest(other, ["off", "stdout"]) {
                Some(word) => format!("did you mean \"{word}\"?"),
                None => format!("write {} for a file of that name", shown(&format!("./{other}"))),
            };
            Err(must_be("\"off\", \"stdout\" or a path", shown(other), remedy))
        }
    }
}

/// Reads the path of the access log. A start creates a missing file.
fn log_file(path: PathBuf) -> Value<telemetry::AccessTarget> {
    let Some(what) = files::irregular_type_at(&path) else {
        return match files::cannot_append(&path) {
            None => Ok(telemetry::AccessTarget::File(path)),
            Some(why) => Err(InvalidValue {
                problem: format!("cannot be {}: {why}", shown(&path.to_string_lossy())),
                remedy: "create the folder and let the user who runs Linchpin write there, or write \"stdout\"".into(),
            }),
        };
    };
    let remedy = match path.to_str() {
        Some("/dev/null") => "write \"off\"",
        Some(path) if path.starts_with("/dev/") => "write \"stdout\", and redirect the standard output",
        _ => "write the path of a file, or \"stdout\"",
    };
    Err(must_be(
        "\"off\", \"stdout\" or the path of a regular file",
        format!("{what}: {}", shown(&path.to_string_lossy())),
        remedy,
    ))
}

//! Owns: the limits of bodies, and of the requests and connections of a client.
//! Invariant: only limits per address of a client are imported.
//! Must not know: locations.

use std::time::Duration;

use super::super::client_limits::{Given, PartLimits, Rate};
use super::super::toml::Value;
use super::super::units;
use super::reader::{Reader, Scope};
use super::syntax::Directive;

/// Inherited directives that are no settings of a pool.
pub(super) const OF_ROUTES: [&str; 3] = ["client_max_body_size", "limit_req", "limit_conn"];

/// Converts a `client_max_body_size`.
pub(super) fn body_bytes(directive: &Directive) -> Option<Value> {
    units::size(directive.word(1)).map(|bytes| match bytes {
        0 => Value::text("unlimited"),
        bytes => Value::size(bytes.min(1 << 50)),
    })
}

impl<'d> Reader<'d> {
    /// Returns the limits per client of a location, and takes their directives.
    pub(super) fn limits_of(&mut self, scope: &Scope<'d>) -> PartLimits {
        let mut part = PartLimits::default();
        if let Some(directive) = scope.get("limit_req").copied()
            && let Some((zone, value)) = self.rate(directive)
        {
            self.applied.extend([directive.at, zone.at]);
            part.rate = Some(Given { value, line: directive.line, text: directive.text.clone() });
        }
        if let Some(directive) = scope.get("limit_conn").copied()
            && let Some(zone) = self.zone("limit_conn_zone", directive.word(1))
            && let Ok(value) = directive.word(2).parse()
        {
            self.applied.extend([directive.at, zone.at]);
            part.connections = Some(Given { value, line: directive.line, text: directive.text.clone() });
        }
        part
    }

    /// Converts `limit_req zone=NAME burst=20 nodelay`, by its zone.
    fn rate(&self, directive: &Directive) -> Option<(&'d Directive, Rate)> {
        let value = |directive: &Directive, key: &str| {
            directive.from(1).iter().find_map(|word| word.strip_prefix(key).map(str::to_owned))
        };
        let zone = self.zone("limit_req_zone", &value(directive, "zone=")?)?;
        let rate = value(zone, "rate=")?;
        let (requests, unit) = rate.split_once("r/")?;
        let period = match unit {
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            _ => return None,
        };
        let burst: u64 = value(directive, "burst=").and_then(|burst| burst.parse().ok()).unwrap_or(0);
        Some((zone, Rate { requests: requests.parse().ok()?, period, burst: Some(burst.saturating_add(1)) }))
    }

    /// Returns a zone whose key is the address of the client.
    fn zone(&self, kind: &str, name: &str) -> Option<&'d Directive> {
        let is_it = |each: &&Directive| {
            let zone = each.from(1).iter().find_map(|word| word.strip_prefix("zone="));
            let is_named = zone.is_some_and(|zone| zone.split(':').next() == Some(name));
            each.word(0) == kind && is_named && matches!(each.word(1), "$binary_remote_addr" | "$remote_addr")
        };
        self.http.iter().find(is_it)
    }
}

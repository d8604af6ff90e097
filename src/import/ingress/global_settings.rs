//! Owns: the data of ingress-nginx's own ConfigMap, which has the defaults of many annotations.
//! Invariant: a value is taken once, by the setting that it becomes or by a note.
//! Must not know: Ingresses; what a key means.

use super::super::node::{Map, Node, peek};

/// Keys that are the defaults of annotations with the same name.
const DEFAULTS: [&str; 14] = [
    "proxy-body-size",
    "proxy-connect-timeout",
    "proxy-read-timeout",
    "proxy-send-timeout",
    "proxy-next-upstream",
    "proxy-next-upstream-tries",
    "load-balance",
    "ssl-redirect",
    "force-ssl-redirect",
    "whitelist-source-range",
    "denylist-source-range",
    "enable-modsecurity",
    "enable-owasp-core-rules",
    "modsecurity-snippet",
];

/// The settings of the controller; none if the file has no ConfigMap of it.
#[derive(Clone, Default)]
pub(super) struct GlobalSettings<'n> {
    data: Option<&'n Map>,
    name: String,
}

impl<'n> GlobalSettings<'n> {
    pub(super) fn new(name: &str, data: Option<&'n Map>) -> GlobalSettings<'n> {
        GlobalSettings { data, name: name.into() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.data.is_none()
    }

    /// Returns the default of an annotation, without taking it.
    pub(super) fn default_of(&self, key: &str) -> Option<&'n Node> {
        peek(self.data?, DEFAULTS.iter().find(|known| **known == key)?)
    }

    /// Takes the default of an annotation.
    pub(super) fn take_default(&self, key: &str) -> Option<&'n Node> {
        self.data?.take(DEFAULTS.iter().find(|known| **known == key)?)
    }

    /// Returns whether a key is the default of an annotation.
    pub(super) fn is_default(key: &str) -> bool {
        DEFAULTS.contains(&key)
    }

    /// Returns how comments name a setting.
    pub(super) fn shown(&self, key: &str) -> String {
        format!("ConfigMap {}: {key}: {}", self.name, self.peek(key).unwrap_or_default())
    }

    /// Returns a value without taking it.
    pub(super) fn peek(&self, key: &str) -> Option<&'n str> {
        peek(self.data?, key)?.text().map(str::trim)
    }

    /// Takes a value; returns its line, too.
    pub(super) fn text(&self, key: &str) -> Option<(usize, &'n str)> {
        let data = self.data?;
        let line = peek(data, key)?.line;
        Some((line, data.take_text(key)?.trim()))
    }

    /// Takes a value; returns whether it is this one.
    pub(super) fn is(&self, key: &str, value: &str) -> bool {
        self.text(key).is_some_and(|(_, text)| text == value)
    }

    /// Returns what nobody has taken.
    pub(super) fn left(&self) -> impl Iterator<Item = (&'n str, usize, &'n Node)> {
        self.data.into_iter().flat_map(Map::left)
    }
}

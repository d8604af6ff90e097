//! Owns: finding what to write for a key or value as HAProxy, nginx, Envoy, Traefik or Caddy name it.
//! Invariant: each key has one row in the table, and each row has a key; a test checks both.
//! Must not know: how a file is read; what a key means.

mod table;
mod value_table;

use toml::de::DeValue;

use self::table::{ADVICE, ANYWHERE, KEYS};
use self::value_table::VALUES;
use super::values::found;

/// The longest name that is looked up.
const LONGEST: usize = 64;

/// The distance from a name to the section it belongs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Nearness {
    /// In this section.
    Here,
    /// In a section below it.
    Below,
    /// In another part of the file.
    Elsewhere,
}

/// Returns the remedy for an unknown key in `section`: the key with this meaning, or with this name elsewhere. `None`
/// if no proxy uses the name, or it could be too many things.
pub(super) fn key(section: &str, word: &str) -> Option<(Nearness, String)> {
    let word = normalized(word)?;
    let is_for = |of: &str| of == ANYWHERE || of == section;
    if let Some((.., text)) = ADVICE.iter().find(|(of, words, _)| is_for(of) && has(words, &word)) {
        return Some((Nearness::Here, (*text).into()));
    }
    let meant = |(written, words): &(&'static str, &str)| {
        let path = path_of(written);
        if path == section {
            return None;
        }
        let (parent, own) = path.rsplit_once('.').unwrap_or(("", path));
        let is_own = normalized(own).is_some_and(|own| own == word);
        // Of two equally near keys, prefer the one with this very name.
        (is_own || has(words, &word)).then(|| ((nearness(section, parent), !is_own), *written))
    };
    let all: Vec<_> = KEYS.iter().filter_map(meant).collect();
    let nearest = all.iter().map(|(nearness, _)| *nearness).min()?;
    let remedies: Vec<_> =
        all.iter().filter(|(nearness, _)| *nearness == nearest).map(|(_, written)| remedy(written)).collect();
    // A name for too many keys says nothing.
    (remedies.len() <= 3).then(|| (nearest.0, format!("write {}", remedies.join(", or "))))
}

/// Returns the remedy for a refused value of the key at `path`, if another proxy has that value.
pub(super) fn value(path: &str, value: &DeValue<'_>) -> Option<String> {
    let word = match value {
        DeValue::String(text) => normalized(text)?,
        DeValue::Boolean(_) | DeValue::Integer(_) | DeValue::Float(_) => normalized(&found(value))?,
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => return None,
    };
    let row = VALUES.iter().find(|(of, words, _)| *of == path && has(words, &word));
    row.map(|(.., remedy)| format!("write {remedy}"))
}

fn nearness(section: &str, parent: &str) -> Nearness {
    if section == parent {
        Nearness::Here
    } else if is_within(parent, section) {
        Nearness::Below
    } else {
        Nearness::Elsewhere
    }
}

/// Whether a section is `outer` or below it.
fn is_within(section: &str, outer: &str) -> bool {
    let below = section.strip_prefix(outer);
    outer.is_empty() || below.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Returns the key and the section to write it in.
fn remedy(written: &'static str) -> String {
    if written.starts_with('[') {
        return written.into();
    }
    let (parent, own) = written.rsplit_once('.').unwrap_or(("", written));
    let section =
        KEYS.iter().map(|(written, _)| *written).find(|section| path_of(section) == parent && *section != parent);
    format!("`{own}` in {}", section.unwrap_or("the file"))
}

/// Returns `[[pools]]` or `[log]` without brackets.
fn path_of(written: &str) -> &str {
    written.trim_matches(['[', ']'])
}

/// Whether a row contains this name.
fn has(words: &str, word: &str) -> bool {
    words.split(' ').any(|known| known == word)
}

/// Returns letters and digits in lower case: `max-conns`, `max_conns` and `maxConns` are the same name.
fn normalized(word: &str) -> Option<String> {
    let word: String = word.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    (1..=LONGEST).contains(&word.len()).then_some(word)
}

/// Returns each key, as the reader names it.
#[cfg(test)]
pub(super) fn rows() -> std::collections::BTreeSet<String> {
    KEYS.iter().map(|(written, _)| (*written).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn each(words: &str) -> impl Iterator<Item = &str> {
        words.split(' ').filter(|word| !word.is_empty())
    }

    #[test]
    fn words_are_found_however_they_are_written() {
        let remedy = |section: &str, word: &str| key(section, word).map(|(_, remedy)| remedy).unwrap_or_default();
        for (section, word, expected) in [
            ("pools", "servers", "write [[pools.backends]]"),
            ("pools", "lb_policy", "write `balance` in [[pools]]"),
            ("pools", "healthCheck", "write [pools.health]"),
            ("pools", "sticky", "write [pools.persistence]"),
            ("pools.backends", "maxconn", "write `max_requests` in [[pools.backends]]"),
            ("pools.backends", "max-conns", "write `max_requests` in [[pools.backends]]"),
            ("pools.backends", "url", "write `address` in [[pools.backends]]"),
            ("pools", "proxy_connect_timeout", "write `connect` in [pools.timeouts]"),
            ("", "entryPoints", "write [[listeners]]"),
            ("", "upstream", "write [[pools]]"),
            ("", "health", "write [pools.health]"),
            ("", "servers", "write [[pools.backends]]"),
            ("server", "maxconn", "write `max_connections` in [server]"),
            ("listeners.tls", "ssl_certificate_key", "write `key` in [listeners.tls]"),
            ("pools", "weight", "write `weight` in [[pools.backends]], or `weight` in [[pools.discover]]"),
            ("pools", "zzz", ""),
            ("", "name", ""),
            ("pools", "", ""),
        ] {
            assert_eq!(remedy(section, word), expected, "{word} in [{section}]");
        }
        let text = |text: &'static str| DeValue::String(text.into());
        assert_eq!(value("pools.balance", &text("leastconn")).unwrap(), "write \"least_requests\"");
        assert_eq!(value("pools.balance", &text("LEAST_REQUEST")).unwrap(), "write \"least_requests\"");
        assert_eq!(value("pools.balance", &text("zzz")), None);
    }

    #[test]
    fn the_table_is_squeezed_and_no_word_stands_for_two_things_of_one_section() {
        let mut seen = BTreeSet::new();
        for (written, words) in KEYS {
            let parent = path_of(written).rsplit_once('.').map_or("", |(parent, _)| parent);
            for word in each(words) {
                assert_eq!(normalized(word).as_deref(), Some(word), "{written}");
                assert!(seen.insert((parent, word)), "{word} stands twice in [{parent}]");
            }
        }
        let mut seen = BTreeSet::new();
        for (path, words, remedy) in VALUES {
            assert!(KEYS.iter().any(|(written, _)| path_of(written) == *path), "{path}");
            for word in each(words) {
                assert_eq!(normalized(word).as_deref(), Some(word), "{path}");
                assert!(seen.insert((*path, word)), "{word} stands twice for {path}: {remedy}");
            }
        }
        for (section, words, _) in ADVICE {
            assert!(
                section.is_empty()
                    || *section == ANYWHERE
                    || KEYS.iter().any(|(written, _)| path_of(written) == *section),
                "{section}"
            );
            assert!(each(words).all(|word| normalized(word).as_deref() == Some(word)), "{words:?}");
        }
    }
}

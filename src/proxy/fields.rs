//! Owns: the header fields that a route sets, adds and removes.
//! Invariant: names and values are made once per snapshot and thread, and never frame or route a message.
//! Must not know: the meaning of a field, configuration files.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The edits to the fields of a message, in this order: remove, set, add.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    /// Fields that replace those of the message.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Fields that are added to those of the message.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Fields that are removed.
    pub remove: Vec<HeaderName>,
}

impl Fields {
    /// Whether there are no edits.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// The names of all fields that are edited.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.set.iter().chain(&self.add).map(|(name, _)| name).chain(&self.remove)
    }

    /// Clones the edits without sharing memory. Each message increments the reference counts of the names and values
    /// that it gets, and threads must not write the same counts.
    pub fn deep_clone(&self) -> Fields {
        let name = |name: &HeaderName| HeaderName::from_bytes(name.as_str().as_bytes()).ok();
        let pair = |(of, value): &(HeaderName, HeaderValue)| {
            Some((name(of)?, HeaderValue::from_bytes(value.as_bytes()).ok()?))
        };
        Fields {
            set: self.set.iter().filter_map(pair).collect(),
            add: self.add.iter().filter_map(pair).collect(),
            remove: self.remove.iter().filter_map(name).collect(),
        }
    }

    /// Applies the edits to a message that is forwarded.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }

    /// Applies the edits to a response that Linchpin makes, but keeps the fields that the response has: an error page
    /// must not become cacheable because the application's pages are.
    pub fn apply_to_local_reply(&self, headers: &mut HeaderMap) {
        let mut edits = HeaderMap::new();
        self.apply(&mut edits);
        for name in edits.keys().filter(|name| !headers.contains_key(*name)).cloned().collect::<Vec<_>>() {
            for value in edits.get_all(&name) {
                headers.append(&name, value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::{CACHE_CONTROL, VARY};

    fn pairs(pairs: &[(&'static str, &'static str)]) -> Vec<(HeaderName, HeaderValue)> {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn fields() -> Fields {
        let set = pairs(&[("x-set", "new"), ("cache-control", "public")]);
        Fields { set, add: pairs(&[("vary", "b")]), remove: vec![HeaderName::from_static("server")] }.deep_clone()
    }

    #[test]
    fn fields_are_removed_set_and_added() {
        let mut headers = HeaderMap::from_iter(pairs(&[("x-set", "old"), ("server", "x"), ("x-kept", "1")]));
        headers.append(VARY, HeaderValue::from_static("a"));
        fields().apply(&mut headers);
        let mut expected =
            HeaderMap::from_iter(pairs(&[("x-set", "new"), ("x-kept", "1"), ("cache-control", "public")]));
        expected.append(VARY, HeaderValue::from_static("a"));
        expected.append(VARY, HeaderValue::from_static("b"));
        assert_eq!(headers, expected);
    }

    #[test]
    fn a_local_reply_keeps_its_own_fields() {
        let mut headers = HeaderMap::from_iter(pairs(&[("cache-control", "no-store")]));
        fields().apply_to_local_reply(&mut headers);
        assert_eq!(
            (&headers[CACHE_CONTROL], &headers["x-set"], &headers[VARY]),
            (&"no-store".parse().unwrap(), &"new".parse().unwrap(), &"b".parse().unwrap())
        );
    }

    #[test]
    fn a_deep_clone_shares_no_memory() {
        let one = fields();
        let other = one.deep_clone();
        assert_eq!(one, other);
        assert_ne!(one.set[0].1.as_bytes().as_ptr(), other.set[0].1.as_bytes().as_ptr());
    }
}

//! Owns: the fields that a route sets, adds and removes.
//! Invariant: names and values are made once a snapshot and thread; what frames or routes a message is none of them.
//! Must not know: what a field means; configuration files.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// What is done to the fields of a message: removed first, then set, then added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    /// Instead of whatever the message has.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Besides whatever the message has.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Not passed on.
    pub remove: Vec<HeaderName>,
}

impl Fields {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// The fields that something is done to.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.set.iter().chain(&self.add).map(|(name, _)| name).chain(&self.remove)
    }

    /// The same, sharing no memory: each message counts references to what it was given, and threads
    /// would write the same counts.
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

    /// Does it to a message that is passed on.
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

    /// Does it to an answer of our own, whose own fields stay: a page that says "come again" must not be
    /// kept in a cache because the application's pages may.
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
    fn a_page_of_ours_keeps_its_own_fields() {
        let mut headers = HeaderMap::from_iter(pairs(&[("cache-control", "no-store")]));
        fields().apply_to_local_reply(&mut headers);
        assert_eq!(
            (&headers[CACHE_CONTROL], &headers["x-set"], &headers[VARY]),
            (&"no-store".parse().unwrap(), &"new".parse().unwrap(), &"b".parse().unwrap())
        );
    }

    #[test]
    fn threads_share_no_memory() {
        let one = fields();
        let other = one.deep_clone();
        assert_eq!(one, other);
        assert_ne!(one.set[0].1.as_bytes().as_ptr(), other.set[0].1.as_bytes().as_ptr());
    }
}

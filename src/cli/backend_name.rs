//! Owns: the argument that names a backend: `POOL/BACKEND`.
//! Invariant: both names have only characters that the names of a configuration can have.
//! Must not know: whether there is such a backend.

use std::fmt;
use std::str::FromStr;

use crate::affinity::seal::is_valid_name;

/// The names of a pool and of one of its backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BackendName {
    pub(super) pool: String,
    pub(super) backend: String,
}

impl BackendName {
    /// Returns its path in the admin API.
    pub(super) fn path(&self) -> String {
        format!("/api/v1/pools/{}/backends/{}", self.pool, self.backend)
    }
}

impl fmt::Display for BackendName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.backend)
    }
}

impl FromStr for BackendName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<BackendName, &'static str> {
        let names = text.split_once('/').filter(|(pool, backend)| is_valid_name(pool) && is_valid_name(backend));
        let (pool, backend) = names.ok_or("write POOL/BACKEND, such as app/a; `linchpin status` lists them")?;
        Ok(BackendName { pool: pool.into(), backend: backend.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_has_the_name_of_its_pool_and_its_own() {
        let name: BackendName = "app/a-1".parse().unwrap();
        assert_eq!((name.to_string().as_str(), name.path().as_str()), ("app/a-1", "/api/v1/pools/app/backends/a-1"));
        for bad in ["app", "app/", "/a", "app/a/b", "app/a?x", "a pp/a", ""] {
            assert!(bad.parse::<BackendName>().is_err(), "{bad}");
        }
    }
}

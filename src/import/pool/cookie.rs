//! Owns: the routing cookie of a pool.
//! Invariant: browsers accept it, and the cookie of no other pool overwrites it.
//! Must not know: the formats of sources.

use super::super::toml::{Table, Value};
use super::super::unique_names::UniqueNames;

/// The routing cookie; `None` stands for the default.
#[derive(Debug, Clone, PartialEq, Default)]
pub(in crate::import) struct Cookie {
    pub(in crate::import) name: Option<String>,
    pub(in crate::import) path: Option<String>,
    pub(in crate::import) domain: Option<String>,
    pub(in crate::import) secure: Option<bool>,
    pub(in crate::import) http_only: Option<bool>,
    pub(in crate::import) same_site: Option<&'static str>,
    pub(in crate::import) partitioned: bool,
    /// The browser keeps it until the absolute timeout.
    pub(in crate::import) permanent: bool,
}

impl Cookie {
    /// Writes the cookie, under a name that no other pool has.
    pub(super) fn write(&mut self, pool: &str, table: &mut Table, cookies: &mut UniqueNames) {
        let own = format!("linchpin-{pool}");
        let wanted = self.name.take().unwrap_or_else(|| own.clone());
        let name = cookies.take(&wanted);
        if name != wanted {
            table.comment(format!(
                "another pool already has a cookie named {wanted}: each would overwrite the other's pins"
            ));
        }
        self.complete(&name, table);
        if name != own {
            table.set("name", Value::text(&name));
        }
        let texts = [("path", self.path.as_deref()), ("domain", self.domain.as_deref())];
        for (key, text) in texts.into_iter().chain([("same_site", self.same_site)]) {
            if let Some(text) = text {
                table.set(key, Value::text(text));
            }
        }
        for (key, flag) in
            [("secure", self.secure), ("http_only", self.http_only), ("partitioned", self.partitioned.then_some(true))]
        {
            if let Some(flag) = flag {
                table.set(key, Value::flag(flag));
            }
        }
        if self.permanent {
            table.set("lifetime_type", Value::text("permanent"));
        }
    }

    /// Sets what browsers require of such a cookie.
    fn complete(&mut self, name: &str, table: &mut Table) {
        let name = name.to_ascii_lowercase();
        let needs = name.starts_with("__host-") || name.starts_with("__secure-") || self.partitioned;
        if (needs || self.same_site == Some("None")) && self.secure != Some(true) {
            table.comment("browsers accept this cookie only if it is `secure`");
            self.secure = Some(true);
        }
        if name.starts_with("__host-")
            && (self.domain.take().is_some() | self.path.take().is_some_and(|path| path != "/"))
        {
            table.comment("browsers accept a cookie named __Host-… only without a domain and with the path \"/\"");
        }
    }
}

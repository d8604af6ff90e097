//! Owns: the plan, and its construction from a draft without errors.
//! Invariant: the only decisions here are the defaults for missing sections.
//! Must not know: the file; the disk.

use std::path::PathBuf;
use std::sync::Arc;

use toml::de::DeTable;

use super::diff::{self, KeyChange};
use super::file::Draft;
use super::pools::PoolDraft;
use super::report::Notes;
use super::routes::RouteDraft;
use super::tracing::TracingPlan;
use crate::affinity::KeyRing;
use crate::affinity::seal::SealingKey;
use crate::{acme, admin, affinity, balance, copies, discover, health, pool, proxy, runtime, telemetry, upstream};

/// A configuration that can run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// `[server]`.
    pub server: runtime::Settings,
    /// `watch` of `[server]`: whether to follow the file and the files that it names.
    pub watch: bool,
    /// The request rate of each client, from `[server.limits]`.
    pub rate: Option<proxy::rate::Settings>,
    /// The wrong passwords of each client, from `[server.limits]`.
    pub login_failures: proxy::rate::Settings,
    /// `replay_memory` of `[server]`, in bytes.
    pub replay_memory: usize,
    /// The name of this Linchpin in Via; `None` for no such field.
    pub via: Option<String>,
    /// `[log]`.
    pub log: telemetry::Settings,
    /// `[tracing]`, if there is one.
    pub tracing: Option<TracingPlan>,
    /// `[admin]`, if there is one.
    pub admin: Option<admin::Settings>,
    /// `[[keys]]`; a random key if the file has none.
    pub keys: Arc<KeyRing>,
    /// Whether the file has no `[[keys]]`.
    pub has_random_key: bool,
    /// `[[listeners]]`, at least one.
    pub listeners: Vec<runtime::ListenerSettings>,
    /// `[listeners.tls.acme]` of each listener that has one.
    pub acme: Vec<acme::Settings>,
    /// `[[routes]]`; one to the only pool if the file has none.
    pub routes: Vec<proxy::route::Settings>,
    /// `[[pools]]`, at least one.
    pub pools: Vec<PoolPlan>,
    /// The file that it was read from.
    pub origin: Arc<Origin>,
}

/// Where a plan was read from.
pub struct Origin {
    /// The configuration file.
    pub path: PathBuf,
    /// The files that it names and whose content is part of the configuration: keys, tokens, certificates.
    pub files: Vec<PathBuf>,
    /// Its text: far smaller than its keys and values.
    text: String,
}

impl Origin {
    /// Lists the keys that differ in the file `next`.
    pub fn changes(&self, next: &Origin) -> Vec<KeyChange> {
        diff::changes(&self.text, &next.text)
    }

    /// Returns the line of a key of a section, from 1, if the file has it. `entry` is the position of the section in its
    /// list, if it is in one.
    pub fn line(&self, section: &str, entry: Option<usize>, key: &str) -> Option<usize> {
        let (root, _) = DeTable::parse_recoverable(&self.text);
        let section = root.get_ref().get(section)?.get_ref();
        let section = match entry {
            Some(entry) => section.as_array()?.get(entry)?.get_ref(),
            None => section,
        };
        let start = section.as_table()?.get(key)?.span().start;
        Some(self.text.get(..start)?.matches('\n').count() + 1)
    }
}

/// Leaves out the text, which may contain secrets.
impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Origin").field("path", &self.path).finish_non_exhaustive()
    }
}

/// One `[[pools]]`.
#[derive(Debug, Clone)]
pub struct PoolPlan {
    /// Name, backends, rise/fall and ejection.
    pub pool: pool::Settings,
    /// `balance`.
    pub balance: balance::BalancerKind,
    /// `[pools.hash]`, where `balance` is `hash`.
    pub hash: Option<proxy::key::Settings>,
    /// `[pools.persistence]`.
    pub persistence: affinity::Settings,
    /// `[pools.copies]`, if there is one.
    pub copies: Option<copies::Settings>,
    /// `[pools.health]`.
    pub health: health::Settings,
    /// `[pools.retry]`.
    pub retry: proxy::retry::Settings,
    /// `[pools.pages]`.
    pub pages: proxy::pages::Settings,
    /// `[pools.timeouts]`.
    pub timeouts: proxy::Timeouts,
    /// `[pools.upstream]`.
    pub upstream: upstream::Settings,
    /// `[[pools.discover]]`.
    pub discover: Vec<discover::Settings>,
}

/// The id of the random key.
pub const RANDOM_KEY: &str = "random";

impl Draft {
    /// Returns the plan. `None` if that is impossible; the reason is noted.
    pub(super) fn plan(self, text: &str, notes: &Notes<'_>) -> Option<Plan> {
        let mut keys = Vec::new();
        for key in &self.keys {
            keys.push(key.key()?);
        }
        let mut keys = keys.into_iter();
        let Some(first) = keys.next().or_else(|| SealingKey::random(RANDOM_KEY)) else {
            notes.error(&notes.whole_file(), "the system provides no random numbers for a key", "write [[keys]]");
            return None;
        };
        let has_plain = self.listeners.iter().any(|listener| listener.tls.is_none());
        let (mut listeners, mut acme) = (Vec::new(), Vec::new());
        for listener in self.listeners {
            acme.extend(listener.acme(has_plain));
            listeners.push(listener.settings()?);
        }
        let pools = self.pools.into_iter().map(PoolDraft::plan).collect::<Option<Vec<_>>>()?;
        let mut routes = self.routes.iter().map(RouteDraft::plan).collect::<Option<Vec<_>>>()?;
        if let (true, [only]) = (routes.is_empty(), pools.as_slice()) {
            routes.push(proxy::route::Settings::all_to(&only.pool.name));
        }
        Some(Plan {
            server: self.server,
            watch: self.watch,
            rate: self.rate,
            login_failures: self.login_failures,
            replay_memory: self.replay_memory,
            via: self.via,
            log: self.log,
            tracing: self.tracing,
            admin: self.admin.map(|admin| admin.value),
            keys: Arc::new(KeyRing::new(first, keys.collect())),
            has_random_key: self.keys.is_empty(),
            listeners,
            acme,
            routes,
            pools,
            origin: Arc::new(Origin { path: notes.origin().into(), files: notes.input_files(), text: text.into() }),
        })
    }
}

impl PoolDraft {
    fn plan(self) -> Option<PoolPlan> {
        let backends = self.backends.iter().map(|backend| backend.settings()).collect::<Option<_>>()?;
        Some(PoolPlan {
            pool: pool::Settings {
                name: self.name?.value,
                backends,
                health_state: self.health_state,
                slow_start: self.slow_start,
                queue: self.queue,
                rebalance: self.rebalance,
            },
            balance: self.balance,
            hash: self.hash,
            persistence: self.persistence,
            copies: self.copies,
            health: self.health,
            retry: self.retry,
            pages: self.pages,
            timeouts: self.timeouts,
            upstream: self.upstream,
            discover: self.discover.into_iter().collect::<Option<_>>()?,
        })
    }
}

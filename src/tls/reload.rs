//! Owns: reloading certificate files when they change, and warning before certificates expire.
//! Invariant: unusable files change nothing and are logged once; files that are still being written are retried.
//! Must not know: what the files contain.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::certificate::{Certificate, Validity};
use super::pem::Error;
use crate::clock;
use crate::events::{Event, Events};
use crate::files::watch::{FileChange, FileWatcher};

/// The time between two looks at the files.
const EVERY: Duration = Duration::from_secs(2);

/// The number of looks between two warnings of a certificate that expires soon: one day.
const REMIND: u64 = 24 * 60 * 60 / EVERY.as_secs();

/// A component that is built from certificate files.
pub trait Reload: Send + Sync {
    /// Names the owner of the files: `("listener", "web")`, `("pool", "app")`.
    fn label(&self) -> (&'static str, &str);

    /// Lists the files.
    fn files(&self) -> Vec<PathBuf>;

    /// Reads the files and uses what they contain from now on; returns whether that is new. Blocks.
    ///
    /// # Errors
    /// The first file that can't be used. Nothing changes then.
    fn reload(&self) -> Result<bool, Error>;

    /// Returns the certificates in use.
    fn certificates(&self) -> Vec<Certificate>;
}

/// All components of the configuration that are built from certificate files. Clones share the list.
#[derive(Clone, Default)]
pub struct WatchedCertificates(Arc<ArcSwap<Vec<Arc<dyn Reload>>>>);

impl WatchedCertificates {
    /// Collects the components to watch.
    pub fn new(all: impl IntoIterator<Item = Arc<dyn Reload>>) -> WatchedCertificates {
        WatchedCertificates(Arc::new(ArcSwap::from_pointee(all.into_iter().collect())))
    }

    /// Watches other components from now on.
    pub fn replace(&self, all: impl IntoIterator<Item = Arc<dyn Reload>>) {
        self.0.store(Arc::new(all.into_iter().collect()));
    }

    /// Returns how long each certificate in use is still valid at the time `now`. Of several certificates with one
    /// name, the one that expires first counts.
    pub fn expiries(&self, now: Duration) -> Vec<CertificateExpiry> {
        let mut all: Vec<CertificateExpiry> = Vec::new();
        for one in self.0.load().iter() {
            let (kind, of) = one.label();
            for certificate in one.certificates() {
                let (not_before, not_after) = (certificate.not_before, certificate.not_after);
                let days = certificate.days_left(now);
                let is_same = |known: &&mut CertificateExpiry| {
                    (known.kind, &*known.of, &*known.certificate) == (kind, of, certificate.name())
                };
                match all.iter_mut().find(is_same) {
                    Some(known) if known.not_after <= not_after => {}
                    Some(known) => {
                        (known.not_before, known.not_after, known.days) = (not_before, not_after, days);
                    }
                    None => all.push(CertificateExpiry {
                        kind,
                        of: of.into(),
                        certificate: certificate.name().into(),
                        not_before,
                        not_after,
                        days,
                    }),
                }
            }
        }
        all
    }
}

/// Lists the labels.
impl std::fmt::Debug for WatchedCertificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.load().iter().map(|one| one.label())).finish()
    }
}

/// How long a certificate is still valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateExpiry {
    /// `listener` or `pool`.
    pub kind: &'static str,
    /// The name of that listener or pool.
    pub of: String,
    /// The name of the certificate.
    pub certificate: String,
    /// When it becomes valid, in seconds since the Unix epoch.
    pub not_before: i64,
    /// When it expires, in seconds since the Unix epoch.
    pub not_after: i64,
    /// Whole days until it expires; negative once it has.
    pub days: i64,
}

/// Reloads the files of `watched` when they change, for as long as this is polled. Publishes changes to `events`.
pub async fn watch(watched: WatchedCertificates, events: Events) {
    let mut sights: Vec<Sight> = Vec::new();
    let mut interval = tokio::time::interval(EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for look in 0_u64.. {
        interval.tick().await;
        let components = watched.0.load_full();
        if look.is_multiple_of(REMIND) {
            components.iter().for_each(|one| remind(&**one));
        }
        // A disk that does not respond delays the next look, and nothing else.
        let events = events.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let mut sights = update(sights, &components);
            sights.iter_mut().for_each(|sight| sight.look(&events));
            sights
        });
        match looking.await {
            Ok(looked) => sights = looked,
            // The runtime is shutting down.
            Err(_) => return,
        }
    }
}

/// Returns a sight of each component: the known one, or a new one.
fn update(mut known: Vec<Sight>, components: &[Arc<dyn Reload>]) -> Vec<Sight> {
    let sight = |one: &Arc<dyn Reload>| {
        let at = known.iter().position(|sight| Arc::ptr_eq(&sight.component, one));
        at.map_or_else(|| Sight::new(Arc::clone(one)), |at| known.swap_remove(at))
    };
    components.iter().map(sight).collect()
}

/// One component, its files, and the last error in them.
struct Sight {
    component: Arc<dyn Reload>,
    watcher: FileWatcher,
    /// The error that was logged last, and still holds.
    logged: Option<Error>,
}

impl Sight {
    fn new(component: Arc<dyn Reload>) -> Sight {
        Sight { watcher: FileWatcher::new(component.files()), component, logged: None }
    }

    /// Reloads at the first look, since the files may have changed since they were opened; whenever they change; and
    /// once more when they have settled.
    fn look(&mut self, events: &Events) {
        let one = &*self.component;
        let change = self.watcher.look();
        if change == FileChange::Unchanged {
            return;
        }
        let (kind, name) = one.label();
        let publish = |error: Option<&Error>| {
            let reason = error.and_then(|error| Event::reason(error));
            events.publish(Event::Certificate { of: kind, name: name.into(), ok: error.is_none(), reason });
        };
        match one.reload() {
            Ok(is_new) => {
                if is_new {
                    tracing::info!(kind, name, "using the new certificates for new connections");
                    publish(None);
                    remind(one);
                } else if self.logged.is_some() {
                    tracing::info!(kind, name, "the certificate files are valid again");
                    publish(None);
                }
                self.logged = None;
            }
            // A new certificate whose key is not written yet is an error only if the files stay like that.
            Err(error) if change == FileChange::Settled && self.logged.as_ref() != Some(&error) => {
                let remedy = error.remedy();
                tracing::error!(kind, name, %error, remedy, "cannot use the new certificate files; the old certificates stay in use");
                publish(Some(&error));
                self.logged = Some(error);
            }
            Err(_) => {}
        }
    }
}

/// Warns of the certificates that expire soon or have expired.
fn remind(one: &dyn Reload) {
    let (kind, name) = one.label();
    for certificate in one.certificates() {
        let of = certificate.name();
        match certificate.validity(clock::unix()) {
            Validity::Good => {}
            Validity::Soon(days) => {
                tracing::warn!(kind, name, certificate = of, days, "certificate expires soon; renew it")
            }
            Validity::Expired(days) => {
                tracing::error!(
                    kind,
                    name,
                    certificate = of,
                    days,
                    "certificate has expired: peers reject it; renew it"
                );
            }
            Validity::NotYet(days) => {
                tracing::error!(
                    kind,
                    name,
                    certificate = of,
                    days,
                    "certificate is not valid yet: peers reject it; check this machine's clock, or wait"
                );
            }
        }
    }
}

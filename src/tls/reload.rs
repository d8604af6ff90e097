//! Owns: noticing that files have changed, and having them read anew.
//! Invariant: what can't be used changes nothing, and is said once; a file that is still being written is looked at again.
//! Must not know: what the files hold.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::certificate::{Certificate, Validity};
use super::pem::Error;
use crate::clock;
use crate::files::watch::{Change, FileWatcher};

/// How often the files are looked at.
const EVERY: Duration = Duration::from_secs(2);

/// How often a certificate that ends soon is spoken of, in looks.
const REMIND: u64 = 24 * 60 * 60 / EVERY.as_secs();

/// What is made of files.
pub trait Reload: Send + Sync {
    /// Whose files they are: `("listener", "web")`, `("pool", "app")`.
    fn label(&self) -> (&'static str, &str);

    /// The files.
    fn files(&self) -> Vec<PathBuf>;

    /// Reads them; whether they held something new, which is at work from now on. Blocks.
    ///
    /// # Errors
    /// What can't be used. All stays as it was.
    fn reload(&self) -> Result<bool, Error>;

    /// The certificates that are at work.
    fn certificates(&self) -> Vec<Certificate>;
}

/// All that is made of files in one configuration.
#[derive(Clone, Default)]
pub struct WatchedCertificates(Arc<[Arc<dyn Reload>]>);

impl WatchedCertificates {
    /// Those in `all`, to be looked after.
    pub fn new(all: impl IntoIterator<Item = Arc<dyn Reload>>) -> WatchedCertificates {
        WatchedCertificates(all.into_iter().collect())
    }

    /// The certificates at work, and how long each still is at the time `now`. Of several with one name it
    /// is the one that ends first.
    pub fn expiries(&self, now: Duration) -> Vec<CertificateExpiry> {
        let mut all: Vec<CertificateExpiry> = Vec::new();
        for one in &*self.0 {
            let (kind, of) = one.label();
            for certificate in one.certificates() {
                let days = certificate.days_left(now);
                let is_same = |known: &&mut CertificateExpiry| {
                    (known.kind, &*known.of, &*known.certificate) == (kind, of, certificate.name())
                };
                match all.iter_mut().find(is_same) {
                    Some(known) => known.days = known.days.min(days),
                    None => all.push(CertificateExpiry {
                        kind,
                        of: of.into(),
                        certificate: certificate.name().into(),
                        days,
                    }),
                }
            }
        }
        all
    }
}

/// Their names.
impl std::fmt::Debug for WatchedCertificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|one| one.label())).finish()
    }
}

/// How long a certificate is still good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateExpiry {
    /// `listener` or `pool`.
    pub kind: &'static str,
    /// Its name.
    pub of: String,
    /// That of the certificate.
    pub certificate: String,
    /// Whole days; negative once it has expired.
    pub days: i64,
}

/// Looks after `watched` for as long as it is polled.
pub async fn watch(WatchedCertificates(watched): WatchedCertificates) {
    let mut sights: Vec<_> = watched.iter().map(|one| Sight::new(one.files())).collect();
    let mut interval = tokio::time::interval(EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for look in 0_u64.. {
        interval.tick().await;
        if look.is_multiple_of(REMIND) {
            watched.iter().for_each(|one| remind(&**one));
        }
        let watched = Arc::clone(&watched);
        // A disk that doesn't answer holds up nobody but the next look.
        let looking = tokio::task::spawn_blocking(move || {
            watched.iter().zip(&mut sights).for_each(|(one, sight)| sight.look(&**one));
            sights
        });
        match looking.await {
            Ok(looked) => sights = looked,
            // The process is ending.
            Err(_) => return,
        }
    }
}

/// What was last seen of the files of one.
struct Sight {
    watcher: FileWatcher,
    /// What was last said of them.
    said: Option<Error>,
}

impl Sight {
    fn new(files: Vec<PathBuf>) -> Sight {
        Sight { watcher: FileWatcher::new(files), said: None }
    }

    /// Has the files read at the first look, since they may have changed since they were opened, when they have
    /// changed, and once more when they have settled.
    fn look(&mut self, one: &dyn Reload) {
        let change = self.watcher.look();
        if change == Change::Unchanged {
            return;
        }
        let (kind, name) = one.label();
        match one.reload() {
            Ok(is_new) => {
                if is_new {
                    tracing::info!(kind, name, "new certificates are at work");
                    remind(one);
                } else if self.said.is_some() {
                    tracing::info!(kind, name, "the files of certificates are in order again");
                }
                self.said = None;
            }
            // A certificate that is there before its key is no news unless it stays like that.
            Err(error) if change == Change::Settled && self.said.as_ref() != Some(&error) => {
                let remedy = error.remedy();
                tracing::error!(kind, name, %error, remedy, "cannot use the new certificates; the old ones stay at work");
                self.said = Some(error);
            }
            Err(_) => {}
        }
    }
}

/// Says which certificates end soon, or have ended.
fn remind(one: &dyn Reload) {
    let (kind, name) = one.label();
    for certificate in one.certificates() {
        let of = certificate.name();
        match certificate.validity(clock::unix()) {
            Validity::Good => {}
            Validity::Soon(days) => {
                tracing::warn!(kind, name, certificate = of, days, "a certificate ends soon; renew it")
            }
            Validity::Expired(days) => {
                tracing::error!(
                    kind,
                    name,
                    certificate = of,
                    days,
                    "a certificate has expired: clients refuse it; renew it"
                );
            }
            Validity::NotYet(days) => {
                tracing::error!(
                    kind,
                    name,
                    certificate = of,
                    days,
                    "a certificate is not valid yet: clients refuse it; look at the clock"
                );
            }
        }
    }
}

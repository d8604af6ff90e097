//! Owns: noticing that files have changed, and having them read anew.
//! Invariant: what can't be used changes nothing, and is said once; a file that is still being written is looked at again.
//! Must not know: what the files hold.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::certificate::Validity;
use super::{Certificate, Error};
use crate::clock;

/// How often the files are looked at. Asking is cheaper than being told, and misses neither a file that is
/// renamed into place, nor a symbolic link turned (Kubernetes), nor what happens on a network's disk.
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
pub struct Watched(Arc<[Arc<dyn Reload>]>);

impl Watched {
    /// Those in `all`, to be looked after.
    pub fn new(all: impl IntoIterator<Item = Arc<dyn Reload>>) -> Watched {
        Watched(all.into_iter().collect())
    }

    /// The certificates at work, and how long each still is at the time `now`. Of several with one name it
    /// is the one that ends first.
    pub fn days_left(&self, now: Duration) -> Vec<DaysLeft> {
        let mut all: Vec<DaysLeft> = Vec::new();
        for one in &*self.0 {
            let (kind, of) = one.label();
            for certificate in one.certificates() {
                let days = certificate.days_left(now);
                let is_same = |known: &&mut DaysLeft| {
                    (known.kind, &*known.of, &*known.certificate) == (kind, of, certificate.name())
                };
                match all.iter_mut().find(is_same) {
                    Some(known) => known.days = known.days.min(days),
                    None => all.push(DaysLeft { kind, of: of.into(), certificate: certificate.name().into(), days }),
                }
            }
        }
        all
    }
}

/// Their names.
impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|one| one.label())).finish()
    }
}

/// How long a certificate is still good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaysLeft {
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
pub async fn watch(Watched(watched): Watched) {
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
    files: Vec<PathBuf>,
    stamps: Vec<Option<Stamp>>,
    /// They have changed since they were last read and looked the same twice.
    is_fresh: bool,
    /// What was last said of them.
    said: Option<Error>,
}

/// By what a file's change is told.
type Stamp = (u64, u64, u64, i64, i64, i64, i64);

impl Sight {
    fn new(files: Vec<PathBuf>) -> Sight {
        // The first look reads them: they may have changed since they were opened.
        Sight { files, stamps: Vec::new(), is_fresh: true, said: None }
    }

    fn look(&mut self, one: &dyn Reload) {
        let stamps = self.files.iter().map(|file| stamp(file)).collect();
        if !self.sees(stamps) {
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
            Err(error) if !self.is_fresh && self.said.as_ref() != Some(&error) => {
                let remedy = error.remedy();
                tracing::error!(kind, name, %error, remedy, "cannot use the new certificates; the old ones stay at work");
                self.said = Some(error);
            }
            Err(_) => {}
        }
    }

    /// Whether the files are to be read, now that they look like this: when they have changed, and once more
    /// when they look the same again. A clock is too coarse to tell two changes at once apart.
    fn sees(&mut self, stamps: Vec<Option<Stamp>>) -> bool {
        let was_fresh = self.is_fresh;
        self.is_fresh = self.stamps != stamps;
        self.stamps = stamps;
        self.is_fresh || was_fresh
    }
}

fn stamp(file: &Path) -> Option<Stamp> {
    let seen = std::fs::metadata(file).ok()?;
    Some((seen.dev(), seen.ino(), seen.len(), seen.mtime(), seen.mtime_nsec(), seen.ctime(), seen.ctime_nsec()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_when_they_have_changed_and_once_more_when_they_rest() {
        let mut sight = Sight::new(Vec::new());
        let seen = |at: i64| vec![Some((0, 0, 0, at, 0, 0, 0))];
        let looks = [seen(1), seen(1), seen(1), seen(2), seen(3), seen(3), vec![None], vec![None], vec![None]];
        let read: Vec<_> = looks.into_iter().map(|stamps| (sight.sees(stamps), sight.is_fresh)).collect();
        let (changed, rests, old) = ((true, true), (true, false), (false, false));
        assert_eq!(read, [changed, rests, old, changed, changed, rests, changed, rests, old]);
    }
}

//! Owns: looking at one source for as long as the process lives, and telling what was found.
//! Invariant: one look at a time, each with its limit; between two, the time that the rules of trust say.
//! Must not know: what is done with the backends.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::backend::DiscoveredBackend;
use super::settings::{Settings, Source};
use super::source_status::SourceStatus;
use super::trust::{LookupResult, SourceEvent, Trust};
use super::{answer, dns, file};
use crate::{clock, files};

/// How often a file is looked at. Asking the file system costs less than being told by it would: there
/// is nothing to set up again when a folder is replaced, and it works on every file system.
const LOOK: Duration = Duration::from_millis(500);
/// How long reading a file may take: it can lie on a disk that is far away.
const READ: Duration = Duration::from_secs(5);

/// Which source: the position of its pool, and its own among those of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SourceId {
    /// The pool's position.
    pub pool: usize,
    /// The source's position.
    pub source: usize,
}

/// The backends that a source has now.
#[derive(Debug)]
pub struct SourceUpdate {
    /// Which source.
    pub id: SourceId,
    /// All of them.
    pub found: Vec<DiscoveredBackend>,
}

/// Looks at one source of the pool named `pool`, until nobody wants to know.
pub async fn watch(
    pool: Arc<str>,
    settings: Settings,
    status: Arc<SourceStatus>,
    id: SourceId,
    updates: mpsc::Sender<SourceUpdate>,
) {
    let mut watcher =
        SourceWatcher { pool: &pool, settings: &settings, status: &status, trust: Trust::default(), id, updates };
    match &settings.source {
        Source::Dns(dns) => {
            let mut querier = dns::DnsQuerier::new(dns, &pool);
            while let Some(again) = watcher.judge(querier.query().await).await {
                sleep(again).await;
            }
        }
        Source::File(path) => watcher.watch_file(path).await,
    }
}

struct SourceWatcher<'a> {
    pool: &'a str,
    settings: &'a Settings,
    status: &'a SourceStatus,
    trust: Trust,
    id: SourceId,
    updates: mpsc::Sender<SourceUpdate>,
}

impl SourceWatcher<'_> {
    /// Does what follows from a look; says when to look again, or that nobody listens.
    async fn judge(&mut self, result: LookupResult) -> Option<Duration> {
        let (pool, source) = (self.pool, self.status.source());
        let result = match result {
            LookupResult::Answer(found, ttl) => {
                let (found, left_out) = answer::normalized(found, self.settings.max_backends);
                if left_out > 0 {
                    tracing::warn!(pool, source, left_out, "more backends than `max_backends` were found");
                }
                self.status.answered(clock::unix().as_secs());
                LookupResult::Answer(found, ttl)
            }
            LookupResult::Failed(why) => {
                self.status.failed(&why);
                LookupResult::Failed(why)
            }
        };
        let judgement = self.trust.judge(result, clock::now(), self.settings.refresh_interval());
        match &judgement.event {
            Some(SourceEvent::Fails(why)) => {
                tracing::warn!(pool, source, %why, "discovery fails: what was found last is kept")
            }
            Some(SourceEvent::Doubtful) => {
                tracing::warn!(
                    pool,
                    source,
                    "discovery finds no backend any more: what was found last is kept for now"
                );
            }
            Some(SourceEvent::Empty) => {
                tracing::warn!(pool, source, "discovery finds no backend: those that it found drain")
            }
            Some(SourceEvent::Answers) => tracing::info!(pool, source, "discovery works again"),
            None => {}
        }
        if let Some(found) = judgement.found {
            self.status.has_found(found.len());
            self.updates.send(SourceUpdate { id: self.id, found }).await.ok()?;
        } else if self.status.is_good() {
            self.status.doubted("it has no backend, which is not believed yet");
        }
        Some(judgement.again)
    }

    /// Reads a file whenever it has changed and stays as it is for a moment: whoever writes it in place
    /// is done by then.
    async fn watch_file(&mut self, path: &Path) {
        let path: Arc<Path> = path.into();
        let (mut last, mut judged, mut due) = (None, None, clock::now());
        loop {
            let is_due = !self.trust.is_settled() && due <= clock::now();
            let wanted = Wanted { last: last.take(), judged, is_due };
            let mut looking = tokio::task::spawn_blocking({
                let path = Arc::clone(&path);
                move || look(&path, &wanted)
            });
            // A look that hangs is waited for, whatever is said of it meanwhile: no second one is begun.
            let look = loop {
                match timeout(READ, &mut looking).await {
                    Ok(Ok(look)) => break look,
                    // It was not to be had, which is what the next one will find, too.
                    Ok(Err(_)) => break (None, Some(LookupResult::Failed("it can't be looked at".into()))),
                    Err(_)
                        if self
                            .judge(LookupResult::Failed("the file system gives no answer".into()))
                            .await
                            .is_none() =>
                    {
                        return;
                    }
                    Err(_) => {}
                }
            };
            let (sign, result) = look;
            if let Some(result) = result {
                let Some(again) = self.judge(result).await else { return };
                (judged, due) = (Some(sign), clock::now() + again);
            }
            last = Some(sign);
            sleep(LOOK).await;
        }
    }
}

/// By what a file is known to have changed: written, replaced, or behind a link that leads elsewhere
/// now. `None` for one that is not there.
type Sign = Option<(u64, u64, u64, i64, i64)>;

/// What makes a file worth reading: another sign than it was judged by, which it has kept from one
/// look to the next, or doubts.
struct Wanted {
    /// Its sign at the last look; `None` at the first, when nothing was seen of it being written.
    last: Option<Sign>,
    judged: Option<Sign>,
    is_due: bool,
}

fn look(path: &Path, wanted: &Wanted) -> (Sign, Option<LookupResult>) {
    let known = std::fs::metadata(path);
    let sign = known.as_ref().ok().map(|file| (file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec()));
    let rests = wanted.last.as_ref().is_none_or(|last| *last == sign);
    let is_new = wanted.judged.as_ref() != Some(&sign);
    let result = (rests && (is_new || wanted.is_due)).then(|| match read(path) {
        Ok(found) => LookupResult::Answer(found, LOOK),
        Err(why) => LookupResult::Failed(why),
    });
    (sign, result)
}

fn read(path: &Path) -> Result<Vec<DiscoveredBackend>, String> {
    let text = files::read_text(path, file::MAX_BYTES).map_err(|error| match error {
        files::Error::Io(error) => format!("it can't be read: {error}"),
        error => error.to_string(),
    })?;
    file::read(&text).map_err(|wrong| wrong.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Sign = Some((1, 1, 1, 1, 1));

    #[test]
    fn a_file_is_read_when_it_is_new_and_rests_or_is_in_doubt() {
        let missing = Path::new("/nowhere/at/all");
        let is_read = |last, judged, is_due| look(missing, &Wanted { last, judged, is_due }).1.is_some();
        assert!(is_read(None, None, false), "the first look");
        assert!(!is_read(Some(ONE), Some(ONE), false), "it is being replaced");
        assert!(is_read(Some(None), Some(ONE), false), "it is gone");
        assert!(!is_read(Some(None), Some(None), false), "that was said");
        assert!(is_read(Some(None), Some(None), true), "and is looked at again");
    }
}

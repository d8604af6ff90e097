//! Owns: looking at one source for as long as the process lives, and telling what was found.
//! Invariant: one look at a time, each with its limit; between two, the time that the rules of trust say.
//! Must not know: what is done with the backends.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::backend::DiscoveredBackend;
use super::settings::{Settings, Source};
use super::source_status::SourceStatus;
use super::trust::{LookupResult, SourceEvent, Trust};
use super::{answer, dns, file};
use crate::files::watch::{Change, FileWatcher, Stamps};
use crate::{clock, files};

/// How often a file is looked at.
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
        let (mut file, mut due) = (BackendsFile::new(path), clock::now());
        loop {
            let is_due = !self.trust.is_settled() && due <= clock::now();
            let mut looking = tokio::task::spawn_blocking(move || {
                let result = file.look(is_due);
                (file, result)
            });
            // A look that hangs is waited for, whatever is said of it meanwhile: no second one is begun.
            let (looked_at, result) = loop {
                match timeout(READ, &mut looking).await {
                    Ok(Ok(look)) => break look,
                    // It was not to be had, which is what the next one will find, too.
                    Ok(Err(_)) => {
                        break (BackendsFile::new(path), Some(LookupResult::Failed("it can't be looked at".into())));
                    }
                    Err(_) => {
                        let result = LookupResult::Failed("the file system gives no answer".into());
                        if self.judge(result).await.is_none() {
                            return;
                        }
                    }
                }
            };
            file = looked_at;
            if let Some(result) = result {
                let Some(again) = self.judge(result).await else { return };
                due = clock::now() + again;
            }
            sleep(LOOK).await;
        }
    }
}

/// A file of backends, and what it was like when it was read.
struct BackendsFile {
    path: PathBuf,
    watcher: FileWatcher,
    read: Option<Stamps>,
}

impl BackendsFile {
    fn new(path: &Path) -> BackendsFile {
        BackendsFile { path: path.into(), watcher: FileWatcher::new(vec![path.into()]), read: None }
    }

    /// Reads the file unless it is still changing, if it is not the one that was read, or if another look `is_due`
    /// anyway. Blocks.
    fn look(&mut self, is_due: bool) -> Option<LookupResult> {
        let change = self.watcher.look();
        let is_read = self.read.as_ref() == self.watcher.stamps();
        if change == Change::Changing || (is_read && !is_due) {
            return None;
        }
        self.read = self.watcher.stamps().cloned();
        Some(match read(&self.path) {
            Ok(found) => LookupResult::Answer(found, LOOK),
            Err(why) => LookupResult::Failed(why),
        })
    }
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

    #[test]
    fn a_file_is_read_when_it_is_new_and_has_settled_or_is_in_doubt() {
        let path = std::env::temp_dir().join(format!("linchpin-backends-{}", std::process::id()));
        std::fs::write(&path, "a 10.0.0.1:80").unwrap();
        let mut file = BackendsFile::new(&path);
        let mut look = |is_due| match file.look(is_due) {
            None => "not read",
            Some(LookupResult::Answer(..)) => "read",
            Some(LookupResult::Failed(_)) => "failed",
        };
        assert_eq!(look(false), "read", "the first look");
        assert_eq!(look(false), "not read", "nothing has changed");
        std::fs::write(&path, "a 10.0.0.1:80\nb 10.0.0.2:80").unwrap();
        assert_eq!(look(false), "not read", "it is being written");
        assert_eq!(look(false), "read", "it has settled");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(look(true), "not read", "it is being replaced");
        assert_eq!(look(false), "failed", "it is gone");
        assert_eq!(look(false), "not read", "which was noticed");
        assert_eq!(look(true), "failed", "and is looked at again");
    }
}

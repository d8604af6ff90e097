//! Owns: the task that looks at one source for as long as the process runs, and reports the backends that it finds.
//! Invariant: there is one look at a time, with a time limit; `trust` decides when the next one is due.
//! Must not know: what becomes of the backends.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::backend::DiscoveredBackend;
use super::kubernetes::Follower;
use super::settings::{Kubernetes, Settings, Source};
use super::source_status::SourceStatus;
use super::trust::{LookupResult, SourceEvent, Trust};
use super::{answer, dns, file};
use crate::events::{Event, Events};
use crate::files::watch::{FileChange, FileWatcher, Stamps};
use crate::{clock, files};

/// The time between two looks at a file.
const FILE_INTERVAL: Duration = Duration::from_millis(500);
/// The time after which a look at a file counts as a failure: the file may be on a network file system.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Identifies the task of a source. No later one has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SourceId(pub u64);

/// The backends of a source from now on.
#[derive(Debug)]
pub struct SourceUpdate {
    /// The source.
    pub id: SourceId,
    /// All of its backends.
    pub found: Vec<DiscoveredBackend>,
}

/// Watches one source of the pool named `pool`, until the receiver of `updates` is dropped.
pub async fn watch(
    pool: Arc<str>,
    settings: Settings,
    status: Arc<SourceStatus>,
    id: SourceId,
    updates: mpsc::Sender<SourceUpdate>,
    events: Events,
) {
    let trust = Trust::default();
    let mut watcher = SourceWatcher {
        pool: &pool,
        settings: &settings,
        status: &status,
        trust,
        left_out: 0,
        id,
        updates,
        events: &events,
    };
    match &settings.source {
        Source::Dns(dns) => {
            let mut querier = dns::DnsQuerier::new(dns, &pool);
            while let Some(again) = watcher.judge(querier.query().await).await {
                sleep(again).await;
            }
        }
        Source::File(path) => watcher.watch_file(path).await,
        Source::Kubernetes(settings) => watcher.follow_service(settings).await,
    }
}

struct SourceWatcher<'a> {
    pool: &'a str,
    settings: &'a Settings,
    status: &'a SourceStatus,
    trust: Trust,
    /// How many backends the last answer had too many.
    left_out: usize,
    id: SourceId,
    updates: mpsc::Sender<SourceUpdate>,
    events: &'a Events,
}

impl SourceWatcher<'_> {
    /// Acts on the result of a look. Returns the time until the next look; `None` if the receiver is dropped.
    async fn judge(&mut self, result: LookupResult) -> Option<Duration> {
        let (pool, source) = (self.pool, self.status.source());
        let result = match result {
            LookupResult::Answer(found, ttl) => {
                let (found, left_out) = answer::normalized(found, self.settings.max_backends);
                if std::mem::replace(&mut self.left_out, left_out) != left_out && left_out > 0 {
                    tracing::warn!(
                        pool,
                        source,
                        left_out,
                        "the source has more backends than `max_backends`; ignoring the rest"
                    );
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
                tracing::warn!(pool, source, %why, "discovery failed; keeping the backends that it found last")
            }
            Some(SourceEvent::Doubtful) => {
                tracing::warn!(
                    pool,
                    source,
                    "discovery finds no backends any more; keeping those that it found last until this is confirmed"
                );
            }
            Some(SourceEvent::Empty) => {
                tracing::warn!(pool, source, "discovery still finds no backends; draining those that it found before")
            }
            Some(SourceEvent::Answers) => tracing::info!(pool, source, "discovery works again"),
            None => {}
        }
        if let Some(event) = judgement.event {
            self.publish(&event);
        }
        if let Some(found) = judgement.found {
            self.status.has_found(found.len());
            self.updates.send(SourceUpdate { id: self.id, found }).await.ok()?;
        } else if self.status.is_good() {
            self.status.doubted("the source has no backend, which is not believed yet");
        }
        Some(judgement.again)
    }

    /// Follows a Service. The API server says by itself what has changed: only after a failure is it asked again, and an
    /// empty answer that is not believed is judged again if no other one comes.
    async fn follow_service(&mut self, settings: &Kubernetes) {
        let mut follower = Follower::new(settings);
        let (mut last, mut again) = (None, Duration::ZERO);
        loop {
            if matches!(last, Some(LookupResult::Failed(_))) {
                sleep(again).await;
                last = None;
            }
            let mut next = pin!(follower.next());
            let result = loop {
                let doubted = last.as_ref().filter(|_| !self.trust.is_settled());
                let Some(answer) = doubted else { break next.await };
                match timeout(again, &mut next).await {
                    Ok(result) => break result,
                    Err(_) => match self.judge(answer.clone()).await {
                        Some(pause) => again = pause,
                        None => return,
                    },
                }
            };
            last = Some(result.clone());
            match self.judge(result).await {
                Some(pause) => again = pause,
                None => return,
            }
        }
    }

    fn publish(&self, event: &SourceEvent) {
        let (pool, source) = (self.pool.to_owned(), self.status.source().to_owned());
        let reason = match event {
            SourceEvent::Fails(why) => Event::reason(why),
            SourceEvent::Doubtful => Event::reason(&"it finds no backends any more, which is not believed yet"),
            SourceEvent::Empty => Event::reason(&"it finds no backends any more"),
            SourceEvent::Answers => None,
        };
        self.events.publish(Event::Discovery { pool, source, ok: reason.is_none(), reason });
    }

    /// Reads a file when it has changed and then stayed the same for one look: a process that writes it in place has
    /// finished by then.
    async fn watch_file(&mut self, path: &Path) {
        let (mut file, mut due) = (BackendsFile::new(path), clock::now());
        loop {
            let is_due = !self.trust.is_settled() && due <= clock::now();
            let mut looking = tokio::task::spawn_blocking(move || {
                let result = file.look(is_due);
                (file, result)
            });
            // A look that hangs is reported as a failure, but still awaited: there is no second one beside it.
            let (looked_at, result) = loop {
                match timeout(READ_TIMEOUT, &mut looking).await {
                    Ok(Ok(look)) => break look,
                    // The blocking task panicked, or the runtime is shutting down.
                    Ok(Err(_)) => {
                        break (
                            BackendsFile::new(path),
                            Some(LookupResult::Failed("the file could not be read".into())),
                        );
                    }
                    Err(_) => {
                        let result = LookupResult::Failed("the file system does not respond".into());
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
            sleep(FILE_INTERVAL).await;
        }
    }
}

/// A file of backends, and its metadata when it was read last.
struct BackendsFile {
    path: PathBuf,
    watcher: FileWatcher,
    read: Option<Stamps>,
}

impl BackendsFile {
    fn new(path: &Path) -> BackendsFile {
        BackendsFile { path: path.into(), watcher: FileWatcher::new(vec![path.into()]), read: None }
    }

    /// Reads the file if it has settled and differs from what was read last, or if another read `is_due`. Blocks.
    fn look(&mut self, is_due: bool) -> Option<LookupResult> {
        let change = self.watcher.look();
        let is_read = self.read.as_ref() == self.watcher.stamps();
        if change == FileChange::Changing || (is_read && !is_due) {
            return None;
        }
        self.read = self.watcher.stamps().cloned();
        Some(match read(&self.path) {
            Ok(found) => LookupResult::Answer(found, FILE_INTERVAL),
            Err(why) => LookupResult::Failed(why),
        })
    }
}

fn read(path: &Path) -> Result<Vec<DiscoveredBackend>, String> {
    let text = files::read_text(path, file::MAX_BYTES).map_err(|error| match error {
        files::Error::Io(error) => format!("the file can't be read: {error}"),
        error => error.to_string(),
    })?;
    file::read(&text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_when_it_has_changed_and_settled_or_when_it_is_due() {
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
        assert_eq!(look(false), "failed", "it was removed");
        assert_eq!(look(false), "not read", "nothing has changed");
        assert_eq!(look(true), "failed", "it is due");
    }
}

//! Owns: looking at one source for as long as the process lives, and telling what was found.
//! Invariant: one look at a time, each with its limit; between two, the time that the rules of trust say.
//! Must not know: what is done with the backends.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::trust::{News, Outcome, Trust};
use super::{Found, Settings, Source, Standing, answer, dns, file};
use crate::{clock, files};

/// How often a file is looked at. Asking the file system costs less than being told by it would: there
/// is nothing to set up again when a folder is replaced, and it works on every file system.
const LOOK: Duration = Duration::from_millis(500);
/// How long reading a file may take: it can lie on a disk that is far away.
const READ: Duration = Duration::from_secs(5);

/// Which source: the position of its pool, and its own among those of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// The pool's position.
    pub pool: usize,
    /// The source's position.
    pub source: usize,
}

/// The backends that a source has now.
#[derive(Debug)]
pub struct Told {
    /// Which source.
    pub place: Place,
    /// All of them.
    pub found: Vec<Found>,
}

/// Looks at one source of the pool named `pool`, until nobody wants to know.
pub async fn seek(pool: Arc<str>, settings: Settings, standing: Arc<Standing>, place: Place, tell: mpsc::Sender<Told>) {
    let mut seeker =
        Seeker { pool: &pool, settings: &settings, standing: &standing, trust: Trust::default(), place, tell };
    match &settings.source {
        Source::Dns(dns) => {
            let mut asker = dns::Asker::new(dns, &pool);
            while let Some(again) = seeker.judge(asker.ask().await).await {
                sleep(again).await;
            }
        }
        Source::File(path) => seeker.watch(path).await,
    }
}

struct Seeker<'a> {
    pool: &'a str,
    settings: &'a Settings,
    standing: &'a Standing,
    trust: Trust,
    place: Place,
    tell: mpsc::Sender<Told>,
}

impl Seeker<'_> {
    /// Does what follows from a look; says when to look again, or that nobody listens.
    async fn judge(&mut self, outcome: Outcome) -> Option<Duration> {
        let (pool, source) = (self.pool, self.standing.source());
        let outcome = match outcome {
            Outcome::Answer(found, ttl) => {
                let (found, left_out) = answer::in_order(found, self.settings.max_backends);
                if left_out > 0 {
                    tracing::warn!(pool, source, left_out, "more backends than `max_backends` were found");
                }
                self.standing.answered(clock::unix().as_secs());
                Outcome::Answer(found, ttl)
            }
            Outcome::Failed(why) => {
                self.standing.failed(&why);
                Outcome::Failed(why)
            }
        };
        let step = self.trust.step(outcome, clock::now(), self.settings.bounds());
        match &step.news {
            Some(News::Fails(why)) => {
                tracing::warn!(pool, source, %why, "discovery fails: what was found last is kept")
            }
            Some(News::Doubtful) => {
                tracing::warn!(
                    pool,
                    source,
                    "discovery finds no backend any more: what was found last is kept for now"
                );
            }
            Some(News::Empty) => tracing::warn!(pool, source, "discovery finds no backend: those that it found drain"),
            Some(News::Answers) => tracing::info!(pool, source, "discovery works again"),
            None => {}
        }
        if let Some(found) = step.found {
            self.standing.has_found(found.len());
            self.tell.send(Told { place: self.place, found }).await.ok()?;
        } else if self.standing.is_good() {
            self.standing.doubted("it has no backend, which is not believed yet");
        }
        Some(step.again)
    }

    /// Reads a file whenever it has changed and stays as it is for a moment: whoever writes it in place
    /// is done by then.
    async fn watch(&mut self, path: &Path) {
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
                    Ok(Err(_)) => break (None, Some(Outcome::Failed("it can't be looked at".into()))),
                    Err(_) if self.judge(Outcome::Failed("the file system gives no answer".into())).await.is_none() => {
                        return;
                    }
                    Err(_) => {}
                }
            };
            let (sign, outcome) = look;
            if let Some(outcome) = outcome {
                let Some(again) = self.judge(outcome).await else { return };
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

fn look(path: &Path, wanted: &Wanted) -> (Sign, Option<Outcome>) {
    let known = std::fs::metadata(path);
    let sign = known.as_ref().ok().map(|file| (file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec()));
    let rests = wanted.last.as_ref().is_none_or(|last| *last == sign);
    let is_new = wanted.judged.as_ref() != Some(&sign);
    let outcome = (rests && (is_new || wanted.is_due)).then(|| match read(path) {
        Ok(found) => Outcome::Answer(found, LOOK),
        Err(why) => Outcome::Failed(why),
    });
    (sign, outcome)
}

fn read(path: &Path) -> Result<Vec<Found>, String> {
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

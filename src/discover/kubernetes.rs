//! Owns: following the EndpointSlices of one Service: a list, then a watch from its version on, and a list again if needed.
//! Invariant: what is known holds until the API server says something else; no step waits without a limit.
//! Must not know: what becomes of the backends; when to go on after a failure.

mod api;
mod connection;
mod credentials;
mod endpoint_slice;
mod pace;
mod slices;
mod watch_stream;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::time::{sleep_until, timeout, timeout_at};

use super::settings::Kubernetes;
use super::trust::LookupResult;
use crate::clock;
use api::{ApiClient, RequestError};
use endpoint_slice::WatchEvent;
use pace::Pace;
use slices::Slices;
use watch_stream::WatchStream;

/// The time for which an answer would hold if it were one of many looks. It decides how long an empty one is doubted.
pub(super) const ANSWER_TTL: Duration = Duration::from_secs(10);
/// The time from one answer to the next: many changes in that time are one.
const GATHER: Duration = Duration::from_millis(100);
/// How many slices one response lists. A slice has a thousand endpoints at most.
const PAGE: usize = 50;
/// The most pages of a list. One may be empty and not the last.
const MAX_PAGES: usize = 200;
/// The longest time for a list with all its pages: a server forgets their version after as long.
const LIST_TIMEOUT: Duration = Duration::from_secs(300);
/// The bounds of a watch's length, in seconds. It is drawn at random, so that many Linchpins don't come back at once.
const WATCH_SECONDS: std::ops::RangeInclusive<u64> = 240..=300;

/// Follows one Service.
pub(super) struct Follower<'a> {
    settings: &'a Kubernetes,
    api: ApiClient<'a>,
    slices: Slices,
    /// The uids of the pods that the last answer had.
    known: HashSet<String>,
    /// The version to watch from, empty if the server gave none; `None` to list first.
    version: Option<String>,
    watch: Option<Watch>,
    pace: Pace,
    answered: Option<Instant>,
}

/// A watch, when it began, and whether an event has come.
struct Watch {
    stream: WatchStream,
    begun: Instant,
    has_events: bool,
}

impl<'a> Follower<'a> {
    pub(super) fn new(settings: &'a Kubernetes) -> Follower<'a> {
        Follower {
            settings,
            api: ApiClient::new(settings),
            slices: Slices::default(),
            known: HashSet::new(),
            version: None,
            watch: None,
            pace: Pace::default(),
            answered: None,
        }
    }

    /// Waits until the API server has said something: what the Service's endpoints are, or that they are still the same.
    /// The caller waits a while after a failure.
    pub(super) async fn next(&mut self) -> LookupResult {
        let found = match self.advance().await {
            Ok(()) => self.slices.backends(&self.settings.service, &self.settings.port, &self.known),
            Err(why) => Err(why),
        };
        self.answered = Some(clock::now());
        match found {
            Ok(found) => {
                self.known = found.iter().filter_map(|backend| backend.identity.clone()).collect();
                LookupResult::Answer(found, ANSWER_TTL)
            }
            Err(why) => LookupResult::Failed(why),
        }
    }

    async fn advance(&mut self) -> Result<(), String> {
        loop {
            let step = match self.watch.take() {
                Some(watch) => self.follow(watch).await,
                None => self.begin().await,
            };
            match step {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                // The server has forgotten that version.
                Err(RequestError::Gone) => self.version = None,
                // The next watch shows all that has changed since.
                Err(RequestError::Unavailable { why, .. }) => return Err(why),
                Err(RequestError::Failed(why)) => {
                    // A server that was restored from a backup has never had that version.
                    self.version = None;
                    return Err(why);
                }
            }
        }
    }

    /// Follows the watch. Returns whether events have come.
    async fn follow(&mut self, mut watch: Watch) -> Result<bool, RequestError> {
        let gathered = self.gather(&mut watch).await;
        let (now, has_events) = (clock::now(), watch.has_events);
        let lasted = now.saturating_duration_since(watch.begun);
        match gathered {
            Ok(Gathered { has_news, is_open }) => {
                match is_open {
                    true => self.watch = Some(watch),
                    // It has ended, as each watch does, or its connection has. The next one shows whether the server is
                    // still there, and misses nothing in between; without a version it would.
                    false => {
                        self.pace.ended(lasted, has_events);
                        self.version = self.version.take().filter(|version| !version.is_empty());
                    }
                }
                Ok(has_news)
            }
            Err(error) => {
                self.pace.failed(now, lasted, error.retry_after());
                Err(error)
            }
        }
    }

    /// Waits for the next change, and takes in all that follow until another answer may be given.
    async fn gather(&mut self, watch: &mut Watch) -> Result<Gathered, RequestError> {
        let until = self.answered.map_or_else(clock::now, |at| at + GATHER);
        let mut has_news = false;
        while !has_news || clock::now() < until {
            let next = watch.stream.next();
            let events = match has_news {
                false => next.await,
                true => match timeout_at(until.into(), next).await {
                    Ok(events) => events,
                    Err(_) => break,
                },
            };
            let Some(events) = events.map_err(RequestError::Failed)? else {
                return Ok(Gathered { has_news, is_open: false });
            };
            self.apply(events)?;
            (has_news, watch.has_events) = (true, true);
        }
        Ok(Gathered { has_news, is_open: true })
    }

    /// Begins a list, or a watch if the version of the last one is known. Either is an answer.
    async fn begin(&mut self) -> Result<bool, RequestError> {
        if let Some(at) = self.pace.next(rand::random()) {
            sleep_until(at.into()).await;
        }
        self.pace.begin(clock::now());
        let begun = match self.version.clone() {
            None => match timeout(LIST_TIMEOUT, self.list()).await {
                Ok(listed) => listed,
                Err(_) => Err(RequestError::Failed("the API server takes too long for its list".into())),
            },
            Some(version) => self.open_watch(&version).await,
        };
        if let Err(error) = &begun {
            self.pace.failed(clock::now(), Duration::ZERO, error.retry_after());
        }
        begun.map(|()| true)
    }

    /// Lists all slices of the Service. Those of before count until all pages are there.
    async fn list(&mut self) -> Result<(), RequestError> {
        let mut slices = Slices::default();
        let mut next = None;
        for _ in 0..MAX_PAGES {
            let page = self.api.list(PAGE, next.as_deref()).await?;
            for slice in page.items.into_iter().flatten() {
                slices.set(slice)?;
            }
            next = page.metadata.next.filter(|next| !next.is_empty());
            if next.is_none() {
                // Without one, the watch begins with all that is there, and may miss what ends before it.
                (self.version, self.slices) = (Some(page.metadata.resource_version.unwrap_or_default()), slices);
                return Ok(());
            }
        }
        Err(RequestError::Failed(format!("the API server's list has more than {MAX_PAGES} pages")))
    }

    async fn open_watch(&mut self, version: &str) -> Result<(), RequestError> {
        let seconds = rand::rng().random_range(WATCH_SECONDS);
        let stream = self.api.watch(version, seconds).await?;
        self.watch = Some(Watch { stream, begun: clock::now(), has_events: false });
        Ok(())
    }

    fn apply(&mut self, events: Vec<WatchEvent>) -> Result<(), RequestError> {
        for event in events {
            let version = match event {
                WatchEvent::Added(slice) | WatchEvent::Modified(slice) => {
                    let version = slice.metadata.resource_version.clone();
                    self.slices.set(slice)?;
                    version
                }
                WatchEvent::Deleted(slice) => {
                    self.slices.remove(&slice.metadata.name);
                    slice.metadata.resource_version
                }
                WatchEvent::Bookmark(bookmark) => bookmark.metadata.resource_version,
                WatchEvent::Error(status) => return Err(RequestError::of_status(status.code, None)),
            };
            // A list without a version is followed by another one, whatever its watch has.
            if self.version.as_ref().is_some_and(|known| !known.is_empty()) {
                self.version = version.filter(|version| !version.is_empty()).or(self.version.take());
            }
        }
        Ok(())
    }
}

/// What has come of a watch.
struct Gathered {
    has_news: bool,
    /// Whether the watch goes on.
    is_open: bool,
}

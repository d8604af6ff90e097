//! Owns: following the EndpointSlices of one Service: a list, then a watch from its version on, and a list again if needed.
//! Invariant: what is known holds until the API server says something else; no step waits without a limit.
//! Must not know: what becomes of the backends; when to go on after a failure.

mod api;
mod connection;
mod credentials;
mod endpoint_slice;
mod slices;
mod watch_stream;

use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::time::sleep_until;

use super::settings::Kubernetes;
use super::trust::LookupResult;
use crate::clock;
use api::{ApiClient, RequestError};
use endpoint_slice::WatchEvent;
use slices::Slices;
use watch_stream::WatchStream;

/// The time for which an answer would hold if it were one of many looks. It decides how long an empty one is doubted.
pub(super) const ANSWER_TTL: Duration = Duration::from_secs(10);
/// The time from the beginning of one list or watch to the next: a server that closes every connection is not hammered.
const PACE: Duration = Duration::from_secs(1);
/// How many slices one response lists. A slice has a thousand endpoints at most.
const PAGE: usize = 50;
/// The most slices of a Service, which has a hundred endpoints in each by default.
const MAX_SLICES: usize = 10_000;
/// The bounds of a watch's length, in seconds. It is drawn at random, so that many Linchpins don't come back at once.
const WATCH_SECONDS: std::ops::RangeInclusive<u64> = 240..=300;

/// Follows one Service.
pub(super) struct Follower<'a> {
    settings: &'a Kubernetes,
    api: ApiClient<'a>,
    slices: Slices,
    /// The version to watch from; `None` to list first.
    version: Option<String>,
    watch: Option<WatchStream>,
    begun: Option<Instant>,
}

impl<'a> Follower<'a> {
    pub(super) fn new(settings: &'a Kubernetes) -> Follower<'a> {
        let api = ApiClient::new(settings);
        Follower { settings, api, slices: Slices::default(), version: None, watch: None, begun: None }
    }

    /// Waits until the API server has said something: what the Service's endpoints are, or that they are still the same.
    /// The caller waits a while after a failure.
    pub(super) async fn next(&mut self) -> LookupResult {
        match self.advance().await {
            Ok(()) => match self.slices.backends(&self.settings.service, &self.settings.port) {
                Ok(found) => LookupResult::Answer(found, ANSWER_TTL),
                Err(why) => LookupResult::Failed(why),
            },
            Err(why) => LookupResult::Failed(why),
        }
    }

    async fn advance(&mut self) -> Result<(), String> {
        loop {
            if let Some(watch) = &mut self.watch {
                match watch.next().await {
                    Ok(Some(events)) => match self.apply(events) {
                        Ok(()) => return Ok(()),
                        Err(RequestError::Gone) => self.version = None,
                        Err(RequestError::Failed(why)) => {
                            (self.watch, self.version) = (None, None);
                            return Err(why);
                        }
                    },
                    // It has ended, as each watch does, or its connection has. The next one shows whether the server
                    // is still there, and misses nothing in between.
                    Ok(None) => {}
                    Err(why) => {
                        (self.watch, self.version) = (None, None);
                        return Err(why);
                    }
                }
                self.watch = None;
            }
            self.pace().await;
            let begun = match self.version.clone() {
                None => self.list().await,
                Some(version) => self.open_watch(&version).await,
            };
            match begun {
                Ok(()) => return Ok(()),
                // The server has forgotten that version.
                Err(RequestError::Gone) => self.version = None,
                Err(RequestError::Failed(why)) => {
                    // A server that was restored from a backup has never had that version.
                    self.version = None;
                    return Err(why);
                }
            }
        }
    }

    async fn pace(&mut self) {
        if let Some(begun) = self.begun {
            sleep_until((begun + PACE).into()).await;
        }
        self.begun = Some(clock::now());
    }

    /// Lists all slices of the Service. Those of before count until all pages are there.
    async fn list(&mut self) -> Result<(), RequestError> {
        let mut slices = Slices::default();
        let mut next = None;
        loop {
            let page = self.api.list(PAGE, next.as_deref()).await?;
            for slice in page.items.into_iter().flatten() {
                slices.set(slice);
            }
            within_bounds(&slices)?;
            next = page.metadata.next.filter(|next| !next.is_empty());
            if next.is_none() {
                self.version = page.metadata.resource_version;
                break;
            }
        }
        self.slices = slices;
        Ok(())
    }

    async fn open_watch(&mut self, version: &str) -> Result<(), RequestError> {
        let seconds = rand::rng().random_range(WATCH_SECONDS);
        self.watch = Some(self.api.watch(version, seconds).await?);
        Ok(())
    }

    fn apply(&mut self, events: Vec<WatchEvent>) -> Result<(), RequestError> {
        for event in events {
            let version = match event {
                WatchEvent::Added(slice) | WatchEvent::Modified(slice) => {
                    let version = slice.metadata.resource_version.clone();
                    self.slices.set(slice);
                    version
                }
                WatchEvent::Deleted(slice) => {
                    self.slices.remove(&slice.metadata.name);
                    slice.metadata.resource_version
                }
                WatchEvent::Bookmark(bookmark) => bookmark.metadata.resource_version,
                WatchEvent::Error(status) => return Err(RequestError::of_status(status.code)),
            };
            self.version = version.or(self.version.take());
        }
        within_bounds(&self.slices)
    }
}

fn within_bounds(slices: &Slices) -> Result<(), RequestError> {
    let too_many = || RequestError::Failed(format!("the Service has more than {MAX_SLICES} EndpointSlices"));
    if slices.len() > MAX_SLICES { Err(too_many()) } else { Ok(()) }
}

//! Owns: the counters of one backend of a pool, one set for each data-path thread.
//! Invariant: only its thread writes a set; a thread that counts nothing has none.
//! Must not know: what the labels mean; how counts are exposed.

use std::sync::OnceLock;
use std::time::Duration;

use super::durations::{DurationCounters, DurationCounts};
use crate::per_thread::{Counter, LazyPerThread};

/// The status codes that have a counter each; all others count as `other`.
const CODES: [u16; 64] = [
    101, 200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 307, 308, 400, 401, 402, 403,
    404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 423, 424, 425, 426, 428, 429,
    431, 451, 499, 500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511, 520, 521, 522, 529,
];
const SLOTS: usize = CODES.len() + 1;
/// The slot of the first 5xx status.
const FIRST_SERVER_ERROR: usize = 50;

/// The values of labels. They are fixed when the process starts, and callers refer to them by position.
#[derive(Debug, Clone, Copy)]
pub struct Labels {
    /// The values of `verdict`.
    pub verdicts: &'static [&'static str],
    /// The values of `cause`.
    pub causes: &'static [&'static str],
    /// The values of `outcome`.
    pub outcomes: &'static [&'static str],
    /// The values of `reason` for requests that had no attempt on a backend.
    pub refusals: &'static [&'static str],
    /// The values of `cause` for pins that were not accepted.
    pub rejected_pins: &'static [&'static str],
}

/// A request that has ended.
#[derive(Debug, Clone, Copy)]
pub struct EndedRequest {
    /// Its verdict, as a position in [`Labels::verdicts`].
    pub verdict: usize,
    /// The response's status code.
    pub status: u16,
    /// From its head to the last byte of the response.
    pub took: Duration,
    /// From when its last attempt had a connection to the head of the response; `None` without a response of a backend.
    pub first_byte: Option<Duration>,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
}

/// The counters of one backend of a pool, or of the requests that no backend served.
#[derive(Debug)]
pub struct Series {
    pub(super) pool: Box<str>,
    pub(super) backend: Box<str>,
    labels: Labels,
    /// Of thousands of backends most threads use few.
    shards: LazyPerThread<Shard>,
}

/// The counters of one thread.
#[derive(Debug)]
struct Shard {
    /// By verdict, then by code. Most backends see few verdicts: those of others take no memory.
    requests: Box<[OnceLock<Box<Codes>>]>,
    attempts: Box<[Counter]>,
    moves: Box<[Counter]>,
    refusals: Box<[Counter]>,
    rejected_pins: Box<[Counter]>,
    tunnels: Counter,
    tunnels_ended: Counter,
    durations: DurationCounters,
    connects: DurationCounters,
    first_bytes: DurationCounters,
    bytes_in: Counter,
    bytes_out: Counter,
}

type Codes = [Counter; SLOTS];

impl Series {
    /// Makes the counters of a backend for `threads` data-path threads. An empty name means none.
    pub(super) fn new(pool: &str, backend: &str, labels: Labels, threads: usize) -> Series {
        Series { pool: pool.into(), backend: backend.into(), labels, shards: LazyPerThread::new(threads) }
    }

    /// Returns the shard of a thread.
    fn shard(&self, thread: usize) -> Option<&Shard> {
        self.shards.get_or_make(thread, || Shard::new(&self.labels))
    }

    /// Returns the shards that have counted something.
    fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter()
    }

    /// Counts a request that has ended.
    pub fn request(&self, thread: usize, ended: &EndedRequest) {
        let EndedRequest { verdict, status, took, first_byte, bytes_in, bytes_out } = *ended;
        let Some(shard) = self.shard(thread) else { return };
        if let Some(codes) = shard.requests.get(verdict) {
            codes.get_or_init(no_codes)[slot(status)].add(1);
        }
        shard.durations.count(took);
        if let Some(first_byte) = first_byte {
            shard.first_bytes.count(first_byte);
        }
        shard.bytes_in.add(bytes_in);
        shard.bytes_out.add(bytes_out);
    }

    /// Counts an attempt on the backend. `outcome` is a position in [`Labels::outcomes`].
    pub fn attempt(&self, thread: usize, outcome: usize) {
        if let Some(counter) = self.shard(thread).and_then(|shard| shard.attempts.get(outcome)) {
            counter.add(1);
        }
    }

    /// Counts a connection to the backend that took so long to open.
    pub fn connected(&self, thread: usize, took: Duration) {
        if let Some(shard) = self.shard(thread) {
            shard.connects.count(took);
        }
    }

    /// Counts a pin that was not accepted. `cause` is a position in [`Labels::rejected_pins`].
    pub fn pin_rejected(&self, thread: usize, cause: usize) {
        if let Some(counter) = self.shard(thread).and_then(|shard| shard.rejected_pins.get(cause)) {
            counter.add(1);
        }
    }

    /// Counts a session that was moved away. `cause` is a position in [`Labels::causes`].
    pub fn moved(&self, thread: usize, cause: usize) {
        if let Some(counter) = self.shard(thread).and_then(|shard| shard.moves.get(cause)) {
            counter.add(1);
        }
    }

    /// Counts a request that had no attempt on a backend. `reason` is a position in [`Labels::refusals`].
    pub fn refused(&self, thread: usize, reason: usize) {
        if let Some(counter) = self.shard(thread).and_then(|shard| shard.refusals.get(reason)) {
            counter.add(1);
        }
    }

    /// Returns the number of requests without an attempt on a backend, by the name of the reason.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.labels.refusals.iter().enumerate().map(|(at, name)| (*name, self.sum(|shard| shard.refusals.get(at))))
    }

    /// Counts a request that has become a tunnel.
    pub fn tunnel_began(&self, thread: usize) {
        if let Some(shard) = self.shard(thread) {
            shard.tunnels.add(1);
        }
    }

    /// Counts a tunnel that has ended.
    pub fn tunnel_ended(&self, thread: usize) {
        if let Some(shard) = self.shard(thread) {
            shard.tunnels_ended.add(1);
        }
    }

    /// Returns how many tunnels have begun, and how many of them are open.
    pub(super) fn tunnels(&self) -> (u64, u64) {
        // In this order: a tunnel that ends between the two sums is still counted as begun, never the other way round.
        let ended = self.sum(|shard| Some(&shard.tunnels_ended));
        let begun = self.sum(|shard| Some(&shard.tunnels));
        (begun, begun.saturating_sub(ended))
    }

    /// Returns the number of requests that have ended.
    pub fn requests(&self) -> u64 {
        self.shards().flat_map(Shard::codes).flatten().map(Counter::get).sum()
    }

    /// Returns the number of attempts with an outcome, a position in [`Labels::outcomes`].
    pub fn attempts(&self, outcome: usize) -> u64 {
        self.sum(|shard| shard.attempts.get(outcome))
    }

    /// Returns the number of failed attempts: those with any outcome but the first.
    pub fn failures(&self) -> u64 {
        self.shards().flat_map(|shard| shard.attempts.iter().skip(1)).map(Counter::get).sum()
    }

    /// Returns the number of requests that have ended with a 5xx status.
    pub fn server_errors(&self) -> u64 {
        let codes = self.shards().flat_map(Shard::codes);
        codes.flat_map(|codes| codes.iter().skip(FIRST_SERVER_ERROR)).map(Counter::get).sum()
    }

    /// Returns the number of requests by verdict and code, without those of which there was none.
    pub(super) fn requests_by_verdict_and_code(&self) -> Vec<(&'static str, Option<u16>, u64)> {
        let mut all = Vec::new();
        for (verdict, name) in self.labels.verdicts.iter().enumerate() {
            for slot in 0..SLOTS {
                let count = self.sum(|shard| shard.requests.get(verdict)?.get()?.get(slot));
                if count > 0 {
                    all.push((*name, slot.checked_sub(1).and_then(|at| CODES.get(at).copied()), count));
                }
            }
        }
        all
    }

    /// Returns the number of sessions that were moved away, by cause.
    pub(super) fn moves(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.labels.causes.iter().enumerate().map(|(at, name)| (*name, self.sum(|shard| shard.moves.get(at))))
    }

    /// Returns the number of pins that were not accepted, by cause.
    pub(super) fn rejected_pins(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let causes = self.labels.rejected_pins.iter().enumerate();
        causes.map(|(at, name)| (*name, self.sum(|shard| shard.rejected_pins.get(at))))
    }

    /// Returns the bytes from clients and to clients.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.sum(|shard| Some(&shard.bytes_in)), self.sum(|shard| Some(&shard.bytes_out)))
    }

    /// Returns how long it took to open connections.
    pub(super) fn connect_counts(&self) -> DurationCounts {
        self.shards().fold(DurationCounts::default(), |sum, shard| sum.and(&shard.connects.counts()))
    }

    /// Returns how long the backend took to respond.
    pub(super) fn first_byte_counts(&self) -> DurationCounts {
        self.shards().fold(DurationCounts::default(), |sum, shard| sum.and(&shard.first_bytes.counts()))
    }

    /// Adds the counts of another backend that nobody counts in any more.
    pub(super) fn add(&self, other: &Series) {
        for (thread, shard) in other.shards.enumerate() {
            if let Some(sum) = self.shard(thread) {
                sum.add(shard);
            }
        }
    }

    /// Returns the durations of the requests that have ended.
    pub fn duration_counts(&self) -> DurationCounts {
        self.shards().fold(DurationCounts::default(), |sum, shard| sum.and(&shard.durations.counts()))
    }

    fn sum<'a>(&'a self, counter: impl Fn(&'a Shard) -> Option<&'a Counter>) -> u64 {
        self.shards().filter_map(counter).map(Counter::get).sum()
    }
}

impl Shard {
    fn new(labels: &Labels) -> Shard {
        let counters = |n: usize| (0..n).map(|_| Counter::default()).collect();
        Shard {
            requests: labels.verdicts.iter().map(|_| OnceLock::new()).collect(),
            attempts: counters(labels.outcomes.len()),
            moves: counters(labels.causes.len()),
            refusals: counters(labels.refusals.len()),
            rejected_pins: counters(labels.rejected_pins.len()),
            tunnels: Counter::default(),
            tunnels_ended: Counter::default(),
            durations: DurationCounters::default(),
            connects: DurationCounters::default(),
            first_bytes: DurationCounters::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
        }
    }

    /// Returns the counters of the verdicts that were counted.
    fn codes(&self) -> impl Iterator<Item = &Codes> {
        self.requests.iter().filter_map(|codes| codes.get().map(|codes| &**codes))
    }

    /// Returns all counters but those of requests, in a fixed order.
    fn counters(&self) -> impl Iterator<Item = &Counter> {
        let some = self.attempts.iter().chain(&self.moves).chain(&self.refusals).chain(&self.rejected_pins);
        let durations = [&self.durations, &self.connects, &self.first_bytes];
        let some = some.chain(durations.into_iter().flat_map(DurationCounters::counters));
        some.chain([&self.bytes_in, &self.bytes_out])
    }

    fn add(&self, other: &Shard) {
        for (sum, counter) in self.counters().zip(other.counters()) {
            sum.add(counter.get());
        }
        for (sum, codes) in self.requests.iter().zip(&other.requests) {
            let Some(codes) = codes.get() else { continue };
            let sum = sum.get_or_init(no_codes);
            sum.iter().zip(&**codes).for_each(|(sum, counter)| sum.add(counter.get()));
        }
    }
}

fn no_codes() -> Box<Codes> {
    Box::new(std::array::from_fn(|_| Counter::default()))
}

/// Returns the position of a status code's counter.
fn slot(status: u16) -> usize {
    CODES.binary_search(&status).map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: Labels = Labels {
        verdicts: &["new"],
        causes: &["down"],
        outcomes: &["ok"],
        refusals: &[],
        rejected_pins: &["unreadable"],
    };

    fn ended(status: u16) -> EndedRequest {
        let (took, first_byte) = (Duration::from_millis(3), Some(Duration::from_millis(2)));
        EndedRequest { verdict: 0, status, took, first_byte, bytes_in: 5, bytes_out: 70 }
    }

    #[test]
    fn a_series_has_memory_only_for_the_threads_that_count_in_it() {
        let series = Series::new("app", "a", LABELS, 8);
        assert_eq!((series.requests(), series.failures(), series.shards().count()), (0, 0, 0));
        series.request(5, &ended(200));
        series.attempt(5, 0);
        assert_eq!((series.requests(), series.shards().count()), (1, 1));
    }

    #[test]
    fn errors_are_what_ended_with_a_5xx_status() {
        let series = Series::new("app", "a", LABELS, 1);
        for status in [200, 404, 499, 500, 503, 529] {
            series.request(0, &ended(status));
        }
        assert_eq!((series.requests(), series.server_errors(), series.bytes()), (6, 3, (30, 420)));
    }

    #[test]
    fn all_that_a_removed_backend_has_counted_is_added() {
        let (sum, series) = (Series::new("app", "(gone)", LABELS, 2), Series::new("app", "a", LABELS, 2));
        series.request(1, &ended(200));
        series.connected(1, Duration::from_millis(1));
        series.pin_rejected(1, 0);
        sum.add(&series);
        sum.add(&series);
        assert_eq!((sum.requests(), sum.bytes(), sum.rejected_pins().next()), (2, (10, 140), Some(("unreadable", 2))));
        assert_eq!((sum.connect_counts().total(), sum.first_byte_counts().total()), (2, 2));
    }

    #[test]
    fn codes_are_sorted_for_the_search() {
        assert!(CODES.is_sorted());
        assert_eq!((FIRST_SERVER_ERROR, CODES[FIRST_SERVER_ERROR - 2]), (slot(500), 499));
        assert_eq!((slot(101), slot(529), slot(0), slot(599)), (1, SLOTS - 1, 0, 0));
    }
}

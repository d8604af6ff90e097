//! Owns: the thread that obtains and renews certificates, and notices challenges of other Linchpins.
//! Invariant: whatever a server or a file system does, nothing else waits for it, and each name is tried again.
//! Must not know: when a certificate is due, or how it is ordered.

use std::collections::BTreeSet;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use instant_acme::Error;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::account::{Connect, Session, connect};
use super::challenges::Challenges;
use super::failure::Failure;
use super::order::{OrderContext, OrderRequest, identifier};
use super::plan::{self, History, Step, StoredCertificate, Window};
use super::settings::Settings;
use super::status::{CertificateStatus, Statuses};
use super::storage::{Lock, Storage};
use crate::clock;
use crate::events::{Event, Events};

/// How often the challenges of other Linchpins are looked for.
const CHALLENGE_INTERVAL: Duration = Duration::from_secs(1);
/// The longest time between two looks at what is due: the storage, or the clock, may have changed.
const LONGEST_PAUSE: u64 = 30;
/// When to look again while another Linchpin writes to the storage, in seconds.
const BUSY_PAUSE: u64 = 5;
/// How long one order may take: its waits have limits of their own, and there are many.
const ORDER_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// How long the thread may take to end. A file system that does not respond may keep it.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// When to begin again after a panic.
const PANIC_PAUSE: Duration = Duration::from_secs(60);

const DAY: u64 = 24 * 60 * 60;

/// The thread of the current configuration. Dropping this ends it; an order under way goes on with the next one.
#[derive(Debug)]
pub struct Renewer {
    end: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Renewer {
    /// Starts the thread for these listeners. It answers by `challenges`, and shows in `statuses` how it is.
    ///
    /// # Errors
    /// If the system has no thread for it.
    pub fn start(
        listeners: Vec<Settings>,
        challenges: &Challenges,
        statuses: &Statuses,
        events: &Events,
    ) -> io::Result<Renewer> {
        let ((end, must_end), (has_ended, ended)) = (oneshot::channel(), oneshot::channel());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (challenges, statuses, events) = (challenges.clone(), statuses.clone(), events.clone());
        let work = move || {
            let storages: BTreeSet<_> = listeners.iter().map(|settings| settings.storage.clone()).collect();
            let names: Vec<_> = listeners.iter().map(|settings| settings.listener.clone()).collect();
            let forget = || {
                storages.iter().for_each(|storage| challenges.set(storage, Vec::new()));
                names.iter().for_each(|listener| statuses.remove(listener));
            };
            let all = async || {
                let renewals = listeners.iter().map(|settings| {
                    let (challenges, statuses, events) = (challenges.clone(), statuses.clone(), events.clone());
                    Renewals::new(settings.clone(), challenges, statuses, events, Arc::new(connect)).run()
                });
                let looks = storages.iter().map(|storage| look_for_challenges(storage, &challenges));
                tokio::join!(join_all(renewals), join_all(looks));
            };
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    // Also if its owner is gone.
                    _ = must_end => {}
                    () = run_despite_panics(all, &forget) => {}
                }
            });
            forget();
            runtime.shutdown_background();
            // Nobody may wait for it.
            let _ = has_ended.send(());
        };
        std::thread::Builder::new().name("acme".into()).spawn(work)?;
        Ok(Renewer { end, ended })
    }

    /// Ends the thread, and waits until it has forgotten its challenges and states.
    pub async fn end(self) {
        let Renewer { end, ended } = self;
        // An error means that it has ended already.
        let _ = end.send(());
        let _ = timeout(END_TIMEOUT, ended).await;
    }
}

/// Runs `work`. If it panics, forgets what it left, and runs it again after a pause: a fault that one response or one
/// file causes must not end all renewals.
async fn run_despite_panics(work: impl AsyncFn(), forget: impl Fn()) {
    while AssertUnwindSafe(work()).catch_unwind().await.is_err() {
        forget();
        tracing::error!(
            retry = %humantime::format_duration(PANIC_PAUSE),
            "obtaining certificates panicked, which is a fault of Linchpin's; it begins again by itself, and certificates in use stay: please report it"
        );
        sleep(PANIC_PAUSE).await;
    }
}

/// Answers the challenges in a storage, whichever Linchpin has put them there.
pub(super) async fn look_for_challenges(root: &Path, challenges: &Challenges) {
    loop {
        challenges.set(root, Storage::challenges(root, now()));
        sleep(CHALLENGE_INTERVAL).await;
    }
}

/// The certificates of one listener.
pub(super) struct Renewals {
    settings: Settings,
    storage: Storage,
    challenges: Challenges,
    statuses: Statuses,
    events: Events,
    connect: Arc<Connect>,
    /// The error of the storage that was logged last, and still holds.
    logged: Option<String>,
}

impl Renewals {
    pub(super) fn new(
        settings: Settings,
        challenges: Challenges,
        statuses: Statuses,
        events: Events,
        connect: Arc<Connect>,
    ) -> Renewals {
        let storage = Storage::new(&settings);
        Renewals { settings, storage, challenges, statuses, events, connect, logged: None }
    }

    async fn run(mut self) {
        for name in &self.settings.names {
            if let Some(why) = self.storage.damage(name) {
                tracing::warn!(listener = self.settings.listener, name, %why, "the stored certificate can't be used; Linchpin obtains another one");
            }
        }
        loop {
            let next = match self.round().await {
                Ok(next) => {
                    self.logged = None;
                    next
                }
                Err(error) => self.storage_failed(&error),
            };
            let pause = next.saturating_sub(now()).clamp(1, LONGEST_PAUSE);
            sleep(Duration::from_secs(pause)).await;
        }
    }

    /// Does what is due, and returns when to look again.
    pub(super) async fn round(&self) -> io::Result<u64> {
        self.storage.prepare()?;
        self.show();
        let due = self.settings.names.iter().filter(|name| !matches!(self.step(name), Step::Wait(_)));
        let due: Vec<_> = due.collect();
        if !due.is_empty() {
            let Some(lock) = self.storage.lock()? else { return Ok(now() + BUSY_PAUSE) };
            self.work(&lock, &due).await?;
            drop(lock);
            self.show();
        }
        let times = self.settings.names.iter().map(|name| match self.step(name) {
            Step::Wait(at) => at,
            Step::Order | Step::AskRenewal => now(),
        });
        Ok(times.min().unwrap_or(u64::MAX))
    }

    #[cfg(test)]
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    #[cfg(test)]
    pub(super) fn challenges(&self) -> &Challenges {
        &self.challenges
    }

    #[cfg(test)]
    pub(super) fn statuses(&self) -> &Statuses {
        &self.statuses
    }

    fn step(&self, name: &str) -> Step {
        plan::next(now(), self.storage.certificate(name).as_ref(), &self.storage.history(name))
    }

    /// Does what is due for each of these names, unless another Linchpin just did.
    async fn work(&self, lock: &Lock, names: &[&String]) -> io::Result<()> {
        let mut session: Option<Result<Session, Failure>> = None;
        for name in names {
            let (stored, mut history) = (self.storage.certificate(name), self.storage.history(name));
            let step = plan::next(now(), stored.as_ref(), &history);
            if matches!(step, Step::Wait(_)) {
                continue;
            }
            // A disk that is full shows before the ACME server is asked, and not in an order that nobody remembers.
            self.storage.save_history(lock, name, &history)?;
            let opened = match session.take() {
                Some(opened) => opened,
                // What is wrong with the account is wrong for all names, and too many registrations are refused.
                None => self.open(lock).await.map_err(|failure| Failure { is_of_server: true, ..failure }),
            };
            session = Some(match (step, opened) {
                (Step::AskRenewal, opened) => {
                    if let Some(id) = stored.as_ref().and_then(|stored| stored.id.as_deref()) {
                        ask_renewal(opened.as_ref().ok(), id, &mut history).await;
                    }
                    opened
                }
                (_, opened) => {
                    let obtained = match &opened {
                        Ok(session) => self.order(session, lock, name, stored.as_ref(), &history).await,
                        Err(failure) => Err(failure.clone()),
                    };
                    self.statuses.attempted(&self.settings.listener, obtained.is_ok());
                    match obtained {
                        Ok(new) => {
                            self.obtained(name, &new);
                            history = History::obtained(now());
                            opened
                        }
                        Err(failure) => {
                            self.failed(name, stored.as_ref(), &mut history, &failure);
                            // The others need not wait for a server that is away.
                            if failure.is_of_server { Err(failure) } else { opened }
                        }
                    }
                }
            });
            self.storage.save_history(lock, name, &history)?;
        }
        Ok(())
    }

    async fn open(&self, lock: &Lock) -> Result<Session, Failure> {
        let client = (self.connect)(&self.settings)?;
        Session::open(&self.settings, &self.storage, lock, client).await
    }

    async fn order(
        &self,
        session: &Session,
        lock: &Lock,
        name: &str,
        stored: Option<&StoredCertificate>,
        history: &History,
    ) -> Result<StoredCertificate, Failure> {
        let Renewals { settings, storage, challenges, .. } = self;
        let context = OrderContext { settings, storage, lock, challenges, session };
        let replaces = stored.and_then(|stored| stored.id.as_deref()).filter(|id| history.has_suggestion(id));
        let request = OrderRequest { name, failures: history.failures, replaces };
        let obtained = timeout(ORDER_TIMEOUT, context.obtain(&request)).await;
        // Those of an order that was not completed, here or by a process before, are nobody's any more.
        storage.remove_challenges(lock, name, now());
        challenges.set(&settings.storage, Storage::challenges(&settings.storage, now()));
        match obtained {
            Ok(obtained) => obtained,
            Err(_) => {
                let fact = "the ACME server did not complete the order in time";
                Err(Failure::new(fact, "Linchpin tries again by itself"))
            }
        }
    }

    fn obtained(&self, name: &str, new: &StoredCertificate) {
        let (listener, days) = (&self.settings.listener, new.not_after.saturating_sub(now()) / DAY);
        tracing::info!(listener, name, days, "obtained a certificate; new connections get it within seconds");
        let (listener, name) = (listener.clone(), name.to_owned());
        self.events.publish(Event::Renewal { listener, name, ok: true, reason: None, next: None });
    }

    fn failed(&self, name: &str, stored: Option<&StoredCertificate>, history: &mut History, failure: &Failure) {
        let (now, listener) = (now(), &self.settings.listener);
        let Failure { fact, remedy, retry_after, .. } = failure;
        history.failed(now, stored, fact.clone(), *retry_after, rand::random());
        let retry = humantime::format_duration(Duration::from_secs(history.retry_at.saturating_sub(now)));
        match stored.filter(|stored| stored.not_after > now) {
            Some(stored) => {
                let days = (stored.not_after - now) / DAY;
                tracing::warn!(listener, name, error = fact, remedy, %retry, days, "cannot renew the certificate; the one in use stays until it expires");
            }
            None => {
                tracing::error!(listener, name, error = fact, remedy, %retry, "cannot obtain a certificate, and there is no valid one: browsers refuse to connect to the name");
            }
        }
        let (listener, name, reason) = (listener.clone(), name.to_owned(), Event::reason(fact));
        self.events.publish(Event::Renewal { listener, name, ok: false, reason, next: Some(history.retry_at) });
    }

    /// Reports that the storage can't be used; returns when to look again.
    fn storage_failed(&mut self, error: &io::Error) -> u64 {
        let (listener, failure) = (&self.settings.listener, Failure::of_storage(error));
        if self.logged.as_ref() != Some(&failure.fact) {
            let (storage, remedy) = (self.settings.storage.display(), failure.remedy);
            tracing::error!(listener, %storage, error = failure.fact, remedy, "cannot obtain or renew certificates");
            self.logged = Some(failure.fact.clone());
        }
        let next = now() + LONGEST_PAUSE;
        let status = |name: &String| {
            let (stored, history) = (self.storage.certificate(name), self.storage.history(name));
            let status = self.status(name, stored.as_ref(), &history);
            CertificateStatus { failures: status.failures.max(1), error: Some(failure.fact.clone()), ..status }
        };
        self.statuses.set(listener, self.settings.names.iter().map(status).collect());
        next
    }

    /// Shows what the storage holds.
    fn show(&self) {
        let status =
            |name: &String| self.status(name, self.storage.certificate(name).as_ref(), &self.storage.history(name));
        self.statuses.set(&self.settings.listener, self.settings.names.iter().map(status).collect());
    }

    fn status(&self, name: &str, stored: Option<&StoredCertificate>, history: &History) -> CertificateStatus {
        CertificateStatus {
            listener: self.settings.listener.clone(),
            name: name.into(),
            directory: self.settings.directory.clone(),
            not_after: stored.map(|stored| stored.not_after),
            next_order: plan::order_at(now(), stored, history),
            failures: history.failures,
            error: history.error.clone().filter(|_| history.failures > 0),
        }
    }
}

/// Asks the ACME server when to renew a certificate (RFC 9773). A question without an answer changes nothing.
async fn ask_renewal(session: Option<&Session>, id: &str, history: &mut History) {
    let Some(session) = session else { return history.not_suggested(now(), id, true) };
    let Some(certificate) = identifier(id) else { return history.not_suggested(now(), id, false) };
    match session.account.renewal_info(&certificate).await {
        Ok((info, again)) => {
            let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
            let window = &info.suggested_window;
            let window =
                Window { start: seconds(window.start.unix_timestamp()), end: seconds(window.end.unix_timestamp()) };
            history.suggested(now(), id, window, again.as_secs(), rand::random());
        }
        Err(error) => {
            let has_service = !matches!(error, Error::Unsupported(_));
            if has_service {
                tracing::debug!(error = session.failed(error).fact, "got no renewal information");
            }
            history.not_suggested(now(), id, has_service);
        }
    }
}

/// Returns the time, in seconds since 1970.
fn now() -> u64 {
    clock::unix().as_secs()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_that_panics_is_run_again_after_a_pause_and_nothing_of_it_stays() {
        let (runs, forgotten, begun) = (Cell::new(0_u32), Cell::new(0_u32), Instant::now());
        let work = async || {
            runs.set(runs.get() + 1);
            sleep(Duration::from_secs(1)).await;
            assert!(runs.get() >= 3, "a panic that the test wants");
        };
        run_despite_panics(work, || forgotten.set(forgotten.get() + 1)).await;
        assert_eq!((runs.get(), forgotten.get()), (3, 2));
        assert_eq!(begun.elapsed().as_secs(), 3 + 2 * PANIC_PAUSE.as_secs());
    }
}

//! Owns: when passwords are verified: few at once, on threads that serve no requests, and not too often for one client.
//! Invariant: the threads, the requests that wait and the failures of each client are bounded.
//! Must not know: HTTP, users' names, how a password is hashed.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_lc_rs::hmac;
use tokio::sync::Semaphore;

use super::error::ProxyError;
use super::rate::{self, RateLimiter};
use super::users::Users;
use crate::clock::{self, Deadline};
use crate::telemetry::Denial;

/// The most requests that wait until their password is verified.
const MAX_WAITING: usize = 256;

/// The longest that a request waits for that.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// What limits the verification of passwords, for all routes and threads.
#[derive(Debug)]
pub struct PasswordChecks {
    /// The key of the hashes that stand for verified passwords. It never leaves the process.
    key: hmac::Key,
    settings: rate::Settings,
    failures: RateLimiter,
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl PasswordChecks {
    /// Makes the checks of a process with `threads` data-path threads. `settings` limits the failures of each client.
    pub fn new(settings: rate::Settings, threads: usize) -> PasswordChecks {
        // Half of the cores, or wrong passwords would take them from the threads that serve requests.
        let permits = (threads / 2).clamp(1, 8);
        PasswordChecks {
            key: hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>()),
            settings,
            failures: RateLimiter::new(settings, clock::now()),
            permits: Arc::new(Semaphore::new(permits)),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Whether these limit failures as `settings` say.
    pub fn are_for(&self, settings: rate::Settings) -> bool {
        self.settings == settings
    }

    /// Makes checks with other limits, for which all that was verified stays so.
    #[must_use]
    pub fn with(&self, settings: rate::Settings) -> PasswordChecks {
        PasswordChecks {
            key: self.key.clone(),
            settings,
            failures: RateLimiter::new(settings, clock::now()),
            permits: Arc::clone(&self.permits),
            waiting: AtomicUsize::new(0),
        }
    }

    pub(super) fn key(&self) -> &hmac::Key {
        &self.key
    }

    /// Verifies a password that the client at `address` sent, and returns the user's name.
    ///
    /// # Errors
    /// The password is wrong, the client has sent too many wrong ones, or too many requests wait.
    pub(super) async fn verify(
        &self,
        users: Arc<Users>,
        name: Box<str>,
        password: Box<[u8]>,
        address: IpAddr,
        limit: &Deadline,
    ) -> Result<Arc<str>, ProxyError> {
        // Taken first, and given back unless the password is wrong: or many guesses at once would all pass.
        self.failures.take(address, clock::now()).map_err(|wait| ProxyError::TooManyFailures { wait })?;
        let verified = self.verify_in_turn(users, name, password, limit).await;
        if !matches!(verified, Ok(None)) {
            self.failures.give_back(address, clock::now());
        }
        verified?.ok_or(ProxyError::Denied(Denial::WrongCredentials))
    }

    async fn verify_in_turn(
        &self,
        users: Arc<Users>,
        name: Box<str>,
        password: Box<[u8]>,
        limit: &Deadline,
    ) -> Result<Option<Arc<str>>, ProxyError> {
        const BUSY: ProxyError = ProxyError::Denied(Denial::PasswordsBusy);
        let _place = Place::take(&self.waiting).ok_or(BUSY)?;
        limit.set_after(MAX_WAIT);
        let permit = tokio::select! {
            biased;
            permit = Arc::clone(&self.permits).acquire_owned() => permit.ok(),
            () = std::future::poll_fn(|cx| limit.poll(cx)) => None,
        };
        limit.clear();
        let (permit, key) = (permit.ok_or(BUSY)?, self.key.clone());
        let verify = move || {
            // Until the work is done, also if nobody waits for it any more.
            let _permit = permit;
            users.verify(&key, &name, &password)
        };
        tokio::task::spawn_blocking(verify).await.map_err(|_| BUSY)
    }
}

/// A place among the requests that wait.
struct Place<'c>(&'c AtomicUsize);

impl Place<'_> {
    fn take(waiting: &AtomicUsize) -> Option<Place<'_>> {
        let place = Place(waiting);
        // Dropping the place gives it back, also if there is none.
        (waiting.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Deadlines;

    fn checks(failures: u32) -> PasswordChecks {
        let settings = rate::Settings { requests: failures, per: Duration::from_secs(3600), burst: failures };
        PasswordChecks::new(settings, 1)
    }

    fn users() -> Arc<Users> {
        Arc::new(Users::parse(&format!("ana:{}", bcrypt::hash("sesame", 4).unwrap())).unwrap())
    }

    #[tokio::test]
    async fn wrong_passwords_are_limited_per_client_and_right_ones_are_not() {
        let (checks, users, deadlines) = (checks(3), users(), Deadlines::default());
        let limit = deadlines.deadline();
        let verify = async |password: &str, address: [u8; 4]| {
            let (users, password) = (Arc::clone(&users), Box::from(password.as_bytes()));
            checks.verify(users, "ana".into(), password, address.into(), &limit).await
        };
        let wrong = Err(ProxyError::Denied(Denial::WrongCredentials));
        for _ in 0..3 {
            assert_eq!(verify("guess", [192, 0, 2, 1]).await, wrong);
            for _ in 0..3 {
                assert_eq!(verify("sesame", [192, 0, 2, 2]).await.as_deref(), Ok("ana"));
            }
        }
        assert!(matches!(verify("guess", [192, 0, 2, 1]).await, Err(ProxyError::TooManyFailures { .. })));
        // A right guess is not told from a wrong one any more.
        assert!(matches!(verify("sesame", [192, 0, 2, 1]).await, Err(ProxyError::TooManyFailures { .. })));
        assert_eq!(verify("guess", [192, 0, 2, 3]).await, wrong);
    }

    #[tokio::test]
    async fn the_requests_that_wait_are_bounded() {
        let (checks, users, deadlines) = (checks(9), users(), Deadlines::default());
        let limit = deadlines.deadline();
        let places: Vec<_> = std::iter::from_fn(|| Place::take(&checks.waiting)).collect();
        assert_eq!(places.len(), MAX_WAITING);
        let verify = || {
            checks.verify(Arc::clone(&users), "ana".into(), Box::from(&b"sesame"[..]), [192, 0, 2, 1].into(), &limit)
        };
        assert_eq!(verify().await, Err(ProxyError::Denied(Denial::PasswordsBusy)));
        drop(places);
        assert_eq!(verify().await.as_deref(), Ok("ana"));
    }
}

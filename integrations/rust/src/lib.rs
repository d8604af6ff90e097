//! Session copies for [tower-sessions](https://docs.rs/tower-sessions): behind [Linchpin](../../README.md), a session
//! survives the death of its server.
//!
//! Sessions are kept in this process's memory. Linchpin gets a sealed copy of each changed session with the response,
//! and gives it to the server that serves the client next.
//!
//! ```
//! use axum::{Router, routing::get};
//! use linchpin_tower_sessions::SessionCopies;
//! use tower_sessions::SessionManagerLayer;
//!
//! # fn main() -> Result<(), linchpin_tower_sessions::SecretError> {
//! # let secret = [7; 32];
//! let copies = SessionCopies::new(&[secret])?;
//! let app: Router = Router::new()
//!     .route("/", get(async || "hello"))
//!     .layer(SessionManagerLayer::new(copies.store()))
//!     .layer(copies.layer());
//! # Ok(())
//! # }
//! ```

mod field;
mod layer;
mod memory;
mod seal;
mod store;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use self::layer::{CopiesLayer, CopiesService};
pub use self::memory::Limits;
pub use self::store::CopiedStore;

use self::memory::Memory;
use self::seal::{Keys, MIN_SECRET_BYTES};

/// A server's sessions and their copies: the store for tower-sessions, and the layer that speaks with Linchpin.
#[derive(Clone, Debug)]
pub struct SessionCopies(Arc<Shared>);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) keys: Keys,
    pub(crate) limits: Limits,
    memory: Mutex<Memory>,
}

impl Shared {
    /// Locks the memory. A panic elsewhere leaves it usable: no change to it is ever half done.
    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SessionCopies {
    /// Begins with an empty memory and the default [`Limits`]. All servers of the application have the same secrets: the
    /// first seals copies, all open them.
    ///
    /// # Errors
    ///
    /// If there is no secret, or one of them is shorter than 32 bytes.
    pub fn new<S: AsRef<[u8]>>(secrets: &[S]) -> Result<Self, SecretError> {
        Self::with_limits(secrets, Limits::default())
    }

    /// Begins with an empty memory and these limits.
    ///
    /// # Errors
    ///
    /// Those of [`new`](Self::new).
    pub fn with_limits<S: AsRef<[u8]>>(secrets: &[S], limits: Limits) -> Result<Self, SecretError> {
        let keys = Keys::new(secrets).ok_or(SecretError)?;
        Ok(Self(Arc::new(Shared { keys, limits, memory: Mutex::new(Memory::new(limits)) })))
    }

    /// Returns the store for a `SessionManagerLayer`.
    #[must_use]
    pub fn store(&self) -> CopiedStore {
        CopiedStore(Arc::clone(&self.0))
    }

    /// Returns the layer, which has to be outside of the `SessionManagerLayer`: add it after that one.
    #[must_use]
    pub fn layer(&self) -> CopiesLayer {
        CopiesLayer(Arc::clone(&self.0))
    }
}

/// No secret was given, or one that is too short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SecretError;

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session copies need a secret of at least {MIN_SECRET_BYTES} bytes, e.g. from `openssl rand -hex 32`")
    }
}

impl std::error::Error for SecretError {}

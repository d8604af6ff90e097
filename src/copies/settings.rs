//! Owns: the settings of `[pools.copies]`.
//! Invariant: `config` has checked every value before it gets here.
//! Must not know: requests, sessions.

use std::time::Duration;

/// `[pools.copies]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the copies are.
    pub hold: Hold,
    /// The most bytes of the embedded store, with the entries themselves.
    pub memory: usize,
    /// The most bytes of one copy.
    pub max: usize,
    /// How long a request waits for a hand-over of its session, and before that for the session's other requests.
    pub handover: Duration,
    /// Whether a response whose state can't be copied is withheld.
    pub required: bool,
    /// The store that several Linchpins share, if there is one.
    pub store: Option<StoreAddress>,
}

/// The address of a shared store. It is not shown, since it may contain a password.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreAddress(pub String);

impl std::fmt::Debug for StoreAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreAddress").finish_non_exhaustive()
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            hold: Hold::default(),
            memory: 256 * 1024 * 1024,
            max: 32 * 1024,
            handover: Duration::from_secs(2),
            required: false,
            store: None,
        }
    }
}

/// Where the copies of sessions are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hold {
    /// In Linchpin.
    #[default]
    Balancer,
    /// On a second server of the pool.
    Secondary,
    /// On all servers of the pool.
    All,
}

impl Hold {
    /// All values.
    pub const ALL: [Hold; 3] = [Hold::Balancer, Hold::Secondary, Hold::All];

    /// The configuration's word for this place.
    pub fn as_str(self) -> &'static str {
        match self {
            Hold::Balancer => "balancer",
            Hold::Secondary => "secondary",
            Hold::All => "all",
        }
    }
}

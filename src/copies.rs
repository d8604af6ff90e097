//! Owns: session copies: an application's sessions as opaque bytes, so that another server can continue with them.
//! Invariant: no request meets a state older than one of an earlier response, and a session that ended stays ended.
//! Must not know: HTTP connections, pins, how a server is chosen.

mod entry;
pub mod fields;
mod holder;
mod outcome;
mod plain_save;
mod pool_copies;
mod refusal;
mod rules;
mod session_cache;
mod session_ref;
mod settings;
mod shared;
mod shared_state;
mod store;
mod stores;
mod totals;
mod version;
mod view;

pub use entry::{Entry, Fetch, InFlight, Leaving, Offer, Preparation};
pub use fields::NewState;
pub use holder::Holder;
pub use outcome::CopyOutcome;
pub use pool_copies::{CopyCounters, CopyEvent, PoolCopies};
pub use refusal::Refusal;
pub use rules::{Claim, Given, Saved, Session, Wait};
pub use session_cache::SessionCache;
pub use session_ref::SessionRef;
pub use settings::{Hold, Settings, StoreAddress};
pub use shared::{ServerNames, SharedCommand, SharedLink, SharedStoreSync};
pub use shared_state::{Fetched, SharedSaved, SharedState};
pub use store::CopyStore;
pub use stores::CopyStores;
pub use version::Version;
pub use view::View;

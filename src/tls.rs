//! Owns: TLS: certificates and keys, who is asked for which, and their files when they change.
//! Invariant: what runs was read whole and fits together; a change that does not leaves the old one at work.
//! Must not know: HTTP, listeners, pools.

pub mod certificate;
pub mod client;
mod insecure;
pub mod inspect;
mod parameters;
pub mod pem;
pub mod reload;
pub mod server;
mod sni;
mod subject;

pub use certificate::Certificate;
pub use client::Connector;
pub use pem::{CertificateFiles, Error};
pub use server::Acceptor;
pub use subject::SUBJECT_FIELD;

#[cfg(test)]
pub(crate) mod tests;

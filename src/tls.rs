//! Owns: TLS with clients and with backends: certificates, keys, handshakes, and reloading the files.
//! Invariant: a set of files is used only if all of it was read and fits together; else the old set stays in use.
//! Must not know: HTTP, listeners, pools.

pub mod certificate;
pub mod challenge;
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
pub use challenge::ChallengeCertificates;
pub use client::Connector;
pub use pem::{CertificateFiles, Error};
pub use server::Acceptor;
pub use subject::SUBJECT_FIELD;

#[cfg(test)]
pub(crate) mod tests;

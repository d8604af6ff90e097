//! Owns: certificates from an ACME server (RFC 8555): which are needed, obtaining and renewing them, and their files.
//! Invariant: what fails here is reported and tried again later; a certificate in use stays until there is a better one.
//! Must not know: listeners' sockets, routes, backends.

mod account;
mod challenges;
mod failure;
mod https_client;
mod order;
mod plan;
mod renewer;
mod settings;
mod status;
mod storage;
#[cfg(test)]
mod tests;

pub use challenges::{Challenges, HttpChallenges};
pub use renewer::Renewer;
pub use settings::{ChallengeKind, ExternalAccount, LETS_ENCRYPT, Settings, certificate_file};
pub use status::{Attempts, CertificateStatus, Statuses};

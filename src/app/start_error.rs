//! Owns: why Linchpin does not start.
//! Invariant: each message says what to do.
//! Must not know: what starts, or in which order.

use std::path::PathBuf;

use crate::net::Address;
use crate::runtime::BindError;
use crate::telemetry::OpenError;
use crate::tls;

/// Why Linchpin does not start.
#[derive(Debug)]
pub enum StartError {
    /// The access log can't be opened.
    Log(OpenError),
    /// A listener can't bind its address.
    Bind(BindError),
    /// The admin listener can't bind its address.
    Admin(Address, std::io::Error),
    /// The socket for a successor can't be bound.
    Handover(PathBuf, std::io::Error),
    /// A certificate or key file can't be used.
    Tls(tls::Error),
    /// A thread can't be started.
    Thread(std::io::Error),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StartError::Log(error) => error.fmt(f),
            StartError::Bind(error) => error.fmt(f),
            StartError::Admin(address, error) => {
                write!(f, "the admin listener cannot bind {address}: {error}; choose another [admin] address")
            }
            StartError::Handover(path, error) => {
                write!(f, "cannot listen on {}: {error}; choose another `handover` in [server]", path.display())
            }
            StartError::Tls(error) => write!(f, "{error}; {}", error.remedy()),
            StartError::Thread(error) => {
                write!(f, "cannot start a thread: {error}; check the limits of processes and memory")
            }
        }
    }
}

impl std::error::Error for StartError {}

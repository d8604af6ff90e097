//! Linchpin: a sticky-session load-balancing reverse proxy.
//!
//! A pool of servers that keep their users' sessions in their own memory is made to behave like
//! one server: each client stays with the server that holds its session, and is moved once,
//! without an error, when that server dies.
//!
//! The rooms of the house, and which may know which, are in `ARCHITECTURE.md`; the import test
//! (`tests/it/architecture.rs`) holds the code to it. A request's way is `proxy::Proxy::handle`.

pub mod admin;
pub mod affinity;
pub mod app;
pub mod balance;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod discover;
pub mod files;
pub mod handler;
pub mod health;
pub mod import;
pub mod net;
pub mod pool;
pub mod proxy;
pub mod reason;
pub mod runtime;
pub mod session_sync;
pub mod telemetry;
pub mod tls;
pub mod upstream;

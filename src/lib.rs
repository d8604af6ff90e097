//! Linchpin: a sticky-session load-balancing reverse proxy.
//!
//! It makes a pool of servers that keep their users' sessions in memory behave like one server. Each client stays
//! with the server that holds its session. When that server dies, Linchpin moves the client once, without an error.
//!
//! `ARCHITECTURE.md` lists the modules and which may import which; `tests/it/architecture.rs` enforces it.
//! `docs/tour.md` follows one request through the code.

pub mod acme;
pub mod admin;
pub mod affinity;
pub mod app;
pub mod balance;
pub mod change_feed;
pub mod cli;
pub mod clock;
pub mod config;
pub mod copies;
pub mod demo;
pub mod discover;
pub mod events;
pub mod files;
pub mod handler;
pub mod health;
pub mod http2;
pub mod import;
pub mod net;
pub mod otlp;
pub mod per_thread;
pub mod pool;
pub mod proxy;
pub mod reason;
pub mod runtime;
pub mod session_sync;
pub mod slot_table;
pub mod takeover;
pub mod telemetry;
pub mod tls;
pub mod upstream;

//! The integration tests: the real proxy, in-process, on port 0, between scripted backends and
//! clients that speak bytes.

// In a test a panic is the failure; clippy knows that of test functions alone, not of their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

mod abuse;
mod admin_places;
mod architecture;
mod balancing;
mod blame;
mod broken_responses;
mod browser;
mod chains;
mod checking;
mod clocks;
mod commands;
mod crowds;
mod curl;
mod demo_command;
mod demo_page;
mod descriptors;
mod discovery;
mod docs;
mod early_responses;
mod failover;
mod fields;
mod first_words;
mod frames;
mod fuzzing;
mod half_closed;
mod health;
mod https;
mod identity;
mod import;
mod import_runs;
mod interim;
mod key_files;
mod limits;
mod listeners;
mod logs;
mod loops;
mod many_backends;
mod memory;
mod messages;
mod persistence_doc;
mod pinning;
mod policies;
mod pools;
mod process;
mod protocols;
mod queue;
mod reasons;
mod replay;
mod replicas;
mod request_framing;
mod response_framing;
mod routes;
mod session_sync;
mod shared_connections;
mod signals;
mod slow_clients;
mod slow_streams;
mod smoke;
mod special_files;
mod stale_connections;
mod stickiness;
mod stopping;
mod streaming;
mod targets;
mod tls;
mod trailers;
mod tunnels;
mod unanswered;
mod vocabulary;
mod waiting;

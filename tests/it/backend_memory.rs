//! Resident memory per backend before any traffic, with many threads: what a thread needs of a backend it gets with the
//! first request.

use std::fmt::Write;

use super::memory::settled;
use super::support::process::Linchpin;

/// The most KiB per backend: 4, and the error of measuring. What reading the file takes for a moment is resident, too, or
/// has just been given back. It was 14 when each thread had a state for each backend.
const BACKEND: f64 = 5.5;

/// The most MiB of a process with 64 threads and so many backends.
const PROCESS: f64 = 200.0;

const BACKENDS: usize = 8000;

/// Returns the KiB of a process with so many threads and backends that has served nothing.
async fn idle(threads: usize, backends: usize) -> f64 {
    let mut text = format!(
        "[server]\nthreads = {threads}\n[log]\naccess = \"off\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n\
         [[pools]]\nname = \"app\"\nhealth = {{ type = \"none\" }}\n"
    );
    for backend in 0..backends {
        let address = std::net::Ipv4Addr::from(0x7f01_0000 + backend as u32);
        write!(text, "[[pools.backends]]\nname = \"b{backend}\"\naddress = \"{address}:9\"\n").unwrap();
    }
    let linchpin = Linchpin::start(&text, None).await;
    settled(linchpin.id()).await
}

#[tokio::test]
async fn a_backend_costs_little_before_traffic_however_many_threads_there_are() {
    let (one, many) = (idle(64, 1).await, idle(64, BACKENDS).await);
    let each = (many - one) / (BACKENDS - 1) as f64;
    assert!(each <= BACKEND, "{each:.2} KiB for a backend");
    assert!(many / 1024.0 <= PROCESS, "{:.0} MiB with {BACKENDS} backends", many / 1024.0);
}

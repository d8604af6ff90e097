//! Owns: what systemd and this process tell each other: sockets that it opened, readiness, reloads, the watchdog.
//! Invariant: without systemd, none of this does anything.
//! Must not know: what the sockets are for, or when the process is ready.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use socket2::SockRef;

use crate::app::Heartbeats;
use crate::net::Address;
use crate::runtime::inherited::InheritedSockets;

/// What the environment of a process says about it alone, and not about one that it starts.
pub(super) const OF_ONE_PROCESS: [&str; 4] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// Returns the sockets that systemd has opened for this process (`LISTEN_FDS`, sd_listen_fds(3)). Sockets of one address
/// belong together. Call it before other threads run.
///
/// # Errors
/// A descriptor is no socket at which a listener can accept connections.
pub(super) fn sockets() -> Result<Vec<InheritedSockets>, String> {
    // Reading the descriptors removes the names.
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<_> = names.split(':').collect();
    let mut passed = ListenFd::from_env();
    let mut all: Vec<InheritedSockets> = Vec::new();
    for at in 0..passed.len() {
        let socket = match passed.take_tcp_listener(at) {
            Ok(socket) => socket.map(OwnedFd::from),
            Err(_) => passed.take_unix_listener(at).map(|socket| socket.map(OwnedFd::from)).map_err(|error| {
                format!("descriptor {} of LISTEN_FDS: {error}; pass sockets of ListenStream= only", at + 3)
            })?,
        };
        let Some(socket) = socket else { continue };
        let address =
            address_of(&socket).ok_or_else(|| format!("descriptor {} of LISTEN_FDS has no address", at + 3))?;
        let name = names.get(at).filter(|name| !name.is_empty()).map(|name| (*name).to_owned());
        match all.iter_mut().find(|known| known.address == address && known.name == name) {
            Some(known) => known.sockets.push(socket),
            None => all.push(InheritedSockets { address, name, sockets: vec![socket], is_shared: true }),
        }
    }
    Ok(all)
}

fn address_of(socket: &OwnedFd) -> Option<Address> {
    let address = SockRef::from(socket).local_addr().ok()?;
    let tcp: Option<SocketAddr> = address.as_socket();
    tcp.map(Address::Tcp).or_else(|| address.as_pathname().map(|path| Address::Unix(path.into())))
}

/// What this process tells systemd (sd_notify(3)).
#[derive(Debug, Clone, Copy)]
pub(super) enum Report {
    /// Clients can connect.
    Ready,
    /// The same, and this is the main process from now on.
    TakenOver,
    /// It reads its configuration again, or a successor is taking over.
    Reloading,
    /// It stops.
    Stopping,
}

/// Tells systemd, if that has started this process.
pub(super) fn report(what: Report) {
    let states = match what {
        Report::Ready => vec![NotifyState::Ready],
        Report::TakenOver => vec![NotifyState::MainPid(std::process::id()), NotifyState::Ready],
        // Type=notify-reload needs the time.
        Report::Reloading => match NotifyState::monotonic_usec_now() {
            Ok(now) => vec![NotifyState::Reloading, now],
            Err(_) => vec![NotifyState::Reloading],
        },
        Report::Stopping => vec![NotifyState::Stopping],
    };
    if let Err(error) = sd_notify::notify(&states) {
        tracing::warn!(%error, ?what, "cannot notify systemd; check NOTIFY_SOCKET and NotifyAccess=all");
    }
}

/// Keeps the watchdog of systemd quiet (`WatchdogSec=`) for as long as all threads run; forever.
pub(super) async fn keep_watchdog_quiet(heartbeats: Heartbeats) {
    let Some(period) = sd_notify::watchdog_enabled().filter(|period| !period.is_zero()) else {
        return std::future::pending().await;
    };
    let mut interval = tokio::time::interval((period / 3).max(Duration::from_millis(10)));
    let mut is_alive = true;
    loop {
        interval.tick().await;
        let was_alive = std::mem::replace(&mut is_alive, heartbeats.are_recent(period));
        if is_alive {
            // A failure is one of the next ones, too: systemd then ends the process.
            let _ = sd_notify::notify(&[NotifyState::Watchdog]);
        } else if was_alive {
            tracing::error!(
                "a worker thread does not respond; leaving it to systemd's watchdog to restart this process"
            );
        }
    }
}

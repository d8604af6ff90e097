//! Owns: the listening sockets that this process was started with, and which of its threads accepts at which of them.
//! Invariant: each of them is accepted from, and each thread accepts somewhere, whatever the numbers of both.
//! Must not know: who has opened them; how connections are accepted.

use std::os::fd::OwnedFd;

use crate::net::Address;

/// Sockets of one address that another process has opened.
#[derive(Debug)]
pub struct InheritedSockets {
    /// The address as a configuration writes it.
    pub address: Address,
    /// The name of the listener that they are meant for, if it is known.
    pub name: Option<String>,
    /// The sockets, which listen.
    pub sockets: Vec<OwnedFd>,
    /// The other process keeps them when this one ends, as a service manager does.
    pub is_shared: bool,
}

/// Sockets that another process has handed over, still open there.
#[derive(Debug)]
pub struct SharedSockets {
    /// The address as this process's configuration writes it.
    pub address: Address,
    /// A descriptor of each socket.
    pub sockets: Vec<std::sync::Arc<OwnedFd>>,
    /// A service manager keeps them.
    pub is_shared: bool,
}

/// Where a thread gets a socket from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum SocketSource {
    /// The inherited socket with this number.
    Inherited(usize),
    /// A new one, which joins the group of the others (SO_REUSEPORT).
    New,
}

/// Decides where each of `threads` threads accepts connections. If no socket `can_join` the inherited ones, threads
/// share them.
///
/// None is left out: the kernel has given it a share of the clients, and goes on doing so for as long as any process has
/// it open. A new one may join at any time: a handshake that has begun stays with the socket at which it began.
pub(super) fn assign(inherited: usize, threads: usize, can_join: bool) -> Vec<Vec<SocketSource>> {
    let mut by_thread = vec![Vec::new(); threads];
    for at in 0..inherited.max(threads) {
        let source = match at < inherited {
            true => SocketSource::Inherited(at),
            false if can_join || inherited == 0 => SocketSource::New,
            false => SocketSource::Inherited(at % inherited),
        };
        if let Some(sources) = by_thread.get_mut(at % threads.max(1)) {
            sources.push(source);
        }
    }
    by_thread
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use socket2::{Domain, Socket, Type};
    use std::collections::HashSet;
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};

    proptest! {
        #[test]
        fn every_socket_is_accepted_from_and_every_thread_accepts(
            inherited in 1usize..40, threads in 1usize..40, can_join: bool,
        ) {
            let by_thread = assign(inherited, threads, can_join);
            prop_assert_eq!(by_thread.len(), threads);
            prop_assert!(by_thread.iter().all(|sources| !sources.is_empty()));
            let sources: Vec<_> = by_thread.into_iter().flatten().collect();
            let used: HashSet<_> = sources.iter().filter(|source| **source != SocketSource::New).copied().collect();
            prop_assert_eq!(used.len(), inherited);
            let new = sources.iter().filter(|source| **source == SocketSource::New).count();
            prop_assert_eq!(new, if can_join { threads.saturating_sub(inherited) } else { 0 });
            // A queue that one thread can serve alone is not shared.
            prop_assert!(can_join && sources.len() == inherited.max(threads) || sources.len() >= inherited);
        }
    }

    fn listening(address: SocketAddr) -> TcpListener {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(1024).unwrap();
        socket.into()
    }

    /// What the kernel guarantees, and the rule above relies on.
    #[test]
    fn sockets_that_join_a_group_take_nothing_from_the_queues_of_the_others() {
        let first = listening(([127, 0, 0, 1], 0).into());
        let address = first.local_addr().unwrap();
        let mut clients: Vec<_> = (0..50).map(|_| TcpStream::connect(address).unwrap()).collect();
        let others: Vec<_> = (0..7).map(|_| listening(address)).collect();
        clients.extend((0..200).map(|_| TcpStream::connect(address).unwrap()));
        let mut served = 0;
        for listener in [first].iter().chain(&others) {
            listener.set_nonblocking(true).unwrap();
            while let Ok((mut client, _)) = listener.accept() {
                client.write_all(b"x").unwrap();
                served += 1;
            }
        }
        assert_eq!(served, 250);
        for client in &mut clients {
            client.read_exact(&mut [0]).unwrap();
        }
    }
}

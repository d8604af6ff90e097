//! Owns: the sockets of which something has come in a turn, and the buffers into which it is read.
//! Invariant: a socket is read for who waits for it, and for nobody else; buffers are kept for as many as are read at once.
//! Must not know: the event loop.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Wake, Waker};

use super::{Carried, MOST, TURN};

/// What is read of one socket, in bytes: a request's head, or a response's with a small body.
pub(in super::super) const PIECE: usize = 4096;

/// Sockets by number.
pub(super) struct Inbox {
    sockets: Vec<Option<Rc<dyn Carried>>>,
    free: Vec<usize>,
    /// In the order in which they were: under load none waits for ever.
    rung: VecDeque<usize>,
    buffers: Vec<Box<[u8]>>,
}

/// What the event loop rings when there is something to read on a socket.
#[derive(Debug)]
pub(in super::super) struct Bell {
    number: usize,
    waker: Waker,
}

#[derive(Debug)]
struct Ring(usize);

impl Inbox {
    pub(super) const fn new() -> Inbox {
        Inbox { sockets: Vec::new(), free: Vec::new(), rung: VecDeque::new(), buffers: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rung.is_empty()
    }

    /// The next of which something has come.
    pub(super) fn next(&mut self) -> Option<Rc<dyn Carried>> {
        std::iter::from_fn(|| self.rung.pop_front()).find_map(|number| self.sockets.get(number)?.clone())
    }

    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.sockets.len()
    }

    /// All that have a bell.
    pub(super) fn all(&mut self) -> Vec<Rc<dyn Carried>> {
        self.rung.clear();
        self.sockets.iter().flatten().cloned().collect()
    }
}

impl Bell {
    /// A bell for a socket. `None` where nobody answers it.
    pub(in super::super) fn new<S: Carried + 'static>(socket: &Rc<S>) -> Option<Bell> {
        let socket: Rc<dyn Carried> = Rc::clone(socket) as _;
        TURN.with_borrow_mut(|turn| {
            turn.carrier.as_ref()?;
            let Inbox { sockets, free, .. } = &mut turn.inbox;
            let number = free.pop().unwrap_or(sockets.len());
            match sockets.get_mut(number) {
                Some(place) => *place = Some(socket),
                None => sockets.push(Some(socket)),
            }
            Some(Bell { number, waker: Arc::new(Ring(number)).into() })
        })
    }

    /// What rings it.
    pub(in super::super) fn waker(&self) -> &Waker {
        &self.waker
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        TURN.with_borrow_mut(|turn| {
            if let Some(place) = turn.inbox.sockets.get_mut(self.number) {
                *place = None;
                turn.inbox.free.push(self.number);
            }
        });
    }
}

impl Wake for Ring {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let unanswered = TURN.with_borrow_mut(|turn| {
            let Some(carrier) = &turn.carrier else { return turn.inbox.sockets.get(self.0).cloned().flatten() };
            if turn.inbox.rung.is_empty() {
                carrier.wake_by_ref();
            }
            turn.inbox.rung.push_back(self.0);
            None
        });
        if let Some(socket) = unanswered {
            socket.call();
        }
    }
}

/// A buffer of [`PIECE`] bytes.
pub(in super::super) fn buffer() -> Box<[u8]> {
    TURN.with_borrow_mut(|turn| turn.inbox.buffers.pop()).unwrap_or_else(|| vec![0; PIECE].into())
}

/// Takes one back; one of another size goes.
pub(in super::super) fn give_back(buffer: Box<[u8]>) {
    TURN.with_borrow_mut(|turn| {
        if buffer.len() == PIECE && turn.inbox.buffers.len() < MOST {
            turn.inbox.buffers.push(buffer);
        }
    });
}

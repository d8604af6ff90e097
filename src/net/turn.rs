//! Owns: a turn of a thread's event loop, as its sockets see it: what has come is read, then those who wait for it run, then what they have to say is sent.
//! Invariant: a socket's bytes keep their order; what is small alone is held up, and by no more than one turn.
//! Must not know: what is read and sent, or how a socket does it.

mod inbox;
mod outbox;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::IoSlice;
use std::rc::Rc;
use std::task::{Poll, Waker};

use inbox::Inbox;
pub(super) use inbox::{Bell, PIECE, buffer, give_back};
use outbox::Outbox;

/// Sockets and pieces that are seen to in one go, at the most.
const MOST: usize = 64;

thread_local! {
    static TURN: RefCell<Turn> =
        const { RefCell::new(Turn { carrier: None, inbox: Inbox::new(), outbox: Outbox::new() }) };
}

/// The kernel's way of a packet, out or in, fills a core's cache for instructions, and so does this
/// program's of a request. A task that reads, works and sends goes one after the other for each request, and
/// finds none of them in the cache. So all sockets of a turn are read in one go, all tasks run in
/// one go, and all is sent in one go: each way is cold for the first of them, and warm for the rest.
/// Where only one is ready, it waits for nobody.
struct Turn {
    /// The task that reads and sends for all. Without one each socket does so by itself.
    carrier: Option<Waker>,
    inbox: Inbox,
    outbox: Outbox,
}

/// What a turn has to know of a socket.
pub(super) trait Carried {
    /// Reads a piece, if one is waited for, and wakes who waits.
    fn fetch(&self);

    /// Wakes who waits for a piece, to read it himself.
    fn call(&self);

    /// Sends a piece.
    fn send(&self, piece: &[u8]);
}

/// Reads and sends for all sockets of this thread, for as long as it is polled. The event loop runs those
/// tasks first that were woken first: one that its sockets wake runs before those who wait for
/// them, and one that these wake by what they send runs after them.
pub async fn carry() {
    struct Carrying;
    impl Drop for Carrying {
        fn drop(&mut self) {
            let called = TURN.with_borrow_mut(|turn| {
                turn.carrier = None;
                turn.inbox.all()
            });
            called.iter().for_each(|socket| socket.call());
            send();
        }
    }
    let _carrying = Carrying;
    poll_fn(|cx| {
        TURN.with_borrow_mut(|turn| turn.carrier.get_or_insert_with(|| cx.waker().clone()).clone_from(cx.waker()));
        fetch();
        send();
        Poll::Pending
    })
    .await
}

/// Has `pieces`, as one of `length` bytes, wait for the end of the turn. False if they are to be sent at once.
pub(super) fn put<S: Carried + 'static>(socket: &Rc<S>, pieces: &[IoSlice<'_>], length: usize) -> bool {
    if length > outbox::LONGEST {
        return false;
    }
    let is_full = TURN.with_borrow_mut(|turn| {
        let carrier = turn.carrier.as_ref()?;
        if turn.outbox.is_empty() {
            carrier.wake_by_ref();
        }
        let socket: Rc<dyn Carried> = Rc::clone(socket) as _;
        Some(turn.outbox.put(socket, pieces, length))
    });
    if is_full == Some(true) {
        send();
    }
    is_full.is_some()
}

/// Sends what waits.
pub(super) fn send() {
    // Taken out meanwhile, so that nothing that comes of it finds the outbox in use.
    let taken = TURN.with_borrow_mut(|turn| turn.outbox.take());
    let Some(mut letters) = taken else { return };
    letters.send();
    TURN.with_borrow_mut(|turn| turn.outbox.reuse(letters));
}

/// Reads what has come.
fn fetch() {
    for _ in 0..MOST {
        let Some(socket) = TURN.with_borrow_mut(|turn| turn.inbox.next()) else { return };
        socket.fetch();
    }
    // Behind those who run on what was read.
    TURN.with_borrow_mut(|turn| {
        if let Some(carrier) = turn.carrier.as_ref().filter(|_| !turn.inbox.is_empty()) {
            carrier.wake_by_ref();
        }
    });
}

#[cfg(test)]
mod tests;

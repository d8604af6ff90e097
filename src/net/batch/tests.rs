//! Owns: the tests of when sockets read and write, on real sockets.
//! Invariant: whatever the batcher delays, the peer receives every byte once and in order.
//! Must not know: how writes are queued.

use std::future::Future;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::{JoinHandle, spawn_local, yield_now};
use tokio::time::timeout;

use super::*;
use crate::net::Socket;
use crate::net::read_buffers::BUFFER_SIZE;

/// Runs a test on a thread with a batcher, and fails it after 20 seconds.
fn batched(test: impl Future<Output = ()> + 'static) {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    runtime.block_on(async {
        let batching = spawn_local(run_batcher());
        yield_now().await;
        timeout(Duration::from_secs(20), spawn_local(test)).await.expect("in time").unwrap();
        batching.abort();
    });
}

/// Returns a socket, and its peer.
async fn pair() -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
    (ours.unwrap().into(), theirs.unwrap().0)
}

/// Returns how many bytes the peer can read without waiting.
fn arrived(theirs: &TcpStream) -> usize {
    let mut buffer = vec![0; 1 << 20];
    theirs.try_read(&mut buffer).unwrap_or(0)
}

async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Reads until the end, and returns all bytes.
fn reading(mut theirs: TcpStream) -> JoinHandle<Vec<u8>> {
    spawn_local(async move {
        let mut all = Vec::new();
        let _ = theirs.read_to_end(&mut all).await;
        all
    })
}

/// Reads enough bursts that the socket gets its ReadinessWaker.
async fn warm_up(ours: &mut Socket, theirs: &mut TcpStream) {
    for _ in 0..3 {
        let (read, written) = tokio::join!(ours.read_u8(), async {
            yield_now().await;
            theirs.write_all(b"x").await
        });
        assert_eq!((read.unwrap(), written.unwrap()), (b'x', ()));
    }
}

#[test]
fn small_writes_go_out_when_all_tasks_of_the_iteration_have_run() {
    batched(async {
        let (mut one, one_there) = pair().await;
        let (mut two, two_there) = pair().await;
        one.write_all(b"first ").await.unwrap();
        one.write_all(b"second").await.unwrap();
        one.flush().await.unwrap();
        two.write_all(b"third").await.unwrap();
        assert_eq!((one.write_progress().bytes(), two.write_progress().bytes()), (0, 0));
        yield_now().await;
        assert_eq!((one.write_progress().bytes(), two.write_progress().bytes()), (12, 5));
        until(|| arrived(&one_there) == 12).await;
        until(|| arrived(&two_there) == 5).await;
    });
}

#[test]
fn a_long_write_goes_out_at_once_behind_what_is_queued() {
    batched(async {
        let (mut ours, theirs) = pair().await;
        let reading = reading(theirs);
        ours.write_all(b"short, ").await.unwrap();
        let long = vec![b'x'; writes::MAX_WRITE + 1];
        ours.write_all(&long).await.unwrap();
        assert_eq!(ours.write_progress().bytes() as usize, 7 + long.len());
        ours.shutdown().await.unwrap();
        let all = reading.await.unwrap();
        assert!(all.starts_with(b"short, xxx") && all.len() == 7 + long.len());
    });
}

#[test]
fn a_full_queue_is_written_at_once() {
    batched(async {
        let (mut ours, _theirs) = pair().await;
        for _ in 0..MAX_BATCH - 1 {
            ours.write_all(b"x").await.unwrap();
        }
        assert_eq!(ours.write_progress().bytes(), 0);
        ours.write_all(b"x").await.unwrap();
        assert_eq!(ours.write_progress().bytes(), MAX_BATCH as u64);
    });
}

#[test]
fn a_dropped_socket_discards_what_is_queued_if_it_was_set_to() {
    batched(async {
        let (mut ours, theirs) = pair().await;
        ours.write_all(b"never").await.unwrap();
        let sent = ours.write_progress();
        sent.discard_on_drop(true);
        drop(ours);
        assert_eq!((reading(theirs).await.unwrap(), sent.bytes()), (vec![], 0));
    });
}

#[test]
fn a_dropped_socket_writes_what_is_queued() {
    batched(async {
        let (mut ours, theirs) = pair().await;
        ours.write_all(b"last words").await.unwrap();
        drop(ours);
        assert_eq!(reading(theirs).await.unwrap(), b"last words");
    });
}

#[test]
fn what_the_kernel_does_not_take_goes_out_later_and_in_order() {
    batched(async {
        let (mut ours, mut theirs) = pair().await;
        let mut written = Vec::new();
        // Until a write blocks: what the kernel doesn't take is a backlog, which the next write waits for.
        for index in 0u32.. {
            let piece: Vec<u8> = index.to_be_bytes().repeat(1000);
            let writing = timeout(Duration::from_millis(200), ours.write_all(&piece)).await;
            match writing {
                Ok(done) => done.unwrap(),
                Err(_) => break,
            }
            written.extend(piece);
        }
        assert!((ours.write_progress().bytes() as usize) < written.len());
        // From here on only the reader polls the socket, and so writes the backlog.
        let mut buffer = [0; 1];
        let silent = spawn_local(async move { ours.read(&mut buffer).await });
        let mut read = vec![0; written.len()];
        theirs.read_exact(&mut read).await.unwrap();
        assert!(read == written);
        drop(theirs);
        assert!(!matches!(silent.await.unwrap(), Ok(1..)));
    });
}

#[test]
fn a_shutdown_comes_behind_what_is_queued() {
    batched(async {
        let (mut ours, theirs) = pair().await;
        ours.write_all(b"last words").await.unwrap();
        ours.shutdown().await.unwrap();
        assert_eq!(ours.write_progress().bytes(), 10);
        drop(ours);
        assert_eq!(reading(theirs).await.unwrap(), b"last words");
    });
}

#[test]
fn a_task_that_waits_until_all_is_sent_is_woken() {
    batched(async {
        let (mut ours, _theirs) = pair().await;
        ours.write_all(b"x").await.unwrap();
        poll_fn(|cx| ours.poll_all_sent(cx)).await.unwrap();
        assert_eq!(ours.write_progress().bytes(), 1);
        ours.write_all(b"y").await.unwrap();
        ours.flush_queued();
        assert_eq!(ours.write_progress().bytes(), 2);
    });
}

#[test]
fn a_failed_write_does_not_count_as_written_and_the_next_write_reports_it() {
    batched(async {
        let (mut ours, theirs) = pair().await;
        theirs.set_zero_linger().unwrap();
        drop(theirs);
        // The reset has arrived once there is an end to read, or an error.
        until(|| std::pin::pin!(poll_fn(|cx| ours.poll_read_ready(cx))).now_or_never().is_some()).await;
        ours.write_all(b"lost").await.unwrap();
        yield_now().await;
        assert_eq!(ours.write_progress().bytes(), 0);
        assert!(ours.flush().await.is_err());
        assert!(ours.write_all(b"lost, too").await.is_err());
        assert!(poll_fn(|cx| ours.poll_all_sent(cx)).await.is_err());
    });
}

#[test]
fn a_busy_socket_is_read_before_its_task_runs_and_loses_nothing() {
    batched(async {
        let (mut ours, mut theirs) = pair().await;
        warm_up(&mut ours, &mut theirs).await;
        // Short and long writes alternate; the reader's buffer fits neither.
        let sent: Vec<u8> =
            (0..200usize).flat_map(|n| vec![n as u8; if n % 3 == 0 { 3 * BUFFER_SIZE } else { 100 + n }]).collect();
        let expected = sent.clone();
        let writing = spawn_local(async move {
            let mut rest = &sent[..];
            for n in 0..200usize {
                let piece;
                (piece, rest) = rest.split_at(if n % 3 == 0 { 3 * BUFFER_SIZE } else { 100 + n });
                theirs.write_all(piece).await.unwrap();
                if n % 7 == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        });
        let mut read = Vec::new();
        let mut bite = [0; 777];
        while let length @ 1.. = ours.read(&mut bite).await.unwrap() {
            read.extend_from_slice(&bite[..length]);
        }
        writing.await.unwrap();
        assert!(read == expected);
    });
}

#[test]
fn prefetched_bytes_make_a_socket_readable() {
    batched(async {
        let (mut ours, mut theirs) = pair().await;
        warm_up(&mut ours, &mut theirs).await;
        let mut buffer = [0; 8];
        assert!(ours.read(&mut buffer).now_or_never().is_none());
        theirs.write_all(b"more").await.unwrap();
        // The batcher reads, though no task polls any more.
        until(|| BATCHER.with_borrow(|batcher| batcher.ready.is_empty()) && ours.has_prefetched()).await;
        poll_fn(|cx| ours.poll_read_ready(cx)).await.unwrap();
        assert_eq!(ours.read(&mut buffer).await.unwrap(), 4);
    });
}

#[test]
fn a_socket_reads_and_writes_without_a_batcher() {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    runtime.block_on(async {
        let batching = spawn_local(run_batcher());
        yield_now().await;
        let (mut ours, mut theirs) = pair().await;
        warm_up(&mut ours, &mut theirs).await;
        let mut buffer = [0; 8];
        // It waits by its ReadinessWaker, which then has no batcher.
        assert!(ours.read(&mut buffer).now_or_never().is_none());
        ours.write_all(b"waits").await.unwrap();
        batching.abort();
        assert!(batching.await.unwrap_err().is_cancelled());
        assert_eq!(ours.write_progress().bytes(), 5);
        ours.write_all(b"goes").await.unwrap();
        assert_eq!(ours.write_progress().bytes(), 9);
        let reading = spawn_local(async move { ours.read_u8().await });
        yield_now().await;
        theirs.write_all(b"x").await.unwrap();
        assert_eq!(timeout(Duration::from_secs(20), reading).await.expect("in time").unwrap().unwrap(), b'x');
    });
}

#[test]
fn slots_of_closed_sockets_are_reused() {
    batched(async {
        for _ in 0..5 {
            let (mut ours, mut theirs) = pair().await;
            warm_up(&mut ours, &mut theirs).await;
        }
        assert_eq!(
            BATCHER.with_borrow_mut(|batcher| (batcher.ready.slots(), batcher.ready.registered().len())),
            (1, 0)
        );
    });
}

/// Small pieces that one task may write in one iteration to a socket whose kernel buffer is full.
#[test]
fn a_socket_that_takes_nothing_holds_no_more_than_a_few_pieces() {
    batched(async {
        let (mut ours, _theirs) = pair().await;
        let long = vec![0; 1 << 20];
        while timeout(Duration::from_millis(100), ours.write(&long)).await.is_ok() {}
        let taken = ours.write_progress().bytes();
        let piece = vec![0; 16 * 1024];
        let mut held = 0;
        // Like a tunnel or HTTP/2: writes as long as the socket accepts, 64 times at most.
        for _ in 0..64 {
            match ours.write(&piece).now_or_never() {
                Some(written) => held += written.unwrap(),
                None => break,
            }
        }
        assert_eq!(ours.write_progress().bytes(), taken);
        assert!(held <= 64 * 1024, "{held} bytes are held");
    });
}

#[test]
fn polls_in_any_order_lose_nothing() {
    stress(false);
}

/// A read with a waker that wakes no task must not take the wake-up from a later `poll_read_ready`.
#[test]
fn a_task_that_waits_for_readiness_is_woken_after_a_read_with_another_waker() {
    stress(true);
}

fn stress(tries_with_noop_waker: bool) {
    fn random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }
    async fn burn(count: u64) {
        poll_fn(|_| {
            let cx = &mut std::task::Context::from_waker(Waker::noop());
            for _ in 0..count {
                let _ = std::pin::pin!(tokio::task::coop::consume_budget()).poll(cx);
            }
            Poll::Ready(())
        })
        .await;
    }
    batched(async move {
        let mut all = Vec::new();
        for seed in 1..=150u64 {
            let (mut ours, mut theirs) = pair().await;
            let echo = spawn_local(async move {
                let mut state = seed * 7919;
                let mut buffer = vec![0; 16 * 1024];
                loop {
                    let dice = random(&mut state);
                    if dice.is_multiple_of(3) {
                        burn(115 + dice / 3 % 14).await;
                    }
                    if dice.is_multiple_of(5) {
                        // Reads once, and then waits for readiness, like an idle connection.
                        let bite = &mut buffer[..1];
                        let tried = poll_fn(|cx| {
                            let noop = &mut std::task::Context::from_waker(Waker::noop());
                            let cx = if tries_with_noop_waker { noop } else { cx };
                            Poll::Ready(match std::pin::pin!(ours.read(bite)).poll(cx) {
                                Poll::Ready(read) => Some(read),
                                Poll::Pending => None,
                            })
                        })
                        .await;
                        match tried {
                            Some(Ok(0)) => return,
                            Some(read) => {
                                read.unwrap();
                                let byte = [buffer[0]];
                                ours.write_all(&byte).await.unwrap();
                            }
                            None => {}
                        }
                        poll_fn(|cx| ours.poll_read_ready(cx)).await.unwrap();
                    }
                    if dice.is_multiple_of(7) {
                        yield_now().await;
                    }
                    let room = (random(&mut state) % 16_000 + 1) as usize;
                    let read = ours.read(&mut buffer[..room]).await.unwrap();
                    if read == 0 {
                        return;
                    }
                    ours.write_all(&buffer[..read]).await.unwrap();
                    if dice.is_multiple_of(11) {
                        poll_fn(|cx| ours.poll_all_sent(cx)).await.unwrap();
                    }
                }
            });
            let asks = spawn_local(async move {
                let mut state = seed * 104_729;
                for round in 0..40u64 {
                    let size = if random(&mut state).is_multiple_of(4) { 9000 } else { 300 };
                    let length = (random(&mut state) % size + 1) as usize;
                    let sent: Vec<u8> = (0..length).map(|n| (n as u64 * seed + round) as u8).collect();
                    let half = length / 2;
                    theirs.write_all(&sent[..half]).await.unwrap();
                    if random(&mut state).is_multiple_of(3) {
                        yield_now().await;
                    }
                    theirs.write_all(&sent[half..]).await.unwrap();
                    let mut read = vec![0; length];
                    theirs.read_exact(&mut read).await.unwrap();
                    assert!(read == sent);
                }
            });
            all.push((echo, asks));
        }
        for (echo, asks) in all {
            asks.await.unwrap();
            echo.await.unwrap();
        }
    });
}

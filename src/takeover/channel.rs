//! Owns: the Unix socket between two processes, and the descriptors that travel with its bytes (SCM_RIGHTS, unix(7)).
//! Invariant: only processes of the same user speak; a descriptor that is received is closed at exec.
//! Must not know: what the frames mean.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::frame::{self, Frame, MAX_DESCRIPTORS};

/// Bytes that one read takes.
const READ: usize = 64 * 1024;

/// A connection between two processes.
#[derive(Debug)]
pub struct Channel {
    /// Receives from the other process.
    pub receiver: FrameReceiver,
    /// Sends to it.
    pub sender: FrameSender,
}

/// The receiving half.
#[derive(Debug)]
pub struct FrameReceiver {
    stream: Arc<UnixStream>,
    input: BytesMut,
    descriptors: VecDeque<OwnedFd>,
}

/// The sending half.
#[derive(Debug)]
pub struct FrameSender {
    stream: Arc<UnixStream>,
}

/// Returns whether the process at the other end has this process's user.
///
/// # Errors
/// The error of the system.
pub fn is_same_user(stream: &UnixStream) -> io::Result<bool> {
    Ok(stream.peer_cred()?.uid() == rustix::process::geteuid().as_raw())
}

impl Channel {
    /// Connects to the process that waits at `path`.
    ///
    /// # Errors
    /// The error of the system: `NotFound` or `ConnectionRefused` if nobody waits there. `PermissionDenied` if a process
    /// of another user does.
    pub async fn connect(path: &Path) -> io::Result<Channel> {
        let stream = UnixStream::connect(path).await?;
        if !is_same_user(&stream)? {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "a process of another user waits there"));
        }
        Ok(Channel::new(stream))
    }

    /// Takes over a connection, within the runtime that is to use it.
    pub fn new(stream: UnixStream) -> Channel {
        let stream = Arc::new(stream);
        let receiver =
            FrameReceiver { stream: Arc::clone(&stream), input: BytesMut::new(), descriptors: VecDeque::new() };
        Channel { receiver, sender: FrameSender { stream } }
    }

    /// Moves the connection to the current runtime.
    ///
    /// # Errors
    /// The runtime can't register it.
    pub fn moved(self) -> io::Result<Channel> {
        let Channel { receiver: FrameReceiver { stream, input, descriptors }, sender } = self;
        drop(sender);
        let stream = Arc::into_inner(stream).ok_or_else(|| io::Error::other("the connection is in use"))?;
        let stream = UnixStream::from_std(stream.into_std()?)?;
        let mut channel = Channel::new(stream);
        (channel.receiver.input, channel.receiver.descriptors) = (input, descriptors);
        Ok(channel)
    }
}

impl FrameReceiver {
    /// Receives the next frame; `None` at the end of the connection. A future that is dropped loses nothing.
    ///
    /// # Errors
    /// The error of the system, or the other process does not speak this format.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = frame::take(&mut self.input, &mut self.descriptors)? {
                return Ok(Some(frame));
            }
            let (stream, input, descriptors) = (&self.stream, &mut self.input, &mut self.descriptors);
            let read = stream.async_io(Interest::READABLE, || read(stream, input, descriptors)).await?;
            match read {
                0 if self.input.is_empty() => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                _ => {}
            }
        }
    }
}

fn read(stream: &UnixStream, input: &mut BytesMut, descriptors: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = [0; READ];
    let received = recvmsg(stream.as_fd(), &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    input.extend_from_slice(buffer.get(..received.bytes).unwrap_or_default());
    Ok(received.bytes)
}

impl FrameSender {
    /// Sends a frame.
    ///
    /// # Errors
    /// The error of the system: the other process has ended, for example.
    pub async fn send(&mut self, frame: &Frame) -> io::Result<()> {
        let mut head = frame.head()?;
        // They travel with the first bytes: a receiver has them once it has the frame.
        let sent =
            self.stream.async_io(Interest::WRITABLE, || send_with(&self.stream, &head, &frame.descriptors)).await?;
        head.advance(sent);
        self.send_all(head).await?;
        self.send_all(frame.bytes.clone()).await
    }

    async fn send_all(&mut self, mut bytes: Bytes) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = self.stream.async_io(Interest::WRITABLE, || send_with(&self.stream, &bytes, &[])).await?;
            bytes.advance(sent);
        }
        Ok(())
    }
}

fn send_with(stream: &UnixStream, bytes: &[u8], descriptors: &[OwnedFd]) -> io::Result<usize> {
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("too many descriptors in one message"));
    }
    Ok(sendmsg(stream.as_fd(), &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn descriptors_arrive_with_their_frames_and_mean_the_same_sockets() {
        let (one, other) = UnixStream::pair().unwrap();
        assert!(is_same_user(&one).unwrap());
        let (mut here, mut there) = (Channel::new(one), Channel::new(other));
        let listeners: Vec<_> = (0..150).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        let sending = async {
            let large = Frame::new(7, Bytes::from(vec![b'x'; 1_000_000]), Bytes::from(vec![b'y'; 3_000_000]));
            here.sender.send(&large).await.unwrap();
            let mut listeners = listeners.into_iter().map(OwnedFd::from);
            for _ in 0..3 {
                let descriptors = listeners.by_ref().take(50).collect();
                here.sender.send(&Frame { descriptors, ..Frame::new(8, "{}".into(), Bytes::new()) }).await.unwrap();
                here.sender.send(&Frame::new(9, "{}".into(), Bytes::new())).await.unwrap();
            }
            drop(here);
        };
        let receiving = async {
            let large = there.receiver.next().await.unwrap().unwrap();
            assert_eq!((large.document.len(), large.bytes.len()), (1_000_000, 3_000_000));
            let mut received = Vec::new();
            while let Some(frame) = there.receiver.next().await.unwrap() {
                assert_eq!(frame.descriptors.len(), if frame.kind == 8 { 50 } else { 0 });
                received.extend(frame.descriptors.into_iter().map(TcpListener::from));
            }
            received
        };
        let (received, ()) = tokio::join!(receiving, sending);
        let there: Vec<_> = received.iter().map(|listener| listener.local_addr().unwrap()).collect();
        assert_eq!(there, addresses);
        let _client = TcpStream::connect(addresses[149]).unwrap();
        received[149].accept().unwrap();
    }
}

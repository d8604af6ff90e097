//! Owns: the format of one message: a head of fixed size, a JSON document, bytes, and descriptors.
//! Invariant: lengths are bounded before anything is allocated, and a message of an unknown kind can be skipped.
//! Must not know: what a kind means, or how frames travel.

use std::io;
use std::os::fd::OwnedFd;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The most descriptors of one frame; the kernel allows 253 (`SCM_MAX_FD`).
pub const MAX_DESCRIPTORS: usize = 64;
/// The most bytes of a document, and of the bytes beside it.
const MAX_DOCUMENT: usize = 16 * 1024 * 1024;
const MAX_BYTES: usize = 256 * 1024 * 1024;

/// Kind (2 bytes), descriptors (2), length of the document (4), length of the bytes (4); all big-endian.
const HEAD: usize = 12;

/// One message.
#[derive(Debug)]
pub struct Frame {
    /// What it is; a receiver skips the kinds that it does not know.
    pub kind: u16,
    /// A JSON document; a reader ignores the fields that it does not know.
    pub document: Bytes,
    /// Bytes that would only grow as JSON.
    pub bytes: Bytes,
    /// Descriptors that travel with it, at most [`MAX_DESCRIPTORS`].
    pub descriptors: Vec<OwnedFd>,
}

/// The lengths that a frame's head announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHead {
    kind: u16,
    pub(super) descriptors: usize,
    document: usize,
    bytes: usize,
}

impl Frame {
    /// Makes a frame without descriptors.
    pub fn new(kind: u16, document: Bytes, bytes: Bytes) -> Frame {
        Frame { kind, document, bytes, descriptors: Vec::new() }
    }

    /// Writes the head and the document of a frame with this many descriptors. Its bytes follow as they are.
    ///
    /// # Errors
    /// It is larger than a receiver accepts.
    pub(super) fn head(&self) -> io::Result<Bytes> {
        let too_large = || io::Error::new(io::ErrorKind::InvalidInput, "a message of a takeover is too large");
        if self.document.len() > MAX_DOCUMENT
            || self.bytes.len() > MAX_BYTES
            || self.descriptors.len() > MAX_DESCRIPTORS
        {
            return Err(too_large());
        }
        let length = |length: usize| u32::try_from(length).map_err(|_| too_large());
        let mut head = BytesMut::with_capacity(HEAD + self.document.len());
        head.put_u16(self.kind);
        head.put_u16(u16::try_from(self.descriptors.len()).map_err(|_| too_large())?);
        head.put_u32(length(self.document.len())?);
        head.put_u32(length(self.bytes.len())?);
        head.put_slice(&self.document);
        Ok(head.freeze())
    }
}

impl FrameHead {
    /// Reads a head; `None` if it has not arrived as a whole.
    ///
    /// # Errors
    /// It announces more than any sender sends.
    fn read(input: &[u8]) -> io::Result<Option<FrameHead>> {
        let Some(mut head) = input.get(..HEAD) else { return Ok(None) };
        let (kind, descriptors) = (head.get_u16(), usize::from(head.get_u16()));
        let size = |length: u32| usize::try_from(length).unwrap_or(usize::MAX);
        let (document, bytes) = (size(head.get_u32()), size(head.get_u32()));
        if descriptors > MAX_DESCRIPTORS || document > MAX_DOCUMENT || bytes > MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no message of a takeover is that large"));
        }
        Ok(Some(FrameHead { kind, descriptors, document, bytes }))
    }
}

/// Takes the next whole frame out of what has arrived; its descriptors come from `descriptors`, in their order.
///
/// # Errors
/// What has arrived is no frame, or descriptors are missing.
pub(super) fn take(
    input: &mut BytesMut,
    descriptors: &mut std::collections::VecDeque<OwnedFd>,
) -> io::Result<Option<Frame>> {
    let Some(head) = FrameHead::read(input)? else { return Ok(None) };
    if input.len() < HEAD + head.document + head.bytes {
        return Ok(None);
    }
    if descriptors.len() < head.descriptors {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "descriptors are missing: is the limit of open files too low?",
        ));
    }
    input.advance(HEAD);
    let document = input.split_to(head.document).freeze();
    let bytes = input.split_to(head.bytes).freeze();
    Ok(Some(Frame { kind: head.kind, document, bytes, descriptors: descriptors.drain(..head.descriptors).collect() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn encoded(frames: &[(u16, Vec<u8>, Vec<u8>)]) -> Vec<u8> {
        let encode = |(kind, document, bytes): &(u16, Vec<u8>, Vec<u8>)| {
            let frame = Frame::new(*kind, document.clone().into(), bytes.clone().into());
            [frame.head().unwrap(), frame.bytes].concat()
        };
        frames.iter().flat_map(encode).collect()
    }

    proptest! {
        #[test]
        fn frames_arrive_as_they_were_sent_however_they_are_split(
            frames in proptest::collection::vec((any::<u16>(), proptest::collection::vec(any::<u8>(), 0..50), proptest::collection::vec(any::<u8>(), 0..50)), 0..8),
            step in 1usize..40,
        ) {
            let (mut input, mut received) = (BytesMut::new(), Vec::new());
            for piece in encoded(&frames).chunks(step) {
                input.extend_from_slice(piece);
                while let Some(frame) = take(&mut input, &mut VecDeque::new()).unwrap() {
                    received.push((frame.kind, frame.document.to_vec(), frame.bytes.to_vec()));
                }
            }
            prop_assert_eq!(received, frames);
            prop_assert!(input.is_empty());
        }

        #[test]
        fn no_input_panics_or_makes_it_wait_for_more_than_a_frame_can_have(input in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut input = BytesMut::from(&*input);
            while let Ok(Some(_)) = take(&mut input, &mut VecDeque::new()) {}
            prop_assert!(FrameHead::read(&input).map_or(true, |head| head.is_none_or(|head| head.document <= MAX_DOCUMENT && head.bytes <= MAX_BYTES)));
        }
    }

    #[test]
    fn a_frame_that_is_too_large_is_neither_sent_nor_received() {
        let frame = Frame::new(1, vec![0; MAX_DOCUMENT + 1].into(), Bytes::new());
        assert!(frame.head().is_err());
        let head = [&[0, 1, 0, 0][..], &u32::MAX.to_be_bytes(), &[0; 4]].concat();
        assert!(take(&mut BytesMut::from(&*head), &mut VecDeque::new()).is_err());
        let head = [&[0, 1, 0, 1][..], &[0; 8]].concat();
        assert!(take(&mut BytesMut::from(&*head), &mut VecDeque::new()).is_err(), "its descriptor is missing");
    }
}

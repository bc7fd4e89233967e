//! Frames on a stream: a fixed header and a payload, both bounded before anything is allocated.
//!
//! ```text
//! length u32 | kind u8 | correlation u64 | deadline_ms u32 | trace [16] | payload      (big-endian; length counts from kind)
//! ```
//! A stream begins with the opener's [`Hello`] and the acceptor's one byte of [`Welcome`].

use crate::trace::TraceId;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use consensus::envelope::Federation;

/// Bytes of the header, without the length itself.
const HEADER_BYTES: usize = 1 + 8 + 4 + 16;
/// Bytes of the length.
const LENGTH_BYTES: usize = 4;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum FrameKind {
    /// Wants no answer.
    OneWay = 0,
    /// Wants an answer with the same correlation.
    Request = 1,
    /// The answer.
    Response = 2,
    /// The handler's error, in words.
    Failed = 3,
    /// The peer serves too many requests already.
    Busy = 4,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Frame {
    pub kind: FrameKind,
    /// Names a request on its stream; 0 for one-way frames.
    pub correlation: u64,
    /// Milliseconds the sender will wait, counted by the receiver from receiving; 0 for everything but requests.
    pub deadline_ms: u32,
    pub trace: TraceId,
    pub payload: Bytes,
}

/// Why bytes are no frame. Such a stream is closed: what follows cannot be trusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame of {bytes} bytes is longer than the {bytes_max} allowed")]
    TooLarge { bytes: usize, bytes_max: usize },
    #[error("a frame of {bytes} bytes is shorter than its header")]
    TooShort { bytes: usize },
    #[error("frames of kind {0} are not known")]
    Kind(u8),
    #[error("the stream ended inside a frame")]
    Truncated,
}

impl Frame {
    /// Appends the frame to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        out.reserve(LENGTH_BYTES + HEADER_BYTES + self.payload.len());
        out.put_u32((HEADER_BYTES + self.payload.len()) as u32);
        out.put_u8(self.kind as u8);
        out.put_u64(self.correlation);
        out.put_u32(self.deadline_ms);
        out.put_slice(&self.trace.0);
        out.put_slice(&self.payload);
    }

    /// Takes the first whole frame from `buffer`, or `None` if more bytes are needed.
    pub fn decode(buffer: &mut BytesMut, payload_bytes_max: usize) -> Result<Option<Self>, FrameError> {
        let Some(length) = buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length < HEADER_BYTES {
            return Err(FrameError::TooShort { bytes: length });
        }
        if length - HEADER_BYTES > payload_bytes_max {
            return Err(FrameError::TooLarge { bytes: length - HEADER_BYTES, bytes_max: payload_bytes_max });
        }
        if buffer.len() < LENGTH_BYTES + length {
            buffer.reserve(LENGTH_BYTES + length - buffer.len());
            return Ok(None);
        }
        buffer.advance(LENGTH_BYTES);
        let mut frame = buffer.split_to(length);
        let kind = match frame.get_u8() {
            0 => FrameKind::OneWay,
            1 => FrameKind::Request,
            2 => FrameKind::Response,
            3 => FrameKind::Failed,
            4 => FrameKind::Busy,
            other => return Err(FrameError::Kind(other)),
        };
        let correlation = frame.get_u64();
        let deadline_ms = frame.get_u32();
        let mut trace = TraceId::default();
        frame.copy_to_slice(&mut trace.0);
        Ok(Some(Self { kind, correlation, deadline_ms, trace, payload: frame.freeze() }))
    }
}

/// What the opener of a stream says first: where it belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hello {
    pub federation: Federation,
}

impl Hello {
    pub const BYTES: usize = 1 + 32 + 8;
    const VERSION: u8 = 1;

    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[0] = Self::VERSION;
        out[1..33].copy_from_slice(&self.federation.id);
        out[33..].copy_from_slice(&self.federation.epoch.to_be_bytes());
        out
    }

    /// `None` for another version.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let (&[version], rest) = bytes.split_first_chunk::<1>()?;
        let (id, epoch) = rest.split_first_chunk::<32>()?;
        let epoch = u64::from_be_bytes(epoch.try_into().ok()?);
        (version == Self::VERSION).then_some(Self { federation: Federation { id: *id, epoch } })
    }
}

/// The acceptor's answer to a [`Hello`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Welcome {
    Yes = 1,
    NotAdmitted = 2,
    OtherFederation = 3,
    OlderEpoch = 4,
    Busy = 5,
    Unserved = 6,
}

impl Welcome {
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::Yes, Self::NotAdmitted, Self::OtherFederation, Self::OlderEpoch, Self::Busy, Self::Unserved]
            .into_iter()
            .find(|w| *w as u8 == byte)
    }

    /// In words, for errors and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Yes => "welcome",
            Self::NotAdmitted => "it does not know this node as a member",
            Self::OtherFederation => "it belongs to another federation",
            Self::OlderEpoch => "this node's federation epoch is older",
            Self::Busy => "it serves too many streams of this node",
            Self::Unserved => "it does not serve this class",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload: &'static [u8]) -> Frame {
        Frame {
            kind: FrameKind::Request,
            correlation: 7,
            deadline_ms: 250,
            trace: TraceId([9; 16]),
            payload: Bytes::from_static(payload),
        }
    }

    #[test]
    fn frames_survive_any_cut_of_the_stream() {
        let mut wire = BytesMut::new();
        frame(b"first").encode(&mut wire);
        frame(b"").encode(&mut wire);
        let (mut buffer, mut out) = (BytesMut::new(), Vec::new());
        for byte in wire {
            buffer.put_u8(byte);
            while let Some(frame) = Frame::decode(&mut buffer, 16).expect("valid") {
                out.push(frame);
            }
        }
        assert_eq!(out, [frame(b"first"), frame(b"")]);
        assert!(buffer.is_empty());
    }

    #[test]
    fn bad_frames_are_refused_before_anything_is_allocated() {
        let mut huge = BytesMut::from(&u32::MAX.to_be_bytes()[..]);
        assert!(matches!(Frame::decode(&mut huge, 1 << 20), Err(FrameError::TooLarge { .. })));
        let mut short = BytesMut::from(&3u32.to_be_bytes()[..]);
        assert_eq!(Frame::decode(&mut short, 16), Err(FrameError::TooShort { bytes: 3 }));
        let mut wire = BytesMut::new();
        frame(b"x").encode(&mut wire);
        wire[4] = 99;
        assert_eq!(Frame::decode(&mut wire, 16), Err(FrameError::Kind(99)));
        let mut long = BytesMut::new();
        frame(b"seventeen bytes!!").encode(&mut long);
        assert_eq!(Frame::decode(&mut long, 16), Err(FrameError::TooLarge { bytes: 17, bytes_max: 16 }));
    }

    #[test]
    fn golden_frame_and_hello() {
        let mut wire = BytesMut::new();
        frame(b"hi").encode(&mut wire);
        let hex = data_encoding::HEXLOWER.encode(&wire);
        assert_eq!(hex, "0000001f010000000000000007000000fa090909090909090909090909090909096869");
        let hello = Hello { federation: Federation { id: [3; 32], epoch: 2 } };
        assert_eq!(Hello::from_bytes(&hello.to_bytes()), Some(hello));
        let mut other = hello.to_bytes();
        other[0] = 2;
        assert_eq!(Hello::from_bytes(&other), None);
    }
}

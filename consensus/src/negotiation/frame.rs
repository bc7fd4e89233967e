//! Messages of one tick to one peer as one frame, with one signature over all the statements in it.
//!
//! The signed body lists the SHA-256 of every statement's bytes and whom they are for. So the statement, the list and the
//! signature together prove one offer without showing the others, and a statement cannot be moved to another origin.

use super::message::Message;
use crate::codec::{self, CodecError};
use cpi::ids::{ContentDigest, MemberId};
use serde::{Deserialize, Serialize};

/// The largest frame, in bytes.
pub const FRAME_BYTES_MAX: usize = 256 << 10;
/// A frame is closed once it has so many bytes of messages: one more document and the signature still fit.
const FRAME_BYTES_FULL: usize = 96 << 10;
/// The most messages in one frame.
const MESSAGES_MAX: usize = 512;
const VERSION: u8 = 3;

/// Why a frame was refused.
#[derive(Debug, thiserror::Error)]
pub enum OpenFrameError {
    /// The bytes are no frame, or a message in it is none.
    #[error("the frame is malformed")]
    Codec(#[from] CodecError),
    /// A message breaks its bounds.
    #[error("a message in the frame breaks its bounds")]
    Bounds,
    /// A statement is not covered by the signature, or it is for somebody else.
    #[error("a statement in the frame is not covered by its signature")]
    Unsigned,
    /// The signature does not hold.
    #[error("the frame's signature was refused: {0}")]
    Signature(String),
}

#[derive(Serialize, Deserialize)]
struct Frame {
    messages: Vec<Vec<u8>>,
    envelope: Option<Vec<u8>>,
}

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementBatch {
    /// Whom the statements are for.
    pub to: MemberId,
    /// SHA-256 of each statement's bytes, in the order of the frame.
    pub leaves: Vec<[u8; 32]>,
}

impl StatementBatch {
    /// The bytes to sign.
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(VERSION, self).expect("a batch has only plain fields")
    }

    /// Reads what was signed.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(VERSION, bytes, FRAME_BYTES_MAX)
    }
}

/// Packs messages to `to` into as few frames as fit; `seal` signs a [`StatementBatch`] and returns the envelope's bytes.
pub fn seal_frames(to: MemberId, messages: &[Message], mut seal: impl FnMut(Vec<u8>) -> Vec<u8>) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut frame = Frame { messages: Vec::new(), envelope: None };
    let mut leaves = Vec::new();
    let mut bytes = 0;
    let mut close = |frame: &mut Frame, leaves: &mut Vec<[u8; 32]>| {
        if frame.messages.is_empty() {
            return;
        }
        if !leaves.is_empty() {
            let batch = StatementBatch { to, leaves: std::mem::take(leaves) };
            frame.envelope = Some(seal(batch.to_bytes()));
        }
        let whole = std::mem::replace(frame, Frame { messages: Vec::new(), envelope: None });
        frames.push(codec::encode(VERSION, &whole).expect("a frame has only plain fields"));
    };
    for message in messages {
        let encoded = codec::encode(VERSION, message).expect("messages have only plain fields");
        if bytes > 0 && (bytes + encoded.len() > FRAME_BYTES_FULL || frame.messages.len() >= MESSAGES_MAX) {
            close(&mut frame, &mut leaves);
            bytes = 0;
        }
        bytes += encoded.len() + 40;
        if message.is_statement() {
            leaves.push(ContentDigest::of(&encoded).0);
        }
        frame.messages.push(encoded);
    }
    close(&mut frame, &mut leaves);
    frames
}

/// Opens a frame for `me`. `verify` checks an envelope and returns its body; it is called only if there are statements.
///
/// # Errors
/// [`OpenFrameError`]; nothing of a refused frame is used.
pub fn open_frame(
    me: MemberId,
    bytes: &[u8],
    verify: impl FnOnce(&[u8]) -> Result<Vec<u8>, String>,
) -> Result<Vec<Message>, OpenFrameError> {
    let frame: Frame = codec::decode(VERSION, bytes, FRAME_BYTES_MAX)?;
    if frame.messages.len() > MESSAGES_MAX {
        return Err(OpenFrameError::Bounds);
    }
    let mut messages = Vec::with_capacity(frame.messages.len());
    let mut leaves = Vec::new();
    for encoded in &frame.messages {
        let message: Message = codec::decode(VERSION, encoded, FRAME_BYTES_MAX)?;
        if !message.is_bounded() {
            return Err(OpenFrameError::Bounds);
        }
        if message.is_statement() {
            if message.addressee() != Some(me) {
                return Err(OpenFrameError::Unsigned);
            }
            leaves.push(ContentDigest::of(encoded).0);
        }
        messages.push(message);
    }
    if !leaves.is_empty() {
        let envelope = frame.envelope.as_deref().ok_or(OpenFrameError::Unsigned)?;
        let body = verify(envelope).map_err(OpenFrameError::Signature)?;
        let batch = StatementBatch::from_bytes(&body)?;
        if batch.to != me || batch.leaves != leaves {
            return Err(OpenFrameError::Unsigned);
        }
    }
    Ok(messages)
}

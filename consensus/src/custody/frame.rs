//! Messages of one tick to one custodian as frames: a version, a bound, and nothing that breaks its own bounds.

use super::message::Message;
use crate::codec::{self, CodecError};
use cpi::ids::MemberId;

/// The largest frame, in bytes: a document, a need and the list of a thousand result files fit.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// A frame is closed once it has so many bytes of messages.
const FRAME_BYTES_FULL: usize = 192 << 10;
/// The most messages in one frame.
const MESSAGES_MAX: usize = 512;
const VERSION: u8 = 1;

/// Why a frame was refused.
#[derive(Debug, thiserror::Error)]
pub enum OpenFrameError {
    /// The bytes are no frame.
    #[error("the custody frame is malformed")]
    Codec(#[from] CodecError),
    /// A message breaks its bounds, or speaks for another member.
    #[error("message {index} of the custody frame breaks its bounds: expected what m{} may say", .from.0)]
    Bounds {
        /// Which.
        index: usize,
        /// Who sent it.
        from: MemberId,
    },
}

/// Packs messages into as few frames as fit.
pub fn seal_frames(messages: &[Message]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut batch: Vec<Vec<u8>> = Vec::new();
    let mut bytes = 0;
    let close = |batch: &mut Vec<Vec<u8>>| codec::encode(VERSION, &std::mem::take(batch)).expect("plain bytes");
    for message in messages {
        let encoded = codec::encode(VERSION, message).expect("messages have only plain fields");
        if !batch.is_empty() && (bytes + encoded.len() > FRAME_BYTES_FULL || batch.len() >= MESSAGES_MAX) {
            frames.push(close(&mut batch));
            bytes = 0;
        }
        bytes += encoded.len();
        batch.push(encoded);
    }
    if !batch.is_empty() {
        frames.push(close(&mut batch));
    }
    frames
}

/// Opens a frame of `from`.
///
/// # Errors
/// [`OpenFrameError`]; nothing of a refused frame is used.
pub fn open_frame(from: MemberId, bytes: &[u8]) -> Result<Vec<Message>, OpenFrameError> {
    let batch: Vec<Vec<u8>> = codec::decode(VERSION, bytes, FRAME_BYTES_MAX)?;
    let mut messages = Vec::with_capacity(batch.len().min(MESSAGES_MAX));
    for (index, encoded) in batch.iter().enumerate() {
        let message: Message = codec::decode(VERSION, encoded, FRAME_BYTES_MAX)?;
        if index >= MESSAGES_MAX || !message.is_bounded(from) {
            return Err(OpenFrameError::Bounds { index, from });
        }
        messages.push(message);
    }
    Ok(messages)
}

//! How a content crosses the mesh: a header that asks, a short answer, and the rest of the bytes.

use consensus::codec;
use cpi::ids::{ContentDigest, TaskId};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// What the header of every artifact stream begins with, among the bulk streams of a node.
pub(super) const TAG: &[u8] = b"artifact";
const VERSION: u8 = 1;
const HEADER_BYTES_MAX: usize = 256;

/// Whether a bulk stream asks for an artifact.
pub fn is_artifact_header(header: &[u8]) -> bool {
    header.starts_with(TAG)
}

/// Asks for a content from `offset` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ask {
    /// The task that gives the right to it.
    pub task: TaskId,
    pub digest: ContentDigest,
    /// What the asker has already.
    pub offset: u64,
}

impl Ask {
    pub fn to_header(self) -> bytes::Bytes {
        let mut header = TAG.to_vec();
        header.extend(codec::encode(VERSION, &self).expect("an ask has only plain fields"));
        header.into()
    }

    pub fn from_header(header: &[u8]) -> Result<Self, codec::CodecError> {
        codec::decode(VERSION, header.strip_prefix(TAG).unwrap_or_default(), HEADER_BYTES_MAX)
    }
}

/// The first bytes of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The content has this length; its bytes from the asked offset follow.
    Here { size_bytes: u64 },
    /// It is not here.
    Missing,
    /// The asker takes part in no task that names it.
    Denied,
}

impl Answer {
    pub async fn write(self, to: &mut (impl AsyncWrite + Unpin + ?Sized)) -> std::io::Result<()> {
        let (code, size) = match self {
            Self::Here { size_bytes } => (0, size_bytes),
            Self::Missing => (1, 0),
            Self::Denied => (2, 0),
        };
        let mut bytes = [code; 9];
        bytes[1..].copy_from_slice(&size.to_be_bytes());
        to.write_all(&bytes).await
    }

    pub async fn read(from: &mut (impl AsyncRead + Unpin + ?Sized)) -> std::io::Result<Self> {
        let mut bytes = [0; 9];
        from.read_exact(&mut bytes).await?;
        let [code, size @ ..] = bytes;
        match code {
            0 => Ok(Self::Here { size_bytes: u64::from_be_bytes(size) }),
            1 => Ok(Self::Missing),
            2 => Ok(Self::Denied),
            other => Err(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                format!("answer {other} is not known: expected 0, 1 or 2"),
            )),
        }
    }
}

//! Snapshots on their way: a folder sent file by file in pieces, each bounded, under a deadline per piece.

use super::transport::{RaftClass, RaftTransport, TransportError};
use super::types::SnapshotMeta;
use super::wire::{self, Answer, Question, WireProgress, WireVote};
use crate::store::{Checkpoint, StateDb};
use bytes::Bytes;
use cpi::ids::MemberId;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

/// Bytes of one piece.
pub(super) const PIECE_BYTES: usize = 512 << 10;
/// Progress must be made within this time.
pub(super) const PIECE_DEADLINE: Duration = Duration::from_secs(15);
/// Files of one snapshot.
const FILES_MAX: usize = 4096;
/// Bytes of one snapshot, as it is announced: a billion revisions are less.
const SNAPSHOT_BYTES_MAX: u64 = 1 << 40;

/// Sends `snapshot` to a member's replica of a Raft id; the receiver installs it and answers with its vote.
pub async fn send(
    transport: &dyn RaftTransport,
    (to, raft_id): (MemberId, u64),
    vote: WireVote,
    meta: &SnapshotMeta,
    snapshot: &Checkpoint,
) -> Result<WireVote, TransportError> {
    let local = |error: io::Error| TransportError::Refused { member: to, message: error.to_string() };
    let files: Vec<(String, u64)> =
        snapshot.files().map_err(local)?.into_iter().map(|file| (file.name, file.size_bytes)).collect();
    let begin = Question::SnapshotBegin { to: raft_id, vote, progress: WireProgress::of(meta), files: files.clone() };
    ask(transport, to, &begin).await?;
    for (number, (name, size)) in files.iter().enumerate() {
        let mut file = File::open(snapshot.path.join(name)).map_err(local)?;
        let mut offset = 0;
        while offset < *size {
            let mut piece = vec![0; PIECE_BYTES.min((size - offset) as usize)];
            file.read_exact(&mut piece).map_err(local)?;
            let length = piece.len() as u64;
            ask(transport, to, &Question::SnapshotChunk { file: number as u32, offset, bytes: piece.into() }).await?;
            offset += length;
        }
    }
    match ask(transport, to, &Question::SnapshotEnd).await? {
        Answer::Snapshot { vote } => Ok(vote),
        _ => Err(TransportError::Refused { member: to, message: "an unexpected answer".to_owned() }),
    }
}

/// Bytes of a file from `offset` on.
pub(super) fn read_piece(path: &std::path::Path, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(io::SeekFrom::Start(offset))?;
    let mut piece = vec![0; length];
    file.read_exact(&mut piece)?;
    Ok(piece)
}

async fn ask(transport: &dyn RaftTransport, to: MemberId, question: &Question) -> Result<Answer, TransportError> {
    let bytes = transport.call(to, RaftClass::Snapshot, wire::encode_frame(question).into(), PIECE_DEADLINE).await?;
    match wire::decode_frame(&bytes) {
        Ok(Answer::Failed(message)) => Err(TransportError::Refused { member: to, message }),
        Ok(answer) => Ok(answer),
        Err(error) => Err(TransportError::Refused { member: to, message: error.to_string() }),
    }
}

/// A snapshot that comes in.
pub struct Incoming {
    pub from: MemberId,
    pub vote: WireVote,
    progress: WireProgress,
    folder: PathBuf,
    files: Vec<(String, u64)>,
    written: Vec<u64>,
    open: Option<(u32, File)>,
}

impl Incoming {
    pub fn begin(
        state: &StateDb,
        from: MemberId,
        vote: WireVote,
        progress: WireProgress,
        files: Vec<(String, u64)>,
    ) -> io::Result<Self> {
        let plain = |name: &str| {
            !name.is_empty() && name.len() <= 64 && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
        };
        if files.len() > FILES_MAX || !files.iter().all(|(name, _)| plain(name)) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the snapshot's list of files is not plain"));
        }
        let bytes = files.iter().try_fold(0u64, |sum, (_, size)| sum.checked_add(*size));
        if bytes.is_none_or(|bytes| bytes > SNAPSHOT_BYTES_MAX) {
            let wrong = format!("the snapshot is announced with more than {SNAPSHOT_BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, wrong));
        }
        let folder = state.begin_incoming()?;
        let written = vec![0; files.len()];
        for (name, _) in &files {
            File::create_new(folder.join(name))?;
        }
        Ok(Self { from, vote, progress, folder, files, written, open: None })
    }

    pub fn write(&mut self, file: u32, offset: u64, bytes: &Bytes) -> io::Result<()> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
        let (name, size) = self.files.get(file as usize).ok_or_else(|| wrong("no such file in the snapshot"))?;
        let written = &mut self.written[file as usize];
        if offset != *written || offset + bytes.len() as u64 > *size {
            return Err(wrong("a piece of the snapshot is out of order or too long"));
        }
        if self.open.as_ref().is_none_or(|(number, _)| *number != file) {
            let mut target = File::options().write(true).open(self.folder.join(name))?;
            target.seek(io::SeekFrom::Start(offset))?;
            self.open = Some((file, target));
        }
        let (_, target) = self.open.as_mut().expect("opened above");
        target.write_all(bytes)?;
        *written += bytes.len() as u64;
        Ok(())
    }

    pub fn finish(mut self) -> io::Result<(SnapshotMeta, Checkpoint)> {
        self.open = None;
        if self.files.iter().zip(&self.written).any(|((_, size), written)| size != written) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the snapshot is not complete"));
        }
        Ok((self.progress.meta()?, Checkpoint { path: self.folder }))
    }
}

//! The files that a run left, read without ever following a link: the run may have planted one to a file that is not its.

use crate::contract::{OutputFound, RunOutput};
use cpi::ids::ContentDigest;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use sha2::Digest as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::path::Path;

/// Finds and hashes `wanted` in `work`; the second list names those that are missing and not optional, with the reason.
pub(crate) fn collect(work: &Path, wanted: &[RunOutput]) -> (Vec<OutputFound>, Vec<String>) {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for output in wanted {
        match read(work, &output.path) {
            Ok((digest, size_bytes)) => found.push(OutputFound {
                path: output.path.clone(),
                source: work.join(&output.path),
                digest,
                size_bytes,
            }),
            Err(_) if output.optional => {}
            Err(error) => missing.push(format!("{}: {error}", output.path)),
        }
    }
    (found, missing)
}

fn read(work: &Path, path: &str) -> io::Result<(ContentDigest, u64)> {
    let folder = File::open(work)?;
    // without O_NONBLOCK the open of a planted FIFO would wait for a writer
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let mut file = File::from(openat2(folder.as_fd(), path, how)?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut hash = sha2::Sha256::new();
    let mut chunk = vec![0; 128 << 10];
    let mut size = 0;
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok((ContentDigest(hash.finalize().into()), size)),
            count => {
                hash.update(&chunk[..count]);
                size += count as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_pipes_are_no_outputs() {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("work");
        std::fs::create_dir_all(work.join("deep")).unwrap();
        std::fs::write(dir.path().join("secret"), "key").unwrap();
        std::fs::write(work.join("deep/ok"), "fine").unwrap();
        std::os::unix::fs::symlink("../secret", work.join("link")).unwrap();
        std::os::unix::fs::symlink("..", work.join("up")).unwrap();
        nix::unistd::mkfifo(&work.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let want = |path: &str| RunOutput { path: path.to_owned(), optional: false };
        let wanted = ["deep/ok", "link", "up/secret", "fifo", "deep", "none"].map(want);
        let (found, missing) = collect(&work, &wanted);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].digest, ContentDigest::of(b"fine"));
        assert_eq!(missing.len(), 5, "{missing:?}");
    }
}

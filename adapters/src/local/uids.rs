//! User ids for runs: a range that no other node of this machine uses, and one id of it per run.

use super::config::UidRange;
use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Where nodes of one machine say which range is theirs. Empty after a boot, and so are the ranges.
const CLAIMS_DIR: &str = "/run/causeway/uids";
const FIRST: u32 = 2_000_000_000;
const RANGE: u32 = 65_536;
const RANGES: u32 = 30_000;
/// A user and group that belongs to nobody.
const NOBODY: u32 = 65_534;

/// Claims a range for the node whose runs lie in `runs_dir`: the one it had before, else a free one.
pub(crate) fn claim(runs_dir: &Path) -> io::Result<UidRange> {
    claim_in(Path::new(CLAIMS_DIR), runs_dir)
}

fn claim_in(claims: &Path, runs_dir: &Path) -> io::Result<UidRange> {
    std::fs::create_dir_all(claims)?;
    std::fs::set_permissions(claims, std::fs::Permissions::from_mode(0o700))?;
    let owner = std::fs::canonicalize(runs_dir)?;
    let start = spread(owner.as_os_str().as_encoded_bytes()) % RANGES;
    for step in 0..RANGES {
        let slot = (start + step) % RANGES;
        let range = UidRange { first: FIRST + slot * RANGE, count: RANGE };
        let claim = claims.join(slot.to_string());
        // the name is linked only once the content is there, so that nobody reads an empty claim
        let draft = claims.join(format!(".{slot}.{}", std::process::id()));
        let mut file = std::fs::File::create(&draft)?;
        file.write_all(owner.as_os_str().as_encoded_bytes())?;
        drop(file);
        let linked = std::fs::hard_link(&draft, &claim);
        std::fs::remove_file(&draft)?;
        match linked {
            Ok(()) => return Ok(range),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let holder = std::fs::read(&claim).unwrap_or_default();
        if holder == owner.as_os_str().as_encoded_bytes() {
            return Ok(range);
        }
        if holder.is_empty() {
            continue;
        }
        let holder = PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&holder));
        if !holder.exists() {
            // its node was removed from the machine; the next round takes it if nobody else does
            std::fs::remove_file(&claim)?;
            if std::fs::write(&claim, owner.as_os_str().as_encoded_bytes()).is_ok() {
                return Ok(range);
            }
        }
    }
    Err(io::Error::other(format!("all {RANGES} ranges of user ids are claimed in {}", claims.display())))
}

fn spread(bytes: &[u8]) -> u32 {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(bytes);
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

/// The ids in use.
#[derive(Debug)]
pub(crate) struct UidPool {
    range: UidRange,
    taken: BTreeSet<u32>,
    next: u32,
}

impl UidPool {
    pub fn new(range: UidRange) -> Self {
        Self { range, taken: BTreeSet::new(), next: 0 }
    }

    /// A free id; `None` where all are taken. Ids go round, so that one is not used again soon.
    pub fn take(&mut self) -> Option<u32> {
        for _ in 0..self.range.count {
            let uid = self.range.first + self.next;
            self.next = (self.next + 1) % self.range.count;
            if uid != 0 && uid != NOBODY && self.taken.insert(uid) {
                return Some(uid);
            }
        }
        None
    }

    /// Notes that a run of an earlier process has `uid`.
    pub fn note(&mut self, uid: u32) {
        self.taken.insert(uid);
    }

    pub fn free(&mut self, uid: u32) {
        self.taken.remove(&uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_nodes_never_share_a_range_and_one_keeps_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (claims, a, b) = (dir.path().join("claims"), dir.path().join("a"), dir.path().join("b"));
        std::fs::create_dir(&a).unwrap();
        std::fs::create_dir(&b).unwrap();
        let first = claim_in(&claims, &a).unwrap();
        let second = claim_in(&claims, &b).unwrap();
        assert_ne!(first, second);
        assert_eq!(claim_in(&claims, &a).unwrap(), first);
        assert_eq!(claim_in(&claims, &b).unwrap(), second);
    }

    #[test]
    fn ids_are_unique_while_taken() {
        let mut pool = UidPool::new(UidRange { first: 10, count: 3 });
        assert_eq!([pool.take(), pool.take(), pool.take(), pool.take()], [Some(10), Some(11), Some(12), None]);
        pool.free(11);
        assert_eq!(pool.take(), Some(11));
    }
}

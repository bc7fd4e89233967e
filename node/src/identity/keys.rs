//! The key files: PKCS#8 PEM, 0600 in a folder of 0700; refused if anybody else can read them.

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _};
use ed25519_dalek::{Signature, Signer as _, SigningKey};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const TRANSPORT: &str = "transport.key";
const SIGNING: &str = "signing.key";
/// A PEM file of one ed25519 key has about 120 bytes.
const FILE_BYTES_MAX: u64 = 4096;

/// Why the keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Others than the owner may read or write it.
    #[error("{path} has mode {mode:03o}: only its owner may have access. Run: chmod {wanted:o} {path}", path = path.display())]
    Exposed {
        /// The file or folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        wanted: u32,
    },
    /// It belongs to somebody else.
    #[error("{path} belongs to user {owner}, not to the user of this process", path = path.display())]
    Owner {
        /// The file or folder.
        path: PathBuf,
        /// The owner's user id.
        owner: u32,
    },
    /// One of the two is missing.
    #[error("{path} is missing though its folder exists: restore it, or remove the data folder and join again", path = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file holds no ed25519 key.
    #[error("{path} holds no ed25519 private key in PKCS#8 PEM", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{path} cannot be {verb}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        verb: &'static str,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

/// Both keys of a node.
pub struct Identity {
    transport: SigningKey,
    signing: SigningKey,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hex = |key: &[u8; 32]| data_encoding::HEXLOWER.encode(key);
        f.debug_struct("Identity")
            .field("transport_key", &hex(&self.transport_key()))
            .field("signing_key", &hex(&self.signing.verifying_key().to_bytes()))
            .finish()
    }
}

impl Identity {
    /// Keys from the system's randomness, on no disk.
    pub fn generate() -> Self {
        Self { transport: random_key(), signing: random_key() }
    }

    /// Reads the keys in `folder`; makes the folder and both keys if it does not exist.
    ///
    /// The folder appears whole or not at all: a crash leaves no half an identity.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn load_or_create(folder: &Path) -> Result<Self, IdentityError> {
        if !folder.try_exists().map_err(io(folder, "looked at"))? {
            Self::generate().store(folder)?;
        }
        Self::load(folder)
    }

    /// Reads the keys in `folder`.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn load(folder: &Path) -> Result<Self, IdentityError> {
        let metadata = fs::metadata(folder).map_err(io(folder, "read"))?;
        check_private(folder, &metadata, 0o700)?;
        Ok(Self { transport: read_key(&folder.join(TRANSPORT))?, signing: read_key(&folder.join(SIGNING))? })
    }

    fn store(&self, folder: &Path) -> Result<(), IdentityError> {
        let parent = folder.parent().unwrap_or(Path::new("."));
        let draft = folder.with_extension("new");
        if draft.try_exists().map_err(io(&draft, "looked at"))? {
            fs::remove_dir_all(&draft).map_err(io(&draft, "removed"))?;
        }
        DirBuilder::new().mode(0o700).create(&draft).map_err(io(&draft, "created"))?;
        write_key(&draft.join(TRANSPORT), &self.transport)?;
        write_key(&draft.join(SIGNING), &self.signing)?;
        sync_folder(&draft)?;
        fs::rename(&draft, folder).map_err(io(folder, "created"))?;
        sync_folder(parent)
    }

    /// The secret that the mesh is started with.
    pub fn transport_seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.transport.to_bytes())
    }

    /// The public transport key.
    pub fn transport_key(&self) -> [u8; 32] {
        self.transport.verifying_key().to_bytes()
    }

    /// Signs with the transport key, to prove that it is held. Statements are signed with [`Self::signing_key`].
    pub fn prove_transport(&self, message: &[u8]) -> Signature {
        self.transport.sign(message)
    }

    /// The key that signs statements.
    pub fn signing_key(&self) -> &SigningKey {
        &self.signing
    }

    /// The public signing key.
    pub fn signing_public(&self) -> [u8; 32] {
        self.signing.verifying_key().to_bytes()
    }
}

fn random_key() -> SigningKey {
    let seed: Zeroizing<[u8; 32]> = Zeroizing::new(rand::random());
    SigningKey::from_bytes(&seed)
}

fn io(path: &Path, verb: &'static str) -> impl FnOnce(std::io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::Io { path, verb, source }
}

fn check_private(path: &Path, metadata: &fs::Metadata, wanted: u32) -> Result<(), IdentityError> {
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed { path: path.to_owned(), mode, wanted });
    }
    if metadata.uid() != nix::unistd::geteuid().as_raw() {
        return Err(IdentityError::Owner { path: path.to_owned(), owner: metadata.uid() });
    }
    Ok(())
}

fn read_key(path: &Path) -> Result<SigningKey, IdentityError> {
    let file = match OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(IdentityError::Missing { path: path.to_owned() });
        }
        opened => opened.map_err(io(path, "read"))?,
    };
    check_private(path, &file.metadata().map_err(io(path, "read"))?, 0o600)?;
    let mut text = Zeroizing::new(String::new());
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(io(path, "read"))?;
    SigningKey::from_pkcs8_pem(&text).map_err(|_| IdentityError::Malformed { path: path.to_owned() })
}

fn write_key(path: &Path, key: &SigningKey) -> Result<(), IdentityError> {
    let text = key.to_pkcs8_pem(LineEnding::LF).map_err(|_| IdentityError::Malformed { path: path.to_owned() })?;
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io(path, "created"))?;
    file.write_all(text.as_bytes()).map_err(io(path, "written"))?;
    file.sync_all().map_err(io(path, "written"))
}

fn sync_folder(folder: &Path) -> Result<(), IdentityError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io(folder, "written"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn keys_are_made_once_and_private() {
        let data = tempfile::tempdir().expect("a folder");
        let folder = data.path().join("keys");
        let first = Identity::load_or_create(&folder).expect("made");
        let again = Identity::load_or_create(&folder).expect("read");
        assert_eq!(first.transport_key(), again.transport_key());
        assert_eq!(first.signing_public(), again.signing_public());
        assert_ne!(first.transport_key(), first.signing_public());
        let mode = |path: &Path| fs::metadata(path).expect("exists").mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&folder.join(TRANSPORT)), 0o600);
        assert_eq!(mode(&folder.join(SIGNING)), 0o600);
        assert!(!format!("{first:?}").contains(&data_encoding::HEXLOWER.encode(&*first.transport_seed())));
    }

    #[test]
    fn readable_keys_are_refused() {
        let data = tempfile::tempdir().expect("a folder");
        let folder = data.path().join("keys");
        Identity::load_or_create(&folder).expect("made");
        let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
        chmod(&folder.join(SIGNING), 0o640);
        let refused = Identity::load_or_create(&folder).expect_err("refused").to_string();
        assert!(refused.contains("signing.key has mode 640") && refused.contains("chmod 600"), "{refused}");
        chmod(&folder.join(SIGNING), 0o600);
        chmod(&folder, 0o755);
        let refused = Identity::load_or_create(&folder).expect_err("refused").to_string();
        assert!(refused.contains("mode 755") && refused.contains("chmod 700"), "{refused}");
    }

    #[test]
    fn broken_and_missing_keys_are_named() {
        let data = tempfile::tempdir().expect("a folder");
        let folder = data.path().join("keys");
        Identity::load_or_create(&folder).expect("made");
        fs::write(folder.join(SIGNING), "no key").expect("ours");
        let refused = Identity::load_or_create(&folder).expect_err("refused");
        assert!(matches!(refused, IdentityError::Malformed { .. }), "{refused}");
        fs::remove_file(folder.join(SIGNING)).expect("ours");
        let refused = Identity::load_or_create(&folder).expect_err("no new key in place of a lost one");
        assert!(matches!(refused, IdentityError::Missing { .. }), "{refused}");
    }

    #[test]
    fn a_crash_while_keys_are_made_leaves_nothing_half() {
        let data = tempfile::tempdir().expect("a folder");
        let folder = data.path().join("keys");
        fs::create_dir(data.path().join("keys.new")).expect("ours");
        fs::write(data.path().join("keys.new").join(TRANSPORT), "half").expect("ours");
        Identity::load_or_create(&folder).expect("made anew");
    }
}

//! The node's API key: made at first start, kept in a file that only its owner can read, compared in constant time.
//!
//! In memory there is only its SHA-256. Whoever holds the key is the node's operator; finer rights come with users.

use sha2::{Digest as _, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// Begins every key, so that a leaked one is recognised by scanners.
const PREFIX: &str = "cwk_";

/// Why the key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeyError {
    /// The file cannot be read or made.
    #[error("the API key file {} cannot be used", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// Others may read it.
    #[error("the API key file {} may be read by others (mode {mode:o}): run `chmod 600 {}`", path.display(), path.display())]
    Permissions {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It does not hold a key.
    #[error("the API key file {} does not hold a key: remove it, and the next start makes a new one", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
    },
}

/// What is kept of the key.
#[derive(Clone)]
pub struct ApiKey {
    hash: [u8; 32],
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

impl ApiKey {
    /// Reads the key's file, or makes it with a new key and mode 0600.
    ///
    /// # Errors
    /// [`ApiKeyError`]; a file that others may read is refused.
    pub fn open_or_create(path: &Path) -> Result<Self, ApiKeyError> {
        let io = |source| ApiKeyError::Io { path: path.to_owned(), source };
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(mut file) => {
                let key = Self::generate();
                file.write_all(format!("{}\n", *key).as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
                if let Some(Ok(folder)) = path.parent().map(File::open) {
                    folder.sync_all().map_err(io)?;
                }
                Ok(Self::of(&key))
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(Self::of(&read_key(path)?)),
            Err(error) => Err(io(error)),
        }
    }

    /// The key that accepts `text`.
    pub fn of(text: &str) -> Self {
        Self { hash: Sha256::digest(text.as_bytes()).into() }
    }

    /// A new key's text: 256 random bits.
    fn generate() -> Zeroizing<String> {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        rand::fill(&mut *bytes);
        Zeroizing::new(format!("{PREFIX}{}", data_encoding::BASE64URL_NOPAD.encode(&*bytes)))
    }

    /// Whether an `Authorization` header carries this key. Takes the same time whatever it carries.
    pub fn accepts(&self, authorization: Option<&[u8]>) -> bool {
        let token = match authorization {
            Some(header) if header.len() > 7 && header[..7].eq_ignore_ascii_case(b"bearer ") => &header[7..],
            _ => return false,
        };
        let hash: [u8; 32] = Sha256::digest(token).into();
        hash.ct_eq(&self.hash).into()
    }
}

/// Reads a key for use by a client, with the same checks as the node.
///
/// # Errors
/// [`ApiKeyError`] if it cannot be read, others may read it, or it holds no key.
pub fn read_key(path: &Path) -> Result<Zeroizing<String>, ApiKeyError> {
    let io = |source| ApiKeyError::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(ApiKeyError::Permissions { path: path.to_owned(), mode });
    }
    if metadata.size() > 1024 {
        return Err(ApiKeyError::Malformed { path: path.to_owned() });
    }
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text).map_err(io)?;
    let key = text.trim();
    if key.strip_prefix(PREFIX).is_none_or(|rest| rest.len() < 32) {
        return Err(ApiKeyError::Malformed { path: path.to_owned() });
    }
    Ok(Zeroizing::new(key.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_may_read_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("api.key");
        let made = ApiKey::open_or_create(&path).expect("makes it");
        let text = read_key(&path).expect("reads it");
        assert_eq!(std::fs::metadata(&path).expect("exists").permissions().mode() & 0o777, 0o600);
        assert!(made.accepts(Some(format!("Bearer {}", *text).as_bytes())));
        let again = ApiKey::open_or_create(&path).expect("reads it");
        assert!(again.accepts(Some(format!("bearer {}", *text).as_bytes())));
    }

    #[test]
    fn other_tokens_are_refused() {
        let key = ApiKey::of("cwk_right");
        for header in ["", "Bearer ", "Bearer cwk_wrong", "Basic cwk_right", "cwk_right", "Bearer cwk_right "] {
            assert!(!key.accepts(Some(header.as_bytes())), "{header:?}");
        }
        assert!(!key.accepts(None));
        assert!(key.accepts(Some(b"Bearer cwk_right")));
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("api.key");
        ApiKey::open_or_create(&path).expect("makes it");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("sets");
        assert!(matches!(ApiKey::open_or_create(&path), Err(ApiKeyError::Permissions { mode: 0o644, .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("sets");
        std::fs::write(&path, "hello").expect("writes");
        assert!(matches!(ApiKey::open_or_create(&path), Err(ApiKeyError::Malformed { .. })));
    }
}

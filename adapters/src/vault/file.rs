//! The vault's two files. Written whole, to a new name, synced, then renamed.

use super::Secret;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use zeroize::Zeroizing;

/// Begins the file, and is authenticated with it: kind and format version.
const MAGIC: &[u8; 8] = b"CWVAULT1";
const NONCE_BYTES: usize = 24;
const KEY_BYTES: usize = 32;
/// The largest vault that is read, and so the largest that is written.
const FILE_BYTES_MAX: u64 = if cfg!(test) { 256 << 10 } else { 4 << 20 };
/// The longest secret: what one call of a plugin carries in all. A token or a client certificate with its key fits; of a
/// kubeconfig, take the parts.
pub const SECRET_BYTES_MAX: usize = 8 << 10;
const NAME_BYTES_MAX: usize = 128;

/// Why a vault cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenVaultError {
    /// A file cannot be read or made.
    #[error("{path} cannot be used")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others may read the key.
    #[error("{path} can be read by others (mode {mode:o}); expected 600: chmod 600 it, and replace what it protected")]
    KeyMode {
        /// The key file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The key file is not a key.
    #[error("{path} is no key of a vault: expected {KEY_BYTES} bytes")]
    Key {
        /// The key file.
        path: PathBuf,
    },
    /// Another key, or another content.
    #[error("{path} does not open with this key, or was changed: restore both files from one backup")]
    Sealed {
        /// The vault.
        path: PathBuf,
    },
}

/// Why a secret cannot be put into the vault.
#[derive(Debug, thiserror::Error)]
pub enum WriteVaultError {
    /// A name that is no name.
    #[error("name {name:?}: expected 1 to {NAME_BYTES_MAX} of a-z, 0-9, '-', '_', '.', '/'")]
    Name {
        /// What was given.
        name: String,
    },
    /// Too long a secret.
    #[error("the secret has {bytes} bytes: expected 1 to {SECRET_BYTES_MAX}, as much as one call of a plugin carries")]
    Length {
        /// What was given.
        bytes: usize,
    },
    /// Too much in all.
    #[error("the vault would have {bytes} bytes: expected at most {FILE_BYTES_MAX}; remove secrets that nothing uses")]
    Full {
        /// The file's size with the change.
        bytes: usize,
    },
    /// Another process changed the vault to something that this one cannot read.
    #[error(transparent)]
    Open(#[from] OpenVaultError),
    /// The disk.
    #[error("the vault {path} cannot be written")]
    File {
        /// The vault.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Whether a secret may be called so.
pub fn is_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_./".contains(c);
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(good)
}

/// An open vault. Secrets are looked up each time, and the file is read again when another process replaced it, so that a
/// new secret is used with the next call.
pub struct Vault {
    path: PathBuf,
    /// Held by whoever changes the vault.
    key_path: PathBuf,
    cipher: XChaCha20Poly1305,
    held: Mutex<Held>,
}

/// What was read, and of which file.
#[derive(Default)]
struct Held {
    secrets: BTreeMap<String, Secret>,
    of: Option<FileMark>,
}

/// Tells a file from the one that replaced it: inode, seconds and nanoseconds of its change, length.
type FileMark = (u64, i64, i64, u64);

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Vault {
    /// Opens the vault at `path` with the key at `key_path`; makes both where neither is there.
    ///
    /// # Errors
    /// [`OpenVaultError`]; a missing key beside a vault that is there is one.
    pub fn open(path: &Path, key_path: &Path) -> Result<Self, OpenVaultError> {
        let in_file = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenVaultError::File { path, source }
        };
        let key = match read_key(key_path) {
            Err(OpenVaultError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound && !path.exists() => {
                let key = Zeroizing::new(rand::random::<[u8; KEY_BYTES]>());
                replace(key_path, &*key).map_err(in_file(key_path))?;
                key
            }
            read => read?,
        };
        let cipher = XChaCha20Poly1305::new(Key::from_slice(&*key));
        let held = read(path, &cipher)?;
        Ok(Self { path: path.to_owned(), key_path: key_path.to_owned(), cipher, held: Mutex::new(held) })
    }

    /// The secret `name`.
    pub fn get(&self, name: &str) -> Option<Secret> {
        self.lock().secrets.get(name).cloned()
    }

    /// The names of all secrets.
    pub fn names(&self) -> Vec<String> {
        self.lock().secrets.keys().cloned().collect()
    }

    /// Puts a secret in, in place of what had its name.
    ///
    /// # Errors
    /// [`WriteVaultError`]; the vault is as before then.
    pub fn put(&self, name: &str, secret: Secret) -> Result<(), WriteVaultError> {
        if !is_name(name) {
            return Err(WriteVaultError::Name { name: name.chars().take(NAME_BYTES_MAX).collect() });
        }
        let bytes = secret.expose().len();
        if bytes == 0 || bytes > SECRET_BYTES_MAX {
            return Err(WriteVaultError::Length { bytes });
        }
        self.change(|secrets| {
            secrets.insert(name.to_owned(), secret);
        })
    }

    /// Takes a secret out; false if there was none.
    ///
    /// # Errors
    /// [`WriteVaultError`]; the vault is as before then.
    pub fn remove(&self, name: &str) -> Result<bool, WriteVaultError> {
        let mut there = false;
        self.change(|secrets| there = secrets.remove(name).is_some())?;
        Ok(there)
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Secret>)) -> Result<(), WriteVaultError> {
        let in_file = |source| WriteVaultError::File { path: self.path.clone(), source };
        // whoever else changes it, in this process or another, waits
        let key = File::open(&self.key_path).map_err(in_file)?;
        key.lock().map_err(in_file)?;
        let mut held = self.lock_as_it_is();
        if mark(&self.path) != held.of {
            *held = read(&self.path, &self.cipher)?;
        }
        let mut changed = held.secrets.clone();
        change(&mut changed);
        let sealed = seal(&self.cipher, &changed);
        if sealed.len() as u64 > FILE_BYTES_MAX {
            return Err(WriteVaultError::Full { bytes: sealed.len() });
        }
        replace(&self.path, &sealed).map_err(in_file)?;
        *held = Held { secrets: changed, of: mark(&self.path) };
        Ok(())
    }

    /// What the vault has now.
    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        let mut held = self.lock_as_it_is();
        let now = mark(&self.path);
        if now != held.of {
            match read(&self.path, &self.cipher) {
                Ok(newer) => *held = newer,
                Err(error) => {
                    tracing::error!(%error, "the vault was changed and cannot be read: what it had before is used on");
                    held.of = now;
                }
            }
        }
        held
    }

    fn lock_as_it_is(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn mark(path: &Path) -> Option<FileMark> {
    let about = path.metadata().ok()?;
    Some((about.ino(), about.mtime(), about.mtime_nsec(), about.size()))
}

fn read(path: &Path, cipher: &XChaCha20Poly1305) -> Result<Held, OpenVaultError> {
    let of = mark(path);
    let in_file = |source| OpenVaultError::File { path: path.to_owned(), source };
    let secrets = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
        opened => {
            let mut sealed = Vec::new();
            opened.and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut sealed)).map_err(in_file)?;
            unseal(cipher, &sealed).ok_or_else(|| OpenVaultError::Sealed { path: path.to_owned() })?
        }
    };
    Ok(Held { secrets, of })
}

fn read_key(path: &Path) -> Result<Zeroizing<[u8; KEY_BYTES]>, OpenVaultError> {
    let in_file = |source| OpenVaultError::File { path: path.to_owned(), source };
    let file = File::open(path).map_err(in_file)?;
    let mode = file.metadata().map_err(in_file)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(OpenVaultError::KeyMode { path: path.to_owned(), mode });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_BYTES + 1));
    file.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(in_file)?;
    let key: [u8; KEY_BYTES] =
        bytes.as_slice().try_into().map_err(|_| OpenVaultError::Key { path: path.to_owned() })?;
    Ok(Zeroizing::new(key))
}

/// Writes a file that only its owner reads, whole or not at all.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let draft = folder.join(name);
    let _ = std::fs::remove_file(&draft);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    File::open(folder)?.sync_all()
}

/// Magic, nonce, then the sealed pairs: each a length (u32, big-endian) and its bytes, name before secret.
fn seal(cipher: &XChaCha20Poly1305, secrets: &BTreeMap<String, Secret>) -> Vec<u8> {
    let mut plain = Zeroizing::new(Vec::new());
    let mut push = |bytes: &[u8]| {
        let length = u32::try_from(bytes.len()).expect("names and secrets are bounded before they get in");
        plain.extend_from_slice(&length.to_be_bytes());
        plain.extend_from_slice(bytes);
    };
    for (name, secret) in secrets {
        push(name.as_bytes());
        push(secret.expose());
    }
    let nonce: [u8; NONCE_BYTES] = rand::random();
    let payload = Payload { msg: &plain, aad: MAGIC };
    let sealed = cipher.encrypt(XNonce::from_slice(&nonce), payload).expect("the plain text is far below 256 GiB");
    [MAGIC.as_slice(), &nonce, &sealed].concat()
}

fn unseal(cipher: &XChaCha20Poly1305, file: &[u8]) -> Option<BTreeMap<String, Secret>> {
    let rest = file.strip_prefix(MAGIC)?;
    let (nonce, sealed) = rest.split_at_checked(NONCE_BYTES)?;
    let payload = Payload { msg: sealed, aad: MAGIC };
    let plain = Zeroizing::new(cipher.decrypt(XNonce::from_slice(nonce), payload).ok()?);
    let mut rest = plain.as_slice();
    let mut secrets = BTreeMap::new();
    while !rest.is_empty() {
        let name = String::from_utf8(take(&mut rest)?.to_vec()).ok()?;
        secrets.insert(name, Secret::new(take(&mut rest)?.to_vec()));
    }
    Some(secrets)
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let (bytes, after) = after.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    *rest = after;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const CANARY: &str = "canary-6d2f0c1e";

    #[test]
    fn a_secret_is_there_after_a_restart_and_nowhere_in_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let (path, key) = (dir.path().join("vault"), dir.path().join("vault.key"));
        let vault = Vault::open(&path, &key).unwrap();
        vault.put("slurm/token", Secret::new(CANARY.into())).unwrap();
        vault.put("other", Secret::new(b"x".to_vec())).unwrap();
        assert!(!format!("{vault:?} {:?}", vault.get("slurm/token")).contains(CANARY));
        for file in [&path, &key] {
            let bytes = std::fs::read(file).unwrap();
            assert!(!bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()));
            assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        }
        drop(vault);
        let vault = Vault::open(&path, &key).unwrap();
        assert_eq!(vault.get("slurm/token").unwrap().expose(), CANARY.as_bytes());
        vault.put("slurm/token", Secret::new(b"rotated".to_vec())).unwrap();
        assert_eq!(vault.get("slurm/token").unwrap().expose(), b"rotated");
        vault.remove("slurm/token").unwrap();
        assert_eq!(Vault::open(&path, &key).unwrap().names(), ["other"]);
    }

    #[test]
    fn what_another_process_puts_in_is_used_and_nobody_overwrites_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let (path, key) = (dir.path().join("vault"), dir.path().join("vault.key"));
        let (node, command) = (Vault::open(&path, &key).unwrap(), Vault::open(&path, &key).unwrap());
        assert!(node.get("token").is_none());
        command.put("token", Secret::new(b"1".to_vec())).unwrap();
        assert_eq!(node.get("token").unwrap().expose(), b"1");
        node.put("other", Secret::new(b"2".to_vec())).unwrap();
        command.put("token", Secret::new(b"3".to_vec())).unwrap();
        assert_eq!((node.get("token").unwrap().expose(), node.names().len()), (&b"3"[..], 2));
        assert!(command.remove("token").unwrap() && !command.remove("token").unwrap());
        assert_eq!(node.names(), ["other"]);
        // what cannot be read is not taken for an empty vault
        std::fs::write(&path, "torn").unwrap();
        assert_eq!(node.names(), ["other"]);
        command.put("more", Secret::new(b"4".to_vec())).unwrap_err();
    }

    #[test]
    fn a_changed_file_another_key_and_a_readable_key_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (path, key) = (dir.path().join("vault"), dir.path().join("vault.key"));
        Vault::open(&path, &key).unwrap().put("a", Secret::new(b"b".to_vec())).unwrap();
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, bad).unwrap();
            assert!(matches!(Vault::open(&path, &key), Err(OpenVaultError::Sealed { .. })), "byte {at}");
        }
        std::fs::write(&path, &good[..good.len() - 1]).unwrap();
        assert!(matches!(Vault::open(&path, &key), Err(OpenVaultError::Sealed { .. })));
        std::fs::write(&path, &good).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Vault::open(&path, &key), Err(OpenVaultError::KeyMode { mode: 0o640, .. })));
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&key, [0; 32]).unwrap();
        assert!(matches!(Vault::open(&path, &key), Err(OpenVaultError::Sealed { .. })));
        std::fs::remove_file(&key).unwrap();
        // a new key would make the old vault useless for ever
        assert!(matches!(Vault::open(&path, &key), Err(OpenVaultError::File { .. })));
    }

    #[test]
    fn names_and_lengths_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::open(&dir.path().join("v"), &dir.path().join("k")).unwrap();
        for name in ["", "A", "a b", "é", &"a".repeat(129)] {
            assert!(matches!(vault.put(name, Secret::new(vec![1])), Err(WriteVaultError::Name { .. })), "{name}");
        }
        for bytes in [0, SECRET_BYTES_MAX + 1] {
            assert!(matches!(vault.put("a", Secret::new(vec![0; bytes])), Err(WriteVaultError::Length { .. })));
        }
        assert_eq!(vault.names(), [] as [&str; 0]);
    }

    #[test]
    fn a_vault_that_could_not_be_opened_again_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let (path, key) = (dir.path().join("v"), dir.path().join("k"));
        let vault = Vault::open(&path, &key).unwrap();
        let large = || Secret::new(vec![7; SECRET_BYTES_MAX]);
        let room = FILE_BYTES_MAX as usize / SECRET_BYTES_MAX - 1;
        for number in 0..room {
            vault.put(&number.to_string(), large()).unwrap();
        }
        let full = vault.put("one-more", large());
        assert!(matches!(full, Err(WriteVaultError::Full { bytes }) if bytes as u64 > FILE_BYTES_MAX), "{full:?}");
        assert!(vault.get("one-more").is_none(), "nothing changed");
        vault.put("small", Secret::new(vec![1])).unwrap();
        drop(vault);
        assert_eq!(Vault::open(&path, &key).unwrap().names().len(), room + 1);
    }
}

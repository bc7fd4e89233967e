//! What a plugin writes to its standard output and error: kept apart from the node's log, bounded, and without secrets.

use super::lock;
use crate::vault::Vault;
use std::cmp::Reverse;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use zeroize::Zeroizing;

/// The file begins anew beyond this; one older file is kept.
const FILE_BYTES_MAX: u64 = 8 << 20;
/// Lines kept in memory.
const LINES_KEPT: usize = 500;
/// Longer lines are cut into pieces.
const LINE_BYTES_MAX: usize = 4096;
/// What is read in a second; a plugin that writes more waits.
const BYTES_PER_SECOND_MAX: usize = 1 << 20;
/// A shorter secret is not looked for: it would be found in everything.
const SECRET_BYTES_MIN: usize = 6;

/// The output of one plugin, of all its processes.
pub(super) struct Output {
    path: PathBuf,
    secrets: Option<(Arc<Vault>, Vec<String>)>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    lines: VecDeque<String>,
    file: Option<(File, u64)>,
}

impl Output {
    pub(super) fn new(path: PathBuf, secrets: Option<(Arc<Vault>, Vec<String>)>) -> Self {
        Self { path, secrets, inner: Mutex::default() }
    }

    /// The newest lines, oldest first.
    pub(super) fn tail(&self, lines_max: usize) -> Vec<String> {
        let inner = lock(&self.inner);
        inner.lines.iter().skip(inner.lines.len().saturating_sub(lines_max)).cloned().collect()
    }

    /// Keeps one line of `source`, for example `#3 stderr`.
    pub(super) fn keep(&self, source: &str, line: &[u8]) {
        let text = self.clean(line);
        let line = format!("{source}: {text}");
        let mut inner = lock(&self.inner);
        if inner.lines.len() == LINES_KEPT {
            inner.lines.pop_front();
        }
        inner.lines.push_back(line.clone());
        if let Err(error) = self.write(&mut inner, &line) {
            inner.file = None;
            tracing::debug!(path = %self.path.display(), %error, "a plugin's log cannot be written");
        }
    }

    fn clean(&self, line: &[u8]) -> String {
        let mut text = printable(line);
        let Some((vault, names)) = &self.secrets else { return text };
        // Output comes by lines, so each line of a secret (a key in PEM, a kubeconfig) is looked for by itself.
        let mut hidden = Vec::new();
        for secret in names.iter().filter_map(|name| vault.get(name)) {
            for part in secret.expose().split(|byte| matches!(byte, b'\n' | b'\r')) {
                let part = Zeroizing::new(printable(part.trim_ascii()));
                if part.len() >= SECRET_BYTES_MIN && text.contains(part.as_str()) {
                    hidden.push(part);
                }
            }
        }
        // Longest first: a part that stands in another must not leave the rest of that behind.
        hidden.sort_unstable_by_key(|part| Reverse(part.len()));
        for part in hidden {
            text = text.replace(part.as_str(), "[redacted]");
        }
        text
    }

    fn write(&self, inner: &mut Inner, line: &str) -> std::io::Result<()> {
        if inner.file.as_ref().is_none_or(|(_, size)| *size > FILE_BYTES_MAX) {
            if inner.file.take().is_some() {
                std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
            }
            let file = OpenOptions::new().create(true).append(true).open(&self.path)?;
            let size = file.metadata()?.len();
            inner.file = Some((file, size));
        }
        if let Some((file, size)) = inner.file.as_mut() {
            file.write_all(line.as_bytes())?;
            file.write_all(b"\n")?;
            *size += line.len() as u64 + 1;
        }
        Ok(())
    }

    /// Reads `stream` to its end, not faster than [`BYTES_PER_SECOND_MAX`].
    pub(super) async fn follow(self: Arc<Self>, source: String, mut stream: impl AsyncRead + Unpin) {
        let mut buffer = vec![0; 16 << 10];
        let mut line = Vec::new();
        let (mut second, mut read) = (Instant::now(), 0);
        loop {
            let count = match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(count) => count,
            };
            for byte in &buffer[..count] {
                if *byte == b'\n' || line.len() >= LINE_BYTES_MAX {
                    self.keep(&source, &line);
                    line.clear();
                }
                if *byte != b'\n' {
                    line.push(*byte);
                }
            }
            read += count;
            if read > BYTES_PER_SECOND_MAX {
                tokio::time::sleep(Duration::from_secs(1).saturating_sub(second.elapsed())).await;
            }
            if second.elapsed() >= Duration::from_secs(1) {
                (second, read) = (Instant::now(), 0);
            }
        }
        if !line.is_empty() {
            self.keep(&source, &line);
        }
    }
}

fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::Secret;

    #[tokio::test]
    async fn output_is_bounded_readable_and_without_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::open(&dir.path().join("v"), &dir.path().join("k")).unwrap();
        vault.put("token", Secret::new(b"canary-77".to_vec())).unwrap();
        let path = dir.path().join("p.log");
        let output = Arc::new(Output::new(path.clone(), Some((Arc::new(vault), vec!["token".to_owned()]))));
        let said: &[u8] = b"hello \xff\x1b[2J\nbearer canary-77 sent\nno end";
        Arc::clone(&output).follow("#1 stdout".to_owned(), said).await;
        let tail = output.tail(10);
        assert_eq!(tail.len(), 3);
        assert_eq!(tail[0], "#1 stdout: hello \u{fffd}\u{fffd}[2J");
        assert_eq!(tail[1], "#1 stdout: bearer [redacted] sent");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), tail.join("\n") + "\n");
        Arc::clone(&output).follow("#2".to_owned(), vec![b'x'; 100_000].as_slice()).await;
        assert!(output.tail(1000).iter().all(|line| line.len() <= LINE_BYTES_MAX + 8));
        for number in 0..LINES_KEPT * 2 {
            output.keep("#3", number.to_string().as_bytes());
        }
        assert_eq!(output.tail(usize::MAX).len(), LINES_KEPT);
        assert_eq!(output.tail(1), ["#3: 999"]);
    }
    #[test]
    fn every_line_of_a_secret_is_hidden() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::open(&dir.path().join("v"), &dir.path().join("k")).unwrap();
        let pem = b"-----BEGIN KEY-----\r\nQ0FOQVJZ-1\r\n  Q0FOQVJZ-1-and-more\nab\n-----END KEY-----\n".to_vec();
        vault.put("pem", Secret::new(pem)).unwrap();
        let output = Output::new(dir.path().join("p.log"), Some((Arc::new(vault), vec!["pem".to_owned()])));
        for line in ["got Q0FOQVJZ-1", "Q0FOQVJZ-1-and-more", r"-----BEGIN KEY-----\nQ0FOQVJZ-1\nab", "able"] {
            output.keep("#1", line.as_bytes());
        }
        let expected = ["#1: got [redacted]", "#1: [redacted]", r"#1: [redacted]\n[redacted]\nab", "#1: able"];
        assert_eq!(output.tail(10), expected);
    }
}

//! Files of tasks: inputs on their way to the node, outputs on their way back. Both are verified by their digests.

use super::client::{Client, encode};
use super::exit::CliError;
use super::output::{Column, Kind, Output, bytes, column, items, text_at};
use cpi::ids::ContentDigest;
use cpi::task::TaskSpec;
use futures::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest as _, Sha256};
use std::io::{Read as _, Write as _};
use std::path::{Component, Path, PathBuf};

pub(super) const ARTIFACTS: &[Column] = &[
    column("PATH", "path", Kind::Text),
    column("SIZE", "size_bytes", Kind::Bytes),
    column("DIGEST", "digest", Kind::Text),
];

/// An input that has to be sent: where it lies, its digest and length.
pub(super) struct Upload {
    file: PathBuf,
    digest: ContentDigest,
    size_bytes: u64,
}

/// Fills in digest and size of the inputs that lie on this machine; their paths are relative to the document.
pub(super) fn digest_inputs(spec: &mut TaskSpec, document: &str) -> Result<Vec<Upload>, CliError> {
    let base = if document == "-" { Path::new("") } else { Path::new(document).parent().unwrap_or(Path::new("")) };
    let mut uploads = Vec::new();
    for input in &mut spec.inputs {
        let Some(from) = input.from.take() else { continue };
        let file = base.join(&from);
        let mut opened = std::fs::File::open(&file)
            .map_err(|error| CliError::usage(format!("input {:?}: {}: {error}", input.path, file.display())))?;
        let mut hash = Sha256::new();
        let mut size_bytes = 0;
        let mut piece = vec![0; 256 << 10];
        loop {
            let count = opened.read(&mut piece)?;
            if count == 0 {
                break;
            }
            hash.update(&piece[..count]);
            size_bytes += count as u64;
        }
        let digest = ContentDigest(hash.finalize().into());
        if input.digest.is_some_and(|stated| stated != digest) {
            return Err(CliError::usage(format!(
                "input {:?}: {} has another digest than stated",
                input.path,
                file.display()
            )));
        }
        input.digest = Some(digest);
        input.size_bytes = Some(size_bytes);
        uploads.push(Upload { file, digest, size_bytes });
    }
    Ok(uploads)
}

/// Sends what the node has not got, with a bar.
pub(super) async fn upload_all(client: &Client, output: &Output, uploads: Vec<Upload>) -> Result<(), CliError> {
    let mut missing: Vec<Upload> = Vec::new();
    for upload in uploads {
        if !missing.iter().any(|known| known.digest == upload.digest) && !client.has_artifact(upload.digest).await? {
            missing.push(upload);
        }
    }
    let total: u64 = missing.iter().map(|upload| upload.size_bytes).sum();
    let bar = progress(output, total, "uploading");
    for upload in missing {
        let moving = bar.clone();
        client.upload(upload.digest, &upload.file, move |count| moving.inc(count)).await?;
    }
    bar.finish_and_clear();
    Ok(())
}

fn progress(output: &Output, total: u64, what: &'static str) -> ProgressBar {
    if !output.draws() || total == 0 {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}")
        .expect("the template is valid")
        .progress_chars("=> ");
    ProgressBar::new(total).with_style(style).with_message(what)
}

/// Brings all outputs of a task into `folder`; each is verified against its digest before it gets its name.
pub(super) async fn fetch_artifacts(client: &Client, output: &Output, id: &str, folder: &Path) -> Result<(), CliError> {
    let page = client.get(&format!("/v1/tasks/{}/artifacts", encode(id)), Vec::new()).await?;
    let total = items(&page).iter().filter_map(|item| item["size_bytes"].as_u64()).sum();
    let bar = progress(output, total, "downloading");
    for item in items(&page) {
        let (path, digest) = (text_at(item, "path"), text_at(item, "digest"));
        let relative = Path::new(&path);
        let inside = relative.components().all(|part| matches!(part, Component::Normal(_)));
        if path.is_empty() || !inside {
            return Err(CliError::Other(anyhow::anyhow!("the node names an output {path:?} outside the folder")));
        }
        let target = folder.join(relative);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        download(client, &digest, &target, &bar).await?;
        output.say(format!("{} {}", target.display(), bytes(item["size_bytes"].as_u64().unwrap_or(0))));
    }
    bar.finish_and_clear();
    Ok(())
}

async fn download(client: &Client, digest: &str, target: &Path, bar: &ProgressBar) -> Result<(), CliError> {
    let expected: ContentDigest =
        digest.parse().map_err(|error| anyhow::anyhow!("the node names a wrong digest: {error}"))?;
    let (_, mut pieces) = client.bytes(&format!("/v1/artifacts/{expected}"), Vec::new()).await?;
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut staged = tempfile::NamedTempFile::new_in(folder)?;
    let mut hash = Sha256::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        hash.update(&piece);
        staged.write_all(&piece)?;
        bar.inc(piece.len() as u64);
    }
    if ContentDigest(hash.finalize().into()) != expected {
        return Err(CliError::Other(anyhow::anyhow!("{}: what came does not match {expected}", target.display())));
    }
    staged.persist(target).map_err(|error| error.error)?;
    Ok(())
}

//! Writes what `make backends` found into the page of the adapters, and fails where it is not as committed.
//!
//! `conformance-matrix --results FOLDER --page docs/adapters.md --exceptions adapters/conformance-exceptions.toml`

use adapters::conformance::results::{BackendResults, Exceptions, RESULTS_FORMAT, complaints, into_page};
use anyhow::{Context as _, bail};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(complaints) if complaints.is_empty() => ExitCode::SUCCESS,
        Ok(complaints) => {
            for complaint in complaints {
                eprintln!("{complaint}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("conformance-matrix: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> anyhow::Result<Vec<String>> {
    let mut arguments = std::env::args().skip(1);
    let mut value = |name: &str| -> anyhow::Result<PathBuf> {
        match (arguments.next().as_deref(), arguments.next()) {
            (Some(given), Some(value)) if given == name => Ok(value.into()),
            _ => bail!("expected --results FOLDER --page FILE --exceptions FILE"),
        }
    };
    let (folder, page_path, list) = (value("--results")?, value("--page")?, value("--exceptions")?);
    let read = |path: &Path| std::fs::read_to_string(path).with_context(|| path.display().to_string());
    let exceptions = Exceptions::parse(&read(&list)?)?;
    let mut page = read(&page_path)?;
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)?.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    let mut found = Vec::new();
    for file in &files {
        let results: BackendResults = serde_json::from_str(&read(file)?).with_context(|| file.display().to_string())?;
        if results.format != RESULTS_FORMAT {
            bail!("{}: format {}: expected {RESULTS_FORMAT}", file.display(), results.format);
        }
        page = into_page(&page, &results, &exceptions)?;
        found.extend(complaints(&results, &exceptions));
    }
    std::fs::write(&page_path, page)?;
    Ok(found)
}

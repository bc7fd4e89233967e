//! The documentation keeps its promises: a page for each reason code and none for others, and no dead link inside the repository.

use cpi::reason::ReasonCode;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the workspace is there")
}

fn pages(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            pages(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            out.push(path);
        }
    }
}

#[test]
fn every_reason_has_its_page_and_every_page_its_reason() {
    let folder = root().join("docs/reasons");
    let codes: BTreeSet<String> = ReasonCode::ALL.iter().map(|code| code.code().to_owned()).collect();
    let found: BTreeSet<String> = std::fs::read_dir(&folder)
        .expect("docs/reasons")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".md").map(str::to_owned))
        .filter(|name| name != "README")
        .collect();
    assert_eq!(codes, found);
    let index = std::fs::read_to_string(folder.join("README.md")).expect("the index");
    for code in ReasonCode::ALL {
        let page = std::fs::read_to_string(folder.join(format!("{code}.md"))).expect("the page");
        assert!(page.starts_with(&format!("# {code}\n")), "{code}: heading");
        assert!(page.contains(code.sentence()), "{code}: the sentence is {:?}", code.sentence());
        assert!(page.contains(code.next_step()), "{code}: the next step is {:?}", code.next_step());
        assert!(page.contains(&format!("| Precedence | {} |", code.precedence())), "{code}: precedence");
        assert!(index.contains(&format!("| {} | [{code}]({code}.md) |", code.precedence())), "{code}: index");
    }
}

#[test]
fn no_link_is_dead() {
    let root = root();
    let mut files = Vec::new();
    pages(&root.join("docs"), &mut files);
    for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "BENCHMARKS.md"] {
        files.push(root.join(name));
    }
    let mut dead = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a page");
        let folder = file.parent().expect("a folder");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or_default();
            if !path.is_empty() && !path.contains("://") && !folder.join(path).exists() {
                dead.push(format!("{}: {link}", file.strip_prefix(&root).unwrap_or(&file).display()));
            }
        }
    }
    assert!(dead.is_empty(), "\n  {}\n", dead.join("\n  "));
}

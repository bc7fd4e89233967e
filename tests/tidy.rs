//! Keeps the house in order: who may use whom, who may name which big library, what pure rooms may touch, and how long a file
//! may be. DESIGN section 1 and STYLE say why; a rule that is broken on purpose is changed here, in the open.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Crate, and which of ours it may depend on.
const ARROWS: &[(&str, &[&str])] = &[
    ("cpi", &[]),
    ("consensus", &["cpi"]),
    ("adapters", &["cpi"]),
    ("node", &["cpi", "consensus", "adapters"]),
    ("netsim", &["cpi", "consensus", "adapters"]),
    ("e2e", &["cpi", "consensus", "adapters", "node", "netsim"]),
];

/// Library (as it is named in code), and the only folders that may name it.
const DOORS: &[(&str, &[&str])] = &[
    ("libp2p", &["node/src/mesh/"]),
    ("libp2p_stream", &["node/src/mesh/"]),
    ("openraft", &["consensus/src/raft/"]),
    ("rocksdb", &["consensus/src/store/"]),
    ("bincode", &["consensus/src/codec.rs"]),
    ("cgroups_rs", &["adapters/src/local/"]),
    ("landlock", &["adapters/src/local/"]),
    ("axum", &["node/src/http/"]),
    ("clap_complete", &["node/src/cli/"]),
];

/// Folders of pure machines and words, without the rooms in them that touch disks.
const PURE: &[&str] = &["cpi/src/", "consensus/src/"];
const IMPURE_ROOMS: &[&str] = &["consensus/src/raft/", "consensus/src/store/"];
/// What a pure room may not name, and why.
const BANNED: &[(&str, &str)] = &[
    ("Instant::now", "machines are told the time"),
    ("SystemTime::now", "machines are told the time"),
    ("Timestamp::now", "machines are told the time"),
    ("HashMap", "its order differs from run to run; use BTreeMap"),
    ("HashSet", "its order differs from run to run; use BTreeSet"),
    ("rand::rng", "machines are given a seed"),
    ("thread_rng", "machines are given a seed"),
    ("StdRng", "it changes between releases of rand; use rand_chacha"),
    ("std::fs", "drivers touch disks"),
    ("std::net::Tcp", "drivers touch sockets"),
    ("tokio::", "drivers are async, machines are not"),
    ("println!", "machines say nothing"),
];

/// A file with more lines wants to become two.
const LINES_MAX: usize = 700;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the workspace is there")
}

struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The text without comments and string literals, and without the tests at its end.
    fn code(&self) -> String {
        let mut out = String::new();
        for line in self.text.lines() {
            if line.trim_start().starts_with("#[cfg(test)]") {
                break;
            }
            let code = line.split("//").next().unwrap_or_default();
            let outside: String = code.split('"').step_by(2).collect::<Vec<_>>().join("\"\"");
            out.push_str(&outside);
            out.push('\n');
        }
        out
    }

    fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.path.ends_with("/tests.rs") || self.path.contains("/benches/")
    }
}

fn sources() -> Vec<Source> {
    let root = root();
    let mut folders: Vec<PathBuf> =
        ARROWS.iter().map(|(name, _)| root.join(if *name == "e2e" { "tests" } else { name })).collect();
    let mut out = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of sources").flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() {
                if name != "target" {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source is text");
                let path = path.strip_prefix(&root).expect("below the root").display().to_string();
                out.push(Source { path, text });
            }
        }
    }
    out.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(out.len() > 50, "the sources were not found");
    out
}

fn fail_on(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n  {}\n", problems.join("\n  "));
}

/// Whether `code` names the crate `library`: as a path or in a `use`.
fn names(code: &str, library: &str) -> bool {
    code.match_indices(library).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + library.len()..];
        let begins = before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':' && c != '.');
        begins && (after.starts_with("::") || after.starts_with(';'))
    })
}

#[test]
fn arrows_point_one_way() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");

    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        ARROWS.iter().map(|(name, uses)| (*name, uses.iter().copied().collect())).collect();
    let mut problems = Vec::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name");
        let Some(may_use) = allowed.get(name) else {
            problems.push(format!("{name} is not in the drawing of the house"));
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let other = dependency["name"].as_str().expect("a name");
            if allowed.contains_key(other) && !may_use.contains(other) {
                problems.push(format!("{name} must not use {other}"));
            }
        }
    }
    fail_on(problems);
}

#[test]
fn each_big_library_has_one_door() {
    let mut problems = Vec::new();
    for source in sources() {
        let code = source.code();
        for (library, doors) in DOORS {
            if names(&code, library) && !doors.iter().any(|door| source.path.starts_with(door)) {
                problems.push(format!("{} names {library}, whose door is {}", source.path, doors.join(", ")));
            }
        }
    }
    fail_on(problems);
}

#[test]
fn pure_rooms_touch_nothing() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        let pure = PURE.iter().any(|folder| source.path.starts_with(folder))
            && !IMPURE_ROOMS.iter().any(|folder| source.path.starts_with(folder));
        if !pure {
            continue;
        }
        let code = source.code();
        for (word, why) in BANNED.iter().filter(|(word, _)| code.contains(word)) {
            problems.push(format!("{} names {word}: {why}", source.path));
        }
    }
    fail_on(problems);
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent = sources().into_iter().filter(|source| !source.text.starts_with("//!"));
    fail_on(silent.map(|source| format!("{} does not open with //!", source.path)).collect());
}

#[test]
fn no_file_outgrows_its_room() {
    let mut problems = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if lines > LINES_MAX {
            problems
                .push(format!("{} has {lines} lines, more than {LINES_MAX}: a second noun wants a file", source.path));
        }
    }
    fail_on(problems);
}

#[test]
fn the_rules_see_what_they_look_for() {
    assert!(names("use rocksdb::DB;", "rocksdb"));
    assert!(names("let x = rocksdb::DB::open();", "rocksdb"));
    assert!(!names("let rocksdb_options = 1;", "rocksdb"));
    assert!(!names("self.rocksdb::x", "rocksdb"));
    let source = Source { path: "x.rs".to_owned(), text: "// rocksdb::DB\nlet a = \"rocksdb::DB\";\n".to_owned() };
    assert!(!names(&source.code(), "rocksdb"));
}

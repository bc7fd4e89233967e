//! What is fuzzed: everything that reads bytes of strangers. Each target says which promises it holds the reader to.

use super::Verdict;
use consensus::codec::CodecError;
use consensus::envelope::{Envelope, Federation, StatementKind};
use consensus::negotiation::{Digest, StatementBatch, open_frame};
use consensus::registry::Command;
use consensus::registry::command::JoinRequest;
use cpi::dictionary::Dictionary;
use cpi::filter::{Filter, IdentifierSource};
use cpi::identifier::{Cpi, Relayed};
use cpi::ids::{MemberId, StableKey};
use cpi::task::{Format, parse_document, validate};
use ed25519_dalek::SigningKey;
use std::sync::LazyLock;

/// Something that reads bytes.
pub struct Target {
    /// As `--target` names it.
    pub name: &'static str,
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Pieces of its language.
    pub words: fn() -> Vec<Vec<u8>>,
    /// Reads one input and says whether all promises held.
    pub try_input: fn(&[u8]) -> Verdict,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "identifier", seeds: vectors, words: identifier_words, try_input: identifier },
    Target { name: "binary", seeds: binaries, words: Vec::new, try_input: binary },
    Target { name: "codec", seeds: encoded, words: Vec::new, try_input: codec },
    Target { name: "task", seeds: documents, words: task_words, try_input: task },
    Target { name: "filter", seeds: filters, words: filter_words, try_input: filter },
    Target { name: "envelope", seeds: envelopes, words: Vec::new, try_input: envelope },
];

/// The five vectors of the identifier's specification.
pub const VECTORS: [&str; 5] = [
    "cpi:1:C91110108MA00CP019A-GI6450-G110100-A01.GC-VM-2870TF64-20P-400G-INX8480P_800.RS-INX8480P-112-1024G-15T-400~2VHNVZS",
    "cpi:1:C91210231MA00CP027A-GI6450-G210200-B01.IC-CT-1010PF16-8P-800G-NVH800S80_1024.GP-INX8480P-112-2048G-30T-128/N0A1C2D3/GPU/NVH800S80/U5F0C8E1A9B3D4C7E8A1B2C3D4E5F6071~36GEFEP",
    "cpi:1:C91330702MA00CP035X-GM7320-G330700-A01.IC-BM-289PB16-5P-1T-HWA910C_384.SN-HWKP920-256-2048G-8T-48/V20010DB8000000000000000000000A1B/NPU/HWA910C/D0123456789ABCDEF0123456789ABCDEF01234567~RV3~0BCX4HA",
    "cpi:1:C12440000MA00CP043P-GM7310-G440100-S01.SC-JB-136PF64-19P-1T-HG7285_6144_HGZ100_12288.HP-HG7285-64-256G-0-3072/N0SLURM01/ANY/ANY/ANY~PNHPC01~18E77S7",
    "cpi:1:L999900CPITESTFRA0174-SJ6311-UDEFRA-F01.IC-FP-12100TI08-500T-100G-XLU250_128_XLU280_320.FP-AMEP7763-128-512G-8T-56/IC6120A05/FPG/XLU280/B0000C1000~1QM227D",
];

static DICTIONARY: LazyLock<Dictionary> = LazyLock::new(|| (*Dictionary::first()).clone());

/// `Debug` up to the first brace, bracket or quote: which variant, without its facts.
fn kind_of(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    text.split(['{', '(', '"', '[']).next().unwrap_or_default().trim().to_owned()
}

fn words(list: &[&str]) -> Vec<Vec<u8>> {
    list.iter().map(|word| word.as_bytes().to_vec()).collect()
}

// ---- the identifier's text

fn vectors() -> Vec<Vec<u8>> {
    words(&VECTORS)
}

fn identifier_words() -> Vec<Vec<u8>> {
    words(&[
        "cpi:1:",
        "cpi:2:",
        "~",
        "/",
        ".",
        "-",
        "_",
        "ANY",
        "/ANY",
        "U",
        "0",
        "00",
        "999999",
        "1000000",
        "F64",
        "B16",
        "T",
        "P",
        "E",
        "GC",
        "IC",
        "SC",
        "N0",
        "IC0A80001",
        "~XA1",
        "~RV3",
        "C91110108MA00CP019A",
        "L999900CPITESTFRA0174",
        "P00000001",
        "UDEFRA",
        "G110100",
        "I",
        "O",
        "é",
    ])
}

/// Promises: no panic; what was read prints as itself, is canonical, has the key of its projection, and survives its binary form.
fn identifier(input: &[u8]) -> Verdict {
    // The check at the end would refuse nearly every mutation: also try the text with the check that it ought to have.
    let sealed = std::str::from_utf8(input).ok().and_then(|text| {
        let body = text.rsplit_once('~').map_or(text, |(body, _)| body);
        Cpi::seal(body).ok()
    });
    let read = Cpi::parse_octets(input);
    if let Ok(text) = std::str::from_utf8(input)
        && let Ok(relayed) = Relayed::parse(text)
        && Relayed::parse(relayed.as_str()).as_ref() != Ok(&relayed)
    {
        return Verdict::Broken(format!("what is relayed changes: {}", relayed.as_str()));
    }
    for cpi in read.iter().chain(&sealed) {
        match Cpi::parse(cpi.as_str()) {
            Ok(again) if again == *cpi && again.as_str() == cpi.as_str() => {}
            other => return Verdict::Broken(format!("{} reads back as {other:?}", cpi.as_str())),
        }
        if cpi.as_str().bytes().any(|byte| byte.is_ascii_lowercase()) && !cpi.as_str().starts_with("cpi:") {
            return Verdict::Broken(format!("{} is printed in lower case", cpi.as_str()));
        }
        let _: StableKey = cpi.stable_key();
        let binary = cpi.to_binary(&DICTIONARY);
        match Cpi::from_binary(&binary, &DICTIONARY) {
            Ok(again) if again == *cpi => {}
            other => return Verdict::Broken(format!("{} comes back from its binary form as {other:?}", cpi.as_str())),
        }
    }
    Verdict::Held(match (read, sealed) {
        (Ok(cpi), _) | (_, Some(cpi)) => {
            let shape: String = cpi.as_str().chars().filter(|c| "-_./~".contains(*c)).collect();
            format!("{} {} {shape}", cpi.resource_type(), cpi.capacity_text().len())
        }
        (Err(error), _) => format!("{:?} {:?} {}", error.kind, error.field, error.offset.min(200)),
    })
}

fn binaries() -> Vec<Vec<u8>> {
    VECTORS.iter().filter_map(|text| Some(Cpi::parse(text).ok()?.to_binary(&DICTIONARY))).collect()
}

/// Promises: no panic; what was read has one binary form, and its text reads back.
fn binary(input: &[u8]) -> Verdict {
    match Cpi::from_binary(input, &DICTIONARY) {
        Ok(cpi) => {
            let again = cpi.to_binary(&DICTIONARY);
            if again != input && Cpi::from_binary(&again, &DICTIONARY).as_ref() != Ok(&cpi) {
                return Verdict::Broken(format!("{} has a binary form that reads as another", cpi.as_str()));
            }
            match Cpi::parse(cpi.as_str()) {
                Ok(text) if text == cpi => Verdict::Held(format!("{} {}", cpi.resource_type(), again == input)),
                other => Verdict::Broken(format!("{} reads back as {other:?}", cpi.as_str())),
            }
        }
        Err(error) => Verdict::Held(format!("{} {}", kind_of(&error), input.len() / 16)),
    }
}

// ---- frames and records

fn encoded() -> Vec<Vec<u8>> {
    let request = Command::Retire { key: StableKey([7; 16]), expected_revision: 3, successor: None };
    let register =
        Command::Revise { key: StableKey([9; 16]), expected_revision: 1, text: VECTORS[0].to_owned(), release: 1 };
    let batch = StatementBatch { to: MemberId(7), leaves: vec![[1; 32], [2; 32]] };
    let mut out = vec![request.to_bytes(), register.to_bytes(), batch.to_bytes()];
    out.extend(consensus::negotiation::seal_frames(MemberId(7), &[], |body| body));
    out.extend(envelopes());
    out
}

/// Promises: no panic, no reading beyond the bound; what was read is what its own encoding says.
fn codec(input: &[u8]) -> Verdict {
    let mut answer = String::new();
    let mut note = |name: &str, error: Option<&CodecError>| {
        answer.push_str(name);
        answer.push_str(&error.map_or_else(|| "+".to_owned(), kind_of));
        answer.push(' ');
    };
    match Command::from_bytes(input) {
        Ok(command) => {
            if Command::from_bytes(&command.to_bytes()).ok().as_ref() != Some(&command) {
                return Verdict::Broken(format!("{command:?} does not survive its encoding"));
            }
            note(&kind_of(&command), None);
        }
        Err(error) => note("c", Some(&error)),
    }
    match JoinRequest::from_bytes(input) {
        Ok(request) => {
            if JoinRequest::from_bytes(&request.to_bytes()).ok().as_ref() != Some(&request) {
                return Verdict::Broken(format!("{request:?} does not survive its encoding"));
            }
            note("j", None);
        }
        Err(error) => note("j", Some(&error)),
    }
    match Digest::from_bytes(input) {
        Ok(digest) => {
            if Digest::from_bytes(&digest.to_bytes()).is_err() {
                return Verdict::Broken(format!("{digest:?} does not survive its encoding"));
            }
            note("d", None);
        }
        Err(error) => note("d", Some(&error)),
    }
    match StatementBatch::from_bytes(input) {
        Ok(batch) => note(&format!("b{}", batch.leaves.len().min(8)), None),
        Err(error) => note("b", Some(&error)),
    }
    let frame = open_frame(MemberId(7), input, |_| Err("not signed".to_owned()));
    answer.push_str(&frame.map_or_else(|error| kind_of(&error), |messages| format!("f{}", messages.len().min(8))));
    Verdict::Held(answer)
}

// ---- signed statements

const FEDERATION: Federation = Federation { id: [3; 32], epoch: 2 };

fn sealed() -> &'static [Envelope] {
    static SEALED: LazyLock<Vec<Envelope>> = LazyLock::new(|| {
        let signer = SigningKey::from_bytes(&[5; 32]);
        let body = |text: &str| text.as_bytes().to_vec();
        vec![
            Envelope::seal(StatementKind::RegistryCommand, FEDERATION, &signer, 1, body("a command")),
            Envelope::seal(StatementKind::Offer, FEDERATION, &signer, 2, body("an offer")),
            Envelope::seal(StatementKind::Digest, FEDERATION, &SigningKey::from_bytes(&[6; 32]), 900, vec![0; 300]),
        ]
    });
    &SEALED
}

fn envelopes() -> Vec<Vec<u8>> {
    sealed().iter().map(Envelope::to_bytes).collect()
}

/// Promises: no panic; nothing passes that the key did not sign, in this kind, federation, epoch and sequence.
fn envelope(input: &[u8]) -> Verdict {
    let kinds = [StatementKind::RegistryCommand, StatementKind::Offer, StatementKind::Digest, StatementKind::Beacon];
    let mut answer = String::new();
    for kind in kinds {
        match Envelope::open(input, kind, &FEDERATION) {
            Ok(opened) => {
                if !sealed().contains(&opened) {
                    return Verdict::Broken(format!("a forgery passes: {opened:?}"));
                }
                answer.push_str(&format!("{kind:?}+ "));
            }
            Err(error) => answer.push_str(&format!("{} ", kind_of(&error))),
        }
    }
    Verdict::Held(format!("{answer}{}", input.len().ilog2_or_0()))
}

trait Log2 {
    fn ilog2_or_0(self) -> u32;
}

impl Log2 for usize {
    fn ilog2_or_0(self) -> u32 {
        self.checked_ilog2().unwrap_or(0)
    }
}

// ---- task documents

fn documents() -> Vec<Vec<u8>> {
    let yaml = include_str!("../../../configs/lab/tasks/train.yaml");
    let full = r#"{"name":"x","command":["./a","b"],"image":null,"env":{"A":"1"},"resources":{"cpu":"500m","memory":"8 GiB",
        "storage":"1 TB","chips":{"kind":"GPU","milli":500}},"variants":[{"name":"v","resources":{"compute":"5 PFLOPS FP16"},
        "command":["./c"]}],"placement":{"filter":"class = \"IC\"","residency":["CN"],"regions":["dalian"],
        "affinity":[{"filter":"city = \"G210200\"","weight":-5}],"spread":"A"},"inputs":[{"path":"a","digest":
        "sha256:0000000000000000000000000000000000000000000000000000000000000000","size_bytes":3,"executable":true}],
        "outputs":[{"path":"o/p","optional":true}],"priority":7,"deadline":"2h","max_runtime":"1h30m","budget":
        {"amount_minor":12,"currency":"CNY"},"objective":"cost","retry":{"max_attempts":2,"on_exit":[75]},"on_partition":"finish"}"#;
    vec![yaml.as_bytes().to_vec(), full.as_bytes().to_vec()]
}

fn task_words() -> Vec<Vec<u8>> {
    words(&[
        "name",
        "command",
        "image",
        "env",
        "resources",
        "cpu",
        "memory",
        "chips",
        "compute",
        "variants",
        "placement",
        "filter",
        "inputs",
        "outputs",
        "path",
        "digest",
        "deadline",
        "retry",
        ": ",
        "- ",
        "\n",
        "\n  ",
        "{}",
        "[]",
        "[",
        "}",
        "\"",
        "&a ",
        "*a",
        "<<: *a",
        "!!binary ",
        "500m",
        "8 GiB",
        "-1",
        "1e99",
        "0x10",
        "null",
        "~",
        "..",
        "../x",
        "/abs",
        "2h",
        "5 PFLOPS FP16",
        "%",
        "---\n",
        "\t",
        "\u{0}",
    ])
}

/// Promises: no panic, no time or memory out of proportion; a document that was read is the same through JSON.
fn task(input: &[u8]) -> Verdict {
    let mut answer = String::new();
    for format in [Format::Yaml, Format::Json] {
        match parse_document(input, format) {
            Ok(spec) => {
                let json = serde_json::to_vec(&spec).expect("a task is plain JSON");
                match parse_document(&json, Format::Json) {
                    Ok(again) if again == spec => {}
                    other => return Verdict::Broken(format!("{spec:?} comes back as {other:?}")),
                }
                match validate(&spec, &DICTIONARY) {
                    Ok(()) => answer.push_str("valid "),
                    Err(errors) => {
                        let fields: Vec<String> =
                            errors.iter().map(|error| error.to_string().chars().take(16).collect()).collect();
                        answer.push_str(&fields.join("|"));
                    }
                }
            }
            Err(error) => answer.push_str(&error.to_string().chars().take(28).collect::<String>()),
        }
        answer.push(';');
    }
    Verdict::Held(answer)
}

// ---- filters

fn filters() -> Vec<Vec<u8>> {
    words(&[
        "class = \"IC\"",
        "chip = \"NVH800S80\" and fp16_tflops >= 900",
        "not (city = \"G110100\" or country = \"DE\") and cpi ^= \"cpi:1:C9\"",
        "class in (\"IC\", \"SC\")",
    ])
}

fn filter_words() -> Vec<Vec<u8>> {
    words(&[
        "and",
        "or",
        "not",
        "in",
        "=",
        "!=",
        ">=",
        "<",
        "^=",
        "(",
        ")",
        "\"",
        "'",
        ",",
        " ",
        "class",
        "chip",
        "city",
        "country",
        "cpi",
        "key",
        "ext.RV",
        "true",
        "1.5",
        "-3",
        "900",
        "PFLOPS",
        "(((((((((",
        "))))))",
        "\"\\\"\"",
        "é",
    ])
}

/// Promises: no panic; the text that a filter keeps reads as the same filter, and gives the same answer for every vector.
fn filter(input: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(input) else { return Verdict::Held("not text".to_owned()) };
    match Filter::parse(text) {
        Ok(filter) => {
            let Ok(again) = Filter::parse(filter.as_str()) else {
                return Verdict::Broken(format!("{:?} does not read back", filter.as_str()));
            };
            let mut matched = String::new();
            for vector in VECTORS {
                let cpi = Cpi::parse(vector).expect("a vector");
                let source = IdentifierSource { cpi: &cpi, dictionary: &DICTIONARY };
                let (first, second) = (filter.matches(&source), again.matches(&source));
                if first != second {
                    return Verdict::Broken(format!("{:?} answers differently when it is read back", filter.as_str()));
                }
                if first && filter.refusing(&source).next().is_some() {
                    return Verdict::Broken(format!("{:?} matches, and a clause of it refuses", filter.as_str()));
                }
                matched.push(if first { '1' } else { '0' });
            }
            Verdict::Held(format!("{matched} {} {}", filter.clauses().len(), filter.hints().len()))
        }
        Err(error) => Verdict::Held(error.to_string().chars().filter(|c| !c.is_ascii_digit()).take(40).collect()),
    }
}

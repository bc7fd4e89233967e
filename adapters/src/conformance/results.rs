//! What a run of the suite against one backend showed, as a file; and the page that is generated from such files.
//!
//! `make backends` leaves one [`BackendResults`] per backend as JSON; [`Exceptions`] is the committed list of cases that
//! platforms cannot hold. The page has one section per backend between two comments, which is all that is replaced:
//!
//! ```text
//! <!-- conformance: slurm -->
//! ...
//! <!-- end of conformance: slurm -->
//! ```

use super::CaseResult;
use cpi::resource::ChipKind;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The format of results files.
pub const RESULTS_FORMAT: u32 = 1;
/// Exceptions allowed per backend; others may have none.
pub const EXCEPTIONS_MAX: [(&str, usize); 4] = [("kubernetes", 3), ("slurm", 3), ("openstack", 15), ("vmware", 20)];

/// Results of one backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendResults {
    /// [`RESULTS_FORMAT`].
    pub format: u32,
    /// The backend's kind, for example `slurm`.
    pub backend: String,
    /// What it ran against, in words, simulated parts named: `Slurm 22.05.8, three slurmd on one machine`.
    pub platform: String,
    /// The day, `2026-11-24`.
    pub taken: String,
    /// The cases in the suite's order.
    pub cases: Vec<CaseRecord>,
}

/// One case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseRecord {
    /// The case.
    pub case: String,
    /// Code of the kind of accelerator, for cases about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chip: Option<String>,
    /// Absent where it held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// The backend does not offer what the case is about, and refuses it as unsupported.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub not_offered: bool,
}

impl BackendResults {
    /// What the suite said.
    pub fn new(backend: &str, platform: &str, taken: &str, results: &[CaseResult]) -> Self {
        let record = |result: &CaseResult| CaseRecord {
            case: result.case.to_owned(),
            chip: result.chip.map(|chip| chip.code().to_owned()),
            failure: result.failure.clone(),
            not_offered: !result.offered,
        };
        Self {
            format: RESULTS_FORMAT,
            backend: backend.to_owned(),
            platform: platform.to_owned(),
            taken: taken.to_owned(),
            cases: results.iter().map(record).collect(),
        }
    }

    /// Writes `FOLDER/BACKEND.json`.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, folder: &std::path::Path) -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let text = serde_json::to_vec_pretty(self).map_err(std::io::Error::other)?;
        std::fs::write(folder.join(format!("{}.json", self.backend)), text)
    }
}

/// The committed list.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exceptions {
    /// The list.
    pub exception: Vec<Exception>,
}

/// A case that a platform cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exception {
    /// The backend's kind.
    pub backend: String,
    /// The case.
    pub case: String,
    /// Code of the kind of accelerator, for cases about one.
    #[serde(default)]
    pub chip: Option<String>,
    /// Why the platform cannot.
    pub reason: String,
}

/// Why results or exceptions cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResultsError {
    /// Not such a file.
    #[error("{what}: {why}")]
    Syntax {
        /// Which file.
        what: String,
        /// Where.
        why: String,
    },
    /// More exceptions than a backend may have.
    #[error("{backend} has {found} exceptions: expected at most {max}")]
    TooMany {
        /// The backend.
        backend: String,
        /// How many.
        found: usize,
        /// The bound.
        max: usize,
    },
    /// The page has no place for the backend.
    #[error("the page has no section {marker:?}: add it with its end")]
    NoSection {
        /// The comment that begins it.
        marker: String,
    },
}

impl Exceptions {
    /// Reads the list and checks its bounds.
    ///
    /// # Errors
    /// [`ResultsError`].
    pub fn parse(text: &str) -> Result<Self, ResultsError> {
        let list: Self = toml::from_str(text)
            .map_err(|error| ResultsError::Syntax { what: "exceptions".to_owned(), why: error.to_string() })?;
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for exception in &list.exception {
            *counts.entry(&exception.backend).or_default() += 1;
            if exception.reason.trim().is_empty() {
                let why = format!("{}: {}: expected a reason", exception.backend, exception.case);
                return Err(ResultsError::Syntax { what: "exceptions".to_owned(), why });
            }
        }
        for (backend, found) in counts {
            let max = EXCEPTIONS_MAX.iter().find(|(name, _)| *name == backend).map_or(0, |(_, max)| *max);
            if found > max {
                return Err(ResultsError::TooMany { backend: backend.to_owned(), found, max });
            }
        }
        Ok(list)
    }

    fn of(&self, backend: &str, case: &CaseRecord) -> Option<&Exception> {
        self.exception.iter().find(|one| one.backend == backend && one.case == case.case && one.chip == case.chip)
    }
}

/// What of `results` is not as it should be: failures without an exception, and exceptions that are not needed or not known.
pub fn complaints(results: &BackendResults, exceptions: &Exceptions) -> Vec<String> {
    let backend = &results.backend;
    let mut found = Vec::new();
    for case in &results.cases {
        let name = name_of(case);
        match (&case.failure, exceptions.of(backend, case)) {
            (Some(failure), None) => found.push(format!("{backend}: {name} failed: {failure}")),
            (None, Some(_)) if !case.not_offered => found.push(format!("{backend}: {name} held: delete its exception")),
            _ => {}
        }
    }
    for exception in exceptions.exception.iter().filter(|one| one.backend == *backend) {
        if !results.cases.iter().any(|case| case.case == exception.case && case.chip == exception.chip) {
            found.push(format!("{backend}: no case is called {}: delete its exception", exception.case));
        }
    }
    found
}

fn name_of(case: &CaseRecord) -> String {
    case.chip.as_ref().map_or_else(|| case.case.clone(), |chip| format!("{} ({chip})", case.case))
}

/// The section of one backend.
fn section(results: &BackendResults, exceptions: &Exceptions) -> String {
    let cases = &results.cases;
    let held = cases.iter().filter(|case| case.failure.is_none() && !case.not_offered).count();
    let not_offered = cases.iter().filter(|case| case.failure.is_none() && case.not_offered).count();
    let excepted =
        cases.iter().filter(|case| case.failure.is_some() && exceptions.of(&results.backend, case).is_some()).count();
    let failed = cases.len() - held - not_offered - excepted;
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{}, {}: **{held} of {} cases held**, {not_offered} not offered, {excepted} failed by exception, {failed} failed.\n",
        results.platform,
        results.taken,
        cases.len()
    );
    let chips: Vec<&str> = [ChipKind::Gpu, ChipKind::Npu, ChipKind::Fpg].iter().map(|kind| kind.code()).collect();
    let word = |case: &CaseRecord| match (&case.failure, exceptions.of(&results.backend, case)) {
        (None, Some(exception)) if case.not_offered => format!("not offered: {}", exception.reason.trim()),
        (None, None) if case.not_offered => "not offered".to_owned(),
        (None, _) => "held".to_owned(),
        (Some(_), Some(exception)) => format!("no: {}", exception.reason.trim()),
        (Some(_), None) => "**failed**".to_owned(),
    };
    text.push_str("| case | outcome |\n|---|---|\n");
    for case in cases.iter().filter(|case| case.chip.is_none()) {
        let _ = writeln!(text, "| {} | {} |", case.case.replace('_', " "), word(case));
    }
    let of_chips: Vec<&CaseRecord> = cases.iter().filter(|case| case.chip.is_some()).collect();
    if !of_chips.is_empty() {
        let _ =
            writeln!(text, "\n| case of accelerators | {} |\n|---|{}", chips.join(" | "), "---|".repeat(chips.len()));
        let mut names: Vec<&str> = Vec::new();
        for case in &of_chips {
            if !names.contains(&case.case.as_str()) {
                names.push(&case.case);
            }
        }
        for name in names {
            let cell = |chip: &&str| {
                let case = of_chips.iter().find(|case| case.case == name && case.chip.as_deref() == Some(chip));
                case.map_or_else(|| "not run".to_owned(), |case| word(case))
            };
            let cells: Vec<String> = chips.iter().map(cell).collect();
            let _ = writeln!(text, "| {} | {} |", name.replace('_', " "), cells.join(" | "));
        }
    }
    text
}

/// `page` with the section of this backend replaced.
///
/// # Errors
/// [`ResultsError::NoSection`].
pub fn into_page(page: &str, results: &BackendResults, exceptions: &Exceptions) -> Result<String, ResultsError> {
    let begin = format!("<!-- conformance: {} -->\n", results.backend);
    let end = format!("<!-- end of conformance: {} -->", results.backend);
    let missing = || ResultsError::NoSection { marker: begin.trim().to_owned() };
    let from = page.find(&begin).ok_or_else(missing)? + begin.len();
    let to = page[from..].find(&end).ok_or_else(missing)? + from;
    Ok(format!("{}{}{}", &page[..from], section(results, exceptions), &page[to..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(case: &str, chip: Option<&str>, failure: Option<&str>) -> CaseRecord {
        CaseRecord {
            case: case.to_owned(),
            chip: chip.map(str::to_owned),
            failure: failure.map(str::to_owned),
            not_offered: false,
        }
    }

    fn results() -> BackendResults {
        BackendResults {
            format: RESULTS_FORMAT,
            backend: "slurm".to_owned(),
            platform: "Slurm".to_owned(),
            taken: "2026-11-24".to_owned(),
            cases: vec![
                record("it_runs", None, None),
                record("it_moves", None, Some("cannot")),
                record("one_chip", Some("GPU"), None),
                record("one_chip", Some("NPU"), Some("none")),
            ],
        }
    }

    const LIST: &str = r#"
        [[exception]]
        backend = "slurm"
        case = "it_moves"
        reason = "jobs stay where they are"
    "#;

    #[test]
    fn a_section_is_replaced_and_nothing_else() {
        let page = "a\n<!-- conformance: slurm -->\nold\n<!-- end of conformance: slurm -->\nb\n";
        let exceptions = Exceptions::parse(LIST).unwrap();
        let new = into_page(page, &results(), &exceptions).unwrap();
        assert!(new.starts_with("a\n<!-- conformance: slurm -->\nSlurm, 2026-11-24: **2 of 4 cases held**"), "{new}");
        assert!(new.contains("| it moves | no: jobs stay where they are |"), "{new}");
        assert!(new.contains("| one chip | held | **failed** | not run |"), "{new}");
        assert!(new.ends_with("<!-- end of conformance: slurm -->\nb\n") && !new.contains("old"), "{new}");
        assert_eq!(into_page(&new, &results(), &exceptions).unwrap(), new);
        assert!(into_page("none", &results(), &exceptions).is_err());
    }

    #[test]
    fn a_failure_without_an_exception_is_told_and_one_that_is_not_needed_too() {
        let told = complaints(&results(), &Exceptions::parse(LIST).unwrap());
        assert_eq!(told, ["slurm: one_chip (NPU) failed: none"]);
        let told = complaints(&results(), &Exceptions::parse(&LIST.replace("it_moves", "it_runs")).unwrap());
        assert!(told.contains(&"slurm: it_runs held: delete its exception".to_owned()), "{told:?}");
        let told = complaints(&results(), &Exceptions::parse(&LIST.replace("it_moves", "it_flies")).unwrap());
        assert!(told.contains(&"slurm: no case is called it_flies: delete its exception".to_owned()), "{told:?}");
    }

    #[test]
    fn exceptions_are_few_and_say_why() {
        let many = ["a", "b", "c", "d"].map(|case| LIST.replace("it_moves", case)).concat();
        assert!(matches!(Exceptions::parse(&many), Err(ResultsError::TooMany { found: 4, max: 3, .. })));
        assert!(Exceptions::parse(&LIST.replace("slurm", "local")).is_err());
        assert!(Exceptions::parse(&LIST.replace("jobs stay where they are", " ")).is_err());
        Exceptions::parse(include_str!("../../conformance-exceptions.toml")).unwrap();
    }
}

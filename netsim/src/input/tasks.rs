//! `--tasks`: what is handed in, when and where. Empty cells mean: none.

use super::sites::Site;
use super::table::{InputError, Row, Table};
use std::collections::BTreeMap;
use std::path::Path;

/// One task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRow {
    /// When it is handed in, in seconds from the beginning.
    pub submit_s: f64,
    /// How long it runs, in seconds.
    pub duration_s: f64,
    /// Thousandths of cores.
    pub cpu_milli: u64,
    /// Memory.
    pub memory_mib: u64,
    /// Thousandths of chips in all.
    pub chip_milli: u64,
    /// Which model; `None` for any.
    pub chip_model: Option<String>,
    /// Other ways to run it: model and thousandths of chips; an empty model for no chip.
    pub variants: Vec<(String, u64)>,
    /// Where it is handed in; `None` for anywhere.
    pub origin: Option<usize>,
    /// Length of its inputs.
    pub input_bytes: u64,
    /// Where they lie; `None` for the origin.
    pub input_site: Option<usize>,
    /// Countries in which it must stay.
    pub residency: Vec<String>,
    /// The most that one run may cost, in CNY.
    pub max_price: Option<f64>,
    /// When it must have ended, in seconds from submission.
    pub deadline_s: Option<f64>,
}

const COLUMNS: [&str; 13] = [
    "submit_s",
    "duration_s",
    "cpu_milli",
    "memory_mib",
    "chips",
    "chip_milli",
    "chip_model",
    "variants",
    "origin",
    "input_bytes",
    "input_site",
    "residency",
    "max_price",
];

/// Reads the tasks, in the order of submission.
///
/// # Errors
/// [`InputError`].
pub fn read_tasks(path: &Path, sites: &[Site]) -> Result<Vec<TaskRow>, InputError> {
    let mut columns = COLUMNS.to_vec();
    columns.push("deadline_s");
    let table = Table::read(path, &columns)?;
    let index: BTreeMap<&str, usize> = sites.iter().enumerate().map(|(i, site)| (site.id.as_str(), i)).collect();
    let mut tasks: Vec<TaskRow> = table.rows().map(|row| read_task(&row, &index)).collect::<Result<_, _>>()?;
    tasks.sort_by(|a, b| a.submit_s.total_cmp(&b.submit_s));
    Ok(tasks)
}

fn read_task(row: &Row<'_>, sites: &BTreeMap<&str, usize>) -> Result<TaskRow, InputError> {
    let site = |column: &str| match row.text(column) {
        "" => Ok(None),
        id => sites.get(id).map(|site| Some(*site)).ok_or_else(|| row.wrong(column, "the id of a site or nothing")),
    };
    let chips: u64 = row.optional("chips", "a whole number of chips or nothing")?.unwrap_or(0);
    let share: u64 = row.optional("chip_milli", "thousandths of a chip or nothing")?.unwrap_or(0);
    if chips > 1_024 || share > 1_000 {
        return Err(row.wrong("chips", "at most 1,024 chips, and at most 1,000 thousandths of each"));
    }
    let chip_milli = match (chips, share) {
        (0, share) => share,
        (chips, 0) => chips * 1000,
        (1, share) => share,
        (chips, _) => chips * 1000,
    };
    let mut variants = Vec::new();
    for text in row.text("variants").split('|').filter(|text| !text.is_empty()) {
        let parsed = text.split_once(':').and_then(|(model, milli)| Some((model.to_owned(), milli.parse().ok()?)));
        variants.push(parsed.ok_or_else(|| row.wrong("variants", "model:thousandths, several joined by |"))?);
    }
    if variants.len() > 8 {
        return Err(row.wrong("variants", "at most 8"));
    }
    let model = row.text("chip_model");
    let residency = row.text("residency").split('|').filter(|text| !text.is_empty()).map(str::to_owned).collect();
    Ok(TaskRow {
        submit_s: row.within("submit_s", 0.0, 1e9)?,
        duration_s: row.within("duration_s", 0.0, 1e9)?,
        cpu_milli: row.number("cpu_milli", "thousandths of cores")?,
        memory_mib: row.number("memory_mib", "a whole number of MiB")?,
        chip_milli,
        chip_model: (!model.is_empty()).then(|| model.to_owned()),
        variants,
        origin: site("origin")?,
        input_bytes: row.optional("input_bytes", "a whole number of bytes or nothing")?.unwrap_or(0),
        input_site: site("input_site")?,
        residency,
        max_price: row.optional("max_price", "a price or nothing")?,
        deadline_s: row.optional("deadline_s", "seconds or nothing")?,
    })
}

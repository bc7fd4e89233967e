//! Checks what the schema cannot say: rules between fields, sizes, names, filters, chips.

use super::document::nearest;
use super::{ChipRequest, Placement, Resources, TaskSpec};
use crate::dictionary::{Dictionary, Entry as _};
use crate::filter::Filter;
use crate::units::ByteSize;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// The most inputs, and the most outputs, of one task.
pub const FILES_MAX: usize = 1000;
/// The most variants.
pub const VARIANTS_MAX: usize = 8;
/// The most octets of a command with its arguments, and of an environment.
pub const ARGUMENT_BYTES_MAX: usize = 64 << 10;
/// The longest path of a file in the run's folder, in octets.
pub const PATH_BYTES_MAX: usize = 255;
/// The longest `max_runtime` and `deadline`: 90 days.
const DURATION_MS_MAX: u64 = 90 * 86_400_000;
/// The smallest memory of a run.
const MEMORY_BYTES_MIN: u64 = 1 << 20;

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FieldError {
    /// The field's path in the document, for example `resources.chips.model` or `inputs[2].path`.
    pub field: String,
    /// What is wrong and what would have been accepted.
    pub message: String,
    /// The most similar valid value, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest: Option<String>,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)?;
        match &self.nearest {
            Some(nearest) => write!(f, "; did you mean {nearest}?"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for FieldError {}

/// Whether `path` may name a file in a run's folder: relative, without `..`, `.`, empty parts or control characters.
pub fn is_run_path(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= PATH_BYTES_MAX
        && !path.contains('\\')
        && !path.chars().any(char::is_control)
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// Checks a task against the rules between its fields and against the dictionary.
///
/// # Errors
/// Every field that is wrong, in the order of the document.
pub fn validate(task: &TaskSpec, dictionary: &Dictionary) -> Result<(), Vec<FieldError>> {
    let mut check = Check { errors: Vec::new(), dictionary };
    check.program(task);
    check.resources("resources", &task.resources);
    check.variants(task);
    check.placement(&task.placement);
    check.files(task);
    check.limits(task);
    if check.errors.is_empty() { Ok(()) } else { Err(check.errors) }
}

struct Check<'a> {
    errors: Vec<FieldError>,
    dictionary: &'a Dictionary,
}

impl Check<'_> {
    fn wrong(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.errors.push(FieldError { field: field.into(), message: message.into(), nearest: None });
    }

    fn unless(&mut self, holds: bool, field: &str, message: &str) {
        if !holds {
            self.wrong(field, message);
        }
    }

    fn command(&mut self, field: &str, command: &[String]) {
        let bytes: usize = command.iter().map(|part| part.len() + 1).sum();
        self.unless(bytes <= ARGUMENT_BYTES_MAX, field, "at most 64 KiB of program and arguments");
        self.unless(command.iter().all(|part| !part.contains('\0')), field, "no NUL characters");
        self.unless(command.first().is_none_or(|program| !program.is_empty()), field, "the program must not be empty");
    }

    fn program(&mut self, task: &TaskSpec) {
        let name_ok = (1..=64).contains(&task.name.chars().count()) && !task.name.chars().any(char::is_control);
        self.unless(name_ok, "name", "1 to 64 characters without control characters");
        self.unless(!task.command.is_empty() || task.image.is_some(), "command", "a command, or an `image`, is needed");
        self.command("command", &task.command);
        if let Some(image) = &task.image {
            self.image("image", image);
        }
        let bytes: usize = task.env.iter().map(|(key, value)| key.len() + value.len() + 2).sum();
        self.unless(bytes <= ARGUMENT_BYTES_MAX, "env", "at most 64 KiB of environment");
        for (key, value) in &task.env {
            let field = format!("env.{key}");
            let shaped = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && key.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'_');
            self.unless(shaped, &field, "a name of letters, digits and _, not beginning with a digit");
            self.unless(!key.starts_with("CAUSEWAY_"), &field, "names beginning with CAUSEWAY_ are set by the region");
            self.unless(!value.contains('\0'), &field, "no NUL characters");
        }
    }

    fn image(&mut self, field: &str, image: &str) {
        let ok = (1..=512).contains(&image.len()) && image.bytes().all(|octet| octet.is_ascii_graphic());
        self.unless(ok, field, "an image reference of 1 to 512 printable characters without spaces");
    }

    fn resources(&mut self, at: &str, resources: &Resources) {
        let cpu = resources.cpu.milli;
        self.unless((1..=100_000_000).contains(&cpu), &format!("{at}.cpu"), "1m to 100000 cores");
        let memory = resources.memory.0;
        let min = ByteSize(MEMORY_BYTES_MIN);
        self.unless(memory >= MEMORY_BYTES_MIN, &format!("{at}.memory"), &format!("at least {min}"));
        if resources.chips.is_some() && resources.compute.is_some() {
            self.wrong(format!("{at}.compute"), "either `chips` or `compute`, not both");
        }
        if let Some(chips) = &resources.chips {
            self.chips(&format!("{at}.chips"), chips);
        }
        if let Some(compute) = &resources.compute {
            let some_chip = self.dictionary.chips.iter().any(|chip| compute.chips(&chip.peaks).is_some());
            self.unless(
                some_chip,
                &format!("{at}.compute"),
                "no chip of the dictionary states a peak at this precision",
            );
        }
    }

    fn chips(&mut self, at: &str, chips: &ChipRequest) {
        self.unless(chips.model.is_some() || chips.kind.is_some(), at, "a `model` or a `kind` is needed");
        match (chips.count, chips.milli) {
            (Some(_), Some(_)) => self.wrong(at, "either `count` or `milli`, not both"),
            (None, None) => self.wrong(at, "a `count` of whole chips, or `milli`, is needed"),
            (Some(count), None) => {
                self.unless((1..=100_000).contains(&count), &format!("{at}.count"), "1 to 100000 chips");
            }
            (None, Some(milli)) => {
                self.unless((1..=100_000_000).contains(&milli), &format!("{at}.milli"), "1 to 100000000");
            }
        }
        let Some(model) = &chips.model else { return };
        match self.dictionary.chips.get(model) {
            None => {
                let upper = model.to_ascii_uppercase();
                let nearest = self.dictionary.chips.nearest(&upper).map(str::to_owned);
                let message = format!("the dictionary (release {}) has no chip {model:?}", self.dictionary.release());
                self.errors.push(FieldError { field: format!("{at}.model"), message, nearest });
            }
            Some(chip) => {
                if let Some(kind) = chips.kind.filter(|&kind| kind != chip.kind) {
                    let message = format!("{} is a {}, not a {}", chip.code().code, chip.kind.code(), kind.code());
                    self.wrong(format!("{at}.kind"), message);
                }
            }
        }
    }

    fn variants(&mut self, task: &TaskSpec) {
        self.unless(task.variants.len() <= VARIANTS_MAX, "variants", "at most 8 variants");
        let mut names = BTreeSet::new();
        for (index, variant) in task.variants.iter().enumerate() {
            let at = format!("variants[{index}]");
            let named = (1..=64).contains(&variant.name.chars().count());
            self.unless(named, &format!("{at}.name"), "1 to 64 characters");
            self.unless(names.insert(&variant.name), &format!("{at}.name"), "each variant has a name of its own");
            self.command(&format!("{at}.command"), &variant.command);
            if let Some(image) = &variant.image {
                self.image(&format!("{at}.image"), image);
            }
            self.resources(&format!("{at}.resources"), &variant.resources);
        }
    }

    fn filter(&mut self, field: &str, filter: &str) {
        if let Err(error) = Filter::parse(filter) {
            let nearest = error.nearest.clone();
            let message = crate::filter::FilterError { nearest: None, ..error }.to_string();
            self.errors.push(FieldError { field: field.to_owned(), message, nearest });
        }
    }

    fn placement(&mut self, placement: &Placement) {
        if let Some(filter) = &placement.filter {
            self.filter("placement.filter", filter);
        }
        if let Some(prefix) = &placement.prefix {
            let shaped = prefix.starts_with("cpi:1:")
                && prefix.len() <= crate::identifier::TEXT_BYTES_MAX
                && prefix[4..]
                    .bytes()
                    .all(|octet| octet.is_ascii_uppercase() || octet.is_ascii_digit() || b"-._:/~".contains(&octet));
            self.unless(shaped, "placement.prefix", "the beginning of an identifier: cpi:1: and upper-case fields");
        }
        for (index, region) in placement.regions.iter().enumerate() {
            let excluded = placement.exclude_regions.contains(region);
            self.unless(!excluded, &format!("placement.regions[{index}]"), "the region is excluded as well");
        }
        for (index, city) in placement.cities.iter().enumerate() {
            if self.dictionary.cities.get(city).is_none() {
                let nearest = nearest(city, self.dictionary.cities.iter().map(|city| city.code.code.as_str()));
                let message = format!("the dictionary (release {}) has no city {city:?}", self.dictionary.release());
                self.errors.push(FieldError { field: format!("placement.cities[{index}]"), message, nearest });
            }
        }
        for (index, country) in placement.residency.iter().enumerate() {
            let shaped = country.len() == 2 && country.bytes().all(|octet| octet.is_ascii_uppercase());
            self.unless(shaped, &format!("placement.residency[{index}]"), "two capital letters of a country");
        }
        self.unless(placement.affinity.len() <= 16, "placement.affinity", "at most 16 wishes");
        for (index, affinity) in placement.affinity.iter().enumerate() {
            self.filter(&format!("placement.affinity[{index}].filter"), &affinity.filter);
            let ok = (-100..=100).contains(&affinity.weight);
            self.unless(ok, &format!("placement.affinity[{index}].weight"), "-100 to 100");
        }
        let lists = placement.regions.len() + placement.exclude_regions.len() + placement.cities.len();
        self.unless(lists + placement.residency.len() <= 4096, "placement", "at most 4096 places in all lists");
    }

    fn files(&mut self, task: &TaskSpec) {
        self.unless(task.inputs.len() <= FILES_MAX, "inputs", "at most 1000 inputs");
        self.unless(task.outputs.len() <= FILES_MAX, "outputs", "at most 1000 outputs");
        let mut paths = BTreeSet::new();
        for (index, input) in task.inputs.iter().enumerate() {
            let at = format!("inputs[{index}]");
            self.path(&format!("{at}.path"), &input.path);
            self.unless(paths.insert(input.path.as_str()), &format!("{at}.path"), "each path once");
            self.unless(input.from.is_some() || input.digest.is_some(), &at, "`from` or `digest` is needed");
        }
        // in the set's order a folder's files follow the file that has the folder's name
        for path in &paths {
            let above = path.match_indices('/').map(|(at, _)| &path[..at]).find(|above| paths.contains(above));
            if let Some(above) = above {
                self.wrong("inputs", format!("{path:?} needs a folder where the input {above:?} puts a file"));
            }
        }
        let mut outputs = BTreeSet::new();
        for (index, output) in task.outputs.iter().enumerate() {
            let at = format!("outputs[{index}].path");
            self.path(&at, &output.path);
            self.unless(outputs.insert(output.path.as_str()), &at, "each path once");
        }
    }

    fn path(&mut self, field: &str, path: &str) {
        let expected =
            "a relative path of at most 255 octets, without `..`, `.`, empty parts, \\ or control characters";
        self.unless(is_run_path(path), field, expected);
    }

    fn limits(&mut self, task: &TaskSpec) {
        self.unless(task.priority <= 100, "priority", "0 to 100");
        if let Some(deadline) = task.deadline {
            self.unless((1..=DURATION_MS_MAX).contains(&deadline.ms), "deadline", "more than 0, at most 90d");
        }
        self.unless((1..=DURATION_MS_MAX).contains(&task.max_runtime.ms), "max_runtime", "more than 0, at most 90d");
        if let Some(budget) = &task.budget {
            let shaped = budget.currency.len() == 3 && budget.currency.bytes().all(|o| o.is_ascii_uppercase());
            self.unless(shaped, "budget.currency", "three capital letters of ISO 4217");
        }
        self.unless((1..=20).contains(&task.retry.max_attempts), "retry.max_attempts", "1 to 20");
        let codes_ok = task.retry.on_exit.len() <= 256 && task.retry.on_exit.iter().all(|c| (1..=255).contains(c));
        self.unless(codes_ok, "retry.on_exit", "exit codes from 1 to 255");
    }
}

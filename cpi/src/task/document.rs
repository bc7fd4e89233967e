//! Reads a task document: bounded in size and depth, unknown fields refused with their line and the nearest name.

use super::TaskSpec;
use serde_saphyr::{DuplicateKeyPolicy, Error as YamlError};

/// How a document is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// YAML, one document; no anchors, aliases or merge keys.
    Yaml,
    /// JSON.
    Json,
}

impl Format {
    /// By a file's name: `.json` is JSON, all else YAML (which reads JSON too).
    pub fn of_file(name: &str) -> Self {
        if name.to_ascii_lowercase().ends_with(".json") { Self::Json } else { Self::Yaml }
    }
}

/// The longest document, in octets. Content travels as artifacts, never in the document.
pub const DOCUMENT_BYTES_MAX: usize = 128 << 10;
/// The deepest nesting; the schema itself needs 5.
const DEPTH_MAX: usize = 16;
/// The most values in a document: 1,000 inputs of five fields and room.
const NODES_MAX: usize = 20_000;

/// Why a document was refused before its values were looked at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskDocumentError {
    /// Longer than [`DOCUMENT_BYTES_MAX`].
    #[error("the document has {bytes} octets; at most {DOCUMENT_BYTES_MAX} are read (content belongs into `inputs`)")]
    TooLarge {
        /// What was given.
        bytes: usize,
    },
    /// Not UTF-8.
    #[error("the document is not UTF-8 text at octet {offset}")]
    NotText {
        /// The first octet that is not.
        offset: usize,
    },
    /// A field that the schema does not have.
    #[error("line {line}: there is no field `{field}` here{}", did_you_mean(.nearest))]
    UnknownField {
        /// The field as written, at most 64 characters.
        field: String,
        /// The most similar field there is.
        nearest: Option<String>,
        /// Line, from 1.
        line: u64,
        /// Column, from 1.
        column: u64,
    },
    /// Anything else: syntax, a missing field, a wrong type or value.
    #[error("line {line}: {message}")]
    Malformed {
        /// What is wrong, at most 400 characters.
        message: String,
        /// Line, from 1; 0 where it is not known.
        line: u64,
        /// Column, from 1.
        column: u64,
    },
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|nearest| format!("; did you mean `{nearest}`?")).unwrap_or_default()
}

/// The name most like `name`, if one is similar enough to be meant.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .min()
        .filter(|(distance, known)| *distance <= 3 && *distance < known.len())
        .map(|(_, known)| known.to_owned())
}

fn cut(text: &str, chars_max: usize) -> String {
    text.chars().take(chars_max).collect()
}

/// Reads a task document.
///
/// # Errors
/// [`TaskDocumentError`] with the line. Whether the values make sense is [`super::validate`]'s question.
pub fn parse_document(bytes: &[u8], format: Format) -> Result<TaskSpec, TaskDocumentError> {
    if bytes.len() > DOCUMENT_BYTES_MAX {
        return Err(TaskDocumentError::TooLarge { bytes: bytes.len() });
    }
    let text = std::str::from_utf8(bytes).map_err(|e| TaskDocumentError::NotText { offset: e.valid_up_to() })?;
    match format {
        Format::Yaml => parse_yaml(text),
        Format::Json => serde_json::from_str(text).map_err(|error| json_error(&error)),
    }
}

fn parse_yaml(text: &str) -> Result<TaskSpec, TaskDocumentError> {
    let budget = serde_saphyr::budget! {
        max_reader_input_bytes: Some(DOCUMENT_BYTES_MAX),
        flow_nesting_limit: DEPTH_MAX,
        max_depth: DEPTH_MAX,
        max_events: NODES_MAX * 2,
        max_nodes: NODES_MAX,
        max_aliases: 0,
        max_anchors: 0,
        max_merge_keys: 0,
        max_documents: 1,
        max_inclusion_depth: 0,
        max_total_scalar_bytes: DOCUMENT_BYTES_MAX,
    };
    let options = serde_saphyr::options! {
        budget: budget,
        duplicate_keys: DuplicateKeyPolicy::Error,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| yaml_error(&error))
}

fn yaml_error(error: &YamlError) -> TaskDocumentError {
    let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
    match error.without_snippet() {
        YamlError::SerdeUnknownField { field, expected, .. } => {
            let nearest = nearest(field, expected.iter().copied());
            TaskDocumentError::UnknownField { field: cut(field, 64), nearest, line, column }
        }
        other => TaskDocumentError::Malformed { message: cut(&other.to_string(), 400), line, column },
    }
}

fn json_error(error: &serde_json::Error) -> TaskDocumentError {
    let (line, column) = (error.line() as u64, error.column() as u64);
    let full = error.to_string();
    let message = full.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&full);
    let mut quoted = message.split('`').skip(1).step_by(2);
    if let Some(field) = quoted.next().filter(|_| message.starts_with("unknown field `")) {
        let nearest = nearest(field, quoted);
        return TaskDocumentError::UnknownField { field: cut(field, 64), nearest, line, column };
    }
    TaskDocumentError::Malformed { message: cut(message, 400), line, column }
}

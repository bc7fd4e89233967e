//! A CSV file with a header: cells by column name, and errors that name file, line and column.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

/// Rows of one file at most: ten times the largest trace that was tried.
const ROWS_MAX: usize = 20_000_000;

/// What is wrong with an input file.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// It cannot be read.
    #[error("{file} cannot be read")]
    Open {
        /// Which file.
        file: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is no CSV.
    #[error("{file}, line {line}: {what}")]
    Csv {
        /// Which file.
        file: String,
        /// Where.
        line: u64,
        /// What is wrong.
        what: String,
    },
    /// A column is missing.
    #[error("{file}, line 1: column `{column}` is missing; there are {have}")]
    Column {
        /// Which file.
        file: String,
        /// Which column.
        column: String,
        /// Those that are there.
        have: String,
    },
    /// A cell is wrong.
    #[error("{file}, line {line}, column `{column}`: expected {expected}, found `{found}`")]
    Cell {
        /// Which file.
        file: String,
        /// Which line, the header is 1.
        line: u64,
        /// Which column.
        column: String,
        /// What was expected.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The policy is wrong.
    #[error("{file}, line {line}, column {column}: {what}")]
    Policy {
        /// Which file.
        file: String,
        /// Which line.
        line: u64,
        /// Which character of it.
        column: usize,
        /// What is wrong.
        what: String,
    },
}

/// A file's columns and rows.
#[derive(Debug)]
pub struct Table {
    file: String,
    columns: BTreeMap<String, usize>,
    rows: Vec<csv::StringRecord>,
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    table: &'a Table,
    record: &'a csv::StringRecord,
}

impl Table {
    /// Reads a file; each of `columns` must be there, others are allowed.
    ///
    /// # Errors
    /// [`InputError`].
    pub fn read(path: &Path, columns: &[&str]) -> Result<Self, InputError> {
        let file = path.display().to_string();
        let text = std::fs::read(path).map_err(|source| InputError::Open { file: file.clone(), source })?;
        Self::parse(&file, &text, columns)
    }

    /// The same from bytes; `file` is its name in errors.
    ///
    /// # Errors
    /// [`InputError`].
    pub fn parse(file: &str, text: &[u8], columns: &[&str]) -> Result<Self, InputError> {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text);
        let broken = |error: &csv::Error| InputError::Csv {
            file: file.to_owned(),
            line: error.position().map_or(1, csv::Position::line),
            what: error.to_string(),
        };
        let header = reader.headers().map_err(|error| broken(&error))?.clone();
        let named: BTreeMap<String, usize> =
            header.iter().enumerate().map(|(i, name)| (name.trim_start_matches('\u{feff}').to_owned(), i)).collect();
        for column in columns {
            if !named.contains_key(*column) {
                let have = header.iter().collect::<Vec<_>>().join(", ");
                return Err(InputError::Column { file: file.to_owned(), column: (*column).to_owned(), have });
            }
        }
        let mut rows = Vec::new();
        for record in reader.records() {
            let record = record.map_err(|error| broken(&error))?;
            if rows.len() >= ROWS_MAX {
                let line = record.position().map_or(0, csv::Position::line);
                let what = format!("more than {ROWS_MAX} rows");
                return Err(InputError::Csv { file: file.to_owned(), line, what });
            }
            rows.push(record);
        }
        Ok(Self { file: file.to_owned(), columns: named, rows })
    }

    /// Its rows in order.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(move |record| Row { table: self, record })
    }

    /// Whether there is such a column.
    pub fn has(&self, column: &str) -> bool {
        self.columns.contains_key(column)
    }
}

impl Row<'_> {
    /// A cell; empty where the column is not there.
    pub fn text(&self, column: &str) -> &str {
        self.table.columns.get(column).and_then(|index| self.record.get(*index)).unwrap_or("")
    }

    /// An error about a cell.
    pub fn wrong(&self, column: &str, expected: impl Into<String>) -> InputError {
        InputError::Cell {
            file: self.table.file.clone(),
            line: self.record.position().map_or(0, csv::Position::line),
            column: column.to_owned(),
            expected: expected.into(),
            found: self.text(column).to_owned(),
        }
    }

    /// A number that must be there.
    ///
    /// # Errors
    /// [`InputError::Cell`].
    pub fn number<T: FromStr>(&self, column: &str, expected: &str) -> Result<T, InputError> {
        self.text(column).parse().map_err(|_| self.wrong(column, expected))
    }

    /// A number or nothing.
    ///
    /// # Errors
    /// [`InputError::Cell`].
    pub fn optional<T: FromStr>(&self, column: &str, expected: &str) -> Result<Option<T>, InputError> {
        if self.text(column).is_empty() { Ok(None) } else { self.number(column, expected).map(Some) }
    }

    /// A finite number from `least` to `most` that must be there.
    ///
    /// # Errors
    /// [`InputError::Cell`].
    pub fn within(&self, column: &str, least: f64, most: f64) -> Result<f64, InputError> {
        let expected = format!("a number from {least} to {most}");
        let value: f64 = self.number(column, &expected)?;
        if (least..=most).contains(&value) { Ok(value) } else { Err(self.wrong(column, expected)) }
    }
}

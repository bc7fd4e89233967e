//! Output: tables for people, JSON and YAML for programs, names for shells. Data on standard output, talk on standard error.

use super::exit::CliError;
use clap::ValueEnum;
use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table};
use serde_json::Value;
use std::io::{IsTerminal as _, Write as _};

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// More columns.
    Wide,
    /// The API's JSON.
    Json,
    /// The same as YAML.
    Yaml,
    /// One name or id a line.
    Name,
}

/// How the value of a column is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// As it is; lists joined by commas.
    Text,
    /// The last 8 characters of an id in tables, all of it in wide ones.
    Id,
    /// How long ago an RFC 3339 instant was.
    Age,
    /// Bytes in binary units.
    Bytes,
    /// Thousandths as a decimal.
    Milli,
    /// Milliseconds.
    Millis,
    /// A reason: its code, and its detail in wide tables.
    Reason,
}

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// The heading.
    pub title: &'static str,
    /// Where the value is: dotted keys, several separated by `|`, the first that is there counts.
    pub path: &'static str,
    /// How it is written.
    pub kind: Kind,
    /// Shown in wide tables only.
    pub wide: bool,
}

/// A column that is always shown.
pub const fn column(title: &'static str, path: &'static str, kind: Kind) -> Column {
    Column { title, path, kind, wide: false }
}

/// A column of wide tables.
pub const fn wide(title: &'static str, path: &'static str, kind: Kind) -> Column {
    Column { title, path, kind, wide: true }
}

/// Where and how a command prints.
#[derive(Debug, Clone)]
pub struct Output {
    /// The format.
    pub format: Format,
    /// No talk on standard error.
    pub quiet: bool,
    /// Colours may be used.
    pub color: bool,
    /// Only these columns, by heading.
    pub columns: Vec<String>,
    /// The present, for ages.
    pub now: jiff::Timestamp,
}

impl Output {
    /// Says something to a person, on standard error.
    pub fn say(&self, text: impl AsRef<str>) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr(), "{}", text.as_ref());
        }
    }

    /// Names the command to run next.
    pub fn next(&self, command: impl AsRef<str>) {
        if !self.quiet && self.format == Format::Table && std::io::stderr().is_terminal() {
            let _ = writeln!(std::io::stderr(), "next: {}", command.as_ref());
        }
    }

    /// Whether progress may be drawn.
    pub fn draws(&self) -> bool {
        !self.quiet && std::io::stderr().is_terminal()
    }

    /// Prints a list; `name` is the path of the value that `-o name` prints. `page` may be a page or a plain list.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn list(&self, page: &Value, columns: &[Column], name: &str) -> Result<(), CliError> {
        print(&self.list_text(page, columns, name)?)?;
        if matches!(self.format, Format::Table | Format::Wide) {
            let shown = items(page).len();
            let total = page["total"].as_u64().unwrap_or(shown as u64);
            if total > shown as u64 {
                self.say(format!("{shown} of {total}"));
            } else if page["next_page_token"].is_string() {
                self.say(format!("{shown} shown, there are more: use --limit, --all or --page-token"));
            } else if shown == 0 {
                self.say("none");
            }
        }
        Ok(())
    }

    /// The text of a list.
    ///
    /// # Errors
    /// A column was asked for that does not exist.
    pub fn list_text(&self, page: &Value, columns: &[Column], name: &str) -> Result<String, CliError> {
        match self.format {
            Format::Json | Format::Yaml => self.document(page),
            Format::Name => Ok(items(page).iter().map(|item| format!("{}\n", text_at(item, name))).collect()),
            Format::Table | Format::Wide => {
                let chosen = self.choose(columns)?;
                Ok(render(&chosen, items(page), self))
            }
        }
    }

    /// Prints one thing: its columns as lines, or the whole as JSON or YAML.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn one(&self, item: &Value, columns: &[Column], name: &str) -> Result<(), CliError> {
        print(&self.one_text(item, columns, name)?)
    }

    /// The text of one thing.
    ///
    /// # Errors
    /// A column was asked for that does not exist.
    pub fn one_text(&self, item: &Value, columns: &[Column], name: &str) -> Result<String, CliError> {
        match self.format {
            Format::Json | Format::Yaml => self.document(item),
            Format::Name => Ok(format!("{}\n", text_at(item, name))),
            Format::Table | Format::Wide => {
                let chosen = self.choose(columns)?;
                let width = chosen.iter().map(|column| column.title.len()).max().unwrap_or(0);
                let mut out = String::new();
                for column in chosen {
                    let text = cell(item, &Column { wide: true, ..column }, Format::Wide, self.now);
                    if !text.is_empty() {
                        let title = capital(column.title);
                        out.push_str(&format!("{title:<width$}  {text}\n"));
                    }
                }
                Ok(out)
            }
        }
    }

    /// The text of any value as JSON or YAML.
    ///
    /// # Errors
    /// The value cannot be written as YAML.
    pub fn document(&self, value: &Value) -> Result<String, CliError> {
        if self.format == Format::Yaml {
            let text = serde_saphyr::to_string(value).map_err(|error| anyhow::anyhow!("writing YAML: {error}"))?;
            return Ok(if text.ends_with('\n') { text } else { text + "\n" });
        }
        Ok(serde_json::to_string_pretty(value).expect("a JSON value is printable") + "\n")
    }

    fn choose(&self, columns: &[Column]) -> Result<Vec<Column>, CliError> {
        if self.columns.is_empty() {
            let all = self.format == Format::Wide;
            return Ok(columns.iter().filter(|column| all || !column.wide).copied().collect());
        }
        let known = || columns.iter().map(|column| column.title).collect::<Vec<_>>().join(", ");
        self.columns
            .iter()
            .map(|asked| {
                let found = columns.iter().find(|column| column.title.eq_ignore_ascii_case(asked));
                found
                    .copied()
                    .ok_or_else(|| CliError::usage(format!("there is no column {asked:?}: expected {}", known())))
            })
            .collect()
    }
}

/// Writes data to standard output.
///
/// # Errors
/// It cannot be written; a closed pipe is among the reasons.
pub fn print(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// The items of a page, of a list, or the thing itself.
pub fn items(page: &Value) -> &[Value] {
    match (&page["items"], page) {
        (Value::Array(items), _) | (_, Value::Array(items)) => items,
        (_, Value::Null) => &[],
        _ => std::slice::from_ref(page),
    }
}

/// The first value that one of the dotted paths leads to.
pub fn value_at<'a>(item: &'a Value, path: &str) -> &'a Value {
    static NULL: Value = Value::Null;
    path.split('|')
        .map(|one| one.split('.').fold(item, |at, part| at.get(part).unwrap_or(&NULL)))
        .find(|value| !value.is_null())
        .unwrap_or(&NULL)
}

/// A value as plain text.
pub fn text_at(item: &Value, path: &str) -> String {
    plain(value_at(item, path))
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        other => other.to_string(),
    }
}

fn cell(item: &Value, column: &Column, format: Format, now: jiff::Timestamp) -> String {
    let value = value_at(item, column.path);
    let text = plain(value);
    match column.kind {
        Kind::Text => text,
        Kind::Id if format == Format::Wide || text.len() <= 10 => text,
        Kind::Id => text[text.len() - 8..].to_owned(),
        Kind::Age => match text.parse::<jiff::Timestamp>() {
            Ok(at) => age(now.duration_since(at).as_secs()),
            Err(_) => text,
        },
        Kind::Bytes => value.as_u64().map_or(text, bytes),
        Kind::Milli => value.as_u64().map_or(text, thousandths),
        Kind::Millis => value.as_f64().map_or(text, |ms| format!("{ms:.1} ms")),
        Kind::Reason => match value {
            Value::Object(reason) => {
                let code = reason.get("code").map(plain).unwrap_or_default();
                let detail = reason.get("detail").map(plain).unwrap_or_default();
                if format == Format::Wide && !detail.is_empty() { format!("{code}: {detail}") } else { code }
            }
            _ => text,
        },
    }
}

/// An age as people of this field write it: `12s`, `3m`, `5h`, `2d`.
pub fn age(seconds: i64) -> String {
    match seconds.max(0) {
        s @ 0..=119 => format!("{s}s"),
        s @ 120..=7_199 => format!("{}m", s / 60),
        s @ 7_200..=172_799 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

/// Bytes in the largest binary unit that keeps at least one digit before the point.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut scaled = count as f64;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if unit == 0 || scaled.fract() < 0.05 {
        format!("{scaled:.0} {}", UNITS[unit])
    } else {
        format!("{scaled:.1} {}", UNITS[unit])
    }
}

/// Thousandths as a decimal without trailing zeros.
pub fn thousandths(thousandths: u64) -> String {
    if thousandths.is_multiple_of(1000) {
        (thousandths / 1000).to_string()
    } else {
        format!("{:.3}", thousandths as f64 / 1000.0).trim_end_matches('0').to_owned()
    }
}

fn capital(title: &str) -> String {
    let lower = title.to_lowercase();
    let mut letters = lower.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// The colour of a word that says whether something is well.
fn color_of(word: &str) -> Option<Color> {
    match word {
        "succeeded" | "running" | "ok" | "connected" | "active" | "open" => Some(Color::Green),
        "failed" | "WRONG" | "expelled" | "away" => Some(Color::Red),
        "pending" | "placing" | "staging" | "suspended" | "warn" | "cordoned" | "draining" | "stale" => {
            Some(Color::Yellow)
        }
        _ => None,
    }
}

fn render(columns: &[Column], items: &[Value], output: &Output) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    if output.color {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|column| column.title));
    for item in items {
        table.add_row(columns.iter().map(|column| {
            let text = cell(item, column, output.format, output.now);
            let color = color_of(&text);
            let cell = Cell::new(if text.is_empty() { "-".to_owned() } else { text });
            match color.filter(|_| output.color) {
                Some(color) => cell.fg(color),
                None => cell,
            }
        }));
    }
    for (index, column) in columns.iter().enumerate() {
        if let Some(place) = table.column_mut(index) {
            place.set_padding((0, 2));
            if matches!(column.kind, Kind::Bytes | Kind::Milli | Kind::Millis) {
                place.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

//! The rules of one file, ready to be used.

use super::expression::Expression;
use super::file::{FORMAT, FieldText, From, RuleFile, SectionText, Source, Through};
use serde::Serialize;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The longest rule file.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 20;

/// Which way a conversion goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the standard model to the platform.
    South,
    /// From the platform to the standard model.
    North,
}

impl std::fmt::Display for Direction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::South => "south",
            Self::North => "north",
        })
    }
}

/// Why a rule file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadRulesError {
    /// It is not a rule file.
    #[error("it is no rule file: {why}")]
    Syntax {
        /// Where and what.
        why: String,
    },
    /// A newer or older grammar.
    #[error("format {found}: expected {FORMAT}")]
    Format {
        /// What it says.
        found: u32,
    },
    /// A field that cannot work.
    #[error("{place}: {why}")]
    Field {
        /// Section and field.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// An example does not hold.
    #[error("example {number} of {place}: expected {expected}, got {found}")]
    Example {
        /// The section.
        place: String,
        /// Counts from 1.
        number: usize,
        /// As the file says.
        expected: String,
        /// As the rules do.
        found: String,
    },
}

/// Why something cannot be converted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// No such section.
    #[error("rules {rules} have no section [{direction}.{section}]: add it")]
    Section {
        /// The rules.
        rules: String,
        /// Which way.
        direction: Direction,
        /// What was asked for.
        section: String,
    },
    /// A field that no rule takes.
    #[error(
        "rules {rules} do not map {field}: add a [[{direction}.{section}.field]] with from = \"{field}\", or name it in \
         [{direction}.{section}.ignore] with the reason"
    )]
    UnmappedField {
        /// The rules.
        rules: String,
        /// Which way.
        direction: Direction,
        /// The section.
        section: String,
        /// The field's path.
        field: String,
    },
    /// A name that a table does not have.
    #[error("rules {rules} do not know {value}: add it to [tables.{table}]")]
    UnmappedValue {
        /// The rules.
        rules: String,
        /// The table.
        table: String,
        /// What was looked for.
        value: String,
    },
    /// A source that has to be there.
    #[error("rules {rules}: {to} needs {from}, which is not there")]
    Missing {
        /// The rules.
        rules: String,
        /// Where it was to go.
        to: String,
        /// Where it should have come from.
        from: String,
    },
    /// An expression that cannot be computed for these values.
    #[error("rules {rules}: {to}: {why}")]
    Expression {
        /// The rules.
        rules: String,
        /// Where it was to go.
        to: String,
        /// What the expression language says.
        why: String,
    },
}

/// One field's way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// Where it goes.
    pub to: String,
    /// What it was made of, by name.
    pub from: BTreeMap<String, Value>,
    /// The expression, where there is one.
    pub expression: Option<String>,
    /// The table, where there is one.
    pub table: Option<String>,
    /// What came out; `None` where the field was left out.
    pub value: Option<Value>,
}

/// A conversion with its steps.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// The rules' name and version.
    pub rules: String,
    /// Each field, in the file's order.
    pub steps: Vec<Step>,
    /// Fields that were left out on purpose, and why.
    pub ignored: BTreeMap<String, String>,
    /// The whole.
    pub result: Value,
}

/// A value that a field is made of.
struct Origin {
    name: String,
    path: Vec<String>,
    table: Option<String>,
}

struct Field {
    to: Vec<String>,
    to_text: String,
    from: Vec<Origin>,
    value: Option<Expression>,
    when: Option<Expression>,
    table: Option<String>,
    required: bool,
}

/// What of a source is taken: everything below a leaf, nothing beside.
#[derive(Default)]
struct Taken {
    whole: bool,
    parts: BTreeMap<String, Taken>,
}

struct Section {
    fields: Vec<Field>,
    taken: Taken,
    ignore: BTreeMap<String, String>,
}

/// Names of one side, and what they are on the other.
type Names = BTreeMap<String, Value>;

/// The rules of one file.
pub struct Rules {
    name: String,
    pub(super) backend: String,
    pub(super) platform: String,
    pub(super) pools: Vec<String>,
    /// Each to the south and to the north.
    tables: BTreeMap<String, (Names, Names)>,
    sections: BTreeMap<(Direction, String), Section>,
    http: Option<Value>,
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rules").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Rules {
    /// Reads rules and checks their examples.
    ///
    /// # Errors
    /// [`LoadRulesError`] with the place.
    pub fn parse(text: &str) -> Result<Self, LoadRulesError> {
        let file: RuleFile = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start.min(text.len())].lines().count().max(1));
            let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            LoadRulesError::Syntax { why: format!("{line}{}", error.message()) }
        })?;
        if file.format != FORMAT {
            return Err(LoadRulesError::Format { found: file.format });
        }
        let mut tables = BTreeMap::new();
        for (name, south) in file.tables {
            let wrong = |why: String| LoadRulesError::Field { place: format!("tables.{name}"), why };
            let (mut there, mut north) = (BTreeMap::new(), BTreeMap::new());
            for (standard, platform) in south {
                // of several names on the platform the first is the one that it is told
                let names = if let Value::Array(names) = platform { names } else { vec![platform] };
                let first = names.first().ok_or_else(|| wrong(format!("{standard}: expected at least one name")))?;
                there.insert(standard.clone(), first.clone());
                for name in &names {
                    if north.insert(key_text(name), Value::String(standard.clone())).is_some() {
                        let why = format!("{} stands for two names, so there is no way back", key_text(name));
                        return Err(wrong(why));
                    }
                }
            }
            tables.insert(name, (there, north));
        }
        let mut rules = Self {
            name: format!("{} {}", file.name, file.version),
            backend: file.backend,
            platform: file.platform,
            pools: file.pools,
            tables,
            sections: BTreeMap::new(),
            http: file.http,
        };
        let mut examples = Vec::new();
        for (direction, sections) in [(Direction::South, file.south), (Direction::North, file.north)] {
            for (name, mut text) in sections {
                examples.push((direction, name.clone(), std::mem::take(&mut text.example)));
                let section = rules.section(&format!("{direction}.{name}"), text)?;
                rules.sections.insert((direction, name), section);
            }
        }
        for (direction, name, pairs) in examples {
            let place = format!("{direction}.{name}");
            if pairs.is_empty() {
                return Err(LoadRulesError::Field { place, why: "expected at least one example".to_owned() });
            }
            for (index, pair) in pairs.into_iter().enumerate() {
                let found = rules.convert(direction, &name, &pair.from);
                if found.as_ref() != Ok(&pair.to) {
                    return Err(LoadRulesError::Example {
                        place,
                        number: index + 1,
                        expected: pair.to.to_string(),
                        found: found.map_or_else(|error| error.to_string(), |value| value.to_string()),
                    });
                }
            }
        }
        Ok(rules)
    }

    /// Name and version.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The backend kind that the rules are for.
    pub fn backend(&self) -> &str {
        &self.backend
    }

    /// How requests are made, where the file says so (`[http]`).
    pub(crate) fn http(&self) -> Option<&Value> {
        self.http.as_ref()
    }

    /// Whether there is such a section.
    pub fn has(&self, direction: Direction, section: &str) -> bool {
        self.sections.contains_key(&(direction, section.to_owned()))
    }

    fn section(&self, place: &str, text: SectionText) -> Result<Section, LoadRulesError> {
        let mut taken = Taken::default();
        for path in text.ignore.keys() {
            // a platform's answer may say more than anybody wants; the standard model may not
            match path.as_str() {
                "*" if place.starts_with("north.") => taken.whole = true,
                "*" => {
                    let why = "ignore: only answers of a platform may be ignored as a whole".to_owned();
                    return Err(LoadRulesError::Field { place: place.to_owned(), why });
                }
                path => take(&mut taken, &steps(path)),
            }
        }
        let mut fields = Vec::with_capacity(text.field.len());
        for field in text.field {
            let place = format!("{place}: {}", field.to);
            let field = self.field(field).map_err(|why| LoadRulesError::Field { place, why })?;
            for origin in &field.from {
                take(&mut taken, &origin.path);
            }
            fields.push(field);
        }
        Ok(Section { fields, taken, ignore: text.ignore })
    }

    fn field(&self, text: FieldText) -> Result<Field, String> {
        let origin = |(name, source)| {
            let (path, table) = match source {
                Source::Path(path) => (path, None),
                Source::Through(Through { path, table }) => (path, Some(table)),
            };
            Origin { name, path: steps(&path), table }
        };
        let from: Vec<Origin> = match text.from {
            None => Vec::new(),
            Some(From::One(path)) => vec![origin(("it".to_owned(), Source::Path(path)))],
            Some(From::Named(sources)) => sources.into_iter().map(origin).collect(),
        };
        let names: Vec<&str> = from.iter().map(|origin| origin.name.as_str()).collect();
        let compile = |text: Option<String>| text.map(|text| Expression::compile(text, &names)).transpose();
        let (value, when) = (compile(text.value)?, compile(text.when)?);
        let field = Field {
            to: steps(&text.to),
            to_text: text.to,
            value,
            when,
            table: text.table,
            required: text.required,
            from,
        };
        if field.to.iter().any(String::is_empty) {
            return Err("to: expected a dotted path".to_owned());
        }
        if field.value.is_none() && field.from.len() != 1 {
            return Err("value: needed, unless `from` is one path".to_owned());
        }
        let mut tables = field.table.iter().chain(field.from.iter().filter_map(|origin| origin.table.as_ref()));
        if let Some(table) = tables.find(|table| !self.tables.contains_key(*table)) {
            return Err(format!("table: there is no [tables.{table}]"));
        }
        Ok(field)
    }

    /// Converts `source`.
    ///
    /// # Errors
    /// [`ConvertError`], which names what is missing in the rules.
    pub fn convert(&self, direction: Direction, section: &str, source: &Value) -> Result<Value, ConvertError> {
        self.run(direction, section, source, None)
    }

    /// Converts `source` and shows each step.
    ///
    /// # Errors
    /// As [`Self::convert`].
    pub fn explain(&self, direction: Direction, section: &str, source: &Value) -> Result<Explanation, ConvertError> {
        let mut steps = Vec::new();
        let result = self.run(direction, section, source, Some(&mut steps))?;
        let ignored = self.sections.get(&(direction, section.to_owned())).map(|section| section.ignore.clone());
        Ok(Explanation { rules: self.name.clone(), steps, ignored: ignored.unwrap_or_default(), result })
    }

    fn run(
        &self,
        direction: Direction,
        name: &str,
        source: &Value,
        mut explained: Option<&mut Vec<Step>>,
    ) -> Result<Value, ConvertError> {
        let section = self.sections.get(&(direction, name.to_owned())).ok_or_else(|| ConvertError::Section {
            rules: self.name.clone(),
            direction,
            section: name.to_owned(),
        })?;
        let mut path = String::new();
        if let Some(field) = untaken(source, &section.taken, &mut path) {
            let section = name.to_owned();
            return Err(ConvertError::UnmappedField { rules: self.name.clone(), direction, section, field });
        }
        let mut result = Value::Object(Map::new());
        for field in &section.fields {
            let value = self.value(direction, field, source)?;
            if let Some(steps) = explained.as_deref_mut() {
                steps.push(Step {
                    to: field.to_text.clone(),
                    from: field
                        .from
                        .iter()
                        .map(|Origin { path, .. }| (path.join("."), at(source, path).cloned().unwrap_or(Value::Null)))
                        .collect(),
                    expression: field.value.as_ref().map(|value| value.text.clone()),
                    table: field.table.clone(),
                    value: value.clone(),
                });
            }
            if let Some(value) = value {
                put(&mut result, &field.to, value);
            }
        }
        Ok(result)
    }

    /// Looks `value` up in a table.
    fn through(&self, direction: Direction, table: &str, value: &Value) -> Result<Value, ConvertError> {
        let (south, north) = &self.tables[table];
        let names = if direction == Direction::South { south } else { north };
        let key = key_text(value);
        names.get(&key).cloned().ok_or_else(|| ConvertError::UnmappedValue {
            rules: self.name.clone(),
            table: table.to_owned(),
            value: key,
        })
    }

    fn value(&self, direction: Direction, field: &Field, source: &Value) -> Result<Option<Value>, ConvertError> {
        let mut found: Vec<Option<Cow<'_, Value>>> = Vec::with_capacity(field.from.len());
        for origin in &field.from {
            found.push(match (at(source, &origin.path), &origin.table) {
                (Some(value), Some(table)) => Some(Cow::Owned(self.through(direction, table, value)?)),
                (value, _) => value.map(Cow::Borrowed),
            });
        }
        if !field.from.is_empty() && found.iter().all(Option::is_none) {
            if !field.required {
                return Ok(None);
            }
            let paths: Vec<String> = field.from.iter().map(|origin| origin.path.join(".")).collect();
            return Err(ConvertError::Missing {
                rules: self.name.clone(),
                to: field.to_text.clone(),
                from: paths.join(", "),
            });
        }
        let first = || found.first().and_then(|value| value.as_deref()).cloned().unwrap_or(Value::Null);
        let mut value = if field.value.is_some() || field.when.is_some() {
            let names = field.from.iter().map(|origin| origin.name.as_str());
            let values = || names.clone().zip(found.iter().map(|value| value.as_deref().unwrap_or(&Value::Null)));
            let wrong =
                |why: String| ConvertError::Expression { rules: self.name.clone(), to: field.to_text.clone(), why };
            if let Some(when) = &field.when {
                match when.run(values()).map_err(wrong)? {
                    Value::Bool(true) => {}
                    Value::Bool(false) => return Ok(None),
                    _ => return Err(wrong(format!("{}: expected true or false", when.text))),
                }
            }
            match &field.value {
                Some(value) => value.run(values()).map_err(wrong)?,
                None => first(),
            }
        } else {
            first()
        };
        if let Some(table) = &field.table {
            value = self.through(direction, table, &value)?;
        }
        Ok(Some(value))
    }
}

/// Tables are looked up by text.
fn key_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `a.b`; a name with dots in it is written in double quotes, as in `capacity."nvidia.com/gpu"`.
fn steps(path: &str) -> Vec<String> {
    let (mut steps, mut step, mut quoted) = (Vec::new(), String::new(), false);
    for c in path.chars() {
        match c {
            '"' => quoted = !quoted,
            '.' if !quoted => steps.push(std::mem::take(&mut step)),
            c => step.push(c),
        }
    }
    steps.push(step);
    steps
}

fn at<'a>(source: &'a Value, path: &[String]) -> Option<&'a Value> {
    let found = path.iter().try_fold(source, |value, step| value.get(step))?;
    (!found.is_null()).then_some(found)
}

fn put(result: &mut Value, path: &[String], value: Value) {
    let mut place = result;
    for step in path {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        let Value::Object(pairs) = place else { return };
        place = pairs.entry(step.clone()).or_insert(Value::Null);
    }
    *place = value;
}

fn take(taken: &mut Taken, path: &[String]) {
    match path.split_first() {
        None => taken.whole = true,
        Some((first, rest)) => take(taken.parts.entry(first.clone()).or_default(), rest),
    }
}

/// The path of the first field that nothing takes. What is absent, null or empty is no field.
fn untaken(value: &Value, taken: &Taken, path: &mut String) -> Option<String> {
    if taken.whole {
        return None;
    }
    match value {
        Value::Null => None,
        Value::Array(items) if items.is_empty() => None,
        Value::Object(pairs) => {
            static NOTHING: Taken = Taken { whole: false, parts: BTreeMap::new() };
            for (name, value) in pairs {
                let length = path.len();
                let dot = if path.is_empty() { "" } else { "." };
                let quote = if name.contains('.') { "\"" } else { "" };
                path.push_str(&format!("{dot}{quote}{name}{quote}"));
                let found = untaken(value, taken.parts.get(name).unwrap_or(&NOTHING), path);
                if found.is_some() {
                    return found;
                }
                path.truncate(length);
            }
            None
        }
        _ => Some(path.clone()),
    }
}

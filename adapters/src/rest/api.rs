//! A rule file ready for use: every verb with its request, its answer and its errors. Checked as a whole when it is read.

use super::file::{AuthText, ErrorText, HttpText, Means, Patience, SecretText, VERBS, VerbText};
use crate::contract::AdapterError;
use crate::rules::{ConvertError, Direction, Expression, Rules};
use cpi::reason::ReasonCode;
use cpi::resource::Firmness;
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Why a file cannot describe an API.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadApiError {
    #[error("{path}: {why}")]
    Read { path: String, why: String },
    #[error("{0}")]
    Rules(#[from] crate::rules::LoadRulesError),
    #[error("rules {rules}: {place}: {why}")]
    Place { rules: String, place: String, why: String },
}

/// What a verb's south section makes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestParts {
    /// Below the base; each part is encoded, so that no value can leave its place.
    pub(super) path: Vec<String>,
    #[serde(default)]
    pub(super) query: BTreeMap<String, Value>,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) body: Option<Value>,
}

#[derive(Debug)]
pub(super) struct Verb {
    pub(super) name: &'static str,
    pub(super) method: Method,
    pub(super) repeatable: bool,
    pub(super) items: Option<Expression>,
    pub(super) next: Option<Expression>,
    pub(super) ours: Option<Expression>,
    pub(super) text: Option<Expression>,
    pub(super) ranged: bool,
    pub(super) streams: Option<Vec<String>>,
}

#[derive(Debug)]
pub(super) struct ErrorRule {
    pub(super) status: Vec<u16>,
    pub(super) verbs: Vec<String>,
    pub(super) when: Option<Expression>,
    pub(super) means: Means,
    pub(super) code: Option<ReasonCode>,
    pub(super) retryable: Option<bool>,
    pub(super) detail: Option<Expression>,
}

/// An API, as a rule file describes it.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) rules: Rules,
    pub(super) base_url: Option<String>,
    pub(super) auth: AuthText,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) patience: Patience,
    pub(super) firmness: Firmness,
    pub(super) runs_images: bool,
    pub(super) errors: Vec<ErrorRule>,
    verbs: BTreeMap<&'static str, Verb>,
}

/// The north section that reads the answer of a verb; `None` where the answer is not looked at.
fn answers(verb: &str) -> Option<&'static str> {
    Some(match verb {
        "lookup" | "status" | "list" => "run",
        "classes" => "class",
        "servers" => "server",
        "volumes" => "volume",
        "reserve" => "reservation",
        "machines" => "machine",
        _ => return None,
    })
}

impl Api {
    /// Reads a file.
    pub(super) fn read(path: &Path) -> Result<Self, LoadApiError> {
        let read = |why: String| LoadApiError::Read { path: path.display().to_string(), why };
        let length = std::fs::metadata(path).map_err(|error| read(error.to_string()))?.len();
        if length > crate::rules::FILE_BYTES_MAX {
            return Err(read("expected at most 1 MiB".to_owned()));
        }
        Self::parse(&std::fs::read_to_string(path).map_err(|error| read(error.to_string()))?)
    }

    /// Reads the text of a file.
    pub(super) fn parse(text: &str) -> Result<Self, LoadApiError> {
        let rules = Rules::parse(text)?;
        let name = rules.name().to_owned();
        let wrong = |place: &str, why: &str| LoadApiError::Place {
            rules: name.clone(),
            place: place.to_owned(),
            why: why.to_owned(),
        };
        let http = rules.http().ok_or_else(|| wrong("[http]", "expected the section"))?.clone();
        let http: HttpText = serde_json::from_value(http).map_err(|error| wrong("[http]", &error.to_string()))?;
        check(&http.patience).map_err(|(field, why)| wrong(&format!("[http.patience] {field}"), why))?;
        if rules.backend() != "rest" {
            return Err(wrong("backend", "expected \"rest\""));
        }
        let mut verbs = BTreeMap::new();
        for (name, text) in http.verb {
            let place = format!("[http.verb.{name}]");
            let Some((known, _)) = VERBS.iter().find(|(known, _)| *known == name) else {
                let all: Vec<&str> = VERBS.iter().map(|(name, _)| *name).collect();
                return Err(wrong(&place, &format!("no such verb; there are {}", all.join(", "))));
            };
            if !rules.has(Direction::South, known) {
                return Err(wrong(&place, &format!("add a section [south.{known}] that makes its request")));
            }
            if let Some(section) = answers(known)
                && !rules.has(Direction::North, section)
            {
                return Err(wrong(&place, &format!("add a section [north.{section}] that reads its answer")));
            }
            verbs.insert(*known, verb(known, text).map_err(|why| wrong(&place, &why))?);
        }
        let missing = VERBS.iter().find(|(name, needed)| *needed && !verbs.contains_key(name));
        if let Some((name, _)) = missing {
            return Err(wrong(&format!("[http.verb.{name}]"), "expected the section"));
        }
        for verb in ["list", "lookup", "classes", "servers", "volumes", "machines"] {
            if verbs.get(verb).is_some_and(|verb| verb.items.is_none()) {
                return Err(wrong(&format!("[http.verb.{verb}] items"), "expected an expression that finds the list"));
            }
        }
        let makes = ["provision", "machines", "modify", "power", "release"];
        if makes.iter().any(|verb| verbs.contains_key(verb)) && !makes.iter().all(|verb| verbs.contains_key(verb)) {
            return Err(wrong("[http.verb]", "machines need all of provision, machines, modify, power and release"));
        }
        if verbs.contains_key("reserve") != verbs.contains_key("unreserve") {
            return Err(wrong("[http.verb]", "reserve and unreserve only come together"));
        }
        let errors: Result<Vec<ErrorRule>, String> = http.error.into_iter().map(error_rule).collect();
        let errors = errors.map_err(|why| wrong("[[http.error]]", &why))?;
        Ok(Self {
            base_url: http.base_url,
            auth: http.auth,
            headers: http.headers,
            patience: http.patience,
            firmness: http.firmness,
            runs_images: http.runs_images,
            errors,
            verbs,
            rules,
        })
    }

    /// The names of the secrets that it signs in with.
    pub(super) fn credentials(&self) -> Vec<&str> {
        match &self.auth {
            AuthText::None => Vec::new(),
            AuthText::Header { credential, .. } | AuthText::Basic { credential } => vec![credential],
            AuthText::Token(how) => how
                .fields
                .values()
                .chain(how.refresh_fields.values())
                .filter_map(|text| match text {
                    SecretText::Secret(secret) => Some(secret.credential.as_str()),
                    SecretText::Text(_) => None,
                })
                .collect(),
        }
    }

    pub(super) fn has(&self, verb: &str) -> bool {
        self.verbs.contains_key(verb)
    }

    /// The verb, which the caller knows to be there, or is told to be missing.
    pub(super) fn verb(&self, name: &str) -> Result<&Verb, AdapterError> {
        self.verbs.get(name).ok_or_else(|| {
            let why = format!("rules {} have no [http.verb.{name}]", self.rules.name());
            AdapterError::fatal(ReasonCode::BackendUnsupported, why)
        })
    }

    /// The request of `verb` about `what`.
    ///
    /// # Errors
    /// The rules do not cover `what`: it is not supported, and the detail says which rule to add.
    pub(super) fn request(&self, verb: &Verb, what: &Value) -> Result<RequestParts, AdapterError> {
        let unsupported = |why: String| AdapterError::fatal(ReasonCode::BackendUnsupported, why);
        let made = self.rules.convert(Direction::South, verb.name, what).map_err(|error| match &error {
            ConvertError::UnmappedValue { table, .. } if table == "chips" => {
                AdapterError::fatal(ReasonCode::ChipUnavailable, error.to_string())
            }
            _ => unsupported(error.to_string()),
        })?;
        serde_json::from_value(made).map_err(|error| {
            let why = format!("rules {}: [south.{}] makes no request: {error}", self.rules.name(), verb.name);
            unsupported(why)
        })
    }

    /// An answer, or an item of one, through `section`.
    ///
    /// # Errors
    /// The platform said what the rules do not cover. The run goes on; the operator adds a rule.
    pub(super) fn read_answer<T: for<'a> Deserialize<'a>>(
        &self,
        section: &str,
        answer: &Value,
    ) -> Result<T, AdapterError> {
        let down = |why: String| AdapterError::passing(ReasonCode::AdapterDown, why);
        let read = self.rules.convert(Direction::North, section, answer).map_err(|error| down(error.to_string()))?;
        serde_json::from_value(read).map_err(|error| {
            down(format!("rules {}: [north.{section}] makes what is not understood: {error}", self.rules.name()))
        })
    }
}

fn verb(name: &'static str, text: VerbText) -> Result<Verb, String> {
    let method = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
        .into_iter()
        .find(|known| *known == text.method)
        .and_then(|known| Method::from_bytes(known.as_bytes()).ok())
        .ok_or_else(|| format!("method {:?}: expected GET, HEAD, POST, PUT, PATCH or DELETE", text.method))?;
    let compile = |field: &str, text: Option<String>, names: &[&str]| {
        text.map(|text| Expression::compile(text, names)).transpose().map_err(|why| format!("{field}: {why}"))
    };
    if text.next.is_some() && text.items.is_none() {
        return Err("next: only with items".to_owned());
    }
    let known = |stream: &String| stream == "stdout" || stream == "stderr";
    if !text.streams.iter().flatten().all(known) {
        return Err("streams: expected stdout and stderr".to_owned());
    }
    Ok(Verb {
        name,
        repeatable: text.repeatable.unwrap_or(method != Method::POST && method != Method::PATCH),
        method,
        items: compile("items", text.items, &["body"])?,
        next: compile("next", text.next, &["body", "page"])?,
        ours: compile("ours", text.ours, &["item"])?,
        text: compile("text", text.text, &["body"])?,
        ranged: text.ranged,
        streams: text.streams,
    })
}

fn error_rule(text: ErrorText) -> Result<ErrorRule, String> {
    if let Some(verb) = text.verbs.iter().find(|verb| !VERBS.iter().any(|(known, _)| known == verb)) {
        return Err(format!("verbs: no such verb {verb}"));
    }
    if (text.means == Means::Fault) != text.code.is_some() {
        return Err("code: needed for a fault, and only there".to_owned());
    }
    let compile = |text: Option<String>| text.map(|text| Expression::compile(text, &["status", "body"])).transpose();
    Ok(ErrorRule {
        status: text.status,
        verbs: text.verbs,
        when: compile(text.when)?,
        means: text.means,
        code: text.code,
        retryable: text.retryable,
        detail: compile(text.detail)?,
    })
}

fn check(patience: &Patience) -> Result<(), (&'static str, &'static str)> {
    let in_range = |field, holds: bool, expected| if holds { Ok(()) } else { Err((field, expected)) };
    in_range("request_ms", (10..=600_000).contains(&patience.request_ms), "expected 10 to 600000")?;
    in_range("verb_ms", (10..=600_000).contains(&patience.verb_ms), "expected 10 to 600000")?;
    in_range("answer_bytes_max", (1..=64 << 20).contains(&patience.answer_bytes_max), "expected 1 byte to 64 MiB")?;
    in_range("requests_max", (1..=256).contains(&patience.requests_max), "expected 1 to 256")?;
    in_range("retries_max", patience.retries_max <= 20, "expected 0 to 20")?;
    in_range("backoff_ms_min", patience.backoff_ms_min > 0, "expected at least 1")?;
    in_range("backoff_ms_max", patience.backoff_ms_max >= patience.backoff_ms_min, "expected at least backoff_ms_min")?;
    in_range("poll_ms", (10..=3_600_000).contains(&patience.poll_ms), "expected 10 to 3600000")?;
    in_range("servers_poll_ms", (10..=3_600_000).contains(&patience.servers_poll_ms), "expected 10 to 3600000")?;
    in_range("pages_max", (1..=100_000).contains(&patience.pages_max), "expected 1 to 100000")?;
    in_range("log_bytes_max", patience.log_bytes_max <= 256 << 20, "expected at most 256 MiB")
}

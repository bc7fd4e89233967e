//! `adapter convert`: what conversion rules make of one request, step by step, without a node.

use super::Context;
use super::exit::{CliError, Exit};
use super::output::{Format, print};
use adapters::rules::{Direction, Explanation, RuleBook};
use clap::Args;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The longest request.
const REQUEST_BYTES_MAX: u64 = 4 << 20;
/// Where rule files are looked for.
const FOLDERS: [&str; 3] = ["/etc/causeway/rules", "/usr/share/causeway/rules", "configs/rules"];

/// What is converted, and by which rules.
#[derive(Debug, Clone, Args)]
pub struct ConvertArgs {
    /// The request as JSON: of the standard model, or with --north the platform's. `-` for standard input.
    file: String,
    /// The kind of backend.
    #[arg(long)]
    backend: String,
    /// The platform's version; rules for the longest beginning of it are taken.
    #[arg(long, default_value = "")]
    platform: String,
    /// The pool, where rules differ by pool.
    #[arg(long, default_value = "")]
    pool: String,
    /// The rules' section: submit, state, server and others.
    #[arg(long, default_value = "submit")]
    section: String,
    /// From the platform to the standard model.
    #[arg(long)]
    north: bool,
    /// Shows each step.
    #[arg(long)]
    explain: bool,
    /// The folder of the rule files. Default: the first of /etc/causeway/rules, /usr/share/causeway/rules, configs/rules.
    #[arg(long, value_name = "DIR")]
    rules: Option<PathBuf>,
}

/// Converts and prints.
pub fn run(args: &ConvertArgs, context: &Context) -> Result<(), CliError> {
    let folder = match &args.rules {
        Some(folder) => folder.clone(),
        None => FOLDERS.iter().map(Path::new).find(|folder| folder.is_dir()).map(Path::to_owned).ok_or_else(|| {
            CliError::Usage {
                message: "no folder of rule files is here".to_owned(),
                hint: Some("name it with --rules DIR".to_owned()),
            }
        })?,
    };
    let (book, problems) = RuleBook::open(&folder);
    for problem in problems {
        context.output.say(format!("not used: {}: {}", problem.path.display(), problem.why));
    }
    let rules = book.choose(&args.backend, &args.platform, &args.pool).ok_or_else(|| {
        let known = book.names().join(", ");
        CliError::NotFound(format!(
            "no rules for backend {:?} in {}; there are {known}",
            args.backend,
            folder.display()
        ))
    })?;
    let text = super::read_text(&args.file, REQUEST_BYTES_MAX)?;
    let source: Value =
        serde_json::from_str(&text).map_err(|error| CliError::usage(format!("{}: not JSON: {error}", args.file)))?;
    let direction = if args.north { Direction::North } else { Direction::South };
    let explained =
        rules.explain(direction, &args.section, &source).map_err(|error| CliError::failed(Exit::Failed, &error))?;
    if !args.explain {
        return print(&context.output.document(&explained.result)?);
    }
    match context.output.format {
        Format::Json | Format::Yaml => print(&context.output.document(&json!(explained))?),
        _ => print(&in_words(&explained)),
    }
}

fn in_words(explained: &Explanation) -> String {
    let mut out = format!("rules {}\n", explained.rules);
    for step in &explained.steps {
        let from: Vec<String> = step.from.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        let _ = writeln!(out, "{}", step.to);
        if !from.is_empty() {
            let _ = writeln!(out, "  from   {}", from.join(", "));
        }
        if let Some(expression) = &step.expression {
            let _ = writeln!(out, "  by     {}", expression.trim());
        }
        match &step.value {
            Some(value) => drop(writeln!(out, "  gives  {value}")),
            None => drop(writeln!(out, "  is left out")),
        }
    }
    for (path, why) in &explained.ignored {
        let _ = writeln!(out, "{path}\n  is not converted: {why}");
    }
    let _ = writeln!(out, "result\n{}", serde_json::to_string_pretty(&explained.result).expect("JSON is printable"));
    out
}

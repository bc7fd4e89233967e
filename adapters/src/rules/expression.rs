//! One CEL expression, compiled once: JSON values in by name, JSON out.

use super::value::{from_cel, to_cel};
use cel::{Context, Env, Program};
use serde_json::Value;
use std::sync::{Arc, LazyLock};

/// CEL with its extension for strings (`join`, `replace`, `split`).
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut environment = Env::stdlib();
    environment.add_extension(cel::extensions::strings).expect("the extension is made for the standard library");
    Arc::new(environment)
});

/// An expression that may name certain values only.
pub(crate) struct Expression {
    pub(crate) text: String,
    program: Program,
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Expression").field(&self.text).finish()
    }
}

impl Expression {
    /// Compiles `text`, which may use `names`.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(crate) fn compile(text: String, names: &[&str]) -> Result<Self, String> {
        let program = ENVIRONMENT.compile(&text).map_err(|error| format!("{text}: {error}"))?;
        let known = |name: &str| names.contains(&name) || is_bound(&text, name);
        if let Some(unknown) = program.references().variables().into_iter().find(|name| !known(name)) {
            return Err(format!("{text}: {unknown} is not in `from`"));
        }
        Ok(Self { text, program })
    }

    /// Runs it with a value for each name.
    ///
    /// # Errors
    /// What the expression language says, or that the result is no JSON.
    pub(crate) fn run<'a>(&self, values: impl IntoIterator<Item = (&'a str, &'a Value)>) -> Result<Value, String> {
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        for (name, value) in values {
            context.add_variable_from_value(name, to_cel(value));
        }
        let found = self.program.execute(&context).map_err(|error| format!("{}: {error}", self.text))?;
        from_cel(&found).ok_or_else(|| format!("{}: its result cannot be written as JSON", self.text))
    }
}

/// Whether `name` is what one of CEL's macros calls an element, as in `list.map(name, ...)`.
fn is_bound(expression: &str, name: &str) -> bool {
    let dense: String = expression.chars().filter(|c| !c.is_whitespace()).collect();
    let macros = ["map", "filter", "all", "exists", "exists_one"];
    // names that the macros themselves make begin with @ or _
    name.starts_with(['@', '_']) || macros.iter().any(|verb| dense.contains(&format!(".{verb}({name},")))
}

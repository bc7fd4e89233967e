//! The OpenAPI 3.1 document: what utoipa read from the handlers, the schemas of `cpi`, and the errors of every operation.

use super::problem::{Code, Problem};
use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;
use utoipa::{PartialSchema as _, ToSchema as _};

/// The whole document, as served.
pub fn document() -> Value {
    complete(super::api().into_openapi())
}

/// Completes what was generated from the handlers.
pub(super) fn complete(generated: OpenApi) -> Value {
    let mut document = serde_json::to_value(generated).expect("a document has only plain fields");
    document["openapi"] = json!("3.1.0");
    document["info"] = json!({
        "title": "Causeway",
        "version": env!("CARGO_PKG_VERSION"),
        "description": "Regional data centres joined into one computing network. Any node answers; every answer names its \
            node and how fresh it is. Errors are RFC 9457 problem details.",
        "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
    });
    document["servers"] = json!([{ "url": "/" }]);
    document["security"] = json!([{ "api_key": [] }]);
    let components = &mut document["components"];
    components["securitySchemes"] = json!({ "api_key": {
        "type": "http", "scheme": "bearer", "description": "The node's API key, from the file api.key of its data folder",
    }});
    components["schemas"]["Problem"] = serde_json::to_value(Problem::schema()).expect("a schema is JSON");
    let mut more = Vec::new();
    Problem::schemas(&mut more);
    for (name, schema) in more {
        components["schemas"][name] = serde_json::to_value(schema).expect("a schema is JSON");
    }
    for (name, schema) in cpi_schemas() {
        components["schemas"][name] = schema;
    }
    components["responses"] = error_responses();
    if let Some(paths) = document["paths"].as_object_mut() {
        for item in paths.values_mut().filter_map(Value::as_object_mut) {
            for operation in item.values_mut().filter(|value| value.is_object()) {
                add_errors(operation);
            }
        }
    }
    document
}

/// The schemas that `cpi` publishes, with their references turned to this document's place.
fn cpi_schemas() -> Vec<(String, Value)> {
    let mut out = Vec::new();
    let roots = [
        ("TaskSpec", schemars::schema_for!(cpi::task::TaskSpec).to_value()),
        ("PoolSpec", schemars::schema_for!(cpi::resource::PoolSpec).to_value()),
        ("ClassStatus", schemars::schema_for!(cpi::resource::ClassStatus).to_value()),
        ("RegionPlace", schemars::schema_for!(cpi::resource::RegionPlace).to_value()),
        ("Reason", schemars::schema_for!(cpi::reason::Reason).to_value()),
        ("Description", cpi::resolve::schema()),
        ("CpiFields", schemars::schema_for!(cpi::identifier::CpiFields).to_value()),
        ("Fence", schemars::schema_for!(cpi::ids::Fence).to_value()),
    ];
    for (name, mut schema) in roots {
        repoint(&mut schema);
        if let Some(object) = schema.as_object_mut() {
            object.remove("$schema");
            if let Some(Value::Object(defs)) = object.remove("$defs") {
                out.extend(defs);
            }
        }
        out.push((name.to_owned(), schema));
    }
    out
}

fn repoint(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            for (key, value) in object.iter_mut() {
                match value {
                    Value::String(text) if key == "$ref" => *text = text.replace("#/$defs/", "#/components/schemas/"),
                    _ => repoint(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(repoint),
        _ => {}
    }
}

fn error_responses() -> Value {
    let mut out = Map::new();
    for code in Code::ALL {
        let name = format!("E{}", code.status());
        let entry = out.entry(name).or_insert_with(|| {
            json!({
                "description": "",
                "content": { "application/problem+json": {
                    "schema": { "$ref": "#/components/schemas/Problem" }, "examples": {},
                }},
            })
        });
        let words = entry["description"].as_str().unwrap_or_default();
        let line = format!("`{}`: {}.", code.text(), code.title());
        entry["description"] = json!(if words.is_empty() { line } else { format!("{words} {line}") });
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736".to_owned();
        let example = super::ApiError::new(*code, code.title()).into_problem("/v1/example", trace, "beijing");
        entry["content"]["application/problem+json"]["examples"][code.text()] = json!({ "value": example });
    }
    Value::Object(out)
}

/// Adds the errors that the front, the extractors and the services answer to one operation.
fn add_errors(operation: &mut Value) {
    let open = operation["security"].as_array().is_some_and(|all| all.iter().any(|one| one == &json!({})));
    let has_body = operation["requestBody"].is_object();
    let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
    let in_path = parameters.iter().any(|parameter| parameter["in"] == "path");
    let mut statuses = vec![500];
    if !open {
        statuses.extend([401, 403, 429, 503]);
    }
    if has_body {
        statuses.extend([400, 413, 415, 422, 507]);
    }
    if !parameters.is_empty() {
        statuses.push(400);
    }
    if in_path {
        statuses.push(404);
    }
    if has_body || in_path {
        statuses.extend([409, 412]);
    }
    for status in statuses {
        let responses = &mut operation["responses"];
        if responses[status.to_string()].is_null() {
            responses[status.to_string()] = json!({ "$ref": format!("#/components/responses/E{status}") });
        }
    }
}

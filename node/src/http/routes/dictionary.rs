//! `/v1/dictionary`: the release in force, and all releases.

use crate::http::extract::{Json, Query};
use crate::http::page::{Page, PageQuery, PageRequest};
use crate::http::problem::{ApiError, Code};
use crate::http::state::AppState;
use crate::services::identifier_views::ReleaseView;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

/// Which part of the dictionary.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct DictionaryQuery {
    /// A table of the release document, for example `chips`. None: the names and sizes of all tables.
    pub table: Option<String>,
    /// With `table`: one code of it.
    pub code: Option<String>,
}

/// The dictionary release in force here.
#[utoipa::path(get, path = "/v1/dictionary", tag = "dictionary", params(DictionaryQuery),
    responses((status = 200, description = "The tables' sizes, one table, or one entry", body = Object)))]
pub async fn get(State(state): State<AppState>, Query(query): Query<DictionaryQuery>) -> Result<Json<Value>, ApiError> {
    let dictionary = state.services().current_dictionary();
    let document = serde_json::to_value(dictionary.to_document()).expect("a release document is plain JSON");
    let tables = || {
        let object = document.as_object().into_iter().flatten();
        object.filter_map(|(name, table)| Some((name.clone(), table.as_array()?.len())))
    };
    let Some(table) = query.table else {
        let sizes: serde_json::Map<String, Value> = tables().map(|(name, len)| (name, json!(len))).collect();
        return Ok(Json(json!({
            "release": dictionary.release(), "issued": dictionary.issued().to_string(), "tables": sizes,
        })));
    };
    let Some(rows) = document[&table].as_array() else {
        let known: Vec<String> = tables().map(|(name, _)| name).collect();
        return Err(ApiError::parameter(
            "table",
            format!("{table:?} is no table: expected one of {}", known.join(", ")),
        ));
    };
    match query.code {
        None => Ok(Json(json!({ "release": dictionary.release(), "items": rows }))),
        Some(code) => {
            let found = rows.iter().find(|row| row["code"] == code || row["code"]["code"] == code);
            found.cloned().map(Json).ok_or_else(|| ApiError::not_found(format!("code {code:?} in {table}")))
        }
    }
}

/// All releases, newest first.
#[utoipa::path(get, path = "/v1/dictionary/releases", tag = "dictionary", params(PageQuery),
    responses((status = 200, description = "A page", body = Page<ReleaseView>)))]
pub async fn releases(
    State(state): State<AppState>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<ReleaseView>>, ApiError> {
    let page = PageRequest::new(query.limit, query.page_token.as_deref(), "releases")?;
    let port = state.services().dictionary.as_ref();
    let all = port.map_or_else(Vec::new, |port| port.releases());
    // newest first: the key falls with the number
    Ok(Json(page.cut(all, |release| format!("{:010}", u32::MAX - release.release))))
}

/// Publishes a release document.
#[utoipa::path(post, path = "/v1/dictionary/releases", tag = "dictionary", request_body = Object,
    responses((status = 201, description = "Committed", body = ReleaseView)))]
pub async fn publish(
    State(state): State<AppState>,
    Json(document): Json<Value>,
) -> Result<(StatusCode, Json<ReleaseView>), ApiError> {
    let bytes = document.to_string();
    cpi::dictionary::Dictionary::load(bytes.as_bytes())
        .map_err(|error| ApiError::field(crate::http::FieldError::new("release", error.to_string())))?;
    let port = state.services().dictionary.as_ref();
    let port = port.ok_or_else(|| ApiError::new(Code::NotJoined, "releases are published once the node joined"))?;
    Ok((StatusCode::CREATED, Json(port.publish(bytes.as_bytes()).await?)))
}

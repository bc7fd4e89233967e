//! The HTTP interface: `/v1`, its OpenAPI document, problems, pages, streams, and the node's own health.
//!
//! `front` is the one middleware; `problem` and `error` the only places that turn errors into statuses and codes; `routes`
//! has one file per noun. It decides nothing: handlers read parameters, call a service and write the answer.

pub mod adapter_glue;
pub mod auth;
mod document;
mod error;
mod extract;
mod fresh;
mod front;
pub mod glue;
mod node_file;
pub mod operation_glue;
mod page;
pub mod ports;
mod problem;
mod repeat;
mod routes;
mod server;
mod state;
mod system;
pub mod task_glue;
#[cfg(test)]
mod tests;

pub use document::document;
pub use front::OPEN_PATHS;
pub use node_file::{NodeFile, Published};
pub use page::{LIMIT_DEFAULT, LIMIT_MAX, Page, PageRequest};
pub use problem::{ApiError, Code, FieldError, Problem};
pub use server::{HttpServer, ServeError, serve};
pub use state::{AppState, ReadinessCheck, Services};
pub use system::{Check, Readiness, Version};

use self::routes::{
    adapters, artifacts, dictionary, identifiers, members, operations, pools, register_many, registry, resolve,
    task_events, tasks, watch,
};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// All routes with their documentation.
fn api() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(system::livez))
        .routes(routes!(system::readyz))
        .routes(routes!(system::metrics))
        .routes(routes!(system::version))
        .routes(routes!(system::openapi))
        .routes(routes!(identifiers::register, identifiers::search))
        .routes(routes!(identifiers::get, identifiers::revise))
        .routes(routes!(identifiers::retire))
        .routes(routes!(identifiers::history))
        .routes(routes!(identifiers::statistics))
        .routes(routes!(resolve::resolve))
        .routes(routes!(resolve::decode))
        .routes(routes!(resolve::encode))
        .routes(routes!(dictionary::get))
        .routes(routes!(dictionary::releases, dictionary::publish))
        .routes(routes!(registry::status))
        .routes(routes!(registry::snapshot))
        .routes(routes!(register_many::register_many))
        .routes(routes!(members::list))
        .routes(routes!(members::get))
        .routes(routes!(members::ring))
        .routes(routes!(members::invite))
        .routes(routes!(members::approve))
        .routes(routes!(members::policy, members::set_policy))
        .routes(routes!(members::suspend))
        .routes(routes!(members::resume))
        .routes(routes!(members::expel))
        .routes(routes!(pools::list))
        .routes(routes!(pools::inventory))
        .routes(routes!(pools::cordon))
        .routes(routes!(pools::uncordon))
        .routes(routes!(pools::drain))
        .routes(routes!(pools::cordon_region))
        .routes(routes!(pools::uncordon_region))
        .routes(routes!(pools::drain_region))
        .routes(routes!(adapters::list, adapters::register))
        .routes(routes!(adapters::show, adapters::remove))
        .routes(routes!(adapters::swap))
        .routes(routes!(adapters::rollback))
        .routes(routes!(adapters::reset))
        .routes(routes!(adapters::logs))
        .routes(routes!(adapters::begin_test, adapters::test))
        .routes(routes!(operations::begin, operations::list))
        .routes(routes!(operations::get))
        .routes(routes!(operations::look))
        .routes(routes!(tasks::submit, tasks::list))
        .routes(routes!(tasks::plan))
        .routes(routes!(tasks::get))
        .routes(routes!(tasks::explain))
        .routes(routes!(tasks::cancel))
        .routes(routes!(tasks::artifacts))
        .routes(routes!(task_events::events))
        .routes(routes!(task_events::logs))
        .routes(routes!(watch::watch))
        .merge(transfers())
}

/// Routes whose bodies are streams of any length; the store bounds them.
fn transfers() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(artifacts::put, artifacts::get, artifacts::head))
        .routes(routes!(artifacts::post))
        .layer(DefaultBodyLimit::disable())
}

/// The interface as a service; what [`serve`] listens with and tests call.
pub fn router(state: AppState) -> Router {
    let (router, generated) = api().split_for_parts();
    let document = document::complete(generated);
    state.set_document(&document);
    router
        .fallback(no_route)
        .layer(DefaultBodyLimit::max(state.limits().body_bytes_max))
        .layer(axum::middleware::from_fn_with_state(state.clone(), front::front))
        .with_state(state)
}

async fn no_route(uri: axum::http::Uri) -> ApiError {
    ApiError::new(Code::NoRoute, format!("there is no path {}", uri.path()))
}

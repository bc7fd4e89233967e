//! The HTTP interface: `/v1`, its OpenAPI document, problems, pages, streams, and the node's own health.
//!
//! `front` is the one middleware; `problem` and `error` the only places that turn errors into statuses and codes; `routes`
//! has one file per noun. It decides nothing: handlers read parameters, call a service and write the answer.

pub mod auth;
mod document;
mod extract;
mod front;
mod node_file;
mod page;
pub mod ports;
mod problem;
mod server;
mod state;
mod system;
#[cfg(test)]
mod tests;
mod trace;

pub use document::document;
pub use front::OPEN_PATHS;
pub use node_file::{NodeFile, Published};
pub use page::{LIMIT_DEFAULT, LIMIT_MAX, Page, PageRequest};
pub use problem::{ApiError, Code, FieldError, Problem};
pub use server::{HttpServer, ServeError, serve};
pub use state::{AppState, Services};
pub use system::{Check, Readiness, Version};
pub use trace::TraceId;

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

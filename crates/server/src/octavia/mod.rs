//! Octavia's load-balancing API v2.

use axum::Router;

use crate::Core;

/// Octavia's routes.
pub fn routes(core: Core) -> Router {
    let _ = core;
    Router::new()
}

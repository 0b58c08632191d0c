//! `GET /api/v1/openapi.json`: what can be asked, for programs; tests compare it with the routes and the answers.

/// The document.
pub(super) const DOCUMENT: &str = include_str!("openapi.json");

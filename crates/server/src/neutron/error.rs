//! Neutron's error document: a status and `{"NeutronError": {"type", "message", "detail"}}`.
//!
//! Clients tell errors apart by status and type (`IpAddressInUse`, `NetworkInUse`…) and show the message to people, so both
//! are part of the interface. The rule that refuses a request names its type where it refuses; this file only knows the
//! families (bad request, not found, conflict…) and the types that more than one resource uses.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use model::PortId;
use serde_json::json;

/// Ports that a refusal names at most; of others it says how many they are.
const PORTS_NAMED_MAX: usize = 10;

/// A refused request, as Neutron words it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct ApiError {
    pub status: StatusCode,
    /// Neutron's exception class: what clients match on.
    pub kind: &'static str,
    pub message: String,
}

impl ApiError {
    pub fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { status, kind, message: message.into() }
    }

    /// 400 with a type of its own.
    pub fn bad(kind: &'static str, message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, kind, message)
    }

    /// 400 for a body that cannot be read as what it should be.
    pub fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::bad("HTTPBadRequest", message)
    }

    /// 400 for a well-formed request that makes no sense; Neutron adds the first words and the full stop.
    pub fn invalid_input(reason: impl std::fmt::Display) -> ApiError {
        ApiError::bad("InvalidInput", format!("Invalid input for operation: {reason}."))
    }

    /// 400 for a value that is not what its attribute takes.
    pub fn invalid_attribute(name: &str, reason: impl std::fmt::Display) -> ApiError {
        ApiError::bad_request(format!("Invalid input for {name}. Reason: {reason}."))
    }

    /// 404 with a type of its own.
    pub fn not_found(kind: &'static str, message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, kind, message)
    }

    /// 409 with a type of its own.
    pub fn conflict(kind: &'static str, message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::CONFLICT, kind, message)
    }

    /// 403: the caller sees the object and may not do this to it.
    pub fn forbidden(rule: impl std::fmt::Display) -> ApiError {
        ApiError::new(StatusCode::FORBIDDEN, "PolicyNotAuthorized", format!("{rule} is disallowed by policy"))
    }

    /// 412: `If-Match` named another revision.
    pub fn precondition(expected: u64, current: u64) -> ApiError {
        let message = format!("Constrained to {expected}, but current revision is {current}");
        ApiError::new(StatusCode::PRECONDITION_FAILED, "RevisionNumberConstraintFailed", message)
    }
}

/// The ports that are in the way, as Neutron's messages name them; of many, the first ones.
pub fn named(ports: impl IntoIterator<Item = PortId>) -> String {
    let mut ports = ports.into_iter();
    let named: Vec<String> = ports.by_ref().take(PORTS_NAMED_MAX).map(|port| port.to_string()).collect();
    let named = named.join(",");
    match ports.count() {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let document = json!({"NeutronError": {"type": self.kind, "message": self.message, "detail": ""}});
        (self.status, Json(document)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_refusal_names_some_ports_and_counts_the_others() {
        let names = |count: u128| named((0..count).map(|number| PortId(Uuid::from_u128(number))));
        assert_eq!(names(2), "00000000-0000-0000-0000-000000000000,00000000-0000-0000-0000-000000000001");
        let most = names(PORTS_NAMED_MAX as u128);
        assert_eq!(most.split(',').count(), PORTS_NAMED_MAX);
        assert_eq!(names(PORTS_NAMED_MAX as u128 + 11_000), format!("{most} and 11000 more"));
    }
}

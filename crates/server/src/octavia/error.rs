//! Octavia's error document: a status and `{"faultcode", "faultstring", "debuginfo"}`.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::WriteError;
use crate::http::write_status;
use crate::idempotent::BadKey;
use crate::ipam::IpamError;

/// A refused request, as Octavia words it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    pub status: StatusCode,
    pub message: String,
}

impl Fault {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Fault {
        Fault { status, message: message.into() }
    }

    /// 400: the request contradicts itself or the state.
    pub fn validation(message: impl std::fmt::Display) -> Fault {
        Fault::new(StatusCode::BAD_REQUEST, format!("Validation failure: {message}"))
    }

    /// 400: a value is not what its attribute takes.
    pub fn invalid(attribute: &str, value: &serde_json::Value, reason: impl std::fmt::Display) -> Fault {
        let value = value.as_str().map_or_else(|| value.to_string(), String::from);
        Fault::new(StatusCode::BAD_REQUEST, format!("Invalid input for field/attribute {attribute}. Value: '{value}'. {reason}"))
    }

    pub fn not_found(what: &str, id: impl std::fmt::Display) -> Fault {
        Fault::new(StatusCode::NOT_FOUND, format!("{what} {id} not found."))
    }

    /// 400: the request names something that does not exist.
    pub fn missing(what: &str, id: impl std::fmt::Display) -> Fault {
        Fault::new(StatusCode::BAD_REQUEST, format!("{what} {id} not found."))
    }

    pub fn conflict(message: impl Into<String>) -> Fault {
        Fault::new(StatusCode::CONFLICT, message)
    }

    pub fn forbidden() -> Fault {
        Fault::new(StatusCode::FORBIDDEN, "Policy does not allow this request to be performed.")
    }

    /// 501: Octavia has this, the provider `ladon` does not.
    pub fn unsupported(what: impl std::fmt::Display) -> Fault {
        Fault::new(StatusCode::NOT_IMPLEMENTED, format!("Provider 'ladon' does not support a requested option: {what}"))
    }

    /// 501 for a whole action.
    pub fn unsupported_action(what: impl std::fmt::Display) -> Fault {
        Fault::new(StatusCode::NOT_IMPLEMENTED, format!("Provider 'ladon' does not support a requested action: {what}"))
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let code = if self.status.is_server_error() { "Server" } else { "Client" };
        (self.status, Json(json!({"faultcode": code, "faultstring": self.message, "debuginfo": null}))).into_response()
    }
}

impl From<BadKey> for Fault {
    fn from(error: BadKey) -> Fault {
        Fault::validation(error)
    }
}

impl From<WriteError> for Fault {
    fn from(error: WriteError) -> Fault {
        Fault::new(write_status(&error), error.to_string())
    }
}

impl From<IpamError> for Fault {
    fn from(error: IpamError) -> Fault {
        let status = match &error {
            IpamError::Write(write) => return write.clone().into(),
            IpamError::IpAddressInUse { .. }
            | IpamError::MacAddressInUse { .. }
            | IpamError::MacsExhausted(_)
            | IpamError::Exhausted { .. } => StatusCode::CONFLICT,
            IpamError::NetworkNotFound(_)
            | IpamError::SubnetNotFound { .. }
            | IpamError::InvalidIpForNetwork { .. }
            | IpamError::InvalidIpForSubnet { .. }
            | IpamError::AutomaticSubnet { .. } => StatusCode::BAD_REQUEST,
        };
        Fault::new(status, error.to_string())
    }
}

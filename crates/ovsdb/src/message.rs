//! JSON-RPC 1.0 messages (RFC 7047 section 4).
//!
//! The side that receives a request answers with its `id`; a notification has a null `id` and no answer. `echo` goes
//! both ways: [`Message::echo_reply`] is what an endpoint owes its peer, or the peer hangs up. [`call`] holds the requests
//! that a client makes.

use crate::{DecodeError, Json};
use serde_json::{Map, json};

/// One JSON-RPC message.
#[derive(Clone, PartialEq, Debug)]
pub enum Message {
    Request { id: Json, method: String, params: Vec<Json> },
    Response { id: Json, result: Result<Json, Json> },
    Notification { method: String, params: Vec<Json> },
}

impl Message {
    /// Reads one message as the framer cut it.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        match serde_json::from_slice(bytes)? {
            Json::Object(fields) => decode_fields(fields),
            other => Err(DecodeError::unexpected("a JSON-RPC message", &other)),
        }
    }

    /// Appends the message as the wire carries it.
    pub fn encode(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.to_json().to_string().as_bytes());
    }

    /// The answer that this message calls for when it is an `echo` request.
    pub fn echo_reply(&self) -> Option<Message> {
        match self {
            Message::Request { id, method, params } if method == "echo" => {
                Some(Message::Response { id: id.clone(), result: Ok(Json::Array(params.clone())) })
            }
            _ => None,
        }
    }

    /// The refusal of a request that this endpoint does not know, so that the peer does not wait for ever.
    pub fn refusal(&self) -> Option<Message> {
        match self {
            Message::Request { id, .. } => Some(Message::Response { id: id.clone(), result: Err(json!("unknown method")) }),
            _ => None,
        }
    }

    fn to_json(&self) -> Json {
        match self {
            Message::Request { id, method, params } => {
                json!({"id": id, "method": method, "params": params})
            }
            Message::Response { id, result: Ok(result) } => json!({"id": id, "result": result, "error": null}),
            Message::Response { id, result: Err(error) } => json!({"id": id, "result": null, "error": error}),
            Message::Notification { method, params } => {
                json!({"id": null, "method": method, "params": params})
            }
        }
    }
}

fn decode_fields(mut fields: Map<String, Json>) -> Result<Message, DecodeError> {
    let id = fields.remove("id").unwrap_or(Json::Null);
    let Some(method) = fields.remove("method").filter(|method| !method.is_null()) else {
        return decode_response(id, fields);
    };
    let Json::String(method) = method else {
        return Err(DecodeError::unexpected("a method's name", &method));
    };
    let params = match fields.remove("params") {
        Some(Json::Array(params)) => params,
        other => {
            return Err(DecodeError::unexpected("an array of params", &other.unwrap_or_default()));
        }
    };
    Ok(match id {
        Json::Null => Message::Notification { method, params },
        id => Message::Request { id, method, params },
    })
}

fn decode_response(id: Json, mut fields: Map<String, Json>) -> Result<Message, DecodeError> {
    if id.is_null() {
        return Err(DecodeError::unexpected("a method or an id", &Json::Object(fields)));
    }
    let result = match (fields.remove("result"), fields.remove("error")) {
        (None, None) => {
            return Err(DecodeError::unexpected("a result or an error", &Json::Object(fields)));
        }
        (_, Some(error)) if !error.is_null() => Err(error),
        (result, _) => Ok(result.unwrap_or_default()),
    };
    Ok(Message::Response { id, result })
}

/// The requests of a client that are neither a transaction nor a monitor.
pub mod call {
    use super::{Json, Message};
    use serde_json::json;

    /// A request with any method.
    pub fn request(id: u64, method: &str, params: Vec<Json>) -> Message {
        Message::Request { id: json!(id), method: method.to_owned(), params }
    }

    /// Asks for the names of the server's databases.
    pub fn list_dbs(id: u64) -> Message {
        request(id, "list_dbs", vec![])
    }

    /// Asks for a database's schema: [`crate::Schema::decode`] reads the result.
    pub fn get_schema(id: u64, database: &str) -> Message {
        request(id, "get_schema", vec![json!(database)])
    }

    /// Asks whether the peer is alive.
    pub fn echo(id: u64) -> Message {
        request(id, "echo", vec![])
    }

    /// Ends a monitor.
    pub fn monitor_cancel(id: u64, monitor: &str) -> Message {
        request(id, "monitor_cancel", vec![json!(monitor)])
    }

    /// Asks for a lock (`lock`), takes it from whoever has it (`steal`) or gives it back (`unlock`).
    pub fn lock(id: u64, method: &str, lock: &str) -> Message {
        request(id, method, vec![json!(lock)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(text: &str) -> Message {
        Message::decode(text.as_bytes()).unwrap()
    }

    #[test]
    fn every_kind_survives_a_round_trip() {
        for message in [
            call::get_schema(7, "Open_vSwitch"),
            Message::Response { id: json!("a"), result: Ok(json!([1])) },
            Message::Response { id: json!(3), result: Err(json!("unknown method")) },
            Message::Notification { method: "update3".into(), params: vec![json!(null), json!({})] },
        ] {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            assert_eq!(Message::decode(&bytes).unwrap(), message);
        }
    }

    #[test]
    fn an_echo_is_answered_with_its_own_params_and_id() {
        let echo = decoded(r#"{"method":"echo","params":[1,"x"],"id":"echo"}"#);
        assert_eq!(echo.echo_reply(), Some(Message::Response { id: json!("echo"), result: Ok(json!([1, "x"])) }));
        assert_eq!(decoded(r#"{"method":"locked","params":["x"],"id":null}"#).echo_reply(), None);
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for text in ["{}", "[]", r#"{"id":1}"#, r#"{"method":1,"params":[]}"#, r#"{"method":"x","id":1}"#, "{]"] {
            assert!(Message::decode(text.as_bytes()).is_err(), "{text}");
        }
    }
}

//! What can be wrong with bytes or JSON that a server sent.

use crate::Json;

/// How much of an offending value an error shows.
const EXCERPT_CHARS_MAX: usize = 80;

/// Input that is not OVSDB.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("message is longer than the limit of {limit} bytes")]
    TooLong { limit: usize },
    #[error("message starts with byte {byte:#04x}, but a JSON-RPC message is an object")]
    NotAnObject { byte: u8 },
    #[error("message is not JSON")]
    Json(#[from] serde_json::Error),
    #[error("expected {expected}, found {found}")]
    Unexpected { expected: &'static str, found: String },
    #[error("in {place}")]
    Within { place: String, source: Box<DecodeError> },
    #[error("the schema has no table {table}")]
    UnknownTable { table: String },
    #[error("table {table} has no column {column}")]
    UnknownColumn { table: String, column: String },
}

impl DecodeError {
    /// `found` where `expected` should be.
    pub(crate) fn unexpected(expected: &'static str, found: &Json) -> Self {
        DecodeError::Unexpected { expected, found: excerpt(found) }
    }

    /// The same error, with the place where it happened.
    pub(crate) fn within(self, place: impl Into<String>) -> Self {
        DecodeError::Within { place: place.into(), source: Box::new(self) }
    }
}

fn excerpt(json: &Json) -> String {
    let text = json.to_string();
    match text.char_indices().nth(EXCERPT_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_the_beginning_of_a_long_value() {
        let text = excerpt(&Json::String("é".repeat(1000)));
        assert_eq!(text.chars().count(), EXCERPT_CHARS_MAX + "...".len());
        assert!(text.ends_with("é..."), "{text}");
    }
}

//! JSON values as Python's `str()` prints them.
//!
//! Neutron's messages quote what the user sent in Python's notation (`'zz'`, `None`, `{'a': 1}`), and scripts match on them.

use serde_json::Value;

/// Longest piece of a user's value that a message repeats, in characters: a huge body must not come back in the error.
const QUOTED_MAX: usize = 256;

/// `str(value)`, cut to a readable length.
pub fn text(value: &Value) -> String {
    let whole = match value {
        Value::String(text) => text.clone(),
        other => inner(other),
    };
    match whole.char_indices().nth(QUOTED_MAX) {
        Some((end, _)) => format!("{}…", &whole[..end]),
        None => whole,
    }
}

/// `repr(value)`: as `str()` shows it inside a list or a dictionary.
fn inner(value: &Value) -> String {
    match value {
        Value::Null => "None".to_string(),
        Value::Bool(true) => "True".to_string(),
        Value::Bool(false) => "False".to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("'{text}'"),
        Value::Array(items) => format!("[{}]", items.iter().map(inner).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let entries: Vec<_> = map.iter().map(|(key, value)| format!("'{key}': {}", inner(value))).collect();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_quoted_as_python_prints_them() {
        assert_eq!(text(&json!("zz")), "zz");
        assert_eq!(text(&json!(null)), "None");
        assert_eq!(text(&json!([{"a": true}, "b", 1])), "[{'a': True}, 'b', 1]");
    }

    #[test]
    fn a_huge_value_is_cut() {
        let cut = text(&json!("é".repeat(QUOTED_MAX + 1)));
        assert!(cut.starts_with(&"é".repeat(QUOTED_MAX)) && cut.matches('é').count() == QUOTED_MAX, "{cut}");
        assert_eq!(text(&json!("é".repeat(QUOTED_MAX))), "é".repeat(QUOTED_MAX));
    }
}

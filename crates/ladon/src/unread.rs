//! What is said of a configuration that cannot be read, for all parts alike.
//!
//! A configuration may hold secrets, in the right place or in a wrong one, and another file may be named by mistake (that of a token). So
//! a bad line is told by its number, its key and the reason, and no value is shown.

use toml::de::Error;

/// What is wrong with this text.
pub fn told(text: &str, error: &Error) -> String {
    let before = error.span().map_or(0, |span| text.bytes().take(span.start).filter(|byte| *byte == b'\n').count());
    let key = key(error).map(|key| format!(", `{key}`")).unwrap_or_default();
    format!("line {}{key}: {}", before + 1, reason(error.message()))
}

/// The key that the error is about. Text that is no TOML has none.
fn key(error: &Error) -> Option<String> {
    let mut error = error.clone();
    // The parser tells it only where it does not show the text itself.
    error.set_input(None);
    Some(error.to_string().trim_end().rsplit_once("\nin `")?.1.strip_suffix('`')?.to_string())
}

/// The message without the value that it names: `invalid type: string, expected u16`.
fn reason(message: &str) -> String {
    let is_of_a_key = ["unknown field", "missing field", "duplicate"].iter().any(|begin| message.starts_with(begin));
    if is_of_a_key {
        return message.to_string();
    }
    let without_value = |said: &str| said.split(['`', '"']).next().unwrap_or_default().trim().to_string();
    match message.rsplit_once(", expected ") {
        Some((said, expected)) => format!("{}, expected {expected}", without_value(said)),
        None => without_value(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::DeserializeOwned;

    fn said<T: DeserializeOwned>(text: &str) -> String {
        told(text, &toml::from_str::<T>(text).err().expect("it cannot be read"))
    }

    #[test]
    fn a_bad_line_is_told_by_its_number_its_key_and_the_reason() {
        assert_eq!(said::<server::Config>("[api]\nauth = 'token'"), "line 2, `api.auth`: unknown variant, expected `none` or `tokens`");
        assert_eq!(said::<server::Config>("\n[network]\nmtu = 'much'"), "line 3, `network.mtu`: invalid type: string, expected u16");
        assert!(said::<kube_bridge::Config>("clutser = 'x'").contains("line 1: unknown field `clutser`, expected one of `cluster`"));
        assert!(said::<kube_bridge::Config>("[network]\npods = ['ten']").starts_with("line 2, `network.pods`: "));
        assert!(said::<node::Config>("[tunnel]\naddresses = [\n'ten',\n]").starts_with("line 3, `tunnel.addresses`: "));
    }

    #[test]
    fn no_value_is_shown_whatever_is_wrong() {
        let texts = [
            "SEKRIT",
            "SEKRIT,admin,admin,admin",
            "SEKRIT==",
            "apiVersion: v1\ntoken: SEKRIT",
            "-----BEGIN PRIVATE KEY-----\nSEKRIT\n",
            "[api]\ntoken = 'SEKRIT",
            "[api]\ntoken = SEKRIT",
            "[api]\ntoken = ['SEKRIT']",
            "[api]\ntokens = ['SEKRIT']",
            "[api]\ntoken = { SEKRIT = 1 }",
            "[api]\nauth = 'SEKRIT'",
            "[api]\ntokenn = 'SEKRIT'",
            "[api]\nlisten = ['SEKRIT']",
            "[api]\nlisten = 'SEKRIT, expected `x`'",
            "[store.etcd]\npassword = 'SEKRIT'",
            "[store.etcd]\nendpoints = 'http://user:SEKRIT@192.0.2.1:2379'",
            "[store.etcd]\nendpoints = ['http://user:SEKRIT@192.0.2.1:2379', 5]",
            "[store.etcd]\nendpoints = ['http://user:SEKRIT@192.0.2.1:2379'",
            "[network]\nmtu = 'SEKRIT'",
            "[network]\ntunnel = 'SEKRIT'",
            "[network]\npods = ['SEKRIT']",
            "servers = 'SEKRIT'",
            "key = ['SEKRIT']",
            "password = \"\"\"\nSEKRIT\nin `SEKRIT`\"\"\"",
        ];
        for text in texts {
            for said in [said::<server::Config>(text), said::<node::Config>(text), said::<kube_bridge::Config>(text)] {
                assert!(!said.contains("SEKRIT") && said.starts_with("line "), "{text}: {said}");
            }
        }
    }
}

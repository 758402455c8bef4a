//! The network configuration that the runtime writes to the plugin's standard input.

use std::path::PathBuf;

use serde::Deserialize;

use crate::daemon::{Attachment, DEFAULT_SOCKET};
use crate::result::PreviousResult;
use crate::{Error, Result, Version};

/// Longest configuration that is read. libcni's own grow with the valid attachments of GC: this is room for 10,000.
pub const CONFIG_MAX: u64 = 4 << 20;

/// One plugin's part of a network configuration list, after libcni has filled in name, version and previous result.
///
/// Keys that the plugin does not know are left alone: runtimes add their own.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    #[serde(default)]
    pub cni_version: String,
    /// The network's name: attachments are garbage-collected per network.
    #[serde(default)]
    pub name: String,
    /// Where the node listens. Default `/run/ladon/cni.sock`.
    #[serde(default = "default_socket")]
    pub socket: PathBuf,
    /// A file to which every command appends one line. Default: none.
    #[serde(default)]
    pub log_file: Option<PathBuf>,
    /// What ADD answered; for CHECK.
    #[serde(default)]
    pub prev_result: Option<PreviousResult>,
    #[serde(default, rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<Attachment>>,
    /// The same list under the name that the specification's first text gave it; libcni writes both.
    #[serde(default, rename = "cni.dev/attachments")]
    attachments: Option<Vec<Attachment>>,
}

fn default_socket() -> PathBuf {
    DEFAULT_SOCKET.into()
}

impl Config {
    pub fn parse(bytes: &[u8]) -> Result<Config> {
        serde_json::from_slice(bytes).map_err(Error::Decode)
    }

    /// The version to speak, once the configuration is known to be complete.
    pub fn validate(&self) -> Result<Version> {
        let version = self.cni_version.parse::<Version>()?;
        let is_name = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
        };
        if !is_name(&self.name) {
            return Err(Error::InvalidConfig(format!(
                "has the name '{}'; a name begins with a letter or digit and goes on with those, _, . or -",
                self.name
            )));
        }
        if !self.socket.is_absolute() {
            return Err(Error::InvalidConfig(format!("has the socket '{}', which is no absolute path", self.socket.display())));
        }
        Ok(version)
    }

    /// What GC must keep. Its absence is an error and not an empty list, which would take every pod's interface.
    pub fn valid_attachments(&self) -> Result<&[Attachment]> {
        let list = self.valid_attachments.as_deref().or(self.attachments.as_deref());
        list.ok_or_else(|| Error::InvalidConfig("has no cni.dev/valid-attachments, which GC needs".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Config {
        Config::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn defaults_fill_what_a_conflist_leaves_out() {
        let config = parse(r#"{"cniVersion":"1.0.0","name":"ladon","type":"ladon-cni","capabilities":{"x":true}}"#);
        assert_eq!(config.validate().unwrap(), Version::V1_0_0);
        assert_eq!(config.socket, PathBuf::from("/run/ladon/cni.sock"));
        assert!(config.log_file.is_none());
    }

    #[test]
    fn truncated_text_is_a_decode_error() {
        let error = Config::parse(br#"{"cniVersion":"1.0.0","name":"la"#).unwrap_err();
        assert_eq!(error.code(), crate::error::code::DECODE);
        assert_eq!(Config::parse(b"").unwrap_err().code(), crate::error::code::DECODE);
        assert_eq!(Config::parse(b"[1]").unwrap_err().code(), crate::error::code::DECODE);
    }

    #[test]
    fn bad_names_sockets_and_versions_are_refused() {
        for (text, code) in [
            (r#"{"cniVersion":"1.0.0","name":""}"#, 7),
            (r#"{"cniVersion":"1.0.0","name":"../x"}"#, 7),
            (r#"{"cniVersion":"1.0.0","name":"x","socket":"run"}"#, 7),
            (r#"{"cniVersion":"0.2.0","name":"x"}"#, 1),
            (r#"{"name":"x"}"#, 1),
        ] {
            assert_eq!(parse(text).validate().unwrap_err().code(), code, "{text}");
        }
    }

    #[test]
    fn gc_needs_its_list_under_either_name() {
        let entry = r#"[{"containerID":"a","ifname":"eth0"}]"#;
        for text in [
            format!(r#"{{"cni.dev/valid-attachments":{entry}}}"#),
            format!(r#"{{"cni.dev/attachments":{entry}}}"#),
            format!(r#"{{"cni.dev/attachments":{entry},"cni.dev/valid-attachments":{entry}}}"#),
        ] {
            assert_eq!(parse(&text).valid_attachments().unwrap()[0].container, "a", "{text}");
        }
        assert_eq!(parse("{}").valid_attachments().unwrap_err().code(), 7);
        assert!(parse(r#"{"cni.dev/valid-attachments":[]}"#).valid_attachments().unwrap().is_empty());
    }
}

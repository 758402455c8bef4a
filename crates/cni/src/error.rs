//! What can go wrong, and the number under which CNI knows it.
//!
//! Codes 1 to 99 are the specification's; 100 and above are the plugin's own.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::Version;
use crate::version::UnknownVersion;

pub type Result<T> = std::result::Result<T, Error>;

/// Those of the specification's error codes that have a use here, and ours.
pub mod code {
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    pub const UNKNOWN_CONTAINER: u32 = 3;
    pub const INVALID_ENVIRONMENT: u32 = 4;
    pub const IO: u32 = 5;
    pub const DECODE: u32 = 6;
    pub const INVALID_CONFIG: u32 = 7;
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: no new pod can be served; those that exist keep their connections.
    pub const NOT_AVAILABLE: u32 = 50;
    /// The kernel refused a step of making the interface.
    pub const INTERFACE: u32 = 100;
    /// CHECK found something that is not as ADD left it.
    pub const CHECK_FAILED: u32 = 101;
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    UnknownVersion(#[from] UnknownVersion),
    #[error("{command} does not exist in CNI {version}")]
    CommandTooNew { command: &'static str, version: Version },
    #[error("{variable} {why}")]
    InvalidEnvironment { variable: &'static str, why: String },
    #[error("reading the network configuration from standard input")]
    Stdin(#[source] io::Error),
    #[error("the network configuration is not a JSON document that a CNI plugin can read")]
    Decode(#[source] serde_json::Error),
    #[error("the network configuration {0}")]
    InvalidConfig(String),
    #[error("ladon node does not answer on {}", socket.display())]
    NodeSilent {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("ladon node answered {0}, which is no answer to what it was asked")]
    NodeConfused(String),
    /// What the node itself says.
    #[error("{msg}")]
    Node { code: u32, msg: String, details: String },
    #[error("the network namespace {path} cannot be entered")]
    Namespace {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{doing}")]
    Kernel {
        doing: String,
        #[source]
        errno: Errno,
    },
    #[error("{doing}")]
    Sysctl {
        doing: String,
        #[source]
        source: io::Error,
    },
    #[error("the pod's interface is not as it was made: {0}")]
    CheckFailed(String),
}

impl Error {
    /// Under which number CNI knows it.
    pub fn code(&self) -> u32 {
        match self {
            Error::UnknownVersion(_) | Error::CommandTooNew { .. } => code::INCOMPATIBLE_VERSION,
            Error::InvalidEnvironment { .. } => code::INVALID_ENVIRONMENT,
            Error::Stdin(_) => code::IO,
            Error::Decode(_) => code::DECODE,
            Error::InvalidConfig(_) => code::INVALID_CONFIG,
            Error::NodeSilent { .. } | Error::NodeConfused(_) => code::TRY_AGAIN,
            Error::Node { code, .. } => *code,
            Error::Namespace { source, .. } if source.kind() == io::ErrorKind::NotFound => code::UNKNOWN_CONTAINER,
            Error::Namespace { .. } | Error::Kernel { .. } | Error::Sysctl { .. } => code::INTERFACE,
            Error::CheckFailed(_) => code::CHECK_FAILED,
        }
    }

    /// What it means for traffic and what to do about it.
    pub fn details(&self) -> String {
        let advice = match self {
            Error::NodeSilent { .. } => {
                "pods that run keep their connections, new ones wait; start ladon node on this host, or look at its log"
            }
            Error::NodeConfused(_) => {
                "no interface was made; ladon-cni and ladon node are of different releases: install one release of both"
            }
            Error::Node { details, .. } => details,
            Error::UnknownVersion(_) | Error::CommandTooNew { .. } => {
                return format!("nothing was changed; use a cniVersion that has it, of {}", Version::list());
            }
            Error::InvalidConfig(_) | Error::Decode(_) => {
                "nothing was changed; ladon node writes this file (…ladon.conflist in /etc/cni/net.d): remove it and let the node write it again"
            }
            Error::InvalidEnvironment { .. } | Error::Stdin(_) => {
                "nothing was changed; the container runtime has to set what a CNI plugin needs"
            }
            Error::Namespace { .. } => "no interface was made; the sandbox is gone, or CNI_NETNS is not a network namespace",
            Error::Kernel { .. } | Error::Sysctl { .. } => {
                "what was made of the interface is removed again; the runtime tries again with a new sandbox"
            }
            Error::CheckFailed(_) => "the pod may have no network; delete it, and its controller makes a new one",
        };
        match self.causes() {
            Some(causes) => format!("{causes}; {advice}"),
            None => advice.to_string(),
        }
    }

    fn causes(&self) -> Option<String> {
        let mut causes = Vec::new();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        (!causes.is_empty()).then(|| causes.join(": "))
    }

    /// The document that goes to standard output.
    pub fn document(&self, cni_version: &str) -> ErrorDocument {
        ErrorDocument { cni_version: cni_version.to_string(), code: self.code(), msg: self.to_string(), details: self.details() }
    }

    pub(crate) fn environment(variable: &'static str, why: impl Into<String>) -> Error {
        Error::InvalidEnvironment { variable, why: why.into() }
    }

    pub(crate) fn kernel(doing: impl Into<String>) -> impl FnOnce(Errno) -> Error {
        let doing = doing.into();
        move |errno| Error::Kernel { doing, errno }
    }
}

/// CNI's error document.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorDocument {
    pub cni_version: String,
    pub code: u32,
    pub msg: String,
    #[serde(default)]
    pub details: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_node_is_a_reason_to_try_again() {
        let error = Error::NodeSilent { socket: "/run/ladon/cni.sock".into(), source: io::Error::from(io::ErrorKind::ConnectionRefused) };
        let document = error.document("1.0.0");
        assert_eq!(document.code, 11);
        assert!(document.details.starts_with("connection refused; pods that run keep"), "{}", document.details);
    }

    #[test]
    fn a_sandbox_that_is_gone_is_an_unknown_container() {
        let error = Error::Namespace { path: "/gone".into(), source: io::Error::from(io::ErrorKind::NotFound) };
        assert_eq!(error.code(), code::UNKNOWN_CONTAINER);
    }
}

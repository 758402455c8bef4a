//! The `CNI_*` variables: which command, for which interface of which container.

use std::path::PathBuf;

use crate::daemon::{Attachment, PodName};
use crate::{Error, Result};

/// Longest interface name (IFNAMSIZ without its final zero).
pub const IFNAME_MAX: usize = 15;

/// What the runtime wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Command {
    pub fn as_str(self) -> &'static str {
        match self {
            Command::Add => "ADD",
            Command::Del => "DEL",
            Command::Check => "CHECK",
            Command::Gc => "GC",
            Command::Status => "STATUS",
            Command::Version => "VERSION",
        }
    }
}

/// The variables, as they are; each command asks for what it needs.
pub struct Environment {
    lookup: Box<dyn Fn(&str) -> Option<String>>,
}

impl Environment {
    /// The variables of this process.
    pub fn of_process() -> Environment {
        Environment::from_lookup(|name| std::env::var(name).ok())
    }

    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String> + 'static) -> Environment {
        Environment { lookup: Box::new(lookup) }
    }

    fn get(&self, name: &'static str) -> Option<String> {
        (self.lookup)(name).filter(|value| !value.is_empty())
    }

    fn require(&self, name: &'static str) -> Result<String> {
        self.get(name).ok_or_else(|| Error::environment(name, "is not set"))
    }

    pub fn command(&self) -> Result<Command> {
        let text = self.require("CNI_COMMAND")?;
        let all = [Command::Add, Command::Del, Command::Check, Command::Gc, Command::Status, Command::Version];
        all.into_iter()
            .find(|command| command.as_str() == text)
            .ok_or_else(|| Error::environment("CNI_COMMAND", format!("is '{text}', which is none of ADD, DEL, CHECK, GC, STATUS, VERSION")))
    }

    /// Which interface of which container: the key of everything that is remembered.
    pub fn attachment(&self) -> Result<Attachment> {
        let container = self.require("CNI_CONTAINERID")?;
        let is_id = container.starts_with(|c: char| c.is_ascii_alphanumeric())
            && container.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        if !is_id {
            return Err(Error::environment(
                "CNI_CONTAINERID",
                format!("is '{container}'; an id begins with a letter or digit and goes on with those, _, . or -"),
            ));
        }
        let ifname = self.require("CNI_IFNAME")?;
        if ifname.len() > IFNAME_MAX
            || ifname == "."
            || ifname == ".."
            || ifname.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
        {
            return Err(Error::environment("CNI_IFNAME", format!("is '{ifname}', which the kernel does not take as an interface's name")));
        }
        Ok(Attachment { container, ifname })
    }

    pub fn netns(&self) -> Result<PathBuf> {
        self.require("CNI_NETNS").map(PathBuf::from)
    }

    /// The pod that the runtime names in CNI_ARGS (`K8S_POD_NAMESPACE=…;K8S_POD_NAME=…;K8S_POD_UID=…`).
    pub fn pod(&self) -> Result<PodName> {
        let args = self.get("CNI_ARGS").unwrap_or_default();
        let find = |key: &str| {
            let values = args.split(';').filter_map(|pair| pair.split_once('=')).filter(|(name, _)| *name == key);
            values.last().map(|(_, value)| value.to_string()).filter(|value| !value.is_empty())
        };
        let require = |key: &str| {
            find(key).ok_or_else(|| Error::environment("CNI_ARGS", format!("does not say {key}, so there is no pod to look for")))
        };
        Ok(PodName { pod_uid: find("K8S_POD_UID"), pod_namespace: require("K8S_POD_NAMESPACE")?, pod_name: require("K8S_POD_NAME")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &'static [(&'static str, &'static str)]) -> Environment {
        Environment::from_lookup(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string()))
    }

    #[test]
    fn a_missing_variable_is_named() {
        let error = environment(&[]).command().unwrap_err();
        assert_eq!((error.code(), error.to_string().as_str()), (4, "CNI_COMMAND is not set"));
        let error = environment(&[("CNI_CONTAINERID", "a")]).attachment().unwrap_err();
        assert_eq!(error.to_string(), "CNI_IFNAME is not set");
        assert_eq!(environment(&[("CNI_NETNS", "")]).netns().unwrap_err().code(), 4);
    }

    #[test]
    fn names_that_would_leave_their_place_are_refused() {
        for ifname in ["a/b", "..", "has space", "far-too-long-name", "a:b"] {
            let environment = Environment::from_lookup(move |name| Some(if name == "CNI_IFNAME" { ifname } else { "c" }.to_string()));
            assert_eq!(environment.attachment().unwrap_err().code(), 4, "{ifname}");
        }
        assert_eq!(environment(&[("CNI_CONTAINERID", "-x"), ("CNI_IFNAME", "eth0")]).attachment().unwrap_err().code(), 4);
    }

    #[test]
    fn the_pod_is_read_from_cni_args() {
        let all = environment(&[("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=u-1")]);
        let pod = all.pod().unwrap();
        assert_eq!((pod.pod_namespace.as_str(), pod.pod_name.as_str(), pod.pod_uid.as_deref()), ("default", "web", Some("u-1")));
        let error = environment(&[("CNI_ARGS", "K8S_POD_NAMESPACE=default")]).pod().unwrap_err();
        assert!(error.to_string().contains("K8S_POD_NAME"), "{error}");
    }
}

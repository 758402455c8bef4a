//! Ways into the cluster: kubeconfigs for any user, and kubectl as the administrator.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::command::{self, Output, TOOL};
use crate::error::Result;
use crate::kubernetes::cluster::{ADMIN, Cluster};
use crate::kubernetes::pki::Authority;
use crate::state::write_whole;

impl Cluster {
    /// The administrator's kubeconfig.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.config_path(ADMIN)
    }

    /// A kubeconfig for a user in a group, with a certificate of its own. What it may do, RBAC says.
    pub fn kubeconfig(&self, user: &str, group: Option<&str>) -> Result<PathBuf> {
        let path = self.config_path(user);
        let authority = Authority::open(&self.dir.join("pki"), "ca")?;
        let identity = authority.client(&file_name(user), user, group)?;
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": {"server": self.server(), "certificate-authority": authority.certificate()}}],
            "users": [{"name": user, "user": {"client-certificate": identity.certificate, "client-key": identity.key}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
            "current-context": "lab",
        });
        write_whole(&path, config.to_string().as_bytes())?;
        Ok(path)
    }

    fn config_path(&self, user: &str) -> PathBuf {
        self.dir.join(format!("{}.conf", file_name(user)))
    }

    /// A `kubectl` command as the administrator, on the control plane's host.
    pub fn kubectl_command(&self, args: &[&str]) -> Result<Command> {
        let mut command = self.host.command(&self.programs.path("kubectl")?.to_string_lossy());
        command.arg("--kubeconfig").arg(self.admin_kubeconfig()).args(args);
        // Discovery is cached below HOME; the lab's belongs to the lab.
        command.env("HOME", &self.dir);
        Ok(command)
    }

    /// Run `kubectl` as the administrator and give what it printed.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubectl_output(args, TOOL)?.ok()
    }

    /// Run `kubectl` as the administrator, with a deadline, and give everything about how it ended.
    pub fn kubectl_output(&self, args: &[&str], deadline: Duration) -> Result<Output> {
        command::run(&mut self.kubectl_command(args)?, deadline)
    }

    /// Apply manifests, YAML or JSON.
    pub fn apply(&self, manifests: &str) -> Result<String> {
        command::run_with_input(&mut self.kubectl_command(&["apply", "-f", "-"])?, manifests, TOOL)?.ok()
    }
}

fn file_name(user: &str) -> String {
    user.replace([':', '/'], "-")
}

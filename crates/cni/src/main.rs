//! The CNI plugin's process: environment and standard input in, one JSON document on standard output.

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;

use cni::config::CONFIG_MAX;
use cni::environment::Environment;
use cni::plugin::{self, Outcome};
use cni::{Error, Version};

fn main() -> ExitCode {
    if std::env::var_os("CNI_COMMAND").is_none() && std::io::stdin().is_terminal() {
        return explain();
    }
    let mut stdin = Vec::new();
    let outcome = match std::io::stdin().take(CONFIG_MAX).read_to_end(&mut stdin) {
        Ok(_) => plugin::run(&Environment::of_process(), &stdin),
        Err(error) => {
            let document = Error::Stdin(error).document(Version::FALLBACK.as_str());
            Outcome { stdout: serde_json::to_string(&document).expect("an error is plain data"), exit_code: 1 }
        }
    };
    if !outcome.stdout.is_empty() && writeln!(std::io::stdout(), "{}", outcome.stdout).is_err() {
        return ExitCode::FAILURE;
    }
    ExitCode::from(outcome.exit_code)
}

/// For the person who tries it by hand.
fn explain() -> ExitCode {
    eprintln!(
        "ladon-cni {} is a CNI plugin (versions {}).\n\
         Container runtimes start it with CNI_* variables and a configuration on standard input; ladon node writes that configuration.\n\
         Try: echo '{{\"cniVersion\":\"1.1.0\",\"name\":\"ladon\"}}' | CNI_COMMAND=STATUS ladon-cni",
        env!("CARGO_PKG_VERSION"),
        Version::list()
    );
    ExitCode::FAILURE
}

//! `ladon`: one program with a part for every machine, and the operator's commands.

mod api;
mod cli;
mod control;
mod daemon;
mod failure;
mod limits;
mod output;
mod parts;
mod reference;
mod unread;
mod verbs;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use cli::{Cli, Command, Reach};
use failure::{Failure, Result};

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::Daemon(daemon) = &cli.command {
        return parts::run(daemon);
    }
    match operate(&cli.reach, &cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::tell(&failure.to_string());
            ExitCode::from(failure.exit_code)
        }
    }
}

/// One of the operator's commands, from its question to its answer.
fn operate(reach: &Reach, command: &Command) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime
        .map_err(|error| Failure::new(format!("this command cannot start: {error}"), "not affected", "see what the machine lacks"))?;
    let text = runtime.block_on(async {
        match command {
            Command::Nodes(filter) => verbs::nodes(reach, filter).await,
            Command::Ports(filter) => verbs::ports(reach, filter).await,
            Command::Wait(wait) => verbs::wait(reach, wait).await,
            Command::Flows(flows) => verbs::flows(reach, flows).await.map(|()| String::new()),
            Command::Plug(plug) => verbs::plug(reach, plug).await,
            Command::Unplug(unplug) => verbs::unplug(reach, unplug).await,
            Command::Pki(pki) => verbs::pki(pki),
            Command::Store(args) => verbs::store(args),
            Command::ConfigReference => Ok(format!("{}\n{}", reference::markdown(), limits::PAGE)),
            Command::Completions { shell } => {
                let mut code = Vec::new();
                clap_complete::generate(*shell, &mut Cli::command(), "ladon", &mut code);
                Ok(String::from_utf8_lossy(&code).into_owned())
            }
            Command::Daemon(_) => unreachable!("parts do not come here"),
        }
    })?;
    output::print(&text)
        .map_err(|error| Failure::new(format!("the answer cannot be printed: {error}"), "not affected", "see where standard output leads"))
}
